/* A convolution of many images, each by a step size of its own, by weights as training has them: what goes to the kernels. */

#ifndef ASQ_BATCH_H
#define ASQ_BATCH_H

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "kernel.h"

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(ASQ_ONE_TARGET)
#define EACH_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define EACH_PROCESSOR
#endif

typedef struct {
    int kernel, number, workers;
    const Op *op;                 /* without adapter; what follows fills in its weights and its scratch */
    const float *images, *step_sizes;
    float *out;
    size_t image_size, out_size;  /* floats */
    int step_stride;              /* 0: one step size for all images */

    const float *weight;          /* [outputs][row], whole numbers of the scale */
    const float *weight_scale;    /* [outputs], or one with a stride of 0 */
    const float *bias;            /* [outputs], or null */
    int row, scale_stride;
    const int32_t *places;        /* [packed_size] of each packed weight in `weight`; that of a gap comes after them */
    size_t packed_size;

    /* Scratch: levels [outputs * row + 1]; the rest as an Op has it, codes and scale for each worker. */
    int8_t *levels, *packed;
    int32_t *compensation;
    float *padded_scale, *padded_bias;
    uint8_t *codes;
    float *scale;
    size_t codes_size, scale_size;
    atomic_int next_image, next_worker;
} Batch;

EACH_PROCESSOR static int has_nan(const float *x, size_t size) {
    int found = 0;
    for (size_t i = 0; i < size; i++) found |= x[i] != x[i];
    return found;
}

/* The levels of an output's weights. Returns their sum, a NaN if one of them is. */
EACH_PROCESSOR static float levels_of(const float *weight, float scale, int row, int8_t *levels) {
    const float reciprocal = 1.0f / scale;
    int32_t sum = 0;
    int broken = 0;
    for (int i = 0; i < row; i++) {
        const float level = rintf(weight[i] * reciprocal);
        const int is_number = level == level;
        levels[i] = (int8_t)(is_number ? level : 0.0f);
        sum += levels[i];
        broken |= !is_number;
    }
    return broken ? NAN : (float)sum;
}

/* Put the weights where the kernels look for them. An output whose weights are not all numbers gets no scale. */
static void pack(const Batch *batch) {
    const int groups = batch->op->conv.groups, per_group = batch->op->outputs / groups, block = padded(per_group, BLOCK);
    memset(batch->compensation, 0, sizeof(int32_t) * groups * block);
    memset(batch->padded_scale, 0, sizeof(float) * groups * block);
    memset(batch->padded_bias, 0, sizeof(float) * groups * block);
    for (int o = 0; o < batch->op->outputs; o++) {
        const int at = o / per_group * block + o % per_group;
        const size_t first = (size_t)o * batch->row;
        const float scale = batch->weight_scale[(size_t)o * batch->scale_stride];
        const float sum = levels_of(batch->weight + first, scale, batch->row, batch->levels + first);
        const int is_number = sum == sum;
        batch->compensation[at] = is_number ? batch->op->conv.qmin * (int32_t)sum : 0;
        batch->padded_scale[at] = is_number ? scale : NAN;
        if (batch->bias) batch->padded_bias[at] = batch->bias[o];
    }
    batch->levels[(size_t)batch->op->outputs * batch->row] = 0;
    for (size_t i = 0; i < batch->packed_size; i++) batch->packed[i] = batch->levels[batch->places[i]];
}

#endif

/* The step size of an image: the means of its channels through an adapter, in double. Compiled into every kernel. */

#ifndef ASQ_ADAPTER_H
#define ASQ_ADAPTER_H

#include <string.h>

#include "constants.h"
#include "kernel.h"
#include "vector.h"

/* The mean of the channels first .. last - 1, in double, rounded to float32: sums of rows from left to right, then down. */
static void mean(const Op *op, const double *x_sums, int first, int last, float *out) {
    const double count = (double)op->height * op->width;
    int c = first;
    for (; last - c >= 8; c += 8) {
        Doubles total = {0.0};
        for (int y = 0; y < op->height; y++) total += *(const Doubles *)(x_sums + (ptrdiff_t)y * op->channels + c);
        total /= count;
        for (int k = 0; k < 8; k++) out[c + k] = (float)total[k];
    }
    for (; c < last; c++) {
        double total = 0.0;
        for (int y = 0; y < op->height; y++) total += x_sums[(ptrdiff_t)y * op->channels + c];
        out[c] = (float)(total / count);
    }
}

/* A layer of an adapter. Each sum is eight partial ones, added in a fixed order; four outputs at a time, whose sums do not
   wait for each other. */
static inline __attribute__((always_inline)) void adapter_layer(const AdapterLayer *layer, const double *h, double *out,
                                                                const int QUANTIZED) {
    const int inputs = padded(layer->inputs, ADAPTER_LANES);
    for (int o = 0; o < layer->outputs; o += 4) {
        Doubles lanes[4] = {{0.0}, {0.0}, {0.0}, {0.0}};
        for (int i = 0; i < inputs; i += ADAPTER_LANES) {
            const Doubles input = *(const Doubles *)(h + i);
            const ptrdiff_t at = (ptrdiff_t)o * inputs + 4 * i;
            for (int k = 0; k < 4; k++)
                lanes[k] += input * (QUANTIZED ? widen_int8(layer->int8_weight + at + ADAPTER_LANES * k)
                                               : widen(layer->float_weight + at + ADAPTER_LANES * k));
        }
        for (int k = 0; k < 4 && o + k < layer->outputs; k++) {
            double lane[ADAPTER_LANES];
            memcpy(lane, &lanes[k], sizeof lane);
            for (int half = ADAPTER_LANES / 2; half; half /= 2)
                for (int j = 0; j < half; j++) lane[j] += lane[j + half];
            out[o + k] = lane[0] * layer->row_scale[o + k] + layer->bias[o + k];
        }
    }
}

/* From the means of all channels. scratch: [2][scratch_width]. */
static float beta(const Adapter *adapter, int channels, const float *means, double *scratch) {
    double *h = scratch, *next = h + adapter->scratch_width;
    for (int c = 0; c < padded(channels, ADAPTER_LANES); c++) h[c] = c < channels ? (double)means[c] : 0.0;
    for (int k = 0; k < adapter->layer_count; k++) {
        const AdapterLayer *layer = &adapter->layers[k];
        if (k)
            for (int i = 0; i < layer->inputs; i++) h[i] = h[i] < 0.0 ? 0.0 : h[i]; /* a NaN stays */
        if (layer->int8_weight)
            adapter_layer(layer, h, next, 1);
        else
            adapter_layer(layer, h, next, 0);
        for (int o = layer->outputs; o < padded(layer->outputs, ADAPTER_LANES); o++) next[o] = 0.0;
        double *swap = h;
        h = next;
        next = swap;
    }
    const double t = h[0];
    if (adapter->beta_output) return (float)(t < PAPER_SMALLEST_BETA ? PAPER_SMALLEST_BETA : t);
    return (float)(t >= 0.0 ? 1.0 + t : 1.0 / (1.0 - t));
}

/* The step size for the image x. Every thread finds it by itself, which takes less time than to wait for another's. */
static float adapted_step_size(const Op *op, const Thread *thread) {
    const Adapter *adapter = &op->conv.adapter;
    if (!adapter->layer_count) return op->conv.step_size;
    float *means = adapter->means + (ptrdiff_t)thread->index * adapter->scratch_width;
    double *scratch = adapter->sums + (ptrdiff_t)thread->index * 2 * adapter->scratch_width;
    mean(op, adapter->x_sums, 0, op->channels, means);
    return op->conv.step_size * beta(adapter, op->channels, means, scratch);
}

#endif

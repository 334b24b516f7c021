/* From accumulators to values: the one definition, in the order of the format, for the 16 outputs of a block. Each
   operation is rounded by itself: this file's users are compiled with -ffp-contract=off. Loops of 16, which the
   compiler turns into vectors of the kernel's own instruction set. */

#ifndef ASQ_EPILOGUE_H
#define ASQ_EPILOGUE_H

#include "kernel.h"
#include "vector.h"

/* The values of one pixel. sum: BLOCK accumulators of the outputs first .., of which the first `count` exist; they began at
   their compensation. residual may be null; so may row_sums, to which the values are added, or which begin with them if
   `fresh`. */
static inline void apply_epilogue(const Epilogue *e, int first, int count, const int32_t *sum, const float *residual,
                                  float *out, double *row_sums, int fresh) {
    float v[BLOCK];
    for (int o = 0; o < BLOCK; o++) v[o] = (float)sum[o] * e->scale[first + o];
    if (e->bias)
        for (int o = 0; o < BLOCK; o++) v[o] = v[o] + e->bias[first + o];
    if (e->g) {
        for (int o = 0; o < BLOCK; o++) v[o] = v[o] * e->g[first + o];
        for (int o = 0; o < BLOCK; o++) v[o] = v[o] + e->b[first + o];
    }
    if (count > BLOCK) count = BLOCK;
    if (residual)
        for (int o = 0; o < count; o++) v[o] = v[o] + residual[o];
    for (int o = 0; o < BLOCK; o++) v[o] = v[o] < e->low ? e->low : v[o];
    for (int o = 0; o < BLOCK; o++) v[o] = v[o] > e->high ? e->high : v[o];
    for (int o = 0; o < count; o++) out[o] = v[o];
    if (row_sums)
        for (int o = 0; o < count; o++) row_sums[o] = (fresh ? 0.0 : row_sums[o]) + (double)v[o];
}

/* Sums in double along a row of `width` pixels, from left to right: of 8 * VECTORS channels, then of `count`. */
static inline __attribute__((always_inline)) void sum_some(const float *x, ptrdiff_t stride, int width, double *sums,
                                                           const int VECTORS) {
    Doubles total[4] = {{0.0}, {0.0}, {0.0}, {0.0}};
    for (int i = 0; i < width; i++, x += stride)
        for (int k = 0; k < VECTORS; k++) total[k] += widen(x + 8 * k);
    for (int k = 0; k < VECTORS; k++) *(Doubles *)(sums + 8 * k) = total[k];
}

static inline void sum_row(const float *x, ptrdiff_t stride, int width, int count, double *sums) {
    int c = 0;
    for (; count - c >= 32; c += 32) sum_some(x + c, stride, width, sums + c, 4); /* chains that do not wait */
    for (; count - c >= 16; c += 16) sum_some(x + c, stride, width, sums + c, 2);
    for (; count - c >= 8; c += 8) sum_some(x + c, stride, width, sums + c, 1);
    for (; c < count; c++) {
        sums[c] = 0.0;
        for (int i = 0; i < width; i++) sums[c] += (double)x[i * stride + c];
    }
}

/* Where the sums of row y begin for the outputs first .., or null. */
static inline double *row_sums_of(const Conv *c, int y, int first) {
    return c->row_sums ? c->row_sums + (size_t)y * c->sums_stride + first : NULL;
}

#endif

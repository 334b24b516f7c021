/* From accumulators to values: the one definition, in the order of the format, for the 16 outputs of a block. Each
   operation is rounded by itself: this file's users are compiled with -ffp-contract=off. Loops of 16, which the
   compiler turns into vectors of the kernel's own instruction set. */

#ifndef ASQ_EPILOGUE_H
#define ASQ_EPILOGUE_H

#include "kernel.h"

/* sum: BLOCK accumulators of the outputs first .., of which `count` exist; residual may be null. */
static inline void asq_epilogue(const Epilogue *e, int first, int count, const int32_t *sum, const float *residual,
                                float *out) {
    float v[BLOCK];
    for (int o = 0; o < BLOCK; o++) v[o] = (float)(sum[o] + e->compensation[first + o]) * e->scale[first + o];
    if (e->bias)
        for (int o = 0; o < BLOCK; o++) v[o] = v[o] + e->bias[first + o];
    if (e->g) {
        for (int o = 0; o < BLOCK; o++) v[o] = v[o] * e->g[first + o];
        for (int o = 0; o < BLOCK; o++) v[o] = v[o] + e->b[first + o];
    }
    if (residual && count == BLOCK)
        for (int o = 0; o < BLOCK; o++) v[o] = v[o] + residual[o];
    else if (residual)
        for (int o = 0; o < count; o++) v[o] = v[o] + residual[o];
    for (int o = 0; o < BLOCK; o++) v[o] = v[o] < e->low ? e->low : v[o];
    for (int o = 0; o < BLOCK; o++) v[o] = v[o] > e->high ? e->high : v[o];
    if (count == BLOCK)
        for (int o = 0; o < BLOCK; o++) out[o] = v[o];
    else
        for (int o = 0; o < count; o++) out[o] = v[o];
}

#endif

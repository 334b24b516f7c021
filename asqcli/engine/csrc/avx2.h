/* AVX2 helpers of the kernels whose sums have 8 lanes: `apply_epilogue` in registers, and how rows are cut into tiles. */

#ifndef ASQ_AVX2_H
#define ASQ_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "epilogue.h"

/* The accumulators of 8 outputs: a block has two parts. */
typedef __m256i Sums;
enum { SUMS_LANES = 8, PARTS = BLOCK / SUMS_LANES };

static inline Sums sums_from(const int32_t *start) { return _mm256_loadu_si256((const __m256i *)start); }

static inline __attribute__((always_inline)) __m256i broadcast_four(const uint8_t *codes) {
    int32_t four;
    memcpy(&four, codes, DEPTH);
    return _mm256_set1_epi32(four);
}

/* The part of a block that begins with the output `first`, at PIXELS pixels that lie `stride` floats apart. */
static inline __attribute__((always_inline)) void finish_part(const Epilogue *e, int first, const Sums *sum,
                                                              const float *residual, float *out, ptrdiff_t stride,
                                                              double *row_sums, int fresh, const int PIXELS) {
    const __m256 scale = _mm256_loadu_ps(e->scale + first), low = _mm256_set1_ps(e->low), high = _mm256_set1_ps(e->high);
    __m256d total[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    if (row_sums && !fresh) total[0] = _mm256_loadu_pd(row_sums), total[1] = _mm256_loadu_pd(row_sums + 4);
    UNROLL
    for (int p = 0; p < PIXELS; p++, out += stride) {
        __m256 v = _mm256_mul_ps(_mm256_cvtepi32_ps(sum[p]), scale);
        if (e->bias) v = _mm256_add_ps(v, _mm256_loadu_ps(e->bias + first));
        if (e->g) v = _mm256_add_ps(_mm256_mul_ps(v, _mm256_loadu_ps(e->g + first)), _mm256_loadu_ps(e->b + first));
        if (residual) v = _mm256_add_ps(v, _mm256_loadu_ps(residual + p * stride));
        v = _mm256_min_ps(high, _mm256_max_ps(low, v)); /* a NaN stays: both give their second operand */
        _mm256_storeu_ps(out, v);
        total[0] = _mm256_add_pd(total[0], _mm256_cvtps_pd(_mm256_castps256_ps128(v)));
        total[1] = _mm256_add_pd(total[1], _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
    }
    if (row_sums) _mm256_storeu_pd(row_sums, total[0]), _mm256_storeu_pd(row_sums + 4, total[1]);
}

/* The epilogue of one pixel, if not all outputs of the block exist; a function of its own, so that it takes no registers. */
static __attribute__((noinline)) void finish_few(const Epilogue *e, int first, int count, Sums low, Sums high,
                                                 const float *residual, float *out, double *row_sums, int fresh) {
    int32_t lanes[BLOCK];
    _mm256_storeu_si256((__m256i *)lanes, low);
    _mm256_storeu_si256((__m256i *)lanes + 1, high);
    apply_epilogue(e, first, count, lanes, residual, out, row_sums, fresh);
}

/* `apply_epilogue` for PIXELS pixels of a row. sum: the first part's at all of them, then the second's. */
static inline __attribute__((always_inline)) void finish(const Epilogue *e, int first, int count, const Sums *sum,
                                                         const float *residual, float *out, ptrdiff_t stride,
                                                         double *row_sums, int fresh, const int PIXELS) {
    if (count >= BLOCK) {
        UNROLL
        for (int part = 0; part < PARTS; part++) {
            const int at = part * SUMS_LANES;
            finish_part(e, first + at, sum + part * PIXELS, residual ? residual + at : NULL, out + at, stride,
                        row_sums ? row_sums + at : NULL, fresh, PIXELS);
        }
        return;
    }
    UNROLL
    for (int p = 0; p < PIXELS; p++)
        finish_few(e, first, count, sum[p], sum[PIXELS + p], residual ? residual + p * stride : NULL, out + p * stride,
                   row_sums, fresh && p == 0);
}

/* The epilogue of a tile of one row and one block, which begins at column x. */
static inline __attribute__((always_inline)) void finish_tile(const Conv *c, int y, int x, int block, const Sums *sum,
                                                              const int PIXELS) {
    const int first = block * BLOCK;
    const size_t at = ((size_t)y * c->out_w + x) * c->out_stride + first;
    finish(&c->epilogue, first, c->outputs - first, sum, c->residual ? c->residual + at : NULL, c->output + at, c->out_stride,
           row_sums_of(c, y, first), x == 0, PIXELS);
}

/* A tile of one row and one block; TILE makes one of so many pixels from a kernel's `tile`. */
typedef void (*Tile)(const Conv *c, int y, int x, int block);

#define TILE(pixels)                                                                              \
    static __attribute__((noinline)) void tile_##pixels(const Conv *c, int y, int x, int block) { \
        tile(c, y, x, block, pixels);                                                             \
    }

/* A convolution row by row. tiles: functions for 1, 2 .. `most` pixels. */
static void conv_by_tiles(const Conv *c, int first_row, int last_row, int first_block, int last_block, const Tile *tiles,
                          int most) {
    for (int block = first_block; block < last_block; block++)
        for (int y = first_row; y < last_row; y++)
            for (int x = 0, pixels; x < c->out_w; x += pixels) {
                pixels = tile_width(c->out_w - x, most);
                tiles[pixels - 1](c, y, x, block);
            }
}

#endif

/* AVX-512 VNNI: vpdpbusd multiplies 4 unsigned by 4 signed bytes in each of 16 lanes and adds to 32 bits, no saturation.

   A tile of PIXELS x BLOCKS keeps PIXELS * BLOCKS accumulators in registers. For each kernel position and each 4 channels
   it loads BLOCKS vectors of weights and broadcasts 4 codes of each pixel: 14 x 2 needs 28 + 2 + 1 of the 32 registers.
   The arrays below stay in registers only if the compiler unrolls every loop over them; gcc 12's partial redundancy
   elimination would store them in each step, hence -fno-tree-pre. */

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "kernel.h"

static int supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

/* The accumulators of 16 outputs. */
typedef __m512i Sums;

static inline Sums no_sums(void) { return _mm512_setzero_si512(); }

/* For depthwise convolutions. A code in the lower half of 32 bits, zero in the upper, times a weight of 32 bits: vpdpwssd adds
   the product. */
static inline Sums add_products(Sums sums, const uint8_t *codes, const int32_t *weights) {
    __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes));
    return _mm512_dpwssd_epi32(sums, wide, _mm512_loadu_si512(weights));
}

/* `asq_epilogue` in registers. */
static inline __attribute__((always_inline)) void finish(const Epilogue *e, int first, int count, Sums sum,
                                                         const float *residual, float *out) {
    const __mmask16 mask = count >= BLOCK ? 0xFFFF : (__mmask16)((1u << count) - 1);
    sum = _mm512_add_epi32(sum, _mm512_loadu_si512(e->compensation + first));
    __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(e->scale + first));
    if (e->bias) v = _mm512_add_ps(v, _mm512_loadu_ps(e->bias + first));
    if (e->g) {
        v = _mm512_mul_ps(v, _mm512_loadu_ps(e->g + first));
        v = _mm512_add_ps(v, _mm512_loadu_ps(e->b + first));
    }
    if (residual) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, residual));
    v = _mm512_max_ps(_mm512_set1_ps(e->low), v);
    v = _mm512_min_ps(_mm512_set1_ps(e->high), v);
    _mm512_mask_storeu_ps(out, mask, v);
}

static inline __attribute__((always_inline)) void tile(const Conv *c, int y, int x, int block, const int PIXELS,
                                                       const int BLOCKS) {
    const size_t block_bytes = (size_t)c->kernel_h * c->kernel_w * c->steps * BLOCK * DEPTH;
    const int8_t *w = c->packed + block * block_bytes;
    const uint8_t *origin = c->codes + (ptrdiff_t)y * c->stride_h * c->row_stride +
                            (ptrdiff_t)x * c->stride_w * c->pixel_stride;
    const ptrdiff_t step = c->stride_w * c->pixel_stride;
    __m512i sum[14][3];
#pragma GCC unroll 14
    for (int p = 0; p < PIXELS; p++)
#pragma GCC unroll 3
        for (int b = 0; b < BLOCKS; b++) sum[p][b] = _mm512_setzero_si512();

    for (int i = 0; i < c->kernel_h; i++)
        for (int j = 0; j < c->kernel_w; j++) {
            const uint8_t *a = origin + i * c->dilation_h * c->row_stride + j * c->dilation_w * c->pixel_stride;
            for (int s = 0; s < c->steps; s++, a += DEPTH, w += BLOCK * DEPTH) {
                __m512i weights[3];
#pragma GCC unroll 3
                for (int b = 0; b < BLOCKS; b++) weights[b] = _mm512_loadu_si512(w + b * block_bytes);
#pragma GCC unroll 14
                for (int p = 0; p < PIXELS; p++) {
                    int32_t four;
                    memcpy(&four, a + p * step, DEPTH);
                    __m512i codes = _mm512_set1_epi32(four);
#pragma GCC unroll 3
                    for (int b = 0; b < BLOCKS; b++) sum[p][b] = _mm512_dpbusd_epi32(sum[p][b], codes, weights[b]);
                }
            }
        }
#pragma GCC unroll 14
    for (int p = 0; p < PIXELS; p++)
#pragma GCC unroll 3
        for (int b = 0; b < BLOCKS; b++) {
            const int first = (block + b) * BLOCK;
            const size_t at = ((size_t)y * c->out_w + x + p) * c->out_stride + first;
            finish(&c->epilogue, first, c->outputs - first, sum[p][b], c->residual ? c->residual + at : NULL,
                   c->output + at);
        }
}

#define TILE(pixels, blocks)                                                                            \
    static __attribute__((noinline)) void tile_##pixels##x##blocks(const Conv *c, int y, int x, int b) { \
        tile(c, y, x, b, pixels, blocks);                                                               \
    }
TILE(14, 2) TILE(14, 1) TILE(8, 3) TILE(8, 2) TILE(8, 1) TILE(7, 3) TILE(7, 2) TILE(7, 1)
TILE(4, 3) TILE(4, 2) TILE(4, 1) TILE(2, 3) TILE(2, 2) TILE(2, 1) TILE(1, 3) TILE(1, 2) TILE(1, 1)

typedef void (*Tile)(const Conv *, int, int, int);
typedef struct {
    int pixels;
    Tile by_blocks[3];
} Width;

/* Widest first; a row is cut greedily, so that 7 leaves nothing of 7, and 16 is 8 + 8 (see `start`). */
static const Width WIDTHS[] = {
    {14, {tile_14x1, tile_14x2, NULL}}, {8, {tile_8x1, tile_8x2, tile_8x3}}, {7, {tile_7x1, tile_7x2, tile_7x3}},
    {4, {tile_4x1, tile_4x2, tile_4x3}}, {2, {tile_2x1, tile_2x2, tile_2x3}}, {1, {tile_1x1, tile_1x2, tile_1x3}},
};

/* Return the place in WIDTHS to begin with: 14 is the best tile unless it leaves a poor rest. */
static int start(int width) { return width % 14 == 0 || width % 8 != 0 || width > 64 ? 0 : 1; }

static void conv(const Conv *c, int first_row, int last_row, int first_block, int last_block) {
    for (int block = first_block; block < last_block;) {
        const int left = last_block - block;
        int most = left < 3 ? left : 3;
        int begin = start(c->out_w);
        /* Three blocks at a time where 14 pixels are not to be had anyway. */
        int taken = begin == 0 && c->out_w >= 14 ? (most < 2 ? most : 2) : (left == 4 ? 2 : most);
        for (int y = first_row; y < last_row; y++) {
            int x = 0;
            for (int k = begin; x < c->out_w; k++)
                for (; c->out_w - x >= WIDTHS[k].pixels && WIDTHS[k].by_blocks[taken - 1]; x += WIDTHS[k].pixels)
                    WIDTHS[k].by_blocks[taken - 1](c, y, x, block);
        }
        block += taken;
    }
}

#include "run.h"

const Kernel asq_kernel_avx512vnni = {"avx512-vnni", supported, run};

#endif

/* AVX2. vpmaddubsw would multiply bytes in one step but saturates pairs at 16 bits, which 8-bit codes reach; so codes and
   weights are widened to 16 bits and vpmaddwd adds pairs in 32 bits, exact for all. A tile is
   PIXELS x 16 outputs, in two halves of 8 for the registers. */

#include <immintrin.h>
#include <string.h>

#include "epilogue_avx2.h"
#include "kernel.h"

enum { LANES = 8 };

static int supported(void) { return __builtin_cpu_supports("avx2"); }

/* Four outputs of which neighbours are the two halves of one: the first begins at `start`. */
static inline __m256i halves_from(const int32_t *start) {
    return _mm256_cvtepu32_epi64(_mm_loadu_si128((const __m128i *)start));
}

/* Add the halves, and put the quarters in order. */
static inline __m256i join(__m256i low, __m256i high) {
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), 0xD8);
}

/* The sums of one half of a block at PIXELS pixels. */
static inline __attribute__((always_inline)) void half_tile(const Conv *c, const uint8_t *codes, const int8_t *w,
                                                            const int32_t *start, Block *sum, int half, const int PIXELS) {
    __m256i low[4], high[4]; /* pairs of outputs 0 .. 3 and 4 .. 7 */
#pragma GCC unroll 4
    for (int p = 0; p < PIXELS; p++) {
        low[p] = halves_from(start);
        high[p] = halves_from(start + LANES / 2);
    }
    for (int i = 0; i < c->places; i++, w += BLOCK * DEPTH) {
        const uint8_t *a = codes + c->offset[i];
        __m256i weights_low = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)w));
        __m256i weights_high = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + 16)));
#pragma GCC unroll 4
        for (int p = 0; p < PIXELS; p++) {
            int32_t four;
            memcpy(&four, a + p * c->across, DEPTH);
            __m256i wide = _mm256_cvtepu8_epi16(_mm_set1_epi32(four));
            low[p] = _mm256_add_epi32(low[p], _mm256_madd_epi16(wide, weights_low));
            high[p] = _mm256_add_epi32(high[p], _mm256_madd_epi16(wide, weights_high));
        }
    }
#pragma GCC unroll 4
    for (int p = 0; p < PIXELS; p++) sum[p].half[half] = join(low[p], high[p]);
}

static inline __attribute__((always_inline)) void tile(const Conv *c, int y, int x, int first, const int PIXELS) {
    const int8_t *w = c->packed + (size_t)first * DEPTH * c->places;
    const uint8_t *codes = c->codes + y * c->down + x * c->across;
    const int32_t *start = c->epilogue.compensation + first;
    Block sum[4];
    half_tile(c, codes, w, start, sum, 0, PIXELS);
    half_tile(c, codes, w + LANES * DEPTH, start + LANES, sum, 1, PIXELS);
    const size_t at = ((size_t)y * c->out_w + x) * c->out_stride + first;
    finish_blocks(&c->epilogue, first, c->outputs - first, sum, c->residual ? c->residual + at : NULL, c->output + at,
                  c->out_stride, row_sums_of(c, y, first), x == 0, PIXELS);
}

static void conv(const Conv *c, int first_row, int last_row, int first_block, int last_block) {
    for (int first = first_block * BLOCK; first < last_block * BLOCK; first += BLOCK)
        for (int y = first_row; y < last_row; y++) {
            int x = 0;
            for (; c->out_w - x >= 4; x += 4) tile(c, y, x, first, 4);
            for (; x < c->out_w; x++) tile(c, y, x, first, 1);
        }
}

/* The accumulators of 16 outputs, for depthwise convolutions: neighbours are the two halves of one output. */
typedef struct {
    __m256i halves[4];
} Sums;

static inline Sums sums_from(const int32_t *start) {
    return (Sums){{halves_from(start), halves_from(start + 4), halves_from(start + 8), halves_from(start + 12)}};
}

/* Add to each of 16 sums the products of 4 codes and 4 weights. */
static inline Sums add_products(Sums sums, const uint8_t *codes, const int8_t *weights) {
    for (int k = 0; k < 4; k++) {
        __m256i a = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)codes + k));
        __m256i w = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)weights + k));
        sums.halves[k] = _mm256_add_epi32(sums.halves[k], _mm256_madd_epi16(a, w));
    }
    return sums;
}

/* The epilogue of pixels that lie `stride` floats apart. */
static inline __attribute__((always_inline)) void finish(const Epilogue *e, int first, int count, const Sums *sums,
                                                         const float *residual, float *out, ptrdiff_t stride,
                                                         double *row_sums, int fresh, const int PIXELS) {
    Block sum[2];
#pragma GCC unroll 2
    for (int p = 0; p < PIXELS; p++)
#pragma GCC unroll 2
        for (int k = 0; k < 2; k++) sum[p].half[k] = join(sums[p].halves[2 * k], sums[p].halves[2 * k + 1]);
    finish_blocks(e, first, count, sum, residual, out, stride, row_sums, fresh, PIXELS);
}

enum { SIDE_BY_SIDE = 2 }; /* pixels of a depthwise convolution */

#include "run.h"

const Kernel asq_kernel_avx2 = {.name = "avx2", .supported = supported, .run = run};

/* AVX2. vpmaddubsw multiplies 4 codes by 4 weights and adds them by twos, but saturates at 16 bits. Codes and weights of few
   bits stay far below, so that the products of many taps are added in 16 bits before they are widened (`int16_taps` says of
   how many). Others are widened first, and vpmaddwd adds pairs in 32 bits, exact for all. A tile is PIXELS x 16 outputs. */

#include <immintrin.h>

#include "avx2.h"
#include "kernel.h"

enum { MOST_PIXELS = 4 };

static int supported(void) { return __builtin_cpu_supports("avx2"); }

/* Four outputs of which neighbours are the two halves of one: the first begins at `start`. */
static inline __m256i halves_from(const int32_t *start) {
    return _mm256_cvtepu32_epi64(_mm_loadu_si128((const __m128i *)start));
}

/* Add the halves, and put the quarters in order. */
static inline __m256i join(__m256i low, __m256i high) {
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), 0xD8);
}

/* The sums of one part of a block at PIXELS pixels. */
static inline __attribute__((always_inline)) void int32_tile(const Conv *c, const uint8_t *codes, const int8_t *w,
                                                             const int32_t *start, Sums *sum, const int PIXELS) {
    __m256i low[MOST_PIXELS], high[MOST_PIXELS]; /* pairs of outputs 0 .. 3 and 4 .. 7 */
    UNROLL
    for (int p = 0; p < PIXELS; p++) {
        low[p] = halves_from(start);
        high[p] = halves_from(start + SUMS_LANES / 2);
    }
    for (int i = 0; i < c->taps; i++, w += BLOCK * DEPTH) {
        const uint8_t *a = codes + c->offset[i];
        __m256i weights_low = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)w));
        __m256i weights_high = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + 16)));
        UNROLL
        for (int p = 0; p < PIXELS; p++) {
            __m256i wide = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(broadcast_four(a + p * c->across)));
            low[p] = _mm256_add_epi32(low[p], _mm256_madd_epi16(wide, weights_low));
            high[p] = _mm256_add_epi32(high[p], _mm256_madd_epi16(wide, weights_high));
        }
    }
    UNROLL
    for (int p = 0; p < PIXELS; p++) sum[p] = join(low[p], high[p]);
}

/* Add sums of 16 bits, two for each of 8 outputs. */
static inline __m256i add_pairs(__m256i sums, __m256i pairs) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* The sums of a block at PIXELS pixels, whose products fit 16 bits. */
static inline __attribute__((always_inline)) void int16_tile(const Conv *c, const uint8_t *codes, const int8_t *w,
                                                             const int32_t *start, Sums *sum, const int PIXELS) {
    UNROLL
    for (int p = 0; p < PARTS * PIXELS; p++) sum[p] = sums_from(start + p / PIXELS * SUMS_LANES);
    for (int i = 0, end; i < c->taps; i = end) {
        end = c->taps - i < c->int16_taps ? c->taps : i + c->int16_taps;
        __m256i pairs[PARTS * MOST_PIXELS];
        UNROLL
        for (int p = 0; p < PARTS * PIXELS; p++) pairs[p] = _mm256_setzero_si256();
        for (int k = i; k < end; k++, w += BLOCK * DEPTH) {
            const uint8_t *a = codes + c->offset[k];
            const __m256i low = _mm256_loadu_si256((const __m256i *)w), high = _mm256_loadu_si256((const __m256i *)w + 1);
            UNROLL
            for (int p = 0; p < PIXELS; p++) {
                const __m256i broadcast = broadcast_four(a + p * c->across);
                pairs[p] = _mm256_add_epi16(pairs[p], _mm256_maddubs_epi16(broadcast, low));
                pairs[PIXELS + p] = _mm256_add_epi16(pairs[PIXELS + p], _mm256_maddubs_epi16(broadcast, high));
            }
        }
        UNROLL
        for (int p = 0; p < PARTS * PIXELS; p++) sum[p] = add_pairs(sum[p], pairs[p]);
    }
}

static inline __attribute__((always_inline)) void tile(const Conv *c, int y, int x, int block, const int PIXELS) {
    const int first = block * BLOCK;
    const int8_t *w = c->packed + (size_t)first * DEPTH * c->taps;
    const uint8_t *codes = c->codes + y * c->down + x * c->across;
    const int32_t *start = c->epilogue.compensation + first;
    Sums sum[PARTS * MOST_PIXELS];
    if (c->int16_taps) {
        int16_tile(c, codes, w, start, sum, PIXELS);
    } else {
        int32_tile(c, codes, w, start, sum, PIXELS);
        int32_tile(c, codes, w + SUMS_LANES * DEPTH, start + SUMS_LANES, sum + PIXELS, PIXELS);
    }
    finish_tile(c, y, x, block, sum, PIXELS);
}

TILE(1) TILE(2) TILE(3) TILE(4)
static const Tile TILES[MOST_PIXELS] = {tile_1, tile_2, tile_3, tile_4};

static void conv(const Conv *c, int first_row, int last_row, int first_block, int last_block) {
    conv_by_tiles(c, first_row, last_row, first_block, last_block, TILES, MOST_PIXELS);
}

/* Add to each of 8 sums the products of 4 codes and 4 weights. */
static inline __attribute__((always_inline)) Sums add_products(Sums sums, const uint8_t *codes, const int8_t *weights,
                                                               int int16_taps) {
    const __m256i *a = (const __m256i *)codes, *w = (const __m256i *)weights;
    if (int16_taps) return add_pairs(sums, _mm256_maddubs_epi16(_mm256_loadu_si256(a), _mm256_loadu_si256(w)));
    __m256i products[2]; /* neighbours are the two halves of one */
    UNROLL
    for (int k = 0; k < 2; k++) {
        const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)a + k));
        products[k] = _mm256_madd_epi16(wide, _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)w + k)));
    }
    return _mm256_add_epi32(sums, join(products[0], products[1]));
}

enum { SIDE_BY_SIDE = 4 }; /* pixels of a depthwise convolution */

#include "run.h"

const Kernel asq_kernel_avx2 = {.name = "avx2", .supported = supported, .run = run};

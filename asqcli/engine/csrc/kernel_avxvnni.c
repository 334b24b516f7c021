/* AVX-VNNI: vpdpbusd as in the AVX-512 kernel, on 8 outputs. A tile of 6 pixels x 16 outputs needs 12 + 2 + 1 of the 16
   registers. */

#include <cpuid.h>
#include <immintrin.h>

#include "avx2.h"
#include "kernel.h"

enum { MOST_PIXELS = 6 };

/* gcc 12's __builtin_cpu_supports does not know the name. */
static int supported(void) {
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

/* Add to each of 8 sums the products of 4 codes and 4 weights. */
static inline Sums add_products(Sums sums, const uint8_t *codes, const int8_t *weights, int int16_taps) {
    (void)int16_taps; /* these products do not saturate */
    const __m256i *a = (const __m256i *)codes, *w = (const __m256i *)weights;
    return _mm256_dpbusd_avx_epi32(sums, _mm256_loadu_si256(a), _mm256_loadu_si256(w));
}

static inline __attribute__((always_inline)) void tile(const Conv *c, int y, int x, int block, const int PIXELS) {
    const int first = block * BLOCK;
    const int8_t *w = c->packed + (size_t)first * DEPTH * c->taps;
    const uint8_t *codes = c->codes + y * c->down + x * c->across;
    Sums sum[PARTS * MOST_PIXELS];
    UNROLL
    for (int p = 0; p < PARTS * PIXELS; p++) sum[p] = sums_from(c->epilogue.compensation + first + p / PIXELS * SUMS_LANES);
    for (int i = 0; i < c->taps; i++, w += BLOCK * DEPTH) {
        const uint8_t *a = codes + c->offset[i];
        const __m256i w_low = _mm256_loadu_si256((const __m256i *)w), w_high = _mm256_loadu_si256((const __m256i *)w + 1);
        UNROLL
        for (int p = 0; p < PIXELS; p++) {
            const __m256i broadcast = broadcast_four(a + p * c->across);
            sum[p] = _mm256_dpbusd_avx_epi32(sum[p], broadcast, w_low);
            sum[PIXELS + p] = _mm256_dpbusd_avx_epi32(sum[PIXELS + p], broadcast, w_high);
        }
    }
    finish_tile(c, y, x, block, sum, PIXELS);
}

TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
static const Tile TILES[MOST_PIXELS] = {tile_1, tile_2, tile_3, tile_4, tile_5, tile_6};

static void conv(const Conv *c, int first_row, int last_row, int first_block, int last_block) {
    conv_by_tiles(c, first_row, last_row, first_block, last_block, TILES, MOST_PIXELS);
}

enum { SIDE_BY_SIDE = 4 }; /* pixels of a depthwise convolution */

#include "run.h"

enum { CHAINS = 12 }; /* more than the products of one chain wait for each other */

static int64_t peak_loop(int64_t rounds) {
    __m256i sum[CHAINS];
    UNROLL
    for (int k = 0; k < CHAINS; k++) {
        sum[k] = _mm256_setzero_si256();
        __asm__("" : "+x"(sum[k])); /* or the compiler sees that all are equal, and makes one */
    }
    for (int64_t r = 0; r < rounds; r++)
        UNROLL
        for (int k = 0; k < CHAINS; k++) sum[k] = _mm256_dpbusd_avx_epi32(sum[k], _mm256_set1_epi8(1), _mm256_set1_epi8(1));
    UNROLL
    for (int k = 0; k < CHAINS; k++) __asm__ volatile("" ::"x"(sum[k]));
    return rounds * CHAINS * SUMS_LANES * DEPTH;
}

const Kernel asq_kernel_avxvnni = {.name = "avx-vnni", .supported = supported, .run = run, .peak_loop = peak_loop};

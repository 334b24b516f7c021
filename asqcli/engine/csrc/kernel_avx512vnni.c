/* AVX-512 VNNI: vpdpbusd multiplies 4 unsigned by 4 signed bytes in each of 16 lanes and adds to 32 bits, no saturation.

   A tile of pixels times blocks keeps one vector of accumulators for each in registers. For each tap of the window it loads
   the blocks' weights and broadcasts the 4 codes of each pixel: 14 x 2 needs 28 + 2 + 1 of the 32 registers.
   The arrays below stay in registers only if the compiler unrolls every loop over them; gcc 12's partial redundancy
   elimination would store them in each step, hence -fno-tree-pre. */

#include <immintrin.h>
#include <string.h>

#include "epilogue.h"
#include "kernel.h"

enum { MOST_PIXELS = 16 /* pixels of a tile */, MOST_WEIGHTS_BY_ROWS = 16384 /* bytes */ };

static int supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

/* The accumulators of 16 outputs. */
typedef __m512i Sums;
enum { SUMS_LANES = BLOCK, PARTS = BLOCK / SUMS_LANES };

static inline Sums sums_from(const int32_t *start) { return _mm512_loadu_si512(start); }

/* Add to each of 16 sums the products of 4 codes and 4 weights. */
static inline Sums add_products(Sums sums, const uint8_t *codes, const int8_t *weights, int int16_taps) {
    (void)int16_taps; /* these products do not saturate */
    return _mm512_dpbusd_epi32(sums, _mm512_loadu_si512(codes), _mm512_loadu_si512(weights));
}

/* Sums along a row of 16 outputs, of which those in the mask exist. sums: where they are kept, or null. */
typedef struct {
    double *sums;
    __m512d low, high;
    __mmask16 mask;
} RowSums;

static inline __attribute__((always_inline)) RowSums load_row(double *sums, int fresh, int count) {
    RowSums row = {sums, _mm512_setzero_pd(), _mm512_setzero_pd(), count >= BLOCK ? 0xFFFF : (__mmask16)((1u << count) - 1)};
    if (sums && !fresh) {
        row.low = _mm512_maskz_loadu_pd((__mmask8)row.mask, sums);
        row.high = _mm512_maskz_loadu_pd((__mmask8)(row.mask >> 8), sums + BLOCK / 2);
    }
    return row;
}

static inline __attribute__((always_inline)) void add_to_row(RowSums *row, __m512 v) {
    const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1));
    row->low = _mm512_add_pd(row->low, _mm512_cvtps_pd(_mm512_castps512_ps256(v)));
    row->high = _mm512_add_pd(row->high, _mm512_cvtps_pd(high));
}

static inline __attribute__((always_inline)) void store_row(const RowSums *row) {
    if (!row->sums) return;
    if (row->mask == 0xFFFF) { /* a masked store is slow */
        _mm512_storeu_pd(row->sums, row->low);
        _mm512_storeu_pd(row->sums + BLOCK / 2, row->high);
    } else {
        _mm512_mask_storeu_pd(row->sums, (__mmask8)row->mask, row->low);
        _mm512_mask_storeu_pd(row->sums + BLOCK / 2, (__mmask8)(row->mask >> 8), row->high);
    }
}

/* `apply_epilogue` in registers, for PIXELS pixels of a row that lie `stride` floats apart: one operation of all of them after
   the other, so that none waits for the last. */
static inline __attribute__((always_inline)) void finish_pixels(const Epilogue *e, int first, const Sums *sum,
                                                                const float *residual, float *out, ptrdiff_t stride,
                                                                RowSums *row, const int PIXELS) {
    const __mmask16 mask = row->mask;
    __m512 v[MOST_PIXELS];
#define FOR_ALL(statement) \
    UNROLL for (int p = 0; p < PIXELS; p++) statement;
    const __m512 scale = _mm512_loadu_ps(e->scale + first);
    FOR_ALL(v[p] = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[p]), scale))
    if (e->bias) {
        const __m512 bias = _mm512_loadu_ps(e->bias + first);
        FOR_ALL(v[p] = _mm512_add_ps(v[p], bias))
    }
    if (e->g) {
        const __m512 g = _mm512_loadu_ps(e->g + first), b = _mm512_loadu_ps(e->b + first);
        FOR_ALL(v[p] = _mm512_add_ps(_mm512_mul_ps(v[p], g), b))
    }
    if (residual) FOR_ALL(v[p] = _mm512_add_ps(v[p], _mm512_maskz_loadu_ps(mask, residual + p * stride)))
    if (e->low > -__builtin_inff()) {
        const __m512 low = _mm512_set1_ps(e->low);
        FOR_ALL(v[p] = _mm512_max_ps(low, v[p]))
    }
    if (e->high < __builtin_inff()) {
        const __m512 high = _mm512_set1_ps(e->high);
        FOR_ALL(v[p] = _mm512_min_ps(high, v[p]))
    }
    if (mask == 0xFFFF) /* a masked store is slow */
        FOR_ALL(_mm512_storeu_ps(out + p * stride, v[p]))
    else
        FOR_ALL(_mm512_mask_storeu_ps(out + p * stride, mask, v[p]))
    if (row->sums) FOR_ALL(add_to_row(row, v[p]))
#undef FOR_ALL
}

/* `finish_pixels` with row sums that are kept in memory: 16 of them, or null; fresh: they begin here. */
static inline __attribute__((always_inline)) void finish(const Epilogue *e, int first, int count, const Sums *sum,
                                                         const float *residual, float *out, ptrdiff_t stride,
                                                         double *row_sums, int fresh, const int PIXELS) {
    RowSums row = load_row(row_sums, fresh, count);
    finish_pixels(e, first, sum, residual, out, stride, &row, PIXELS);
    store_row(&row);
}

/* Keeps the compiler from seeing how a pointer came about. It would hold the distance of every pixel in a register of its own,
   and there are not enough. */
#define HIDE(pointer) __asm__("" : "+r"(pointer))

static inline __attribute__((always_inline)) __m512i broadcast_four(const uint8_t *codes) {
    int32_t four;
    memcpy(&four, codes, DEPTH);
    return _mm512_set1_epi32(four);
}

/* The sums of ROWS x COLUMNS neighbouring pixels times BLOCKS blocks of weights; they begin at `start`, or at zero where it is
   null. `ahead`: other weights to be fetched, a cache line for each tap, or none with `line` 0. */
static inline __attribute__((always_inline)) void sum_products(const Conv *c, const uint8_t *codes, const int8_t *w,
                                                               size_t block_bytes, const int8_t *ahead, ptrdiff_t line,
                                                               const int32_t *start, Sums sum[2][MOST_PIXELS],
                                                               const int ROWS, const int COLUMNS, const int BLOCKS) {
    UNROLL
    for (int b = 0; b < BLOCKS; b++)
        UNROLL
        for (int p = 0; p < ROWS * COLUMNS; p++) sum[b][p] = start ? sums_from(start + b * BLOCK) : _mm512_setzero_si512();
    for (int i = 0; i < c->taps; i++, w += BLOCK * DEPTH, ahead += line) {
        const uint8_t *a = codes + c->offset[i];
        __m512i weights[2];
        UNROLL
        for (int b = 0; b < BLOCKS; b++) weights[b] = _mm512_loadu_si512(w + b * block_bytes);
        if (line) _mm_prefetch((const char *)ahead, _MM_HINT_T1);
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            const uint8_t *from = a + r * c->down;
            UNROLL
            for (int q = 0; q < COLUMNS; q++) {
                if (q && q % 4 == 0) {
                    from += 4 * c->across;
                    HIDE(from);
                }
                const __m512i broadcast = broadcast_four(from + q % 4 * c->across);
                UNROLL
                for (int b = 0; b < BLOCKS; b++)
                    sum[b][r * COLUMNS + q] = _mm512_dpbusd_epi32(sum[b][r * COLUMNS + q], broadcast, weights[b]);
            }
        }
    }
}

/* The sums of COLUMNS neighbouring pixels times one block, where the window has three columns and the pixels lie side by side:
   what is broadcast for a pixel serves its neighbours, too. With one block the loads would take longer than the products. */
static inline __attribute__((always_inline)) void sum_shared_products(const Conv *c, const uint8_t *codes, const int8_t *w,
                                                                      const int32_t *start, Sums *sum, const int COLUMNS) {
    const ptrdiff_t column = (ptrdiff_t)c->shared * BLOCK * DEPTH;
    UNROLL
    for (int p = 0; p < COLUMNS; p++) sum[p] = sums_from(start);
    for (int row = 0; row < c->taps; row += 3 * c->shared, w += 2 * column)
        for (int i = row; i < row + c->shared; i++, w += BLOCK * DEPTH) {
            const uint8_t *from = codes + c->offset[i];
            const __m512i weights[3] = {_mm512_loadu_si512(w), _mm512_loadu_si512(w + column),
                                        _mm512_loadu_si512(w + 2 * column)};
            UNROLL
            for (int q = 0; q < COLUMNS + 2; q++) {
                if (q && q % 4 == 0) {
                    from += 4 * c->across;
                    HIDE(from);
                }
                const __m512i broadcast = broadcast_four(from + q % 4 * c->across);
                UNROLL
                for (int k = 0; k < 3; k++)
                    if (q - k >= 0 && q - k < COLUMNS) sum[q - k] = _mm512_dpbusd_epi32(sum[q - k], broadcast, weights[k]);
            }
        }
}

static inline __attribute__((always_inline)) void tile(const Conv *c, int y, int x, int block, const int8_t *ahead,
                                                       ptrdiff_t line, const int ROWS, const int COLUMNS, const int BLOCKS) {
    const size_t block_bytes = (size_t)c->taps * BLOCK * DEPTH;
    const uint8_t *codes = c->codes + y * c->down + x * c->across;
    const int8_t *w = c->packed + block * block_bytes;
    const int32_t *start = c->epilogue.compensation + block * BLOCK;
    Sums sum[2][MOST_PIXELS];
    if (ROWS * BLOCKS == 1 && COLUMNS >= 7 && c->shared)
        sum_shared_products(c, codes, w, start, sum[0], COLUMNS);
    else
        sum_products(c, codes, w, block_bytes, ahead, line, start, sum, ROWS, COLUMNS, BLOCKS);
    UNROLL
    for (int b = 0; b < BLOCKS; b++)
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            const int first = (block + b) * BLOCK;
            const size_t at = ((size_t)(y + r) * c->out_w + x) * c->out_stride + first;
            finish(&c->epilogue, first, c->outputs - first, sum[b] + r * COLUMNS, c->residual ? c->residual + at : NULL,
                   c->output + at, c->out_stride, row_sums_of(c, y + r, first), x == 0, COLUMNS);
        }
}

#include "pipelined_rows.h"
#include "winograd_avx512.h"

#define TILE(rows, columns, blocks)                                                                                     \
    static __attribute__((noinline)) void tile_##rows##x##columns##x##blocks(const Conv *c, int y, int x, int block,    \
                                                                             const int8_t *ahead, ptrdiff_t line) {     \
        tile(c, y, x, block, ahead, line, rows, columns, blocks);                                                       \
    }
#define TILES_OF(columns) TILE(1, columns, 1) TILE(1, columns, 2)
TILES_OF(1) TILES_OF(2) TILES_OF(3) TILES_OF(4) TILES_OF(5) TILES_OF(6) TILES_OF(7)
TILES_OF(8) TILES_OF(9) TILES_OF(10) TILES_OF(11) TILES_OF(12) TILES_OF(13) TILES_OF(14)
TILE(1, 15, 1) TILE(1, 16, 1) TILE(2, 7, 1) TILE(2, 7, 2)

typedef void (*Tile)(const Conv *, int, int, int, const int8_t *, ptrdiff_t);
static const Tile TILES[2][MOST_PIXELS] = {
    {
        tile_1x1x1, tile_1x2x1,  tile_1x3x1,  tile_1x4x1,  tile_1x5x1,  tile_1x6x1,  tile_1x7x1,  tile_1x8x1,
        tile_1x9x1, tile_1x10x1, tile_1x11x1, tile_1x12x1, tile_1x13x1, tile_1x14x1, tile_1x15x1, tile_1x16x1,
    },
    {
        tile_1x1x2, tile_1x2x2, tile_1x3x2,  tile_1x4x2,  tile_1x5x2,  tile_1x6x2,  tile_1x7x2,
        tile_1x8x2, tile_1x9x2, tile_1x10x2, tile_1x11x2, tile_1x12x2, tile_1x13x2, tile_1x14x2,
    },
};

/* Rows first_row .. last_row - 1 of one or two blocks, while the first tiles fetch the `next` weights. */
static void conv_blocks(const Conv *c, int first_row, int last_row, int block, int blocks, const int8_t *next) {
    ptrdiff_t line = next ? BLOCK * DEPTH : 0;
    int tiles = 0;
    const Rows pipelined = {&c->epilogue, c->offset, c->across, c->out_stride, c->out_w / ROUND};
    const int outputs = c->outputs - (block + blocks - 1) * BLOCK;
    const PipelinedRow pipelined_row =
        pipelined_row_for(&pipelined, 0, c->taps, outputs, c->residual != NULL, c->row_sums != NULL);
    if (pipelined_row && line) {
        for (int i = 0; i < blocks * c->taps; i++) _mm_prefetch((const char *)next + i * line, _MM_HINT_T1);
        line = 0;
    }
    if (!next) next = c->packed;
    for (int y = first_row, rows; y < last_row; y += rows) {
        rows = 1;
        if (c->out_w == 7 && last_row - y >= 2) { /* the images of the last stage: 14 pixels of two rows */
            (blocks == 2 ? tile_2x7x2 : tile_2x7x1)(c, y, 0, block, next, line);
            rows = 2;
            next += line * c->taps;
            if (++tiles == blocks) line = 0;
        } else {
            int x = 0;
            for (int b = 0; pipelined_row && b < blocks; b++, x = pipelined.rounds * ROUND) {
                const int first = (block + b) * BLOCK;
                float *const out = c->output + (size_t)y * c->out_w * c->out_stride + first;
                const int8_t *w = c->packed + (size_t)(block + b) * c->taps * BLOCK * DEPTH;
                pipelined_row(&pipelined, first, c->codes + y * c->down, w, out, row_sums_of(c, y, first));
            }
            for (int pixels; x < c->out_w; x += pixels) {
                pixels = tile_width(c->out_w - x, blocks == 2 ? 14 : MOST_PIXELS);
                TILES[blocks - 1][pixels - 1](c, y, x, block, next, line);
                next += line * c->taps;
                if (++tiles == blocks) line = 0;
            }
        }
    }
}

static void conv(const Conv *c, int first_row, int last_row, int first_block, int last_block) {
    const size_t block_bytes = (size_t)c->taps * BLOCK * DEPTH * winograd_transforms(c->winograd);
    /* Where the weights of all outputs stay in the first cache, row by row, so that the output is written in order. */
    const int few = last_block - first_block > 2 && (last_block - first_block) * block_bytes <= MOST_WEIGHTS_BY_ROWS;
    const int height = few ? 2 : last_row - first_row;
    void (*const run_blocks)(const Conv *, int, int, int, int, const int8_t *) =
        c->winograd == 2 ? winograd_squares : c->winograd == 1 ? winograd_rows : conv_blocks;
    for (int row = first_row; row < last_row; row += height)
        for (int block = first_block; block < last_block; block += 2)
            run_blocks(c, row, row + height < last_row ? row + height : last_row, block, last_block - block < 2 ? 1 : 2,
                       last_block - block > 2 ? c->packed + (block + 2) * block_bytes : c->next);
}

enum { SIDE_BY_SIDE = 7 }; /* pixels of a depthwise convolution */

#include "winograd.h"

#define HAS_PIPELINED_ROWS /* depthwise.h takes them */
#define HAS_WINOGRAD       /* run.h transforms codes */
#include "run.h"

enum { CHAINS = 16 }; /* more than the products of one chain wait for each other */

static int64_t peak_loop(int64_t rounds) {
    Sums sum[CHAINS];
    UNROLL
    for (int k = 0; k < CHAINS; k++) {
        sum[k] = _mm512_setzero_si512();
        __asm__("" : "+v"(sum[k])); /* or the compiler sees that all are equal, and makes one */
    }
    for (int64_t r = 0; r < rounds; r++)
        UNROLL
        for (int k = 0; k < CHAINS; k++) sum[k] = _mm512_dpbusd_epi32(sum[k], _mm512_set1_epi8(1), _mm512_set1_epi8(1));
    UNROLL
    for (int k = 0; k < CHAINS; k++) __asm__ volatile("" ::"v"(sum[k]));
    return rounds * CHAINS * BLOCK * DEPTH;
}

const Kernel asq_kernel_avx512vnni = {
    .name = "avx512-vnni", .supported = supported, .winograd = 1, .recompute = 1, .run = run, .peak_loop = peak_loop,
};

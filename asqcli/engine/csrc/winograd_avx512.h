/* The products of winograd.h and their way back to outputs, in the registers of AVX-512. Included by kernel_avx512vnni.c after
   `sum_products` and `finish_pixels`. */

#ifndef ASQ_WINOGRAD_AVX512_H
#define ASQ_WINOGRAD_AVX512_H

enum { MOST_TRANSFORMS = 16, MOST_TILES = 2 /* whose outputs are finished together */ };
typedef Sums Transformed[MOST_TRANSFORMS][2][MOST_PIXELS]; /* a group of tiles of winograd.h: [transform][block][tile] */

/* The sums of all transforms of COLUMNS tiles. */
static inline __attribute__((always_inline)) void transform_tiles(const Conv *c, const uint8_t *codes, const int8_t *w,
                                                                  size_t block_bytes, const int8_t *ahead, ptrdiff_t line,
                                                                  Transformed out, const int COLUMNS, const int BLOCKS) {
    const int transforms = winograd_transforms(c->winograd);
    for (int t = 0; t < transforms; t++) {
        Sums sum[2][MOST_PIXELS];
        sum_products(c, codes, w, block_bytes, ahead, line, NULL, sum, 1, COLUMNS, BLOCKS);
        codes += c->plane;
        w += (size_t)c->taps * BLOCK * DEPTH;
        ahead += line * c->taps;
        UNROLL
        for (int b = 0; b < BLOCKS; b++)
            UNROLL
            for (int p = 0; p < COLUMNS; p++) out[t][b][p] = sum[b][p];
    }
}

#define TRANSFORM(columns, blocks)                                                                                      \
    static __attribute__((noinline)) void transform_##columns##x##blocks(                                               \
        const Conv *c, const uint8_t *codes, const int8_t *w, size_t block_bytes, const int8_t *ahead, ptrdiff_t line,  \
        Transformed out) {                                                                                              \
        transform_tiles(c, codes, w, block_bytes, ahead, line, out, columns, blocks);                                   \
    }
TRANSFORM(14, 2) TRANSFORM(14, 1) TRANSFORM(8, 2) TRANSFORM(8, 1) TRANSFORM(7, 2) TRANSFORM(7, 1)
TRANSFORM(4, 2) TRANSFORM(4, 1) TRANSFORM(2, 2) TRANSFORM(2, 1) TRANSFORM(1, 2) TRANSFORM(1, 1)

typedef void (*Transform)(const Conv *, const uint8_t *, const int8_t *, size_t, const int8_t *, ptrdiff_t, Transformed);
static const struct {
    int columns;
    Transform by_blocks[2];
} TRANSFORMS[] = {
    {14, {transform_14x1, transform_14x2}}, {8, {transform_8x1, transform_8x2}}, {7, {transform_7x1, transform_7x2}},
    {4, {transform_4x1, transform_4x2}},    {2, {transform_2x1, transform_2x2}}, {1, {transform_1x1, transform_1x2}},
};

/* The outputs of TILES neighbouring tiles from number p on, of which the first is at (y, x), from the sums of a block. */
static inline __attribute__((always_inline)) void finish_tiles(const Conv *c, Sums (*sum)[2][MOST_PIXELS], int p,
                                                               const Sums *compensation, RowSums *row_sums, int first, int y,
                                                               int x, const int TILES, const int DIMENSIONS) {
    Sums out[2][2 * MOST_TILES];
    UNROLL
    for (int t = 0; t < TILES; t++) {
        Sums row[2][4];
        UNROLL
        for (int j = 0; j < 4; j++) {
            if (DIMENSIONS == 1) {
                row[0][j] = sum[j][0][p + t];
            } else {
                const Sums b = sum[4 + j][0][p + t], d = sum[8 + j][0][p + t];
                row[0][j] = _mm512_add_epi32(sum[j][0][p + t], _mm512_add_epi32(b, d));
                row[1][j] = _mm512_sub_epi32(_mm512_sub_epi32(b, d), sum[12 + j][0][p + t]);
            }
        }
        UNROLL
        for (int i = 0; i < DIMENSIONS; i++) {
            const Sums left = _mm512_add_epi32(row[i][0], _mm512_add_epi32(row[i][1], row[i][2]));
            const Sums right = _mm512_sub_epi32(_mm512_sub_epi32(row[i][1], row[i][2]), row[i][3]);
            out[i][2 * t] = _mm512_srai_epi32(_mm512_add_epi32(left, compensation[2 * i]), DIMENSIONS);
            out[i][2 * t + 1] = _mm512_srai_epi32(_mm512_add_epi32(right, compensation[2 * i + 1]), DIMENSIONS);
        }
    }
    UNROLL
    for (int i = 0; i < DIMENSIONS; i++) {
        if (y + i >= c->out_h) continue;
        const size_t at = ((size_t)(y + i) * c->out_w + x) * c->out_stride + first;
        const float *residual = c->residual ? c->residual + at : NULL;
        if (TILES > 1 || x + 1 < c->out_w)
            finish_pixels(&c->epilogue, first, out[i], residual, c->output + at, c->out_stride, &row_sums[i], 2 * TILES);
        else
            finish_pixels(&c->epilogue, first, out[i], residual, c->output + at, c->out_stride, &row_sums[i], 1);
    }
}

/* `finish_tiles` for a group of tiles, which may begin and end within a row. */
static inline __attribute__((always_inline)) void finish_group(const Conv *c, Sums (*sum)[2][MOST_PIXELS], int block, int tiles,
                                                               int y, int x, const int DIMENSIONS) {
    const int first = block * BLOCK, outputs = (c->outputs + BLOCK - 1) / BLOCK * BLOCK;
    Sums compensation[4];
    UNROLL
    for (int k = 0; k < 2 * DIMENSIONS; k++)
        compensation[k] = _mm512_loadu_si512(c->epilogue.compensation + k * outputs + first);
    for (int p = 0; p < tiles; y += DIMENSIONS, x = 0) {
        RowSums row_sums[2];
        UNROLL
        for (int i = 0; i < DIMENSIONS; i++)
            row_sums[i] = load_row(y + i < c->out_h ? row_sums_of(c, y + i, first) : NULL, x == 0, c->outputs - first);
        for (; tiles - p >= MOST_TILES && c->out_w - x >= 2 * MOST_TILES; p += MOST_TILES, x += 2 * MOST_TILES)
            finish_tiles(c, sum, p, compensation, row_sums, first, y, x, MOST_TILES, DIMENSIONS);
        for (; p < tiles && x < c->out_w; p++, x += 2)
            finish_tiles(c, sum, p, compensation, row_sums, first, y, x, 1, DIMENSIONS);
        UNROLL
        for (int i = 0; i < DIMENSIONS; i++) store_row(&row_sums[i]);
    }
}

/* Rows first_row .. last_row - 1 of one or two blocks in Winograd's form. Tiles of a row follow those of the row above, so that
   they are cut into groups regardless of rows. */
static inline __attribute__((always_inline)) void winograd_blocks(const Conv *c, int first_row, int last_row, int block,
                                                                  int blocks, const int8_t *next, const int DIMENSIONS) {
    const int transforms = winograd_transforms(DIMENSIONS);
    const int tiles = (last_row - first_row + DIMENSIONS - 1) / DIMENSIONS * c->tiles_x;
    const size_t block_bytes = (size_t)transforms * c->taps * BLOCK * DEPTH;
    const uint8_t *codes = c->codes + (size_t)(first_row / DIMENSIONS) * c->tiles_x * c->across;
    ptrdiff_t line = next ? BLOCK * DEPTH : 0;
    Transformed sum;
    int done = 0, groups = 0;
    if (!next) next = c->packed;
    for (int k = tiles % 14 && tiles % 8 == 0; done < tiles; k++)
        for (; tiles - done >= TRANSFORMS[k].columns;) {
            TRANSFORMS[k].by_blocks[blocks - 1](c, codes + done * c->across, c->packed + block * block_bytes, block_bytes, next,
                                                line, sum);
            next += line * c->taps * transforms;
            if (++groups == blocks) line = 0;
            const int y = first_row + done / c->tiles_x * DIMENSIONS, x = done % c->tiles_x * 2;
            for (int b = 0; b < blocks; b++)
                finish_group(c, (Sums(*)[2][MOST_PIXELS])sum[0][b], block + b, TRANSFORMS[k].columns, y, x, DIMENSIONS);
            done += TRANSFORMS[k].columns;
        }
}

static __attribute__((noinline)) void winograd_rows(const Conv *c, int first_row, int last_row, int block, int blocks,
                                                    const int8_t *next) {
    winograd_blocks(c, first_row, last_row, block, blocks, next, 1);
}

static __attribute__((noinline)) void winograd_squares(const Conv *c, int first_row, int last_row, int block, int blocks,
                                                       const int8_t *next) {
    winograd_blocks(c, first_row, last_row, block, blocks, next, 2);
}

#endif

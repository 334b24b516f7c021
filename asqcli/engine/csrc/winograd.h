/* Winograd's convolutions of 3x3 windows, exact in whole numbers: F(2, 3) along the rows, or F(2x2, 3x3). Included by the
   kernels that have a use for them, before run.h and with HAS_WINOGRAD, and compiled for their instruction set.

   Two neighbouring outputs of three weights g and four codes d take four products instead of six:

       d0 - d2, d1 + d2, d2 - d1, d1 - d3      times      2 g0, g0 + g1 + g2, g0 - g1 + g2, 2 g2      give      m0 .. m3
       2 y0 = m0 + m1 + m2                     2 y1 = m1 - m2 - m3

   and in two dimensions 4 y comes from 16 products for four outputs instead of 36. Everything but the last halving is whole,
   and that one comes out even. The transformed codes must fit in 8 bits without a sign, so a constant is added to those that
   may be negative, and the transformed weights in 8 bits with one: whoever makes the plan has looked at both. `compensation`
   takes the constants back, before the halving; it differs between the outputs of a tile.

       transformed   [transform][tile rows][tiles of a row][channels]          u8; F(2, 3): a tile row is a row of the image
       packed        [block][transform][tap][16 outputs]  [4]                  s8
       compensation  [output of a tile][outputs padded to BLOCK] */

#ifndef ASQ_WINOGRAD_H
#define ASQ_WINOGRAD_H

#include <stdint.h>

#include "kernel.h"

/* Four codes to four, each plus a constant. All arithmetic is modulo 256, in which nothing is lost. */
#define WINOGRAD_CODES(to, a, b, c, d, constant)            \
    uint8_t to##0 = (uint8_t)((a) - (c) + (constant)),      \
            to##1 = (uint8_t)((b) + (c)),                   \
            to##2 = (uint8_t)((c) - (b) + (constant)),      \
            to##3 = (uint8_t)((b) - (d) + (constant));

/* A row of tiles, F(2, 3): the windows of one row of the image. */
static void transform_row(const Op *op, int row) {
    const int channels = op->channels, tiles = (op->out_w + 1) / 2;
    const size_t columns = (size_t)op->conv.left + op->width + op->conv.right;
    const uint8_t range = (uint8_t)(op->conv.qmax - op->conv.qmin);
    for (int x = 0; x < tiles; x++) {
        const uint8_t *restrict d = op->conv.codes + (row * columns + 2 * (size_t)x) * channels;
        uint8_t *restrict out = op->conv.transformed + ((size_t)row * tiles + x) * channels;
        const size_t plane = op->conv.plane;
        INDEPENDENT
        for (int c = 0; c < channels; c++) {
            WINOGRAD_CODES(v, d[c], d[c + channels], d[c + 2 * channels], d[c + 3 * channels], range)
            out[c] = v0;
            out[c + plane] = v1;
            out[c + 2 * plane] = v2;
            out[c + 3 * plane] = v3;
        }
    }
}

/* A row of square tiles, F(2x2, 3x3). Twice the range keeps every sum of four codes positive; only that of four plus signs
   needs nothing. */
static void transform_square(const Op *op, int tile_row) {
    const int channels = op->channels, tiles = (op->out_w + 1) / 2;
    const size_t row = ((size_t)op->conv.left + op->width + op->conv.right) * channels, plane = op->conv.plane;
    const uint8_t twice = (uint8_t)(2 * (op->conv.qmax - op->conv.qmin));
    for (int x = 0; x < tiles; x++) {
        const uint8_t *restrict d = op->conv.codes + 2 * tile_row * row + 2 * (size_t)x * channels;
        uint8_t *restrict out = op->conv.transformed + ((size_t)tile_row * tiles + x) * channels;
        INDEPENDENT
        for (int c = 0; c < channels; c++) {
#define WINOGRAD_ROW(name, i) \
    WINOGRAD_CODES(name, d[c + i * row], d[c + i * row + channels], d[c + i * row + 2 * channels], \
                   d[c + i * row + 3 * channels], 0)
            WINOGRAD_ROW(p, 0)
            WINOGRAD_ROW(q, 1)
            WINOGRAD_ROW(r, 2)
            WINOGRAD_ROW(s, 3)
#define WINOGRAD_COLUMN(j)                                                    \
    {                                                                         \
        WINOGRAD_CODES(v, p##j, q##j, r##j, s##j, twice)                      \
        out[c + j * plane] = v0;                                              \
        out[c + (4 + j) * plane] = (uint8_t)(v1 + (j == 1 ? 0 : twice));      \
        out[c + (8 + j) * plane] = v2;                                        \
        out[c + (12 + j) * plane] = v3;                                       \
    }
            WINOGRAD_COLUMN(0)
            WINOGRAD_COLUMN(1)
            WINOGRAD_COLUMN(2)
            WINOGRAD_COLUMN(3)
#undef WINOGRAD_ROW
#undef WINOGRAD_COLUMN
        }
    }
}

static void transform(const Op *op, int first_row, int last_row) {
    for (int row = first_row; row < last_row; row++) (op->conv.winograd == 2 ? transform_square : transform_row)(op, row);
}

#endif

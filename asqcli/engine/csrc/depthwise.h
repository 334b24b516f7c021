/* Depthwise convolutions: their codes, by quads of rows, and their products. Compiled into every kernel. */

#ifndef ASQ_DEPTHWISE_H
#define ASQ_DEPTHWISE_H

#include <string.h>

#include "conv.h"
#include "kernel.h"
#include "quantize.h"
#include "vector.h"

/* `quantize` for a depthwise convolution: the quads of rows first .. last - 1. Recomputed values do not leave the first cache:
   four rows of a block at a time. */
static void quantize_row_quads(const Op *op, const Quantizer *q, int first, int last, const Thread *thread) {
    const int length = op->width * op->channels;
    const size_t pixel = (size_t)4 * op->channels, left = op->conv.left * pixel, right = op->conv.right * pixel;
    const size_t inside = op->width * pixel;
    const Op *const recompute = op->conv.recompute;
    float *const strip = recompute ? recompute->conv.strip + thread->index * strip_size(recompute) : NULL;
    Conv recomputed = {0};
    if (recompute) {
        recomputed = conv_of(recompute);
        recomputed.row_sums = NULL;
        recomputed.out_stride = BLOCK;
    }
    for (int quad = first; quad < last; quad++) {
        const float *x[4];
        uint32_t exist = 0;
        int rows = 0;
        for (int r = 0; r < 4; r++) {
            const int y = 4 * quad + r - op->conv.top, exists = y >= 0 && y < op->height;
            x[r] = recompute ? strip + r * op->width * BLOCK : op->x + (exists ? (size_t)y * length : 0);
            if (exists) exist |= 0xFFu << 8 * r, rows++;
        }
        const uint32_t around = ~exist & (0x01010101u * (uint32_t)-op->conv.qmin);
        uint8_t *row = op->conv.codes + quad * (left + inside + right);
        memset(row, -op->conv.qmin, left);
        memset(row + left + inside, -op->conv.qmin, right);
        if (!recompute) {
            quantize_rows(q, x, length, exist, around, row + left);
            continue;
        }
        const int y = 4 * quad - op->conv.top;
        for (int block = 0; block < op->channels / BLOCK; block++) {
            recomputed.output = strip - (ptrdiff_t)y * op->width * BLOCK - block * BLOCK;
            conv(&recomputed, y < 0 ? 0 : y, (y < 0 ? 0 : y) + rows, block, block + 1);
            uint8_t *to = row + left + block * CHUNK;
            for (int i = 0; i < op->width * BLOCK; i += BLOCK, to += pixel)
                quantize_rows(q, (const float *const[]){x[0] + i, x[1] + i, x[2] + i, x[3] + i}, BLOCK, exist, around, to);
        }
    }
}

/* A depthwise convolution of 16 channels at PIXELS neighbouring pixels, `across` bytes apart. */
static inline __attribute__((always_inline)) void depthwise_pixels(const Op *op, const Epilogue *e, const uint8_t *codes,
                                                                   ptrdiff_t across, const int8_t *w, int taps, int first,
                                                                   size_t at, double *row_sums, int fresh,
                                                                   const int PIXELS) {
    Sums sums[PARTS * SIDE_BY_SIDE];
    UNROLL
    for (int p = 0; p < PARTS * PIXELS; p++) sums[p] = sums_from(op->conv.compensation + first + p / PIXELS * SUMS_LANES);
    for (int i = 0; i < taps; i++, w += BLOCK * DEPTH) {
        const uint8_t *a = codes + op->conv.offset[i];
        UNROLL
        for (int p = 0; p < PARTS * PIXELS; p++) {
            const ptrdiff_t part = (ptrdiff_t)p / PIXELS * SUMS_LANES * DEPTH;
            sums[p] = add_products(sums[p], a + p % PIXELS * across + part, w + part, op->conv.int16_taps);
        }
    }
    finish(e, first, op->outputs - first, sums, op->conv.tail.y ? op->conv.tail.y + at : NULL, op->out + at, op->outputs,
           row_sums, fresh, PIXELS);
}

/* Functions of their own, so that the accumulators have all registers. */
static __attribute__((noinline)) void depthwise_tile(const Op *op, const Epilogue *e, const uint8_t *codes, ptrdiff_t across,
                                                     const int8_t *w, int taps, int first, size_t at, double *row_sums,
                                                     int fresh) {
    depthwise_pixels(op, e, codes, across, w, taps, first, at, row_sums, fresh, SIDE_BY_SIDE);
}

static __attribute__((noinline)) void depthwise_pixel(const Op *op, const Epilogue *e, const uint8_t *codes, ptrdiff_t across,
                                                      const int8_t *w, int taps, int first, size_t at, double *row_sums,
                                                      int fresh) {
    depthwise_pixels(op, e, codes, across, w, taps, first, at, row_sums, fresh, 1);
}

/* Sixteen channels of some rows after the other: the codes that neighbouring rows share stay in the first cache. */
static void depthwise(const Op *op, const Epilogue *e, int first_row, int last_row) {
    enum { BAND = 8 };
    const int reach = (op->conv.kernel_h - 1) * op->conv.dilation_h + 1;
    const ptrdiff_t pixel = 4 * op->channels, quad = pixel * (op->conv.left + op->width + op->conv.right);
    const ptrdiff_t across = op->conv.stride_w * pixel;
#ifdef HAS_PIPELINED_ROWS
    const Rows pipelined = {e, op->conv.offset, across, op->outputs, op->out_w / ROUND};
#endif
    for (int band = first_row; band < last_row; band += BAND)
        for (int first = 0; first < op->outputs; first += BLOCK)
            for (int y = band; y < last_row && y < band + BAND; y++) {
                /* The rows of a window are in one quad of rows, or in two or more: the last taps may hold none of them. */
                const int top = y * op->conv.stride_h, phase = top % 4;
                const int taps = ((phase + reach - 1) / 4 + 1) * op->conv.kernel_w;
                const uint8_t *codes = op->conv.codes + top / 4 * quad + 4 * first;
                const int8_t *w = op->conv.packed + ((ptrdiff_t)first * 4 + phase * BLOCK) * DEPTH * op->conv.taps;
                double *row_sums = op->row_sums ? op->row_sums + (size_t)y * op->outputs + first : NULL;
                size_t at = (size_t)y * op->out_w * op->outputs + first;
                int x = 0;
#ifdef HAS_PIPELINED_ROWS
                const PipelinedRow pipelined_row = pipelined_row_for(&pipelined, op->conv.kernel_w, taps, op->outputs - first,
                                                                     op->conv.tail.y != NULL, row_sums != NULL);
                if (pipelined_row) {
                    pipelined_row(&pipelined, first, codes, w, op->out + at, row_sums);
                    x = pipelined.rounds * ROUND;
                    at += (size_t)x * op->outputs;
                }
#endif
                for (; op->out_w - x >= SIDE_BY_SIDE; x += SIDE_BY_SIDE, at += (size_t)SIDE_BY_SIDE * op->outputs)
                    depthwise_tile(op, e, codes + x * across, across, w, taps, first, at, row_sums, x == 0);
                for (; x < op->out_w; x++, at += op->outputs)
                    depthwise_pixel(op, e, codes + x * across, across, w, taps, first, at, row_sums, x == 0);
            }
}

#endif

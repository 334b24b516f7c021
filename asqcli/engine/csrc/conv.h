/* A step as what the kernel's `conv` computes, and a convolution with the max pool of its output; compiled into all kernels. */

#ifndef ASQ_CONV_H
#define ASQ_CONV_H

#include "epilogue.h"
#include "kernel.h"
#include "pools.h"

/* Floats of a thread's part of the scratch of a convolution that is recomputed. */
static inline ptrdiff_t strip_size(const Op *op) {
    const ptrdiff_t rows = (ptrdiff_t)4 * op->out_w * BLOCK;
    return rows > op->outputs ? rows : op->outputs;
}

static Epilogue epilogue_of(const Op *op) {
    const EpilogueTail *tail = &op->conv.tail;
    return (Epilogue){op->conv.scale, op->conv.compensation, op->conv.bias, tail->g, tail->b, tail->low, tail->high};
}

/* The first group of a convolution, all of its rows. */
static Conv conv_of(const Op *op) {
    const int width = op->conv.left + op->width + op->conv.right;
    const ptrdiff_t pixel = op->conv.layout == LAYOUT_PLANES ? 1 : (ptrdiff_t)op->conv.group_stride * op->conv.groups;
    const ptrdiff_t row = op->conv.layout == LAYOUT_PLANES ? (ptrdiff_t)op->channels * width : pixel * width;
    Conv c = {
        .codes = op->conv.codes, .packed = op->conv.packed, .offset = op->conv.offset, .taps = op->conv.taps,
        .int16_taps = op->conv.int16_taps, .across = op->conv.stride_w * pixel, .down = op->conv.stride_h * row,
        .output = op->out, .row_sums = op->row_sums, .residual = op->conv.tail.y, .epilogue = epilogue_of(op),
        .out_w = op->out_w, .outputs = op->outputs / op->conv.groups, .out_stride = op->outputs, .sums_stride = op->outputs,
    };
    const int side_by_side = op->conv.kernel_w == 3 && op->conv.stride_w == 1 && op->conv.dilation_w == 1;
    const int whole_taps = op->conv.layout == LAYOUT_PIXELS && op->conv.group_stride % DEPTH == 0;
    if (whole_taps && side_by_side) c.shared = op->conv.group_stride / DEPTH;
    if (op->conv.winograd) {
        c.codes = op->conv.transformed;
        c.across = op->channels;
        c.winograd = op->conv.winograd;
        c.plane = (ptrdiff_t)op->conv.plane;
        c.tiles_x = (op->out_w + 1) / 2;
        c.out_h = op->out_h;
    }
    return c;
}

/* A convolution and the pool of its output, whose rows do not leave the cache. */
static void conv_pool(const Op *op, Conv *c, int blocks, const Thread *thread) {
    const Pool *pool = &op->conv.pool;
    const size_t row = (size_t)op->out_w * op->outputs, pooled = (size_t)pool->out_w * op->outputs;
    const int reach = (pool->kernel_h - 1) * pool->dilation_h + 1;
    float *const ring = pool->rows + thread->index * pool->ring * row;
    int first, last, done = 0;
    c->row_sums = NULL;
    share(thread, pool->out_h, 1, &first, &last);
    for (int y = first; y < last; y++) {
        const int top = y * pool->stride_h - pool->top, bottom = top + reach < op->out_h ? top + reach : op->out_h;
        if (done < top) done = top;
        for (; done < bottom; done++) {
            c->output = ring + (ptrdiff_t)(done % pool->ring - done) * (ptrdiff_t)row;
            conv(c, done, done + 1, 0, blocks);
        }
        max_pool_row(pool, ring, pool->ring, op->out_h, op->out_w, op->outputs, y, op->out + y * pooled);
        if (op->row_sums)
            sum_row(op->out + y * pooled, op->outputs, pool->out_w, op->outputs, op->row_sums + (size_t)y * op->outputs);
    }
}

#endif

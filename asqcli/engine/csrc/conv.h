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
    return (Epilogue){op->scale, op->compensation, op->bias, op->g, op->b, op->low, op->high};
}

/* The first group of a convolution, all of its rows. */
static Conv conv_of(const Op *op) {
    const int width = op->left + op->width + op->right;
    const ptrdiff_t pixel = op->layout == LAYOUT_PLANES ? 1 : (ptrdiff_t)op->group_stride * op->groups;
    const ptrdiff_t row = op->layout == LAYOUT_PLANES ? (ptrdiff_t)op->channels * width : pixel * width;
    Conv c = {
        .codes = op->codes, .packed = op->packed, .offset = op->offset, .taps = op->taps,
        .int16_taps = op->int16_taps, .across = op->stride_w * pixel,
        .down = op->stride_h * row, .output = op->out, .row_sums = op->row_sums, .residual = op->y, .epilogue = epilogue_of(op),
        .out_w = op->out_w, .outputs = op->outputs / op->groups, .out_stride = op->outputs, .sums_stride = op->outputs,
    };
    const int side_by_side = op->kernel_w == 3 && op->stride_w == 1 && op->dilation_w == 1;
    if (op->layout == LAYOUT_PIXELS && side_by_side && op->group_stride % DEPTH == 0) c.shared = op->group_stride / DEPTH;
    if (op->winograd) {
        c.codes = op->transformed;
        c.across = op->channels;
        c.winograd = op->winograd;
        c.plane = (ptrdiff_t)op->plane;
        c.tiles_x = (op->out_w + 1) / 2;
        c.out_h = op->out_h;
    }
    return c;
}

/* A convolution and the pool of its output, whose rows do not leave the cache. */
static void conv_pool(const Op *op, Conv *c, int blocks, const Thread *thread) {
    const Pool *pool = &op->pool;
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

/* The steps of a plan. Included by every kernel file after its `conv`, `Sums` of SUMS_LANES outputs, `sums_from`,
   `add_products`, `finish` and SIDE_BY_SIDE, so that each is compiled for its own instruction set and nothing of that leaks
   elsewhere. Loops over channels are left to the compiler; their order is the format's. */

#ifndef ASQ_RUN_H
#define ASQ_RUN_H

#include "adapter.h"
#include "conv.h"
#include "depthwise.h"
#include "elementwise.h"
#include "epilogue.h"
#include "kernel.h"
#include "pools.h"
#include "quantize.h"

enum { MOST_WEIGHTS_PER_THREAD = 1 << 17 }; /* bytes that every thread may read, rather than a part of them */

static void run_conv(const Op *op, const Thread *thread) {
    const int outputs = op->outputs / op->conv.groups, blocks = padded(outputs, BLOCK);
    const int rows = op->conv.top + op->height + op->conv.bottom, depthwise_layer = op->conv.layout == LAYOUT_ROW_QUADS;
    const float step = adapted_step_size(op, thread);
    const Quantizer quantizer = {1.0f / step, (float)op->conv.qmin, (float)op->conv.qmax};
    int first, last;
    if (thread->index == 0) {
        const float activation_scale = op->conv.as_printed ? op->conv.step_size : step;
        const int scales = depthwise_layer ? padded(op->outputs, BLOCK) : op->conv.groups * blocks;
        for (int o = 0; o < scales; o++) op->conv.scale[o] = op->conv.raw ? 1.0f : activation_scale * op->conv.weight_scale[o];
    }
    share(thread, depthwise_layer ? padded(rows, 4) / 4 : rows, 1, &first, &last);
    if (depthwise_layer)
        quantize_row_quads(op, &quantizer, first, last, thread);
    else
        (op->conv.layout == LAYOUT_PLANES ? quantize_planes : quantize)(op, &quantizer, first, last);
    barrier_wait(thread);
#ifdef HAS_WINOGRAD
    if (op->conv.winograd) {
        share(thread, op->conv.winograd == 2 ? (op->out_h + 1) / 2 : rows, 1, &first, &last);
        transform(op, first, last);
        barrier_wait(thread);
    }
#endif
    if (depthwise_layer) {
        const Epilogue e = epilogue_of(op);
        share(thread, op->out_h, 1, &first, &last);
        depthwise(op, &e, first, last);
        return;
    }
    Conv c = conv_of(op);
    if (!op->out) {
        if (!op->row_sums) return; /* the codes are all that is needed */
        c.output = op->conv.strip + thread->index * strip_size(op);
        c.out_stride = 0;
    }
    if (op->conv.pool.out_h) {
        conv_pool(op, &c, blocks / BLOCK, thread);
        return;
    }
    /* By rows, so that what a thread reads next it has mostly written itself; by blocks where a thread would get many more rows
       than another, or where the weights, which each would read, are many. */
    const int row_height = op->conv.winograd == 2 ? 2 : 1; /* a row of tiles is not cut */
    const int rows_each = (op->out_h + row_height * thread->threads - 1) / (row_height * thread->threads) * row_height;
    const int even = 10 * rows_each * thread->threads <= 11 * op->out_h;
    const size_t weights = (size_t)blocks * op->conv.groups * DEPTH * op->conv.taps * winograd_transforms(op->conv.winograd);
    const int few = op->out_h < 8 * thread->threads && !(even && weights <= MOST_WEIGHTS_PER_THREAD);
    const int by_blocks = few && outputs >= BLOCK * thread->threads;
    int first_block = 0, last_block = blocks / BLOCK, first_row = 0, last_row = op->out_h;
    if (by_blocks)
        share(thread, last_block, 1, &first_block, &last_block);
    else
        share(thread, last_row, row_height, &first_row, &last_row);
    for (int group = 0; group < op->conv.groups; group++) {
        const int8_t *after = c.packed + (size_t)blocks * DEPTH * op->conv.taps * winograd_transforms(op->conv.winograd);
        c.next = group + 1 < op->conv.groups ? after : op->conv.next;
        conv(&c, first_row, last_row, first_block, last_block);
        c.packed = after;
        c.codes += op->conv.group_stride;
        c.output += outputs;
        if (c.row_sums) c.row_sums += outputs;
        if (c.residual) c.residual += outputs;
        c.epilogue.scale += blocks;
        c.epilogue.compensation += blocks;
        if (c.epilogue.bias) c.epilogue.bias += blocks;
        if (c.epilogue.g) {
            c.epilogue.g += blocks;
            c.epilogue.b += blocks;
        }
    }
}

static void row_sums(const Op *op, int first, int last) {
    const ptrdiff_t row = (ptrdiff_t)op->width * op->channels;
    for (int y = first; y < last; y++)
        sum_row(op->x + y * row, op->channels, op->width, op->channels, op->row_sums + (ptrdiff_t)y * op->channels);
}

/* Steps that take every number by itself, with the sums of the rows while these are in the cache. */
static void by_rows(const Op *op, int first, int last) {
    void (*const step)(const Op *, int, int) =
        op->kind == OP_GATE ? gate : op->kind == OP_MULTIPLY ? multiply : elementwise;
    for (int y = first; y < last; y++) {
        const int pixel = y * op->width;
        step(op, pixel, pixel + op->width);
        if (!op->row_sums) continue;
        const float *out = op->out + (size_t)pixel * op->channels;
        sum_row(out, op->channels, op->width, op->channels, op->row_sums + (size_t)y * op->channels);
    }
}

static void run(const Op *ops, int count, const Thread *thread) {
    for (const Op *op = ops; op < ops + count; op++) {
        int first, last;
        switch (op->kind) {
            case OP_CONV:
                run_conv(op, thread);
                break;
            case OP_ELEMENTWISE:
            case OP_MULTIPLY:
            case OP_GATE:
                share(thread, op->height, 1, &first, &last);
                by_rows(op, first, last);
                break;
            case OP_AVG_POOL:
                share(thread, op->out_h, 1, &first, &last);
                avg_pool(op, first, last);
                break;
            case OP_MAX_POOL:
                share(thread, op->max_pool.out_h, 1, &first, &last);
                max_pool(op, first, last);
                break;
            case OP_ROW_SUMS:
                share(thread, op->height, 1, &first, &last);
                row_sums(op, first, last);
                break;
            case OP_MEAN:
                share(thread, op->channels, BLOCK, &first, &last);
                mean(op, op->mean.x_sums, first, last, op->out);
                break;
            case OP_COPY:
                if (thread->index == 0) copy(op);
                break;
        }
        barrier_wait(thread);
    }
}

#endif

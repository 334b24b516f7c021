/* The steps of a plan. Included by every kernel file after its `conv`, `Sums` of LANES outputs, `sums_from`, `add_products`,
   `finish` and SIDE_BY_SIDE, so that each is compiled for its own instruction set and nothing of that leaks elsewhere. Loops
   over channels are left to the compiler; their order is the format's. */

#ifndef ASQ_RUN_H
#define ASQ_RUN_H

#include <string.h>

#include "elementwise.h"
#include "epilogue.h"
#include "kernel.h"
#include "pools.h"

static inline int padded(int n, int to) { return (n + to - 1) / to * to; }

/* Floats of a thread's part of the scratch of a convolution whose values are made again. */
static inline ptrdiff_t strip_size(const Op *op) {
    const ptrdiff_t rows = (ptrdiff_t)4 * op->out_w * BLOCK;
    return rows > op->outputs ? rows : op->outputs;
}

static void row_sums(const Op *op, int first, int last) {
    const ptrdiff_t row = (ptrdiff_t)op->width * op->channels;
    for (int y = first; y < last; y++)
        asq_sum_row(op->x + y * row, op->channels, op->width, op->channels, op->row_sums + (ptrdiff_t)y * op->channels);
}

/* The mean of the channels first .. last - 1, in double, rounded to float32: sums of rows from left to right, then down. */
static void mean(const Op *op, int first, int last, float *out) {
    const double count = (double)op->height * op->width;
    int c = first;
    for (; last - c >= 8; c += 8) {
        Doubles total = {0.0};
        for (int y = 0; y < op->height; y++) total += *(const Doubles *)(op->x_sums + (ptrdiff_t)y * op->channels + c);
        total /= count;
        for (int k = 0; k < 8; k++) out[c + k] = (float)total[k];
    }
    for (; c < last; c++) {
        double total = 0.0;
        for (int y = 0; y < op->height; y++) total += op->x_sums[(ptrdiff_t)y * op->channels + c];
        out[c] = (float)(total / count);
    }
}

/* A layer of an adapter. Each sum is eight partial ones, added in a fixed order; four outputs at a time, whose sums do not
   wait for each other. */
static inline __attribute__((always_inline)) void adapter_layer(const AdapterLayer *layer, const double *h, double *out,
                                                                const int QUANTIZED) {
    const int inputs = padded(layer->inputs, 8);
    for (int o = 0; o < layer->outputs; o += 4) {
        Doubles lanes[4] = {{0.0}, {0.0}, {0.0}, {0.0}};
        for (int i = 0; i < inputs; i += 8) {
            const Doubles input = *(const Doubles *)(h + i);
            const ptrdiff_t at = (ptrdiff_t)o * inputs + 4 * i;
            for (int k = 0; k < 4; k++)
                lanes[k] += input * (QUANTIZED ? widen_codes(layer->codes + at + 8 * k) : widen(layer->weight + at + 8 * k));
        }
        for (int k = 0; k < 4 && o + k < layer->outputs; k++) {
            double lane[8];
            memcpy(lane, &lanes[k], sizeof lane);
            for (int half = 4; half; half /= 2)
                for (int j = 0; j < half; j++) lane[j] += lane[j + half];
            out[o + k] = lane[0] * layer->row_scale[o + k] + layer->bias[o + k];
        }
    }
}

/* From the means of all channels. scratch: [2][scratch_width]. */
static float beta(const Op *op, const float *means, double *scratch) {
    double *h = scratch, *next = h + op->scratch_width;
    for (int c = 0; c < padded(op->channels, 8); c++) h[c] = c < op->channels ? (double)means[c] : 0.0;
    for (int k = 0; k < op->adapter_layers; k++) {
        const AdapterLayer *layer = &op->adapter[k];
        if (k)
            for (int i = 0; i < layer->inputs; i++) h[i] = h[i] < 0.0 ? 0.0 : h[i]; /* a NaN stays */
        if (layer->codes)
            adapter_layer(layer, h, next, 1);
        else
            adapter_layer(layer, h, next, 0);
        for (int o = layer->outputs; o < padded(layer->outputs, 8); o++) next[o] = 0.0;
        double *swap = h;
        h = next;
        next = swap;
    }
    const double t = h[0];
    if (op->beta_output) return (float)(t < 1e-8 ? 1e-8 : t);
    return (float)(t >= 0.0 ? 1.0 + t : 1.0 / (1.0 - t));
}

static inline void quantize_quad(const Quantizer *q, const float *x, uint8_t *codes) {
    codes_of_quad(q, (const float *const[]){x, x + QUAD / 4, x + QUAD / 2, x + 3 * QUAD / 4}, 0, codes);
}

static inline void quantize_run(const Quantizer *q, const float *x, int length, uint8_t *codes) {
    int i = 0;
    for (; length - i >= QUAD; i += QUAD) quantize_quad(q, x + i, codes + i);
    if (i == length) return;
    if (i) { /* some once more */
        quantize_quad(q, x + length - QUAD, codes + length - QUAD);
        return;
    }
    float few[QUAD] = {0.0f};
    uint8_t codes_of_few[QUAD];
    memcpy(few, x, length * sizeof *few);
    quantize_quad(q, few, codes_of_few);
    memcpy(codes, codes_of_few, length);
}

/* The rows first .. last - 1 of the padded image: codes of x inside, of zero around it. */
static void quantize(const Op *op, const Quantizer *q, int first, int last) {
    const int per_group = op->channels / op->groups, group_stride = op->group_stride, pixel = group_stride * op->groups;
    const size_t left = (size_t)op->left * pixel, right = (size_t)op->right * pixel, inside = (size_t)op->width * pixel;
    /* Where no channels are padded a row is one run of numbers. */
    const int runs = group_stride == per_group ? 1 : op->width * op->groups;
    const int length = group_stride == per_group ? op->width * op->channels : per_group;
    for (int row = first; row < last; row++) {
        uint8_t *to = op->codes + row * (left + inside + right);
        const int y = row - op->top;
        if (y < 0 || y >= op->height) {
            memset(to, -op->qmin, left + inside + right);
            continue;
        }
        memset(to, -op->qmin, left);
        memset(to + left + inside, -op->qmin, right);
        to += left;
        const float *x = op->x + (size_t)y * op->width * op->channels;
        for (int k = 0; k < runs; k++, to += group_stride, x += length)
            quantize_run(q, x, length, to);
    }
}

/* The same, of an image of planes. */
static void quantize_planes(const Op *op, const Quantizer *q, int first, int last) {
    const size_t width = op->left + op->width + op->right;
    for (int row = first; row < last; row++)
        for (int channel = 0; channel < op->channels; channel++) {
            uint8_t *to = op->codes + ((size_t)row * op->channels + channel) * width;
            const int y = row - op->top;
            memset(to, -op->qmin, width);
            if (y < 0 || y >= op->height) continue;
            quantize_run(q, op->x + ((size_t)channel * op->height + y) * op->width, op->width, to + op->left);
        }
}

/* Codes of `length` numbers of each of four rows, of which those in `exist` are there. */
static inline void quantize_rows(const Quantizer *q, const float *const x[4], int length, uint32_t exist, uint32_t around,
                                 uint8_t *to) {
    int i = 0;
    for (; length - i >= BLOCK; i += BLOCK, to += QUAD) {
        codes_of_quad(q, (const float *const[]){x[0] + i, x[1] + i, x[2] + i, x[3] + i}, 1, to);
        if (~exist) *(Ints *)to = (*(Ints *)to & (int32_t)exist) | (int32_t)around;
    }
    for (; i < length; i++, to += 4) {
        uint32_t codes = 0;
        for (int r = 0; r < 4; r++) codes |= (uint32_t)code_of(q, x[r][i]) << 8 * r;
        codes = (codes & exist) | around;
        memcpy(to, &codes, sizeof codes);
    }
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
        .codes = op->codes, .packed = op->packed, .offset = op->offset, .places = op->places, .narrow = op->narrow,
        .across = op->stride_w * pixel,
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

/* `quantize` for a depthwise convolution: the fours of rows first .. last - 1. Values that are made again do not leave the
   first cache: four rows of a block at a time. */
static void quantize_fours(const Op *op, const Quantizer *q, int first, int last, const Team *team) {
    const int length = op->width * op->channels;
    const size_t pixel = (size_t)4 * op->channels, left = op->left * pixel, right = op->right * pixel;
    const size_t inside = op->width * pixel;
    float *const strip = op->again ? op->again->strip + team->place * strip_size(op->again) : NULL;
    Conv again = {0};
    if (op->again) {
        again = conv_of(op->again);
        again.row_sums = NULL;
        again.out_stride = BLOCK;
    }
    for (int four = first; four < last; four++) {
        const float *x[4];
        uint32_t exist = 0;
        int rows = 0;
        for (int r = 0; r < 4; r++) {
            const int y = 4 * four + r - op->top, exists = y >= 0 && y < op->height;
            x[r] = op->again ? strip + r * op->width * BLOCK : op->x + (exists ? (size_t)y * length : 0);
            if (exists) exist |= 0xFFu << 8 * r, rows++;
        }
        const uint32_t around = ~exist & (0x01010101u * (uint32_t)-op->qmin);
        uint8_t *row = op->codes + four * (left + inside + right);
        memset(row, -op->qmin, left);
        memset(row + left + inside, -op->qmin, right);
        if (!op->again) {
            quantize_rows(q, x, length, exist, around, row + left);
            continue;
        }
        const int y = 4 * four - op->top;
        for (int block = 0; block < op->channels / BLOCK; block++) {
            again.output = strip - (ptrdiff_t)y * op->width * BLOCK - block * BLOCK;
            conv(&again, y < 0 ? 0 : y, (y < 0 ? 0 : y) + rows, block, block + 1);
            uint8_t *to = row + left + block * QUAD;
            for (int i = 0; i < op->width * BLOCK; i += BLOCK, to += pixel)
                quantize_rows(q, (const float *const[]){x[0] + i, x[1] + i, x[2] + i, x[3] + i}, BLOCK, exist, around, to);
        }
    }
}

/* A depthwise convolution of 16 channels at PIXELS neighbouring pixels, `across` bytes apart. */
static inline __attribute__((always_inline)) void depthwise_pixels(const Op *op, const Epilogue *e, const uint8_t *codes,
                                                                   ptrdiff_t across, const int8_t *w, int places, int first,
                                                                   size_t at, double *row_sums, int fresh,
                                                                   const int PIXELS) {
    Sums sums[PARTS * SIDE_BY_SIDE];
    UNROLL
    for (int p = 0; p < PARTS * PIXELS; p++) sums[p] = sums_from(op->compensation + first + p / PIXELS * LANES);
    for (int i = 0; i < places; i++, w += BLOCK * DEPTH) {
        const uint8_t *a = codes + op->offset[i];
        UNROLL
        for (int p = 0; p < PARTS * PIXELS; p++) {
            const ptrdiff_t part = (ptrdiff_t)p / PIXELS * LANES * DEPTH;
            sums[p] = add_products(sums[p], a + p % PIXELS * across + part, w + part, op->narrow);
        }
    }
    finish(e, first, op->outputs - first, sums, op->y ? op->y + at : NULL, op->out + at, op->outputs, row_sums,
           fresh, PIXELS);
}

/* Functions of their own, so that the accumulators have all registers. */
static __attribute__((noinline)) void depthwise_tile(const Op *op, const Epilogue *e, const uint8_t *codes, ptrdiff_t across,
                                                     const int8_t *w, int places, int first, size_t at, double *row_sums,
                                                     int fresh) {
    depthwise_pixels(op, e, codes, across, w, places, first, at, row_sums, fresh, SIDE_BY_SIDE);
}

static __attribute__((noinline)) void depthwise_pixel(const Op *op, const Epilogue *e, const uint8_t *codes, ptrdiff_t across,
                                                      const int8_t *w, int places, int first, size_t at, double *row_sums,
                                                      int fresh) {
    depthwise_pixels(op, e, codes, across, w, places, first, at, row_sums, fresh, 1);
}

/* Sixteen channels of some rows after the other: the codes that neighbouring rows share stay in the first cache. */
static void depthwise(const Op *op, const Epilogue *e, int first_row, int last_row) {
    enum { BAND = 8 };
    const int reach = (op->kernel_h - 1) * op->dilation_h + 1;
    const ptrdiff_t pixel = 4 * op->channels, four = pixel * (op->left + op->width + op->right);
    const ptrdiff_t across = op->stride_w * pixel;
#ifdef ASQ_WEAVE_H
    const Rows woven = {e, op->offset, across, op->outputs, op->out_w / WOVEN};
#endif
    for (int band = first_row; band < last_row; band += BAND)
        for (int first = 0; first < op->outputs; first += BLOCK)
            for (int y = band; y < last_row && y < band + BAND; y++) {
                /* The rows of a window are in one four of rows, or in two or more: the last places may hold none of them. */
                const int top = y * op->stride_h, phase = top % 4, places = ((phase + reach - 1) / 4 + 1) * op->kernel_w;
                const uint8_t *codes = op->codes + top / 4 * four + 4 * first;
                const int8_t *w = op->packed + ((ptrdiff_t)first * 4 + phase * BLOCK) * DEPTH * op->places;
                double *row_sums = op->row_sums ? op->row_sums + (size_t)y * op->outputs + first : NULL;
                size_t at = (size_t)y * op->out_w * op->outputs + first;
                int x = 0;
#ifdef ASQ_WEAVE_H
                const Weave weave = weaver(&woven, op->kernel_w, places, op->outputs - first, op->y != NULL, row_sums != NULL);
                if (weave) {
                    weave(&woven, first, codes, w, op->out + at, row_sums);
                    x = woven.rounds * WOVEN;
                    at += (size_t)x * op->outputs;
                }
#endif
                for (; op->out_w - x >= SIDE_BY_SIDE; x += SIDE_BY_SIDE, at += (size_t)SIDE_BY_SIDE * op->outputs)
                    depthwise_tile(op, e, codes + x * across, across, w, places, first, at, row_sums, x == 0);
                for (; x < op->out_w; x++, at += op->outputs)
                    depthwise_pixel(op, e, codes + x * across, across, w, places, first, at, row_sums, x == 0);
            }
}

/* A convolution and the pool of its output, whose rows do not leave the cache. */
static void conv_pool(const Op *op, Conv *c, int blocks, const Team *team) {
    const Pool *pool = &op->pool;
    const size_t row = (size_t)op->out_w * op->outputs, pooled = (size_t)pool->out_w * op->outputs;
    const int reach = (pool->kernel_h - 1) * pool->dilation_h + 1;
    float *const ring = pool->rows + team->place * pool->ring * row;
    int first, last, done = 0;
    c->row_sums = NULL;
    share(team, pool->out_h, 1, &first, &last);
    for (int y = first; y < last; y++) {
        const int top = y * pool->stride_h - pool->top, bottom = top + reach < op->out_h ? top + reach : op->out_h;
        if (done < top) done = top;
        for (; done < bottom; done++) {
            c->output = ring + (ptrdiff_t)(done % pool->ring - done) * (ptrdiff_t)row;
            conv(c, done, done + 1, 0, blocks);
        }
        max_pool_row(pool, ring, pool->ring, op->out_h, op->out_w, op->outputs, y, op->out + y * pooled);
        if (op->row_sums)
            asq_sum_row(op->out + y * pooled, op->outputs, pool->out_w, op->outputs, op->row_sums + (size_t)y * op->outputs);
    }
}

/* The step size for the image x. Every thread finds it by itself, which takes less time than to wait for another's. */
static float adapted_step_size(const Op *op, const Team *team) {
    if (!op->adapter_layers) return op->step_size;
    float *means = op->means + (ptrdiff_t)team->place * op->scratch_width;
    mean(op, 0, op->channels, means);
    return op->step_size * beta(op, means, op->sums + (ptrdiff_t)team->place * 2 * op->scratch_width);
}

enum { FEW_WEIGHTS = 1 << 17 }; /* bytes */

static void run_conv(const Op *op, const Team *team) {
    const int outputs = op->outputs / op->groups, blocks = padded(outputs, BLOCK);
    const int rows = op->top + op->height + op->bottom, depthwise_layer = op->layout == LAYOUT_FOURS;
    const float step = adapted_step_size(op, team);
    const Quantizer quantizer = {1.0f / step, (float)op->qmin, (float)op->qmax};
    int first, last;
    if (team->place == 0) {
        const float activation_scale = op->as_printed ? op->step_size : step;
        const int scales = depthwise_layer ? padded(op->outputs, BLOCK) : op->groups * blocks;
        for (int o = 0; o < scales; o++) op->scale[o] = op->raw ? 1.0f : activation_scale * op->weight_scale[o];
    }
    share(team, depthwise_layer ? padded(rows, 4) / 4 : rows, 1, &first, &last);
    if (depthwise_layer)
        quantize_fours(op, &quantizer, first, last, team);
    else
        (op->layout == LAYOUT_PLANES ? quantize_planes : quantize)(op, &quantizer, first, last);
    meet(team);
#ifdef ASQ_WINOGRAD_H
    if (op->winograd) {
        share(team, op->winograd == 2 ? (op->out_h + 1) / 2 : rows, 1, &first, &last);
        transform(op, first, last);
        meet(team);
    }
#endif
    if (depthwise_layer) {
        const Epilogue e = epilogue_of(op);
        share(team, op->out_h, 1, &first, &last);
        depthwise(op, &e, first, last);
        return;
    }
    Conv c = conv_of(op);
    if (!op->out) {
        if (!op->row_sums) return; /* the codes are all that is needed */
        c.output = op->strip + team->place * strip_size(op);
        c.out_stride = 0;
    }
    if (op->pool.out_h) {
        conv_pool(op, &c, blocks / BLOCK, team);
        return;
    }
    /* By rows, so that what a thread reads next it has mostly written itself; by blocks where a thread would get many more rows
       than another, or where the weights, which each would read, are many. */
    const int row_height = op->winograd == 2 ? 2 : 1; /* a row of tiles is not cut */
    const int rows_each = (op->out_h + row_height * team->threads - 1) / (row_height * team->threads) * row_height;
    const int even = 10 * rows_each * team->threads <= 11 * op->out_h;
    const size_t weights = (size_t)blocks * op->groups * DEPTH * op->places * asq_transforms(op->winograd);
    const int few = op->out_h < 8 * team->threads && !(even && weights <= FEW_WEIGHTS);
    const int by_blocks = few && outputs >= BLOCK * team->threads;
    int first_block = 0, last_block = blocks / BLOCK, first_row = 0, last_row = op->out_h;
    if (by_blocks)
        share(team, last_block, 1, &first_block, &last_block);
    else
        share(team, last_row, row_height, &first_row, &last_row);
    for (int group = 0; group < op->groups; group++) {
        const int8_t *after = c.packed + (size_t)blocks * DEPTH * op->places * asq_transforms(op->winograd);
        c.next = group + 1 < op->groups ? after : op->next;
        conv(&c, first_row, last_row, first_block, last_block);
        c.packed = after;
        c.codes += op->group_stride;
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

/* Steps that take every number by itself, with the sums of the rows while these are in the cache. */
static void by_rows(const Op *op, int first, int last) {
    void (*const step)(const Op *, int, int) =
        op->kind == OP_GATE ? gate : op->kind == OP_MULTIPLY ? multiply : elementwise;
    for (int y = first; y < last; y++) {
        const int pixel = y * op->width;
        step(op, pixel, pixel + op->width);
        if (!op->row_sums) continue;
        const float *out = op->out + (size_t)pixel * op->channels;
        asq_sum_row(out, op->channels, op->width, op->channels, op->row_sums + (size_t)y * op->channels);
    }
}

static void run(const Op *ops, int count, const Team *team) {
    for (const Op *op = ops; op < ops + count; op++) {
        int first, last;
        switch (op->kind) {
            case OP_CONV:
                run_conv(op, team);
                break;
            case OP_ELEMENTWISE:
            case OP_MULTIPLY:
            case OP_GATE:
                share(team, op->height, 1, &first, &last);
                by_rows(op, first, last);
                break;
            case OP_AVG_POOL:
                share(team, op->out_h, 1, &first, &last);
                avg_pool(op, first, last);
                break;
            case OP_MAX_POOL:
                share(team, op->pool.out_h, 1, &first, &last);
                max_pool(op, first, last);
                break;
            case OP_ROW_SUMS:
                share(team, op->height, 1, &first, &last);
                row_sums(op, first, last);
                break;
            case OP_MEAN:
                share(team, op->channels, BLOCK, &first, &last);
                mean(op, first, last, op->out);
                break;
            case OP_COPY:
                if (team->place == 0) copy(op);
                break;
        }
        meet(team);
    }
}

#endif

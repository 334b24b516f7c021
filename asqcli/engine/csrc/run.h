/* The steps of a plan. Included by every kernel file after its `conv`, `Sums`, `no_sums`, `add_products` and `finish`, so
   that each is compiled for its own instruction set and nothing of that leaks elsewhere. Loops over channels are left to the compiler; their order is the format's. */

#ifndef ASQ_RUN_H
#define ASQ_RUN_H

#include <string.h>

#include "epilogue.h"
#include "kernel.h"

static inline int padded(int n, int to) { return (n + to - 1) / to * to; }

/* The mean of the channels first .. last - 1, in double, rounded to float32: rows from left to right, then down. */
static void mean(const Op *op, int first, int last, float *out) {
    double *total = op->sums, *row = op->sums + op->channels;
    const float *x = op->x;
    for (int c = first; c < last; c++) total[c] = 0.0;
    for (int y = 0; y < op->height; y++) {
        for (int c = first; c < last; c++) row[c] = 0.0;
        for (int i = 0; i < op->width; i++, x += op->channels)
            for (int c = first; c < last; c++) row[c] += (double)x[c];
        for (int c = first; c < last; c++) total[c] += row[c];
    }
    const double count = (double)op->height * op->width;
    for (int c = first; c < last; c++) out[c] = (float)(total[c] / count);
}

/* One row of an adapter's layer: eight partial sums, added in a fixed order. */
static double eight_lanes(const double *weight, const double *h, int inputs) {
    double lane[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (int i = 0; i < inputs; i += 8)
        for (int j = 0; j < 8; j++) lane[j] += h[i + j] * weight[i + j];
    for (int half = 4; half; half /= 2)
        for (int j = 0; j < half; j++) lane[j] += lane[j + half];
    return lane[0];
}

/* From the means of all channels. */
static float beta(const Op *op) {
    /* sums: 2 * channels for the means; then the inputs and the hidden layer, each padded to 8. */
    double *h = op->sums + 2 * op->channels, *next = h + padded(op->channels, 8);
    for (int c = 0; c < padded(op->channels, 8); c++) h[c] = c < op->channels ? (double)op->means[c] : 0.0;
    for (int k = 0; k < op->adapter_layers; k++) {
        const AdapterLayer *layer = &op->adapter[k];
        const int stride = padded(layer->inputs, 8);
        if (k)
            for (int i = 0; i < layer->inputs; i++) h[i] = h[i] < 0.0 ? 0.0 : h[i]; /* a NaN stays */
        for (int o = 0; o < padded(layer->outputs, 8); o++)
            next[o] = o < layer->outputs
                          ? eight_lanes(layer->weight + (size_t)o * stride, h, stride) * layer->row_scale[o] + layer->bias[o]
                          : 0.0;
        double *swap = h;
        h = next;
        next = swap;
    }
    const double t = h[0];
    if (op->beta_output) return (float)(t < 1e-8 ? 1e-8 : t);
    return (float)(t >= 0.0 ? 1.0 + t : 1.0 / (1.0 - t));
}

/* Codes above qmin, into the padded image. Clamped first, which for whole bounds is the same, so that the sum with 1.5 * 2^23
   rounds half to even and leaves the whole number in its lowest bits. */
static void quantize(const Op *op, float reciprocal, int first_row, int last_row) {
    const float qmin = (float)op->qmin, qmax = (float)op->qmax;
    const int per_group = op->channels / op->groups;
    const int group_stride = op->depthwise || op->merged ? per_group : padded(per_group, DEPTH);
    const int pixel = group_stride * op->groups, row = pixel * (op->width + op->left + op->right);
    const float *x = op->x + (size_t)first_row * op->width * op->channels;
    for (int y = first_row; y < last_row; y++) {
        uint8_t *to = op->codes + (size_t)(y + op->top) * row + (size_t)op->left * pixel;
        /* Where no channels are padded a row is one run of numbers. */
        const int runs = group_stride == per_group ? 1 : op->width * op->groups;
        const int length = group_stride == per_group ? op->width * op->channels : per_group;
        for (int k = 0; k < runs; k++, to += group_stride, x += length)
            for (int c = 0; c < length; c++) {
                float v = x[c] * reciprocal;
                v = v < qmax ? v : qmax;
                v = v > qmin ? v : qmin;
                v = v + 12582912.0f;
                int32_t bits;
                memcpy(&bits, &v, sizeof bits);
                to[c] = (uint8_t)(bits - 0x4B400000 - op->qmin);
            }
    }
}

/* One filter for each output: no sum over channels, so 16 channels side by side, for some neighbouring pixels at a time,
   whose sums do not wait for each other. `packed` is [block][row][column][BLOCK] int32 here; the image is followed by
   BLOCK bytes that may be read. REPEATS: has a channel several outputs? */
static inline __attribute__((always_inline)) void depthwise_pixels(const Op *op, const Epilogue *e, int y, int x, int first,
                                                                   const int32_t *offset, const int PIXELS,
                                                                   const int REPEATS) {
    const int taps = op->kernel_h * op->kernel_w, repeats = op->outputs / op->channels;
    const int count = op->outputs - first < BLOCK ? op->outputs - first : BLOCK;
    const int row = op->channels * (op->width + op->left + op->right), step = op->stride_w * op->channels;
    const uint8_t *origin = op->codes + (size_t)y * op->stride_h * row + (size_t)x * step + (REPEATS ? 0 : first);
    const int32_t *w = (const int32_t *)op->packed + (size_t)first * taps;
    Sums sums[PIXELS];
    for (int p = 0; p < PIXELS; p++) sums[p] = no_sums();
    for (int t = 0; t < taps; t++, w += BLOCK)
        for (int p = 0; p < PIXELS; p++) {
            const uint8_t *a = origin + offset[t] + p * step;
            if (REPEATS) {
                uint8_t repeated[BLOCK] = {0};
                for (int o = 0; o < count; o++) repeated[o] = a[(first + o) / repeats];
                sums[p] = add_products(sums[p], repeated, w);
            } else {
                sums[p] = add_products(sums[p], a, w);
            }
        }
    for (int p = 0; p < PIXELS; p++) {
        const size_t at = ((size_t)y * op->out_w + x + p) * op->outputs + first;
        finish(e, first, count, sums[p], op->y ? op->y + at : NULL, op->out + at);
    }
}

static void depthwise(const Op *op, const Epilogue *e, int first_row, int last_row) {
    const int row = op->channels * (op->width + op->left + op->right);
    int32_t offset[MOST_TAPS]; /* of each tap in the image */
    for (int i = 0, t = 0; i < op->kernel_h; i++)
        for (int j = 0; j < op->kernel_w; j++, t++) offset[t] = i * op->dilation_h * row + j * op->dilation_w * op->channels;
    for (int y = first_row; y < last_row; y++)
        for (int first = 0; first < op->outputs; first += BLOCK) {
            int x = 0;
            if (op->outputs != op->channels)
                for (; x < op->out_w; x++) depthwise_pixels(op, e, y, x, first, offset, 1, 1);
            for (; op->out_w - x >= 4; x += 4) depthwise_pixels(op, e, y, x, first, offset, 4, 0);
            for (; x < op->out_w; x++) depthwise_pixels(op, e, y, x, first, offset, 1, 0);
        }
}

static void run_conv(const Op *op, const Team *team) {
    const int per_group = op->channels / op->groups, outputs = op->outputs / op->groups;
    const int blocks = padded(outputs, BLOCK);
    int first, last;
    float step = op->step_size;
    if (op->adapter_layers) {
        share(team, op->channels, BLOCK, &first, &last);
        mean(op, first, last, op->means);
        meet(team);
        if (team->place == 0) op->means[op->channels] = op->step_size * beta(op);
        meet(team);
        step = op->means[op->channels];
    }
    if (team->place == 0) {
        const float activation_scale = op->as_printed ? op->step_size : step;
        const int scales = op->depthwise ? padded(op->outputs, BLOCK) : op->groups * blocks;
        for (int o = 0; o < scales; o++) op->scale[o] = op->raw ? 1.0f : activation_scale * op->weight_scale[o];
    }
    share(team, op->height, 1, &first, &last);
    quantize(op, 1.0f / step, first, last);
    meet(team);
    Epilogue e = {op->scale, op->compensation, op->bias, op->g, op->b, op->low, op->high};
    if (op->depthwise) {
        share(team, op->out_h, 1, &first, &last);
        depthwise(op, &e, first, last);
        return;
    }
    /* Merged: a row of the window is one run of kernel_w * channels codes, so that 7 pixels of 3 channels are 24 and not 28. */
    const int channels = op->merged ? per_group : padded(per_group, DEPTH);
    const int run = op->merged ? padded(op->kernel_w * per_group, DEPTH) : channels;
    const int kernel_w = op->merged ? 1 : op->kernel_w;
    Conv c = {
        .codes = op->codes, .packed = op->packed, .output = op->out, .residual = op->y, .epilogue = e,
        .pixel_stride = (ptrdiff_t)channels * op->groups,
        .row_stride = (ptrdiff_t)channels * op->groups * (op->width + op->left + op->right),
        .steps = run / DEPTH, .kernel_h = op->kernel_h, .kernel_w = kernel_w, .stride_h = op->stride_h,
        .stride_w = op->stride_w, .dilation_h = op->dilation_h, .dilation_w = op->dilation_w, .out_h = op->out_h,
        .out_w = op->out_w, .outputs = outputs, .out_stride = op->outputs,
    };
    /* By rows; by blocks where the rows are few, so that no thread gets much more than another. */
    const int by_blocks = op->out_h < 8 * team->threads && outputs >= BLOCK * team->threads;
    int first_block = 0, last_block = blocks / BLOCK, first_row = 0, last_row = op->out_h;
    if (by_blocks)
        share(team, last_block, 1, &first_block, &last_block);
    else
        share(team, last_row, 1, &first_row, &last_row);
    for (int group = 0; group < op->groups; group++) {
        conv(&c, first_row, last_row, first_block, last_block);
        c.codes += channels;
        c.packed += (size_t)blocks * op->kernel_h * kernel_w * run;
        c.output += outputs;
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

static void elementwise(const Op *op, int first, int last) {
    const size_t at = (size_t)first * op->channels;
    const float *x = op->x + at, *y = op->y ? op->y + at : NULL;
    float *out = op->out + at;
    for (int p = first; p < last; p++, x += op->channels, out += op->channels) {
        for (int c = 0; c < op->channels; c++) {
            float v = x[c];
            if (op->g) {
                v = v * op->g[c];
                v = v + op->b[c];
            }
            if (y) v = v + y[c];
            v = v < op->low ? op->low : v;
            out[c] = v > op->high ? op->high : v;
        }
        if (y) y += op->channels;
    }
}

static void max_pool(const Op *op, int first, int last) {
    for (int y = first; y < last; y++)
        for (int x = 0; x < op->out_w; x++) {
            float *out = op->out + ((size_t)y * op->out_w + x) * op->channels;
            for (int c = 0; c < op->channels; c++) out[c] = -__builtin_inff();
            for (int i = 0; i < op->kernel_h; i++)
                for (int j = 0; j < op->kernel_w; j++) {
                    const int row = y * op->stride_h + i * op->dilation_h - op->top;
                    const int column = x * op->stride_w + j * op->dilation_w - op->left;
                    if (row < 0 || row >= op->height || column < 0 || column >= op->width) continue;
                    const float *v = op->x + ((size_t)row * op->width + column) * op->channels;
                    for (int c = 0; c < op->channels; c++) out[c] = (v[c] > out[c]) | (v[c] != v[c]) ? v[c] : out[c]; /* a NaN stays */
                }
        }
}

static void copy(const Op *op) {
    for (int y = 0; y < op->box[0]; y++)
        for (int x = 0; x < op->box[1]; x++) {
            const float *from = op->x + (size_t)y * op->from_stride[0] + (size_t)x * op->from_stride[1];
            float *to = op->out + (size_t)y * op->to_stride[0] + (size_t)x * op->to_stride[1];
            for (int c = 0; c < op->box[2]; c++) to[(size_t)c * op->to_stride[2]] = from[(size_t)c * op->from_stride[2]];
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
                share(team, op->height * op->width, 1, &first, &last);
                elementwise(op, first, last);
                break;
            case OP_MAX_POOL:
                share(team, op->out_h, 1, &first, &last);
                max_pool(op, first, last);
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

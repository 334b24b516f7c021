/* Depthwise convolutions of activations that are rounded on the way, and their gradients: each value of an image is read
   once.

   Codes and levels are whole numbers in float, whose products and sums are exact; a sum becomes an output by one multiplication
   with (step * weight_scale), as in evaluation. Rows of an image, of some of its channels, go into a ring of as many as a
   window has, and all windows read them there. */

#ifndef ASQ_PRODUCTS_DEPTHWISE_H
#define ASQ_PRODUCTS_DEPTHWISE_H

#include <math.h>
#include <string.h>

#include "parts.h"

#define RING 36864 /* floats of a ring: two stay in the second cache */
#define COLUMNS 8  /* outputs of a row that are made together: what they read stays in the first */
#define MOST_KERNEL 7
#define MOST_TAPS (MOST_KERNEL * MOST_KERNEL)

typedef struct {
    int64_t images, channels, height, width, out_height, out_width; /* channels: a multiple of WIDTH */
    int64_t kernel, stride_h, stride_w, top, left;                  /* kernel: 3, 5 or 7, a window's side; no stride above it */
    const float *x;            /* (images, height, width, channels) */
    const float *steps;        /* with a stride of 0: one for all images */
    int64_t step_stride;
    float qmin, qmax;
    const float *weight;       /* (channels, kernel, kernel), whole numbers of their scale */
    const float *weight_scale; /* with a stride of 0: one for all channels; only forward */
    int64_t scale_stride;
    float *out;                /* (images, out_height, out_width, channels) */
    const float *grad;         /* shaped as out */
    float *grad_x, *grad_weight;
    float *scratch;            /* of depthwise_scratch floats */
    int64_t workers;           /* that share the images; the sums over images depend on their number */
} Depthwise;

/* ---- scratch: the weights, tap by tap; of each worker the same of their gradients, of one image's, and rows ---- */

INLINE int64_t taps_of(const Depthwise *d) { return d->kernel * d->kernel; }

INLINE int64_t columns_of(const Depthwise *d) {
    return larger((d->out_width - 1) * d->stride_w + d->kernel, d->left + d->width);
}

/* Channels whose rows lie in a ring together. */
INLINE int64_t block_of(const Depthwise *d) {
    const int64_t fit = RING / (d->kernel * columns_of(d)) / WIDTH * WIDTH;
    return smaller(larger(fit, 2 * WIDTH), d->channels);
}

INLINE int64_t rows_of(const Depthwise *d) { return 2 * d->kernel + 2; } /* two rings, and two rows */

INLINE int64_t of_worker(const Depthwise *d) {
    return taps_of(d) * (d->channels + block_of(d)) + rows_of(d) * columns_of(d) * block_of(d);
}

static int64_t depthwise_scratch(const Depthwise *d) {
    return taps_of(d) * d->channels + d->workers * of_worker(d);
}

/* A worker's; it begins with the gradients of the weights, [tap][channels]. */
INLINE float *memory_of(const Depthwise *d, int64_t worker) {
    return d->scratch + taps_of(d) * d->channels + worker * of_worker(d);
}

/* ---- some channels of an image ---- */

typedef struct {
    const Depthwise *d;
    int64_t image, channel, block; /* the first channel, and how many */
    int64_t row;                   /* floats of a row in a ring */
    float step, reciprocal;
    float *codes, *grads;          /* rings */
    float *zeros, *anywhere;       /* rows outside the image: to read, and to write */
    const float *weight;           /* [tap][channels], from the first channel */
    float *sums;                   /* [tap][block], of codes by gradients */
} Block;

static Block block_at(const Depthwise *d, int64_t worker, int64_t image, int64_t channel) {
    Block b;
    b.d = d, b.image = image, b.channel = channel;
    b.block = smaller(block_of(d), d->channels - channel);
    b.row = columns_of(d) * b.block;
    b.step = d->steps[image * d->step_stride];
    b.reciprocal = 1.0f / b.step;
    if (!isfinite(b.reciprocal)) b.step = NAN; /* 0 times whatever would be 0 */
    b.sums = memory_of(d, worker) + taps_of(d) * d->channels;
    b.codes = b.sums + taps_of(d) * block_of(d);
    b.zeros = b.codes + d->kernel * b.row;
    b.grads = b.zeros + b.row;
    b.anywhere = b.grads + d->kernel * b.row;
    b.weight = d->scratch + channel;
    memset(b.zeros, 0, sizeof(float) * b.row);
    const int64_t left = d->left * b.block, image_row = d->width * b.block;
    for (int64_t r = 0; r < d->kernel; r++) { /* the border beside the image */
        memset(b.codes + r * b.row, 0, sizeof(float) * left);
        memset(b.codes + r * b.row + left + image_row, 0, sizeof(float) * (b.row - left - image_row));
    }
    return b;
}

INLINE float *in_ring(const Block *b, float *ring, int64_t y) { return ring + (y + b->d->top) % b->d->kernel * b->row; }

/* The rows of a window that begins at row `y`, in a ring; beyond the image, `outside`. */
INLINE void window_rows(const Block *b, float *ring, int64_t y, float *outside, float **rows) {
    for (int64_t r = 0; r < b->d->kernel; r++)
        rows[r] = y + r < 0 || y + r >= b->d->height ? outside : in_ring(b, ring, y + r);
}

TARGET INLINE void round_row(const Block *b, int64_t y) {
    const Depthwise *d = b->d;
    const float *x = d->x + (b->image * d->height + y) * d->width * d->channels + b->channel;
    float *codes = in_ring(b, b->codes, y) + d->left * b->block;
    const float reciprocal = b->reciprocal, qmin = d->qmin, qmax = d->qmax;
    for (int64_t i = 0; i < d->width; i++, x += d->channels, codes += b->block)
        for (int64_t c = 0; c < b->block; c += WIDTH)
            for (int lane = 0; lane < WIDTH; lane++) {
                float v = x[c + lane] * reciprocal;
                v = v < qmin ? qmin : v; /* a NaN stays one */
                v = v > qmax ? qmax : v;
                codes[c + lane] = rintf(v);
            }
}

/* Outputs `first` to `last` of a row. */
TARGET INLINE void forward_columns(const Block *b, float *const *rows, int64_t first, int64_t last, float *out,
                                   const int kernel) {
    const Depthwise *d = b->d;
    for (int64_t c = 0; c < b->block; c += WIDTH) {
        Vector level[MOST_TAPS], scale;
        for (int lane = 0; lane < WIDTH; lane++)
            scale[lane] = b->step * d->weight_scale[(b->channel + c + lane) * d->scale_stride];
        UNROLL for (int t = 0; t < kernel * kernel; t++) level[t] = *(const Vector *)(b->weight + t * d->channels + c);
        for (int64_t i = first; i < last; i++) {
            const int64_t at = i * d->stride_w * b->block + c;
            Vector sum = {0};
            UNROLL for (int r = 0; r < kernel; r++)
                UNROLL for (int s = 0; s < kernel; s++)
                    sum += *(const Vector *)(rows[r] + at + s * b->block) * level[r * kernel + s];
            *(Vector *)(out + i * d->channels + c) = sum * scale;
        }
    }
}

TARGET INLINE void backward_columns(const Block *b, float *const *rows, float *const *grads, int64_t first, int64_t last,
                                    const float *grad, const int kernel) {
    const Depthwise *d = b->d;
    for (int64_t c = 0; c < b->block; c += WIDTH) {
        Vector weight[MOST_TAPS], sum[MOST_TAPS];
        UNROLL for (int t = 0; t < kernel * kernel; t++) {
            weight[t] = *(const Vector *)(b->weight + t * d->channels + c);
            sum[t] = *(const Vector *)(b->sums + t * b->block + c);
        }
        for (int64_t i = first; i < last; i++) {
            const Vector g = *(const Vector *)(grad + i * d->channels + c);
            const int64_t at = i * d->stride_w * b->block + c;
            UNROLL for (int r = 0; r < kernel; r++)
                UNROLL for (int s = 0; s < kernel; s++) {
                    const int t = r * kernel + s;
                    sum[t] += g * *(const Vector *)(rows[r] + at + s * b->block);
                    *(Vector *)(grads[r] + at + s * b->block) += g * weight[t];
                }
        }
        UNROLL for (int t = 0; t < kernel * kernel; t++) *(Vector *)(b->sums + t * b->block + c) = sum[t];
    }
}

TARGET INLINE void forward_of(const Block *b, const int kernel) {
    const Depthwise *d = b->d;
    float *rows[MOST_KERNEL], *out = d->out + b->image * d->out_height * d->out_width * d->channels + b->channel;
    int64_t next = 0; /* the first row that no window has met */
    for (int64_t y = 0; y < d->out_height; y++, out += d->out_width * d->channels) {
        const int64_t start = y * d->stride_h - d->top;
        for (; next < smaller(start + kernel, d->height); next++) round_row(b, next);
        window_rows(b, b->codes, start, b->zeros, rows);
        for (int64_t i = 0; i < d->out_width; i += COLUMNS)
            forward_columns(b, rows, i, smaller(i + COLUMNS, d->out_width), out, kernel);
    }
}

/* Write the gradient's rows before `end`, in which no more windows lie. */
TARGET INLINE void give_rows(const Block *b, int64_t *done, int64_t end) {
    const Depthwise *d = b->d;
    for (; *done < smaller(end, d->height); ++*done) {
        float *out = d->grad_x + (b->image * d->height + *done) * d->width * d->channels + b->channel;
        const float *grads = in_ring(b, b->grads, *done) + d->left * b->block;
        for (int64_t i = 0; i < d->width; i++, out += d->channels, grads += b->block)
            for (int64_t c = 0; c < b->block; c += WIDTH) *(Vector *)(out + c) = *(const Vector *)(grads + c);
    }
}

TARGET INLINE void backward_of(const Block *b, const int kernel) {
    const Depthwise *d = b->d;
    float *rows[MOST_KERNEL], *grads[MOST_KERNEL];
    const float *grad = d->grad + b->image * d->out_height * d->out_width * d->channels + b->channel;
    int64_t next = 0, done = 0;
    memset(b->sums, 0, sizeof(float) * taps_of(d) * b->block);
    memset(b->anywhere, 0, sizeof(float) * b->row);
    for (int64_t y = 0; y < d->out_height; y++, grad += d->out_width * d->channels) {
        const int64_t start = y * d->stride_h - d->top;
        give_rows(b, &done, start);
        for (; next < smaller(start + kernel, d->height); next++) {
            round_row(b, next);
            memset(in_ring(b, b->grads, next), 0, sizeof(float) * b->row);
        }
        window_rows(b, b->codes, start, b->zeros, rows);
        window_rows(b, b->grads, start, b->anywhere, grads);
        for (int64_t i = 0; i < d->out_width; i += COLUMNS)
            backward_columns(b, rows, grads, i, smaller(i + COLUMNS, d->out_width), grad, kernel);
    }
    for (; next < d->height; next++) { /* in which no window lies */
        give_rows(b, &done, next - kernel + 1);
        memset(in_ring(b, b->grads, next), 0, sizeof(float) * b->row);
    }
    give_rows(b, &done, d->height);
}

/* ---- a part: some images ---- */

TARGET INLINE void go_over(const Depthwise *d, int64_t part, const int kernel, const int backward) {
    const int64_t last = start_of(part + 1, d->workers, d->images), taps = taps_of(d);
    float *total = memory_of(d, part);
    for (int64_t image = start_of(part, d->workers, d->images); image < last; image++)
        for (int64_t channel = 0; channel < d->channels; channel += block_of(d)) {
            const Block b = block_at(d, part, image, channel);
            if (!backward) {
                forward_of(&b, kernel);
                continue;
            }
            backward_of(&b, kernel);
            for (int64_t t = 0; t < taps; t++)
                for (int64_t c = 0; c < b.block; c++) total[t * d->channels + channel + c] += b.sums[t * b.block + c] * b.step;
        }
}

/* With windows of a size that the compiler knows. */
TARGET INLINE void go_over_part(const Depthwise *d, int64_t part, const int backward) {
    switch (d->kernel) {
    case 3: go_over(d, part, 3, backward); break;
    case 5: go_over(d, part, 5, backward); break;
    default: go_over(d, part, MOST_KERNEL, backward);
    }
}

TARGET static void forward_part(const void *task, int64_t part) { go_over_part(task, part, 0); }

TARGET static void backward_part(const void *task, int64_t part) {
    const Depthwise *d = task;
    memset(memory_of(d, part), 0, sizeof(float) * taps_of(d) * d->channels);
    go_over_part(d, part, 1);
}

/* ---- weights, and their gradients ---- */

static void lay_out_levels(const Depthwise *d) {
    for (int64_t c = 0; c < d->channels; c++) {
        const float reciprocal = 1.0f / d->weight_scale[c * d->scale_stride];
        for (int64_t t = 0; t < taps_of(d); t++)
            d->scratch[t * d->channels + c] = rintf(d->weight[c * taps_of(d) + t] * reciprocal);
    }
}

static void lay_out_weights(const Depthwise *d) {
    for (int64_t c = 0; c < d->channels; c++)
        for (int64_t t = 0; t < taps_of(d); t++) d->scratch[t * d->channels + c] = d->weight[c * taps_of(d) + t];
}

static void add_parts(const Depthwise *d) {
    for (int64_t c = 0; c < d->channels; c++)
        for (int64_t t = 0; t < taps_of(d); t++) {
            float sum = 0.0f;
            for (int64_t w = 0; w < d->workers; w++) sum += memory_of(d, w)[t * d->channels + c];
            d->grad_weight[c * taps_of(d) + t] = sum;
        }
}

#endif

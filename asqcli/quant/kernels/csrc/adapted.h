/* ASQ: an adapter in the same pass as the rounding, sample by sample, while the sample is in a cache.

   means   = sums over each channel / pixels                                     (Eq. 4)
   hidden  = max(0, weight1 means + bias1)         t = weight2 hidden + bias2
   beta    = 1 + t where t >= 0, else 1 / (1 - t)  scale = step_size * beta

   backward adds to grad_x what comes back through the means. hidden_count 0: one layer, t = weight2 means + bias2. A
   forward whose pass has neither `out` nor `rounded_out` only finds the scales. Of bfloat16 each worker has a sample in
   floats, of the gradient that is still added to. */

#ifndef ASQ_ADAPTED_H
#define ASQ_ADAPTED_H

#include "rounding.h"

#define STRIP 64 /* channels whose gradients stay in the first cache, and pixels that are summed in float */

typedef struct {
    Pass pass; /* step: (groups,), written by the forward; groups: samples */
    int64_t pixels, channels, hidden_count;
    int64_t planes; /* does each channel lie in one piece, or each pixel? */
    float step_size;
    const float *weight1, *bias1, *weight2, *bias2;
    float *beta, *means, *hidden, *grad_t, *grad_hidden; /* (samples,), (samples, channels), (samples, hidden), .. */
    int64_t most_workers;
    float *samples_in_float; /* (most_workers, size) */
} Adapted;

INLINE float *sample_in_float(const Adapted *a, int64_t worker) { return a->samples_in_float + worker * a->pass.size; }

/* Sum over a piece of the tensor. */
INLINE float sum_of(const Pass *pass, int64_t start, int64_t count) {
    double total = 0.0;
    for (int64_t at = 0; at < count; at += BLOCK) {
        int64_t size = count - at < BLOCK ? count - at : BLOCK, i = 0;
        float lanes[LANES] = {0.0f}, buffer[BLOCK];
        const float *x = in_float(pass, start + at, size, buffer);
        for (; i + LANES <= size; i += LANES)
            for (int lane = 0; lane < LANES; lane++)
                lanes[lane] += x[i + lane];
        for (int lane = 0; i < size; i++, lane++)
            lanes[lane] += x[i];
        for (int lane = 0; lane < LANES; lane++)
            total += lanes[lane];
    }
    return (float)total;
}

/* Sums over the pixels of fewer than LANES channels, of which the first is at `start`. */
INLINE void sum_few(const Pass *pass, int64_t start, float *sums, int64_t count, int64_t pixels, int64_t channels) {
    for (int64_t c = 0; c < count; c++) {
        double total = 0.0;
        for (int64_t at = 0; at < pixels; at += STRIP) {
            float part = 0.0f, value;
            int64_t end = at + STRIP < pixels ? at + STRIP : pixels;
            for (int64_t pixel = at; pixel < end; pixel++)
                part += *in_float(pass, start + pixel * channels + c, 1, &value);
            total += part;
        }
        sums[c] = (float)total;
    }
}

/* The same of LANES channels. */
INLINE void sum_lanes(const Pass *pass, int64_t start, float *sums, int64_t pixels, int64_t channels, int of_rounded) {
    double totals[LANES] = {0.0};
    for (int64_t at = 0; at < pixels; at += STRIP) {
        Vector first = {0}, second = {0};
        float part[LANES];
        int64_t end = at + STRIP < pixels ? at + STRIP : pixels;
        for (int64_t place = start + at * channels; place < start + end * channels; place += channels) {
            first += loaded(pass->x, pass->rounded_x, place, of_rounded);
            second += loaded(pass->x, pass->rounded_x, place + WIDTH, of_rounded);
        }
        *(Vector *)part = first;
        *(Vector *)(part + WIDTH) = second;
        for (int lane = 0; lane < LANES; lane++)
            totals[lane] += part[lane];
    }
    for (int lane = 0; lane < LANES; lane++)
        sums[lane] = (float)totals[lane];
}

INLINE void find_means(const Adapted *a, int64_t start, float *means) {
    if (a->planes)
        for (int64_t c = 0; c < a->channels; c++)
            means[c] = sum_of(&a->pass, start + c * a->pixels, a->pixels);
    else {
        int64_t c = 0;
        for (; c + LANES <= a->channels; c += LANES)
            if (a->pass.rounded_x)
                sum_lanes(&a->pass, start + c, means + c, a->pixels, a->channels, 1);
            else
                sum_lanes(&a->pass, start + c, means + c, a->pixels, a->channels, 0);
        sum_few(&a->pass, start + c, means + c, a->channels - c, a->pixels, a->channels);
    }
    for (int64_t c = 0; c < a->channels; c++)
        means[c] /= (float)a->pixels;
}

INLINE float dot(const float *restrict a, const float *restrict b, int64_t count) {
    float lanes[LANES] = {0.0f}, total = 0.0f;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] += a[i + lane] * b[i + lane];
    for (int lane = 0; i < count; i++, lane++)
        lanes[lane] += a[i] * b[i];
    for (int lane = 0; lane < LANES; lane++)
        total += lanes[lane];
    return total;
}

INLINE void add_to_pixels(float *out, const float *grad, int64_t count, int64_t pixels, int64_t channels) {
    int64_t c = 0;
    for (; c + WIDTH <= count; c += WIDTH) {
        Vector addend = *(const Vector *)(grad + c);
        for (int64_t pixel = 0; pixel < pixels; pixel++)
            *(Vector *)(out + pixel * channels + c) += addend;
    }
    for (; c < count; c++)
        for (int64_t pixel = 0; pixel < pixels; pixel++)
            out[pixel * channels + c] += grad[c];
}

FOR_EACH_PROCESSOR static void adapted_range(const void *argument, int64_t worker, int64_t first, int64_t last) {
    const Adapted *a = argument;
    (void)worker;
    for (int64_t sample = first; sample < last; sample++) {
        float *means = a->means + sample * a->channels, *hidden = a->hidden + sample * a->hidden_count;
        find_means(a, sample * a->pass.size, means);
        for (int64_t j = 0; j < a->hidden_count; j++) {
            float sum = dot(a->weight1 + j * a->channels, means, a->channels) + a->bias1[j];
            hidden[j] = sum < 0.0f ? 0.0f : sum; /* a NaN stays one */
        }
        float t = (a->hidden_count ? dot(a->weight2, hidden, a->hidden_count) : dot(a->weight2, means, a->channels)) +
                  a->bias2[0];
        a->beta[sample] = t >= 0.0f ? 1.0f + t : 1.0f / (1.0f - t);
        ((float *)a->pass.step)[sample] = a->step_size * a->beta[sample];
        if (a->pass.out || a->pass.rounded_out)
            forward_stretch(&a->pass, sample);
    }
}

FOR_EACH_PROCESSOR static void adapted_backward_range(const void *argument, int64_t worker, int64_t first, int64_t last) {
    const Adapted *a = argument;
    for (int64_t sample = first; sample < last; sample++) {
        float *out = a->pass.rounded_out ? sample_in_float(a, worker) : a->pass.out + sample * a->pass.size;
        backward_stretch(&a->pass, sample, out);
        float beta = a->beta[sample], slope = beta >= 1.0f ? 1.0f : beta * beta;
        float grad_t = (float)a->pass.grad_step[sample] * a->step_size * slope;
        a->grad_t[sample] = grad_t;
        float *grad_hidden = a->grad_hidden + sample * a->hidden_count;
        const float *hidden = a->hidden + sample * a->hidden_count;
        for (int64_t j = 0; j < a->hidden_count; j++)
            grad_hidden[j] = hidden[j] > 0.0f ? grad_t * a->weight2[j] : 0.0f;
        for (int64_t start = 0; start < a->channels; start += STRIP) {
            float grad[STRIP] = {0.0f};
            int64_t count = a->channels - start < STRIP ? a->channels - start : STRIP;
            if (a->hidden_count)
                for (int64_t j = 0; j < a->hidden_count; j++)
                    for (int64_t c = 0; c < count; c++)
                        grad[c] += grad_hidden[j] * a->weight1[j * a->channels + start + c];
            else
                for (int64_t c = 0; c < count; c++)
                    grad[c] = grad_t * a->weight2[start + c];
            for (int64_t c = 0; c < count; c++)
                grad[c] /= (float)a->pixels;
            if (a->planes)
                for (int64_t c = 0; c < count; c++)
                    for (int64_t pixel = 0; pixel < a->pixels; pixel++)
                        out[(start + c) * a->pixels + pixel] += grad[c];
            else
                add_to_pixels(out + start, grad, count, a->pixels, a->channels);
        }
        if (a->pass.rounded_out)
            store_rounded(out, a->pass.rounded_out + sample * a->pass.size, a->pass.size);
    }
}

#endif

/* The passes of fake quantizers over memory, as Python calls them through ctypes. */

#include "adapted.h"
#include "rounding.h"

#define EXPORTED __attribute__((visibility("default")))
#define ROW 1024 /* scales of channels that lie side by side */

EXPORTED void asq_use_threads(Parallel function) { parallel = function; }

EXPORTED void asq_fake_quantize(const Pass *pass) { share(forward_range, pass, pass->groups, pass->size); }

EXPORTED void asq_fake_quantize_backward(const Pass *pass) { share(backward_range, pass, pass->groups, pass->size); }

EXPORTED void asq_adapted_fake_quantize(const Adapted *a) { share(adapted_range, a, a->pass.groups, a->pass.size); }

EXPORTED void asq_adapted_fake_quantize_backward(const Adapted *a) {
    int64_t most_workers = a->pass.rounded_out ? a->most_workers : INT64_MAX;
    share_among(most_workers, adapted_backward_range, a, a->pass.groups, a->pass.size);
}

/* ---- the result of a product of codes, and its gradient: times the scale of the sample and that of the channel ---- */

typedef struct {
    const BFloat16 *x;
    BFloat16 *out;
    const float *of_samples, *of_channels;
    int64_t samples, pixels, channels, sample_stride, channel_stride;
    int64_t planes; /* does each channel lie in one piece, or each pixel? */
} Scaled;

INLINE void scale_values(const Scaled *s, int64_t at, int64_t count, const float *restrict scales, int64_t stride) {
    const BFloat16 *restrict x = s->x + at;
    BFloat16 *restrict out = s->out + at;
    for (int64_t i = 0; i < count; i++)
        out[i] = to_bfloat16(from_bfloat16(x[i]) * scales[i * stride]);
}

FOR_EACH_PROCESSOR static void scaled_range(const void *argument, int64_t worker, int64_t first, int64_t last) {
    const Scaled *s = argument;
    (void)worker;
    int64_t size = s->pixels * s->channels;
    for (int64_t sample = first; sample < last; sample++) {
        float of_sample = s->of_samples[sample * s->sample_stride], scales[ROW];
        int64_t start = sample * size;
        if (s->planes)
            for (int64_t c = 0; c < s->channels; c++) {
                scales[0] = of_sample * s->of_channels[c * s->channel_stride];
                scale_values(s, start + c * s->pixels, s->pixels, scales, 0);
            }
        else if (s->channels > ROW)
            for (int64_t c = 0; c < s->channels; c += ROW) {
                int64_t count = s->channels - c < ROW ? s->channels - c : ROW;
                for (int64_t i = 0; i < count; i++)
                    scales[i] = of_sample * s->of_channels[(c + i) * s->channel_stride];
                for (int64_t pixel = 0; pixel < s->pixels; pixel++)
                    scale_values(s, start + pixel * s->channels + c, count, scales, 1);
            }
        else { /* as many pixels at once as there is room for their scales */
            int64_t period = ROW / s->channels * s->channels;
            period = period < size ? period : size;
            for (int64_t i = 0; i < period; i += s->channels)
                for (int64_t c = 0; c < s->channels; c++)
                    scales[i + c] = of_sample * s->of_channels[c * s->channel_stride];
            for (int64_t at = 0; at < size; at += period)
                scale_values(s, start + at, size - at < period ? size - at : period, scales, 1);
        }
    }
}

EXPORTED int64_t asq_pass_size(void) { return sizeof(Pass); } /* of the structs, which a caller may know otherwise */

EXPORTED int64_t asq_adapted_size(void) { return sizeof(Adapted); }

EXPORTED int64_t asq_scaled_size(void) { return sizeof(Scaled); }

EXPORTED void asq_scaled(const Scaled *s) { share(scaled_range, s, s->samples, s->pixels * s->channels); }

/* ---- an adapter's weights: whole numbers of a step for each row, whose largest magnitude has the code `qmax` ---- */

EXPORTED void asq_round_rows(const float *weight, float *out, int64_t rows, int64_t columns, float qmax, float smallest) {
    for (int64_t row = 0; row < rows; row++, weight += columns, out += columns) {
        float largest = 0.0f;
        for (int64_t i = 0; i < columns; i++)
            largest = fabsf(weight[i]) > largest ? fabsf(weight[i]) : largest;
        float scale = largest / qmax;
        scale = scale < smallest ? smallest : scale;
        float reciprocal = 1.0f / scale;
        for (int64_t i = 0; i < columns; i++)
            out[i] = rintf(clamp(weight[i] * reciprocal, -qmax, qmax)) * scale;
    }
}

/* Batch norm in training on a CPU, of images whose channels lie side by side; Python calls it through ctypes.

   A batch is `rows` values of each of its channels, float or bfloat16; all between is in float, and sums over more than
   STRIP rows in double. With k = the mean of the first rows, which keeps small variances of large means from cancelling,

       forward    mean = k + sum(x - k) / rows      variance = sum((x - k)^2) / rows - (mean - k)^2
                  inverse = 1 / sqrt(variance + eps)             y = (x - mean) * inverse * weight + bias
       backward   of_bias = sum(g)      of_weight = sum(g * (x - mean)) * inverse
                  of_x = inverse * weight * (g - of_bias / rows - (x - mean) * inverse * of_weight / rows)

   Work is cut into parts of so many rows, whatever the threads: so no sum depends on them. */

#include "../../products/csrc/parts.h"

#include <math.h>
#include <string.h>

#define STRIP 64         /* rows that are summed in float */
#define ACROSS 32        /* channels whose sums are in registers */
#define BUFFER 512       /* floats that are rounded to bfloat16 at once */
#define PART_ROWS 512    /* rows of a part, at least */
#define MOST_PARTS 64

typedef uint16_t BFloat16; /* the upper half of a float */
typedef int32_t Mask __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint16_t Half __attribute__((vector_size(16), aligned(2), may_alias)); /* a Vector in bfloat16 */

typedef struct {
    int64_t rows, channels, rounded;                /* are x, grad and out bfloat16? */
    const void *x, *grad;                           /* (rows, channels) */
    void *out;                                      /* y, or of_x */
    const float *weight, *bias;                     /* (channels,), or null */
    float *mean, *inverse;                          /* (channels,): written forward, read backward */
    float *running_mean, *running_var, momentum, eps; /* moved towards the batch's; or null */
    float *of_weight, *of_bias;
    float *factors; /* (3, channels): multiplier, and what is taken away: as it is, and by x - mean */
    double *sums;   /* (MOST_PARTS, 2, channels) */
} BatchNorm;

INLINE float from_bfloat16(BFloat16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE BFloat16 to_bfloat16(float x) { /* half to even */
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return x != x ? 0x7fc0 : (BFloat16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

INLINE float one(const void *x, int64_t at, int rounded) {
    return rounded ? from_bfloat16(((const BFloat16 *)x)[at]) : ((const float *)x)[at];
}

INLINE Vector many(const void *x, int64_t at, int rounded) {
    if (rounded)
        return (Vector)(__builtin_convertvector(*(const Half *)((const BFloat16 *)x + at), Mask) << 16);
    return *(const Vector *)((const float *)x + at);
}

INLINE int64_t parts_of(const BatchNorm *b) {
    return smaller(MOST_PARTS, larger(1, b->rows / PART_ROWS));
}

/* ---- sums: of x - k and its square, or of g and g * (x - mean) ---- */

INLINE void sum_vectors(const BatchNorm *b, int64_t first, int64_t last, int64_t c, int vectors, const float *shift,
                        float *totals, float *products, int rounded, int backward) {
    Vector total[ACROSS / WIDTH] = {{0}}, product[ACROSS / WIDTH] = {{0}}, taken[ACROSS / WIDTH];
    UNROLL for (int i = 0; i < vectors; i++) taken[i] = *(const Vector *)(shift + c + i * WIDTH);
    for (int64_t row = first; row < last; row++)
        UNROLL for (int i = 0; i < vectors; i++) {
            int64_t at = row * b->channels + c + i * WIDTH;
            if (!(i % 2)) {
                __builtin_prefetch((const char *)b->x + (at + STRIP * b->channels) * (rounded ? 2 : 4));
                if (backward)
                    __builtin_prefetch((const char *)b->grad + (at + STRIP * b->channels) * (rounded ? 2 : 4));
            }
            Vector x = many(b->x, at, rounded) - taken[i], g = backward ? many(b->grad, at, rounded) : x;
            total[i] += g;
            product[i] += g * x;
        }
    UNROLL for (int i = 0; i < vectors; i++) {
        *(Vector *)(totals + i * WIDTH) = total[i];
        *(Vector *)(products + i * WIDTH) = product[i];
    }
}

INLINE void sum_part(const BatchNorm *b, int64_t part, const float *shift, int rounded, int backward) {
    int64_t parts = parts_of(b), end = start_of(part + 1, parts, b->rows), channels = b->channels;
    double *sums = b->sums + part * 2 * channels;
    memset(sums, 0, 2 * channels * sizeof *sums);
    for (int64_t first = start_of(part, parts, b->rows); first < end; first += STRIP) {
        int64_t last = smaller(end, first + STRIP), count;
        for (int64_t c = 0; c < channels; c += count) {
            float totals[ACROSS], products[ACROSS];
            if ((count = ACROSS) <= channels - c)
                sum_vectors(b, first, last, c, ACROSS / WIDTH, shift, totals, products, rounded, backward);
            else if ((count = WIDTH) <= channels - c)
                sum_vectors(b, first, last, c, 1, shift, totals, products, rounded, backward);
            else {
                count = 1;
                totals[0] = products[0] = 0.0f;
                for (int64_t row = first; row < last; row++) {
                    float x = one(b->x, row * channels + c, rounded) - shift[c];
                    float g = backward ? one(b->grad, row * channels + c, rounded) : x;
                    totals[0] += g;
                    products[0] += g * x;
                }
            }
            for (int64_t i = 0; i < count; i++) {
                sums[c + i] += totals[i];
                sums[channels + c + i] += products[i];
            }
        }
    }
}

TARGET static void statistics_part(const void *task, int64_t part) { /* `mean` holds k */
    const BatchNorm *b = task;
    if (b->rounded)
        sum_part(b, part, b->mean, 1, 0);
    else
        sum_part(b, part, b->mean, 0, 0);
}

TARGET static void gradient_sums_part(const void *task, int64_t part) {
    const BatchNorm *b = task;
    if (b->rounded)
        sum_part(b, part, b->mean, 1, 1);
    else
        sum_part(b, part, b->mean, 0, 1);
}

INLINE double added_up(const BatchNorm *b, int64_t at) {
    double total = 0.0;
    for (int64_t part = 0; part < parts_of(b); part++)
        total += b->sums[part * 2 * b->channels + at];
    return total;
}

static void finish_statistics(const BatchNorm *b) {
    for (int64_t c = 0; c < b->channels; c++) {
        double shifted = added_up(b, c) / b->rows, square = added_up(b, b->channels + c) / b->rows;
        double mean = b->mean[c] + shifted, variance = square - shifted * shifted;
        variance = variance < 0.0 ? 0.0 : variance; /* a NaN stays one */
        b->mean[c] = (float)mean;
        b->inverse[c] = (float)(1.0 / sqrt(variance + b->eps));
        b->factors[c] = b->inverse[c] * (b->weight ? b->weight[c] : 1.0f);
        if (b->running_mean) {
            double unbiased = variance * b->rows / (b->rows - 1);
            b->running_mean[c] = (float)((1.0 - b->momentum) * b->running_mean[c] + b->momentum * mean);
            b->running_var[c] = (float)((1.0 - b->momentum) * b->running_var[c] + b->momentum * unbiased);
        }
    }
}

static void finish_gradients(const BatchNorm *b) {
    for (int64_t c = 0; c < b->channels; c++) {
        double total = added_up(b, c), product = added_up(b, b->channels + c), inverse = b->inverse[c];
        b->of_bias[c] = (float)total;
        b->of_weight[c] = (float)(product * inverse);
        b->factors[c] = b->inverse[c] * (b->weight ? b->weight[c] : 1.0f);
        b->factors[b->channels + c] = (float)(total / b->rows);
        b->factors[2 * b->channels + c] = (float)(product * inverse * inverse / b->rows);
    }
}

/* ---- results, of some rows and `count` channels from c on: to `out`, in floats ---- */

INLINE void results_of_row(const BatchNorm *b, int64_t at, int64_t c, int64_t count, float *out, int rounded,
                           int backward) {
    const float *multiplier = b->factors + c, *mean = b->mean + c, *bias = b->bias + c;
    const float *taken = multiplier + b->channels, *by_value = taken + b->channels;
    int64_t i = 0;
    for (; i + WIDTH <= count; i += WIDTH) {
        Vector value = many(b->x, at + i, rounded) - *(const Vector *)(mean + i);
        if (backward)
            value = many(b->grad, at + i, rounded) - *(const Vector *)(taken + i) -
                    value * *(const Vector *)(by_value + i);
        value *= *(const Vector *)(multiplier + i);
        if (!backward && b->bias)
            value += *(const Vector *)(bias + i);
        *(Vector *)(out + i) = value;
    }
    for (; i < count; i++) {
        float value = one(b->x, at + i, rounded) - mean[i];
        if (backward)
            value = one(b->grad, at + i, rounded) - taken[i] - value * by_value[i];
        value *= multiplier[i];
        out[i] = !backward && b->bias ? value + bias[i] : value;
    }
}

INLINE void results_part(const BatchNorm *b, int64_t part, int rounded, int backward) {
    int64_t parts = parts_of(b), end = start_of(part + 1, parts, b->rows), channels = b->channels;
    int64_t across = smaller(channels, BUFFER), down = BUFFER / across;
    float buffer[BUFFER];
    for (int64_t row = start_of(part, parts, b->rows); row < end; row += down) {
        int64_t last = smaller(end, row + down);
        for (int64_t c = 0; c < channels; c += across) { /* several rows only of few channels, all of which it takes */
            int64_t count = smaller(across, channels - c), first = row * channels + c;
            float *out = rounded ? buffer : (float *)b->out + first;
            for (int64_t r = row; r < last; r++)
                results_of_row(b, r * channels + c, c, count, out + (r - row) * channels, rounded, backward);
            if (rounded)
                for (int64_t i = 0; i < (last - row) * count; i++)
                    ((BFloat16 *)b->out)[first + i] = to_bfloat16(buffer[i]);
        }
    }
}

TARGET static void normalize_part(const void *task, int64_t part) {
    const BatchNorm *b = task;
    if (b->rounded)
        results_part(b, part, 1, 0);
    else
        results_part(b, part, 0, 0);
}

TARGET static void gradient_part(const void *task, int64_t part) {
    const BatchNorm *b = task;
    if (b->rounded)
        results_part(b, part, 1, 1);
    else
        results_part(b, part, 0, 1);
}

/* ---- the interface ---- */

/* Does this processor run what was compiled? */
EXPORTED int asq_batch_norm_supported(void) {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 1;
#endif
}

EXPORTED int64_t asq_batch_norm_size(void) { return sizeof(BatchNorm); }

/* Doubles that `sums` must have. */
EXPORTED int64_t asq_batch_norm_sums(const BatchNorm *b) { return parts_of(b) * 2 * b->channels; }

EXPORTED void asq_batch_norm(const BatchNorm *b, Parallel parallel) {
    int64_t rows = smaller(STRIP, b->rows);
    for (int64_t c = 0; c < b->channels; c++)
        b->mean[c] = 0.0f;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < b->channels; c++)
            b->mean[c] += one(b->x, row * b->channels + c, (int)b->rounded) / (float)rows;
    share(statistics_part, b, parts_of(b), parallel);
    finish_statistics(b);
    share(normalize_part, b, parts_of(b), parallel);
}

/* `out` may be null: nobody asks for the gradient of x. */
EXPORTED void asq_batch_norm_gradients(const BatchNorm *b, Parallel parallel) {
    share(gradient_sums_part, b, parts_of(b), parallel);
    finish_gradients(b);
    if (b->out)
        share(gradient_part, b, parts_of(b), parallel);
}

/* Rounding to the codes of a grid and its gradient, stretch by stretch of memory, shared among threads.

   A tensor is `groups` stretches of `size` floats that lie one after the other. Each has a scale: step[group * stride],
   with stride 0 where all share one. With v = x / scale and code = the nearest whole step or level of v,

       forward    x_hat  = code * scale
       backward   grad_x = grad where v lies inside the bounds, 0 elsewhere
                  grad_step[group] = sum over the stretch of grad * code - grad_x * v         (Eq. 7)

   v is x * (1 / scale), as in evaluation and in the engine. Sums have a fixed order, whatever the threads and the
   width of the vectors: LANES partial sums in float over a BLOCK, then double.

   A product in bfloat16 takes codes themselves, whole numbers that are exact there, and gives their gradient back in
   bfloat16: grad = grad_of_codes / scale. What it is a product of may be bfloat16 itself, and its gradient is then: all
   between is in float. */

#ifndef ASQ_ROUNDING_H
#define ASQ_ROUNDING_H

#include <math.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define BLOCK 512         /* values whose v and code stay in the first cache */
#define TASK_VALUES 16384 /* a thread takes at least so many at once */
#define INLINE static inline __attribute__((always_inline))

/* LANES are two of them: sums stay in registers. Read from anywhere in memory. */
typedef float Vector __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t Mask __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint16_t Half __attribute__((vector_size(16), aligned(2), may_alias)); /* a Vector in bfloat16 */
#define WIDTH 8
#define WHOLE 12582912.0f /* 1.5 * 2^23: added to and taken from a value below 2^22 it leaves the nearest whole number */

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(ASQ_ONE_TARGET)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

typedef uint16_t BFloat16; /* the upper half of a float */

/* Bounds in codes; and, where codes are levels, the magnitudes at which the next level begins, rising, and the levels. */
typedef struct {
    float qmin, qmax;
    int64_t count;
    const float *boundaries, *levels;
} Grid;

typedef struct {
    const float *x, *grad, *step;
    float *out;
    double *grad_step;
    int64_t groups, size, step_stride;
    Grid grid;
    int64_t in_codes; /* is `out` codes instead of x_hat? */
    const BFloat16 *rounded_x, *grad_of_codes; /* instead of `x` and `grad` */
    BFloat16 *rounded_out;                     /* instead of `out` */
} Pass;

/* ---- threads: those of the OpenMP that PyTorch runs on, so that no second team waits for the same cores ---- */

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned); /* GOMP_parallel */
static Parallel parallel;

typedef void (*Range)(const void *argument, int64_t worker, int64_t first, int64_t last);

typedef struct {
    Range range;
    const void *argument;
    int64_t items, at_once, most_workers;
    atomic_int_fast64_t next, workers;
} Work;

static void take_work(void *shared) {
    Work *work = shared;
    int64_t worker = atomic_fetch_add(&work->workers, 1);
    while (worker < work->most_workers) {
        int64_t first = atomic_fetch_add(&work->next, work->at_once);
        if (first >= work->items)
            return;
        int64_t last = first + work->at_once;
        work->range(work->argument, worker, first, last < work->items ? last : work->items);
    }
}

static void share_among(int64_t most_workers, Range range, const void *argument, int64_t items, int64_t values) {
    Work work = {range, argument, items, TASK_VALUES / (values ? values : 1) + 1, most_workers, 0, 0};
    if (parallel && work.at_once < items)
        parallel(take_work, &work, 0, 0);
    else
        range(argument, 0, 0, items);
}

static void share(Range range, const void *argument, int64_t items, int64_t values) {
    share_among(INT64_MAX, range, argument, items, values);
}

/* ---- one block ---- */

INLINE float clamp(float v, float low, float high) { /* a NaN stays one */
    v = v < low ? low : v;
    return v > high ? high : v;
}

INLINE void find_codes(const float *restrict v, float *restrict codes, int64_t count, const Grid *grid) {
    if (!grid->count) {
        float low = grid->qmin, high = grid->qmax;
        for (int64_t i = 0; i < count; i++)
            codes[i] = rintf(clamp(v[i], low, high));
        return;
    }
    for (int64_t i = 0; i < count; i++)
        codes[i] = 0.0f;
    for (int64_t k = 0; k < grid->count; k++) {
        float boundary = grid->boundaries[k], level = grid->levels[k];
        for (int64_t i = 0; i < count; i++)
            codes[i] = fabsf(v[i]) >= boundary ? level : codes[i];
    }
    for (int64_t i = 0; i < count; i++)
        codes[i] = copysignf(codes[i], v[i]);
}

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

INLINE void widen(const BFloat16 *restrict x, float *restrict out, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        out[i] = from_bfloat16(x[i]);
}

INLINE void store_rounded(const float *restrict x, BFloat16 *restrict out, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        out[i] = to_bfloat16(x[i]);
}

INLINE void of_values(const BFloat16 *restrict grad_of_codes, float scale, float *restrict grad, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        grad[i] = from_bfloat16(grad_of_codes[i]) / scale;
}

INLINE void multiply(const float *restrict x, float factor, float *restrict out, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        out[i] = x[i] * factor;
}

/* Returns the gradient of some values; adds what each adds to that of the scale. */
INLINE Vector backward_vector(Vector g, Vector v, Vector codes, float low, float high, Vector *sum) {
    Mask clipped = (v <= low) | (v >= high); /* of a NaN neither holds */
    Vector inside = (Vector)((Mask)g & ~clipped);
    *sum += g * codes - inside * v;
    return inside;
}

INLINE void backward_block(const float *restrict grad, const float *restrict v, const float *restrict codes,
                           float *restrict grad_x, int64_t count, const Grid *grid, float *restrict sums) {
    float low = grid->qmin, high = grid->qmax;
    Vector both[2] = {{0}, {0}};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int64_t at = i, half = 0; half < 2; half++, at += WIDTH)
            *(Vector *)(grad_x + at) = backward_vector(*(const Vector *)(grad + at), *(const Vector *)(v + at),
                                                       *(const Vector *)(codes + at), low, high, &both[half]);
    Vector first = both[0], second = both[1];
    *(Vector *)sums += first;
    *(Vector *)(sums + WIDTH) += second;
    for (int lane = 0; i < count; i++, lane++) {
        float inside = v[i] <= low || v[i] >= high ? 0.0f : grad[i];
        grad_x[i] = inside;
        sums[lane] += grad[i] * codes[i] - inside * v[i];
    }
}

/* ---- one block of whole LANES between uniform bounds: each value is loaded and stored once ---- */

INLINE Vector chosen(Mask which, Vector yes, Vector no) { return (Vector)(((Mask)yes & which) | ((Mask)no & ~which)); }

INLINE Vector nearest_whole(Vector v, const Grid *grid) { /* a NaN stays one */
    Vector low = grid->qmin - (Vector){0}, high = grid->qmax - (Vector){0};
    v = chosen(v < low, low, v);
    v = chosen(v > high, high, v);
    return (v + WHOLE) - WHOLE;
}

INLINE Vector loaded(const float *x, const BFloat16 *rounded_x, int64_t at, int of_rounded) {
    if (of_rounded)
        return (Vector)(__builtin_convertvector(*(const Half *)(rounded_x + at), Mask) << 16);
    return *(const Vector *)(x + at);
}

INLINE void forward_lanes(const Pass *pass, int64_t at, int64_t count, float reciprocal, float factor, float *out,
                          int of_rounded) {
    for (int64_t i = 0; i < count; i += WIDTH) {
        Vector v = loaded(pass->x, pass->rounded_x, at + i, of_rounded) * reciprocal;
        *(Vector *)(out + i) = nearest_whole(v, &pass->grid) * factor;
    }
}

/* As `backward_block`, of the place `at` in the tensor. */
INLINE void backward_lanes(const Pass *pass, int64_t at, int64_t count, float scale, float *out, float *sums, int of_rounded,
                           int of_codes) {
    float reciprocal = 1.0f / scale;
    Vector both[2] = {{0}, {0}};
    for (int64_t i = 0; i < count; i += LANES)
        for (int64_t half = 0, here = i; half < 2; half++, here += WIDTH) {
            int64_t place = at + here;
            Vector g = loaded(pass->grad, pass->grad_of_codes, place, of_codes);
            if (of_codes)
                g /= scale;
            Vector v = loaded(pass->x, pass->rounded_x, place, of_rounded) * reciprocal, codes = nearest_whole(v, &pass->grid);
            *(Vector *)(out + here) = backward_vector(g, v, codes, pass->grid.qmin, pass->grid.qmax, &both[half]);
        }
    *(Vector *)sums += both[0];
    *(Vector *)(sums + WIDTH) += both[1];
}

/* ---- one stretch ---- */

/* Returns where the floats of a block are: in the tensor, or in the buffer. */
INLINE const float *in_float(const Pass *pass, int64_t at, int64_t count, float *buffer) {
    if (!pass->rounded_x)
        return pass->x + at;
    widen(pass->rounded_x + at, buffer, count);
    return buffer;
}

INLINE void forward_stretch(const Pass *pass, int64_t group) {
    float v[BLOCK], codes[BLOCK], results[BLOCK];
    float scale = pass->step[group * pass->step_stride], reciprocal = 1.0f / scale, factor = pass->in_codes ? 1.0f : scale;
    int64_t start = group * pass->size;
    for (int64_t at = 0; at < pass->size; at += BLOCK) {
        int64_t count = pass->size - at < BLOCK ? pass->size - at : BLOCK, place = start + at;
        int64_t lanes = pass->grid.count ? 0 : count / LANES * LANES;
        float *out = pass->rounded_out ? results : pass->out + place;
        if (pass->rounded_x)
            forward_lanes(pass, place, lanes, reciprocal, factor, out, 1);
        else
            forward_lanes(pass, place, lanes, reciprocal, factor, out, 0);
        if (lanes < count) {
            multiply(in_float(pass, place + lanes, count - lanes, codes), reciprocal, v, count - lanes);
            find_codes(v, codes, count - lanes, &pass->grid);
            multiply(codes, factor, out + lanes, count - lanes);
        }
        if (pass->rounded_out)
            store_rounded(results, pass->rounded_out + place, count);
    }
}

/* Writes the gradient to `out` or, where that is NULL, rounded to where the pass says. */
INLINE void backward_stretch(const Pass *pass, int64_t group, float *out) {
    float v[BLOCK], codes[BLOCK], grads[BLOCK], passed[BLOCK];
    float scale = pass->step[group * pass->step_stride], reciprocal = 1.0f / scale;
    int64_t start = group * pass->size;
    double total = 0.0;
    for (int64_t at = 0; at < pass->size; at += BLOCK) {
        int64_t count = pass->size - at < BLOCK ? pass->size - at : BLOCK, place = start + at;
        int64_t lanes = pass->grid.count ? 0 : count / LANES * LANES;
        float sums[LANES] = {0.0f}, *to = out ? out + at : passed;
        if (pass->rounded_x && pass->grad_of_codes)
            backward_lanes(pass, place, lanes, scale, to, sums, 1, 1);
        else if (pass->grad_of_codes)
            backward_lanes(pass, place, lanes, scale, to, sums, 0, 1);
        else if (pass->rounded_x)
            backward_lanes(pass, place, lanes, scale, to, sums, 1, 0);
        else
            backward_lanes(pass, place, lanes, scale, to, sums, 0, 0);
        if (lanes < count) {
            int64_t rest = place + lanes;
            const float *grad = grads;
            multiply(in_float(pass, rest, count - lanes, codes), reciprocal, v, count - lanes);
            find_codes(v, codes, count - lanes, &pass->grid);
            if (pass->grad_of_codes)
                of_values(pass->grad_of_codes + rest, scale, grads, count - lanes);
            else
                grad = pass->grad + rest;
            backward_block(grad, v, codes, to + lanes, count - lanes, &pass->grid, sums);
        }
        if (!out)
            store_rounded(passed, pass->rounded_out + place, count);
        for (int lane = 0; lane < LANES; lane++)
            total += sums[lane];
    }
    pass->grad_step[group] = total;
}

FOR_EACH_PROCESSOR static void forward_range(const void *pass, int64_t worker, int64_t first, int64_t last) {
    (void)worker;
    for (int64_t group = first; group < last; group++)
        forward_stretch(pass, group);
}

FOR_EACH_PROCESSOR static void backward_range(const void *argument, int64_t worker, int64_t first, int64_t last) {
    const Pass *pass = argument;
    (void)worker;
    for (int64_t group = first; group < last; group++)
        backward_stretch(pass, group, pass->rounded_out ? NULL : pass->out + group * pass->size);
}

#endif

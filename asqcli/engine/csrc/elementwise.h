/* Steps that take every number by itself, and copies; compiled into every kernel. */

#ifndef ASQ_ELEMENTWISE_H
#define ASQ_ELEMENTWISE_H

#include <string.h>

#include "constants.h"
#include "kernel.h"
#include "vector.h"

static void elementwise(const Op *op, int first, int last) {
    const size_t at = (size_t)first * op->channels;
    const EpilogueTail *const tail = &op->elementwise.tail;
    const float *x = op->x + at, *y = tail->y ? tail->y + at : NULL;
    /* Copies: `out` might be what the compiler takes for these. */
    const float *const g = tail->g, *const b = tail->b, *const slope = op->elementwise.slope;
    const float *const divisor = op->elementwise.divisor;
    const float low = tail->low, high = tail->high;
    const int channels = op->channels;
    float *out = op->out + at;
    for (int p = first; p < last; p++, x += channels, out += channels) {
        INDEPENDENT
        for (int c = 0; c < channels; c++) {
            float v = x[c];
            if (divisor) v = v / divisor[c];
            if (g) {
                v = v * g[c];
                v = v + b[c];
            }
            if (y) v = v + y[c];
            if (slope) v = v > 0.0f ? v : v * slope[c];
            v = v < low ? low : v;
            out[c] = v > high ? high : v;
        }
        if (y) y += channels;
    }
}

static void copy(const Op *op) {
    const int32_t *from_stride = op->copy.from_stride, *to_stride = op->copy.to_stride, channels = op->copy.box[2];
    for (int y = 0; y < op->copy.box[0]; y++)
        for (int x = 0; x < op->copy.box[1]; x++) {
            const float *from = op->x + (size_t)y * from_stride[0] + (size_t)x * from_stride[1];
            float *to = op->out + (size_t)y * to_stride[0] + (size_t)x * to_stride[1];
            if (from_stride[2] == 1 && to_stride[2] == 1)
                memcpy(to, from, channels * sizeof *to);
            else
                for (int c = 0; c < channels; c++) to[(size_t)c * to_stride[2]] = from[(size_t)c * from_stride[2]];
        }
}

static void multiply(const Op *op, int first, int last) {
    const size_t at = (size_t)first * op->channels;
    const float *x = op->x + at, *y = op->multiply.y + (op->multiply.y_is_a_pixel ? 0 : at);
    float *out = op->out + at;
    for (int p = first; p < last; p++, x += op->channels, out += op->channels) {
        for (int c = 0; c < op->channels; c++) out[c] = x[c] * y[c];
        if (!op->multiply.y_is_a_pixel) y += op->channels;
    }
}

/* Vectors of doubles as the instruction set has them: comparisons of longer ones the compiler would take apart. */
#if defined(__AVX512F__)
enum { VECTOR = 64 };
#elif defined(__AVX2__)
enum { VECTOR = 32 };
#else
enum { VECTOR = 16 };
#endif
typedef double Numbers __attribute__((vector_size(VECTOR)));
typedef int64_t Bits __attribute__((vector_size(VECTOR)));
typedef uint64_t UnsignedBits __attribute__((vector_size(VECTOR)));
typedef float FewFloats __attribute__((vector_size(VECTOR / 2), aligned(4), may_alias));

/* Doubles from as many floats. */
static inline Numbers as_numbers(const float *x) {
#if defined(__AVX512F__)
    return (Numbers)widen(x);
#else
    return __builtin_convertvector(*(const FewFloats *)x, Numbers);
#endif
}

static inline Numbers choose(Bits mask, Numbers a, Numbers b) { return (Numbers)((mask & (Bits)a) | (~mask & (Bits)b)); }

/* Chains that do not wait for each other: enough to keep the units busy while each waits for its last operation. */
enum { SIDES = 12, GATED = SIDES * VECTOR / 8 /* numbers at a time */ };
#define FOR_ALL(statement) UNROLL for (int c = 0; c < SIDES; c++) statement;

/* The double of part c of some floats, and its magnitude. */
#define WIDE(c) as_numbers(x + (c) * VECTOR / 8)
#define MAGNITUDE(c) ((Numbers)((Bits)WIDE(c) & INT64_MAX))
#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* exp(-y) for y in 0..700; a NaN stays. It is 2 to a whole power, and a series for the rest. */
static inline void exp_of_negative(const Numbers *y, Numbers *e) {
    static const double COEFFICIENTS[] = EXP_COEFFICIENTS;
    const Numbers zero = {0.0};
    const Numbers whole = zero + 6755399441055744.0; /* 1.5 * 2^52: rounds what is added, half to even, to its last bits */
    Numbers sum[SIDES], r[SIDES];
    FOR_ALL(sum[c] = y[c] * LOG2_E + whole)
    FOR_ALL(r[c] = (sum[c] - whole) * LN2_HIGH - y[c])
    FOR_ALL(r[c] = r[c] + (sum[c] - whole) * LN2_LOW)
    FOR_ALL(e[c] = zero + COEFFICIENTS[0])
    DO_NOT_UNROLL /* or the compiler would put the chains one behind the other */
    for (size_t n = 1; n < LENGTH(COEFFICIENTS); n++) FOR_ALL(e[c] = e[c] * r[c] + COEFFICIENTS[n])
    FOR_ALL(e[c] = e[c] * (Numbers)((1023 - ((UnsignedBits)sum[c] - (UnsignedBits)whole)) << 52))
}

/* 1 / (1 + exp(-x)), from doubles. `cubic`: of 2 * sqrt(2 / pi) * (x + 0.044715 * x^3) instead of x. */
static inline void sigmoid(const float *x, float *out, int cubic) {
    FewFloats *const to = (FewFloats *)out;
    const Numbers zero = {0.0}, most = zero + EXP_LARGEST;
    Numbers y[SIDES], e[SIDES];
    FOR_ALL(y[c] = MAGNITUDE(c))
    if (cubic) FOR_ALL(y[c] = y[c] * (y[c] * y[c] * GELU_TANH_CUBIC + GELU_TANH_LINEAR))
    FOR_ALL(y[c] = choose(y[c] > most, most, y[c]))
    exp_of_negative(y, e);
    FOR_ALL(y[c] = choose(WIDE(c) < zero, e[c], zero + 1.0) / (1.0 + e[c]))
    FOR_ALL(to[c] = __builtin_convertvector(y[c], FewFloats))
}

/* The normal distribution up to x, from doubles: its tail is exp(-x * x / 2) times a polynomial in s = 4 / (4 + |x|). */
static inline void normal_distribution(const float *x, float *out) {
    static const double COEFFICIENTS[] = TAIL_COEFFICIENTS;
    FewFloats *const to = (FewFloats *)out;
    const Numbers zero = {0.0}, most = zero + TAIL_LARGEST;
    Numbers s[SIDES], e[SIDES], p[SIDES];
    FOR_ALL(s[c] = choose(MAGNITUDE(c) > most, most, MAGNITUDE(c)))
    FOR_ALL(p[c] = s[c] * s[c] * 0.5)
    exp_of_negative(p, e);
    FOR_ALL(s[c] = TAIL_WIDTH / (TAIL_WIDTH + s[c]))
    FOR_ALL(p[c] = zero + COEFFICIENTS[0])
    DO_NOT_UNROLL
    for (size_t n = 1; n < LENGTH(COEFFICIENTS); n++) FOR_ALL(p[c] = p[c] * s[c] + COEFFICIENTS[n])
    FOR_ALL(p[c] = p[c] * s[c] * e[c])
    FOR_ALL(p[c] = choose(WIDE(c) < zero, p[c], 1.0 - p[c]))
    FOR_ALL(to[c] = __builtin_convertvector(p[c], FewFloats))
}

/* min(max(x + 3, 0), 6) / 6 */
static inline void hardsigmoid(const float *x, float *out) {
    for (int k = 0; k < GATED; k++) {
        float v = x[k] + 3.0f;
        v = v < 0.0f ? 0.0f : v;
        v = v > 6.0f ? 6.0f : v;
        out[k] = v * SIXTH;
    }
}

static inline void gate_some(int gate, const float *x, float *out) {
    float value[GATED];
    if (gate == GATE_SIGMOID || gate == GATE_SILU)
        sigmoid(x, value, 0);
    else if (gate == GATE_GELU_TANH)
        sigmoid(x, value, 1);
    else if (gate == GATE_GELU)
        normal_distribution(x, value);
    else
        hardsigmoid(x, value);
    if (gate != GATE_SIGMOID && gate != GATE_HARDSIGMOID)
        for (int k = 0; k < GATED; k++) value[k] = x[k] * value[k];
    memcpy(out, value, sizeof value);
}

static void gate(const Op *op, int first, int last) {
    const float *const x = op->x + (size_t)first * op->channels;
    float *const out = op->out + (size_t)first * op->channels;
    const ptrdiff_t length = (ptrdiff_t)(last - first) * op->channels;
    ptrdiff_t i = 0;
    for (; length - i >= GATED; i += GATED) gate_some(op->gate.function, x + i, out + i);
    if (i == length) return;
    float rest[GATED] = {0.0f};
    memcpy(rest, x + i, (length - i) * sizeof *rest);
    gate_some(op->gate.function, rest, rest);
    memcpy(out + i, rest, (length - i) * sizeof *rest);
}
#undef FOR_ALL
#undef WIDE
#undef MAGNITUDE
#undef LENGTH

#endif

/* Vectors of a fixed length as gcc and clang know them, and the few operations that the compiler does not find by itself,
   for each instruction set. */

#ifndef ASQ_LANES_H
#define ASQ_LANES_H

#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef double Doubles __attribute__((vector_size(64), aligned(8), may_alias));
typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(64), aligned(4), may_alias));

/* Eight floats as doubles. */
static inline __attribute__((always_inline)) Doubles widen(const float *x) {
#if defined(__AVX512F__)
    return (Doubles)_mm512_cvtps_pd(_mm256_loadu_ps(x));
#else
    Doubles wide;
    for (int k = 0; k < 8; k++) wide[k] = (double)x[k];
    return wide;
#endif
}

/* Eight small whole numbers as doubles. */
static inline __attribute__((always_inline)) Doubles widen_codes(const int8_t *codes) {
#if defined(__AVX512F__)
    return (Doubles)_mm512_cvtepi32_pd(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)codes)));
#else
    Doubles wide;
    for (int k = 0; k < 8; k++) wide[k] = (double)codes[k];
    return wide;
#endif
}

/* The larger of each pair; a NaN stays. */
static inline __attribute__((always_inline)) Floats larger(Floats most, const float *x) {
#if defined(__AVX512F__)
    const __m512 v = _mm512_loadu_ps(x); /* vmaxps gives its second operand where one is a NaN */
    return (Floats)_mm512_mask_mov_ps(_mm512_max_ps(v, (__m512)most), _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), v);
#else
    for (int k = 0; k < 16; k++) most[k] = (x[k] > most[k]) | (x[k] != x[k]) ? x[k] : most[k];
    return most;
#endif
}

/* What turns a value into a code above qmin. */
typedef struct {
    float reciprocal, qmin, qmax;
} Quantizer;

/* Clamped first, which for whole bounds is the same, so that the sum with 1.5 * 2^23 rounds half to even and leaves the whole
   number in its lowest bits. */
static inline __attribute__((always_inline)) int32_t code_of(const Quantizer *q, float x) {
    float v = x * q->reciprocal;
    v = v < q->qmax ? v : q->qmax;
    v = v > q->qmin ? v : q->qmin;
    v = v + 12582912.0f;
    int32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits - 0x4B400000 - (int32_t)q->qmin;
}

/* Sixteen at once. */
static inline __attribute__((always_inline)) Ints codes_of(const Quantizer *q, const float *x) {
#if defined(__AVX512F__)
    __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(q->reciprocal));
    v = _mm512_max_ps(_mm512_min_ps(v, _mm512_set1_ps(q->qmax)), _mm512_set1_ps(q->qmin));
    return (Ints)_mm512_sub_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32((int32_t)q->qmin));
#else
    int32_t codes[16];
    for (int k = 0; k < 16; k++) codes[k] = code_of(q, x[k]);
    return *(const Ints *)codes;
#endif
}

/* The lowest byte of each. */
static inline __attribute__((always_inline)) void store_bytes(uint8_t *to, Ints codes) {
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)codes));
#else
    for (int k = 0; k < 16; k++) to[k] = (uint8_t)codes[k];
#endif
}

#endif

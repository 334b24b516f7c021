/* Vectors of a fixed length as gcc and clang know them, and the few operations that the compiler does not find by itself,
   for each instruction set. */

#ifndef ASQ_LANES_H
#define ASQ_LANES_H

#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef double Doubles __attribute__((vector_size(64), aligned(8), may_alias));
typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));

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
    const __m512 v = _mm512_loadu_ps(x), m = (__m512)most;
    const __mmask16 taken = _mm512_cmp_ps_mask(v, m, _CMP_GT_OQ) | _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return (Floats)_mm512_mask_mov_ps(m, taken, v);
#else
    for (int k = 0; k < 16; k++) most[k] = (x[k] > most[k]) | (x[k] != x[k]) ? x[k] : most[k];
    return most;
#endif
}

#endif

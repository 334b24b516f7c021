/* Vectors of a fixed length as gcc and clang know them, and the few operations that the compiler does not find by itself,
   for each instruction set. */

#ifndef ASQ_VECTOR_H
#define ASQ_VECTOR_H

#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Loops over vectors are unrolled to the end, or these would not stay in registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define DO_NOT_UNROLL _Pragma("clang loop unroll(disable)")
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#define DO_NOT_UNROLL _Pragma("GCC unroll 1")
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

typedef double Doubles __attribute__((vector_size(64), aligned(8), may_alias));
typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(64), aligned(4), may_alias));

typedef float EightFloats __attribute__((vector_size(32), aligned(4), may_alias));

/* Eight floats as doubles. */
static inline __attribute__((always_inline)) Doubles widen(const float *x) {
#if defined(__AVX512F__)
    return (Doubles)_mm512_cvtps_pd(_mm256_loadu_ps(x));
#else
    return __builtin_convertvector(*(const EightFloats *)x, Doubles);
#endif
}

/* Eight small whole numbers as doubles. */
static inline __attribute__((always_inline)) Doubles widen_int8(const int8_t *x) {
#if defined(__AVX512F__)
    return (Doubles)_mm512_cvtepi32_pd(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)x)));
#else
    Doubles wide;
    for (int k = 0; k < 8; k++) wide[k] = (double)x[k];
    return wide;
#endif
}

/* The larger of each pair; a NaN stays. */
static inline __attribute__((always_inline)) Floats larger(Floats most, const float *x) {
#if defined(__AVX512F__)
    const __m512 v = _mm512_loadu_ps(x); /* vmaxps gives its second operand where one is a NaN */
    return (Floats)_mm512_mask_mov_ps(_mm512_max_ps(v, (__m512)most), _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), v);
#else
    for (int k = 0; k < 16; k++) most[k] = ((x[k] > most[k]) | (x[k] != x[k])) ? x[k] : most[k];
    return most;
#endif
}

#endif

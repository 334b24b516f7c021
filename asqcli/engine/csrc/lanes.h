/* Vectors of a fixed length as gcc and clang know them, and the few operations that the compiler does not find by itself,
   for each instruction set. */

#ifndef ASQ_LANES_H
#define ASQ_LANES_H

#include <stdint.h>
#include <string.h>
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
    for (int k = 0; k < 16; k++) most[k] = ((x[k] > most[k]) | (x[k] != x[k])) ? x[k] : most[k];
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

/* Of QUAD numbers: 16 from each of four places, in the order of the places, or the four of each of the 16 together. */
enum { QUAD = 64 };
static inline __attribute__((always_inline)) void codes_of_quad(const Quantizer *q, const float *const x[4],
                                                                const int TOGETHER, uint8_t *to) {
#if defined(__AVX512BW__)
    const __m512 reciprocal = _mm512_set1_ps(q->reciprocal), qmax = _mm512_set1_ps(q->qmax);
    const __m512i qmin = _mm512_set1_epi16((int16_t)q->qmin);
    __m512i codes[4];
    UNROLL
    for (int k = 0; k < 4; k++)
        codes[k] = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_mul_ps(_mm512_loadu_ps(x[k]), reciprocal), qmax));
    /* What is below qmin ends at 0: the steps to 16 and to 8 bits saturate. In 128 bits there are now 4 of each place. */
    const __m512i first = _mm512_subs_epi16(_mm512_packs_epi32(codes[0], codes[1]), qmin);
    const __m512i second = _mm512_subs_epi16(_mm512_packs_epi32(codes[2], codes[3]), qmin);
    const __m512i bytes = _mm512_packus_epi16(first, second);
    const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i transpose = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    _mm512_storeu_si512(to, TOGETHER ? _mm512_shuffle_epi8(bytes, transpose) : _mm512_permutexvar_epi32(in_order, bytes));
#elif defined(__AVX2__)
    const __m256 reciprocal = _mm256_set1_ps(q->reciprocal), qmax = _mm256_set1_ps(q->qmax), qmin = _mm256_set1_ps(q->qmin);
    const __m256i lowest = _mm256_set1_epi32((int32_t)q->qmin);
    __m256i codes[4][2];
    UNROLL
    for (int k = 0; k < 4; k++)
        UNROLL
        for (int half = 0; half < 2; half++) {
            const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x[k] + 8 * half), reciprocal);
            const __m256i code = _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(v, qmax), qmin));
            codes[k][half] = _mm256_sub_epi32(code, lowest);
        }
    if (TOGETHER) {
        UNROLL
        for (int half = 0; half < 2; half++) {
            const __m256i first = _mm256_or_si256(codes[0][half], _mm256_slli_epi32(codes[1][half], 8));
            const __m256i second = _mm256_or_si256(codes[2][half], _mm256_slli_epi32(codes[3][half], 8));
            _mm256_storeu_si256((__m256i *)to + half, _mm256_or_si256(first, _mm256_slli_epi32(second, 16)));
        }
        return;
    }
    const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* each 128 bits are packed by themselves */
    UNROLL
    for (int k = 0; k < 4; k += 2) {
        const __m256i first = _mm256_packs_epi32(codes[k][0], codes[k][1]);
        const __m256i second = _mm256_packs_epi32(codes[k + 1][0], codes[k + 1][1]);
        const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(first, second), in_order);
        _mm256_storeu_si256((__m256i *)(to + QUAD / 4 * k), bytes);
    }
#else
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < QUAD / 4; i++) to[TOGETHER ? 4 * i + k : QUAD / 4 * k + i] = (uint8_t)code_of(q, x[k][i]);
#endif
}

#endif

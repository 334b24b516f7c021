/* Values to codes, in the layouts of kernel.h; compiled into every kernel. */

#ifndef ASQ_QUANTIZE_H
#define ASQ_QUANTIZE_H

#include <string.h>

#include "kernel.h"
#include "vector.h"

/* Constants that turn a value into a code above qmin. */
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

enum { CHUNK = 64 };

/* Codes of a chunk, 16 numbers from each of four sources: in the order of these, or the four of each of the 16 TOGETHER. */
static inline __attribute__((always_inline)) void codes_of_chunk(const Quantizer *q, const float *const x[4],
                                                                 const int TOGETHER, uint8_t *to) {
#if defined(__AVX512BW__)
    const __m512 reciprocal = _mm512_set1_ps(q->reciprocal), qmax = _mm512_set1_ps(q->qmax);
    const __m512i qmin = _mm512_set1_epi16((int16_t)q->qmin);
    __m512i codes[4];
    UNROLL
    for (int k = 0; k < 4; k++)
        codes[k] = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_mul_ps(_mm512_loadu_ps(x[k]), reciprocal), qmax));
    /* Values below qmin end at 0: the steps to 16 and to 8 bits saturate. In 128 bits there are now 4 of each source. */
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
        _mm256_storeu_si256((__m256i *)(to + CHUNK / 4 * k), bytes);
    }
#else
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < CHUNK / 4; i++) to[TOGETHER ? 4 * i + k : CHUNK / 4 * k + i] = (uint8_t)code_of(q, x[k][i]);
#endif
}

static inline void quantize_chunk(const Quantizer *q, const float *x, uint8_t *codes) {
    codes_of_chunk(q, (const float *const[]){x, x + CHUNK / 4, x + CHUNK / 2, x + 3 * CHUNK / 4}, 0, codes);
}

static inline void quantize_run(const Quantizer *q, const float *x, int length, uint8_t *codes) {
    int i = 0;
    for (; length - i >= CHUNK; i += CHUNK) quantize_chunk(q, x + i, codes + i);
    if (i == length) return;
    if (i) { /* some once more */
        quantize_chunk(q, x + length - CHUNK, codes + length - CHUNK);
        return;
    }
    float few[CHUNK] = {0.0f};
    uint8_t codes_of_few[CHUNK];
    memcpy(few, x, length * sizeof *few);
    quantize_chunk(q, few, codes_of_few);
    memcpy(codes, codes_of_few, length);
}

/* The rows first .. last - 1 of the padded image: codes of x inside, of zero around it. */
static void quantize(const Op *op, const Quantizer *q, int first, int last) {
    const int groups = op->conv.groups, group_stride = op->conv.group_stride;
    const int per_group = op->channels / groups, pixel = group_stride * groups;
    const size_t left = (size_t)op->conv.left * pixel, right = (size_t)op->conv.right * pixel;
    const size_t inside = (size_t)op->width * pixel;
    /* Where no channels are padded a row is one run of numbers. */
    const int runs = group_stride == per_group ? 1 : op->width * groups;
    const int length = group_stride == per_group ? op->width * op->channels : per_group;
    for (int row = first; row < last; row++) {
        uint8_t *to = op->conv.codes + row * (left + inside + right);
        const int y = row - op->conv.top;
        if (y < 0 || y >= op->height) {
            memset(to, -op->conv.qmin, left + inside + right);
            continue;
        }
        memset(to, -op->conv.qmin, left);
        memset(to + left + inside, -op->conv.qmin, right);
        to += left;
        const float *x = op->x + (size_t)y * op->width * op->channels;
        for (int k = 0; k < runs; k++, to += group_stride, x += length)
            quantize_run(q, x, length, to);
    }
}

/* `quantize` for an image of planes. */
static void quantize_planes(const Op *op, const Quantizer *q, int first, int last) {
    const size_t width = op->conv.left + op->width + op->conv.right;
    for (int row = first; row < last; row++)
        for (int channel = 0; channel < op->channels; channel++) {
            uint8_t *to = op->conv.codes + ((size_t)row * op->channels + channel) * width;
            const int y = row - op->conv.top;
            memset(to, -op->conv.qmin, width);
            if (y < 0 || y >= op->height) continue;
            quantize_run(q, op->x + ((size_t)channel * op->height + y) * op->width, op->width, to + op->conv.left);
        }
}

/* Codes of `length` numbers of each of four rows, of which those in `exist` are there. */
static inline void quantize_rows(const Quantizer *q, const float *const x[4], int length, uint32_t exist, uint32_t around,
                                 uint8_t *to) {
    int i = 0;
    for (; length - i >= BLOCK; i += BLOCK, to += CHUNK) {
        codes_of_chunk(q, (const float *const[]){x[0] + i, x[1] + i, x[2] + i, x[3] + i}, 1, to);
        if (~exist) *(Ints *)to = (*(Ints *)to & (int32_t)exist) | (int32_t)around;
    }
    for (; i < length; i++, to += 4) {
        uint32_t codes = 0;
        for (int r = 0; r < 4; r++) codes |= (uint32_t)code_of(q, x[r][i]) << 8 * r;
        codes = (codes & exist) | around;
        memcpy(to, &codes, sizeof codes);
    }
}

#endif

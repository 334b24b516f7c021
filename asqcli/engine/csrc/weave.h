/* Rows of convolutions with few taps and of depthwise ones, whose epilogue takes longer than their products. Included by
   kernel_avx512vnni.c.

   A processor looks ahead some hundred operations; where each waits for the one before it, these are all waiting ones and the
   units idle. So every step of a row begins a new pixel and does one stage of each that is under way, the oldest first: what
   an operation waits for was done a step ago, and products fill the gaps between the stages of other pixels. */

#ifndef ASQ_WEAVE_H
#define ASQ_WEAVE_H

enum { WOVEN = 14 /* pixels of a round */, MOST_WOVEN_TAPS = 9, EPILOGUE_STAGES = 9 };

/* What the rows of a convolution have in common. */
typedef struct {
    const Epilogue *epilogue;
    const int32_t *offset;
    ptrdiff_t across, out_stride;
    int rounds;                   /* of a row; what is left is for others */
} Rows;

/* Do the whole rounds of a row in the block that begins with the output `first`. */
typedef void (*Weave)(const Rows *rows, int first, const uint8_t *codes, const int8_t *packed, float *out, double *row_sums);

/* What stays in registers, and the pixels under way: a pixel has the same slot in every round. */
typedef struct {
    const int32_t *start;
    Sums weights[MOST_WOVEN_TAPS];
    ptrdiff_t tap[MOST_WOVEN_TAPS]; /* from `codes` to a tap of the pixel that has come to it */
    __m512 scale, g, b, low, high;
    const uint8_t *codes;         /* of the pixel that is begun in this step */
    ptrdiff_t across;
    float *out;                   /* of the pixel that is stored next */
    ptrdiff_t out_stride;
    RowSums row;
    Sums sum[WOVEN];
    __m512 v[WOVEN];
    __m512d half[WOVEN];
    __m256 rest[WOVEN];
} Woven;

/* Keeps the compiler from moving what makes x past what makes another. */
#define KEEP(x) __asm__ volatile("" : "+v"(x))

/* One stage of the epilogue of pixel p. */
static inline __attribute__((always_inline)) void finish_stage(Woven *w, int p, int stage, const int SUMS) {
    switch (stage) {
        case 0: w->v[p] = _mm512_cvtepi32_ps(w->sum[p]); break;
        case 1: w->v[p] = _mm512_mul_ps(w->v[p], w->scale); break;
        case 2: w->v[p] = _mm512_mul_ps(w->v[p], w->g); break;
        case 3: w->v[p] = _mm512_add_ps(w->v[p], w->b); break;
        case 4: w->v[p] = _mm512_max_ps(w->low, w->v[p]); break;
        case 5: w->v[p] = _mm512_min_ps(w->high, w->v[p]); break;
        case 6:
            _mm512_storeu_ps(w->out, w->v[p]);
            w->out += w->out_stride;
            HIDE(w->out);
            if (!SUMS) break;
            w->half[p] = _mm512_cvtps_pd(_mm512_castps512_ps256(w->v[p]));
            KEEP(w->half[p]);
            w->rest[p] = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(w->v[p]), 1));
            KEEP(w->rest[p]);
            break;
        case 7:
            if (!SUMS) break;
            w->row.low = _mm512_add_pd(w->row.low, w->half[p]);
            KEEP(w->row.low);
            w->half[p] = _mm512_cvtps_pd(w->rest[p]);
            KEEP(w->half[p]);
            break;
        case 8:
            if (!SUMS) break;
            w->row.high = _mm512_add_pd(w->row.high, w->half[p]);
            KEEP(w->row.high);
            break;
    }
    if (stage < 6) KEEP(w->v[p]);
}

/* WOVEN steps: stages of the pixels of the last round, if it is OLD, and of this, if it is NEW. A pixel comes to its taps in
   STEPS steps, to TAPS of them in each. */
static inline __attribute__((always_inline)) void weave_round(Woven *w, const int DEPTHWISE, const int STEPS, const int TAPS,
                                                              const int SUMS, const int OLD, const int NEW) {
    const int COUNT = NEW ? WOVEN : STEPS + EPILOGUE_STAGES - 1;
    UNROLL
    for (int t = 0; t < COUNT; t++) {
        UNROLL
        for (int k = 0; k < TAPS; k++) {
            UNROLL
            for (int s = STEPS - 1; s >= 0; s--) {
                const int i = s * TAPS + k, p = (t - s + WOVEN) % WOVEN;
                if (t >= s ? !NEW : !OLD) continue;
                if (i == 0) w->sum[p] = sums_from(w->start);
                const uint8_t *from = w->codes + w->tap[i];
                const Sums codes = DEPTHWISE ? _mm512_loadu_si512(from) : broadcast_four(from);
                w->sum[p] = _mm512_dpbusd_epi32(w->sum[p], codes, w->weights[i]);
                KEEP(w->sum[p]);
            }
            if (k) continue; /* in the middle of the step */
            UNROLL
            for (int s = STEPS + EPILOGUE_STAGES - 1; s >= STEPS; s--)
                if (t >= s ? NEW : OLD) finish_stage(w, (t - s + WOVEN) % WOVEN, s - STEPS, SUMS);
        }
        w->codes += w->across;
        HIDE(w->codes);
    }
}

/* The packed taps of a depthwise window are in order of its quads of rows, and come here by columns. */
static inline __attribute__((always_inline)) void weave_row(const Rows *rows, int first, const uint8_t *codes,
                                                            const int8_t *packed, float *out, double *row_sums,
                                                            const int DEPTHWISE, const int STEPS, const int TAPS,
                                                            const int SUMS) {
    const Epilogue *e = rows->epilogue;
    Woven w = {
        .start = e->compensation + first, .codes = codes, .across = rows->across, .out = out,
        .out_stride = rows->out_stride, .row = load_row(row_sums, 1, BLOCK),
        /* Steps that are left out become some that change nothing. */
        .scale = _mm512_loadu_ps(e->scale + first), .g = e->g ? _mm512_loadu_ps(e->g + first) : _mm512_set1_ps(1.0f),
        .b = e->g || e->bias ? _mm512_loadu_ps((e->g ? e->b : e->bias) + first) : _mm512_set1_ps(-0.0f),
        .low = _mm512_set1_ps(e->low), .high = _mm512_set1_ps(e->high),
    };
    UNROLL
    for (int i = 0; i < STEPS * TAPS; i++) {
        const int tap = DEPTHWISE ? i % TAPS * STEPS + i / TAPS : i;
        w.weights[i] = _mm512_loadu_si512(packed + tap * BLOCK * DEPTH);
        w.tap[i] = rows->offset[tap] - i / TAPS * rows->across;
    }
    weave_round(&w, DEPTHWISE, STEPS, TAPS, SUMS, 0, 1);
    for (int round = 1; round < rows->rounds; round++) weave_round(&w, DEPTHWISE, STEPS, TAPS, SUMS, 1, 1);
    weave_round(&w, DEPTHWISE, STEPS, TAPS, SUMS, 1, 0);
    if (SUMS) store_row(&w.row);
}

#define WEAVE(name, sums, depthwise, steps, taps)                                                                     \
    static __attribute__((noinline)) void name(const Rows *rows, int first, const uint8_t *codes, const int8_t *packed, \
                                               float *out, double *row_sums) {                                          \
        weave_row(rows, first, codes, packed, out, row_sums, depthwise, steps, taps, sums);                           \
    }
WEAVE(weave_3_columns, 0, 1, 3, 1) WEAVE(weave_3_columns_and_sum, 1, 1, 3, 1)
WEAVE(weave_3_columns_of_2, 0, 1, 3, 2) WEAVE(weave_3_columns_of_2_and_sum, 1, 1, 3, 2)
WEAVE(weave_4_taps, 0, 0, 2, 2) WEAVE(weave_4_taps_and_sum, 1, 0, 2, 2)
WEAVE(weave_6_taps, 0, 0, 3, 2) WEAVE(weave_6_taps_and_sum, 1, 0, 3, 2)
WEAVE(weave_8_taps, 0, 0, 4, 2) WEAVE(weave_8_taps_and_sum, 1, 0, 4, 2)
WEAVE(weave_9_taps, 0, 0, 3, 3) WEAVE(weave_9_taps_and_sum, 1, 0, 3, 3)

/* What weaves rows of so many taps, or null. columns: of the window of a depthwise convolution, or 0. count: outputs of the
   block. */
static Weave weaver(const Rows *rows, int columns, int taps, int count, int residual, int sums) {
    static const Weave DEPTHWISE[2][2] = {{weave_3_columns, weave_3_columns_and_sum},
                                          {weave_3_columns_of_2, weave_3_columns_of_2_and_sum}};
    static const Weave BY_TAPS[][2] = {
        [4] = {weave_4_taps, weave_4_taps_and_sum},
        [6] = {weave_6_taps, weave_6_taps_and_sum},
        [8] = {weave_8_taps, weave_8_taps_and_sum},
        [MOST_WOVEN_TAPS] = {weave_9_taps, weave_9_taps_and_sum},
    };
    if (!rows->rounds || count < BLOCK || residual || (rows->epilogue->bias && rows->epilogue->g)) return NULL;
    if (columns) return columns == 3 && taps <= 6 ? DEPTHWISE[taps > 3][sums] : NULL;
    return taps <= MOST_WOVEN_TAPS ? BY_TAPS[taps][sums] : NULL;
}

#endif

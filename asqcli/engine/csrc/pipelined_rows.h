/* Pipelined rows: of convolutions with few taps and of depthwise ones, whose epilogue takes longer than their products.
   Included by kernel_avx512vnni.c, with HAS_PIPELINED_ROWS.

   A processor looks ahead some hundred operations; where each waits for the one before it, these are all waiting ones and the
   units idle. So every step of a row begins a new pixel and does one stage of each that is under way, the oldest first: what
   an operation waits for was done a step ago, and products fill the gaps between the stages of other pixels. */

#ifndef ASQ_PIPELINED_ROWS_H
#define ASQ_PIPELINED_ROWS_H

enum { ROUND = 14 /* pixels */, MOST_PIPELINED_TAPS = 9, EPILOGUE_STAGES = 9 };

/* The facts that all rows of a convolution share. */
typedef struct {
    const Epilogue *epilogue;
    const int32_t *offset;
    ptrdiff_t across, out_stride;
    int rounds;                   /* rounds of a row; pixels left over are for others */
} Rows;

/* Do the whole rounds of a row in the block that begins with the output `first`. */
typedef void (*PipelinedRow)(const Rows *rows, int first, const uint8_t *codes, const int8_t *packed, float *out,
                             double *row_sums);

/* Registers of a row, and the pixels under way: a pixel has the same slot in every round. */
typedef struct {
    const int32_t *start;
    Sums weights[MOST_PIPELINED_TAPS];
    ptrdiff_t tap[MOST_PIPELINED_TAPS]; /* from `codes` to a tap of the pixel that has come to it */
    __m512 scale, g, b, low, high;
    const uint8_t *codes;         /* the pixel that is begun in this step */
    ptrdiff_t across;
    float *out;                   /* the pixel that is stored next */
    ptrdiff_t out_stride;
    RowSums row;
    Sums sum[ROUND];
    __m512 v[ROUND];
    __m512d half[ROUND];
    __m256 rest[ROUND];
} Pipeline;

/* Keeps the compiler from moving what makes x past what makes another. */
#define KEEP(x) __asm__ volatile("" : "+v"(x))

/* One stage of the epilogue of pixel p. */
static inline __attribute__((always_inline)) void finish_stage(Pipeline *pipe, int p, int stage, const int SUMS) {
    switch (stage) {
        case 0: pipe->v[p] = _mm512_cvtepi32_ps(pipe->sum[p]); break;
        case 1: pipe->v[p] = _mm512_mul_ps(pipe->v[p], pipe->scale); break;
        case 2: pipe->v[p] = _mm512_mul_ps(pipe->v[p], pipe->g); break;
        case 3: pipe->v[p] = _mm512_add_ps(pipe->v[p], pipe->b); break;
        case 4: pipe->v[p] = _mm512_max_ps(pipe->low, pipe->v[p]); break;
        case 5: pipe->v[p] = _mm512_min_ps(pipe->high, pipe->v[p]); break;
        case 6:
            _mm512_storeu_ps(pipe->out, pipe->v[p]);
            pipe->out += pipe->out_stride;
            HIDE(pipe->out);
            if (!SUMS) break;
            pipe->half[p] = _mm512_cvtps_pd(_mm512_castps512_ps256(pipe->v[p]));
            KEEP(pipe->half[p]);
            pipe->rest[p] = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(pipe->v[p]), 1));
            KEEP(pipe->rest[p]);
            break;
        case 7:
            if (!SUMS) break;
            pipe->row.low = _mm512_add_pd(pipe->row.low, pipe->half[p]);
            KEEP(pipe->row.low);
            pipe->half[p] = _mm512_cvtps_pd(pipe->rest[p]);
            KEEP(pipe->half[p]);
            break;
        case 8:
            if (!SUMS) break;
            pipe->row.high = _mm512_add_pd(pipe->row.high, pipe->half[p]);
            KEEP(pipe->row.high);
            break;
    }
    if (stage < 6) KEEP(pipe->v[p]);
}

/* ROUND steps: stages of the pixels of the last round, if it is OLD, and of this, if it is NEW. A pixel comes to its taps in
   STEPS steps, to TAPS of them in each. */
static inline __attribute__((always_inline)) void pipeline_round(Pipeline *pipe, const int DEPTHWISE, const int STEPS,
                                                                 const int TAPS, const int SUMS, const int OLD, const int NEW) {
    const int COUNT = NEW ? ROUND : STEPS + EPILOGUE_STAGES - 1;
    UNROLL
    for (int t = 0; t < COUNT; t++) {
        UNROLL
        for (int k = 0; k < TAPS; k++) {
            UNROLL
            for (int s = STEPS - 1; s >= 0; s--) {
                const int i = s * TAPS + k, p = (t - s + ROUND) % ROUND;
                if (t >= s ? !NEW : !OLD) continue;
                if (i == 0) pipe->sum[p] = sums_from(pipe->start);
                const uint8_t *from = pipe->codes + pipe->tap[i];
                const Sums codes = DEPTHWISE ? _mm512_loadu_si512(from) : broadcast_four(from);
                pipe->sum[p] = _mm512_dpbusd_epi32(pipe->sum[p], codes, pipe->weights[i]);
                KEEP(pipe->sum[p]);
            }
            if (k) continue; /* in the middle of the step */
            UNROLL
            for (int s = STEPS + EPILOGUE_STAGES - 1; s >= STEPS; s--)
                if (t >= s ? NEW : OLD) finish_stage(pipe, (t - s + ROUND) % ROUND, s - STEPS, SUMS);
        }
        pipe->codes += pipe->across;
        HIDE(pipe->codes);
    }
}

/* The packed taps of a depthwise window are in order of its quads of rows, and come here by columns. */
static inline __attribute__((always_inline)) void pipeline_row(const Rows *rows, int first, const uint8_t *codes,
                                                               const int8_t *packed, float *out, double *row_sums,
                                                               const int DEPTHWISE, const int STEPS, const int TAPS,
                                                               const int SUMS) {
    const Epilogue *e = rows->epilogue;
    Pipeline pipe = {
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
        pipe.weights[i] = _mm512_loadu_si512(packed + tap * BLOCK * DEPTH);
        pipe.tap[i] = rows->offset[tap] - i / TAPS * rows->across;
    }
    pipeline_round(&pipe, DEPTHWISE, STEPS, TAPS, SUMS, 0, 1);
    for (int round = 1; round < rows->rounds; round++) pipeline_round(&pipe, DEPTHWISE, STEPS, TAPS, SUMS, 1, 1);
    pipeline_round(&pipe, DEPTHWISE, STEPS, TAPS, SUMS, 1, 0);
    if (SUMS) store_row(&pipe.row);
}

#define PIPELINED_ROW(name, sums, depthwise, steps, taps)                                                               \
    static __attribute__((noinline)) void name(const Rows *rows, int first, const uint8_t *codes, const int8_t *packed, \
                                               float *out, double *row_sums) {                                          \
        pipeline_row(rows, first, codes, packed, out, row_sums, depthwise, steps, taps, sums);                          \
    }
PIPELINED_ROW(pipelined_3_columns, 0, 1, 3, 1) PIPELINED_ROW(pipelined_3_columns_and_sum, 1, 1, 3, 1)
PIPELINED_ROW(pipelined_3_columns_of_2, 0, 1, 3, 2) PIPELINED_ROW(pipelined_3_columns_of_2_and_sum, 1, 1, 3, 2)
PIPELINED_ROW(pipelined_4_taps, 0, 0, 2, 2) PIPELINED_ROW(pipelined_4_taps_and_sum, 1, 0, 2, 2)
PIPELINED_ROW(pipelined_6_taps, 0, 0, 3, 2) PIPELINED_ROW(pipelined_6_taps_and_sum, 1, 0, 3, 2)
PIPELINED_ROW(pipelined_8_taps, 0, 0, 4, 2) PIPELINED_ROW(pipelined_8_taps_and_sum, 1, 0, 4, 2)
PIPELINED_ROW(pipelined_9_taps, 0, 0, 3, 3) PIPELINED_ROW(pipelined_9_taps_and_sum, 1, 0, 3, 3)

/* The function for rows of so many taps, or null. columns: of the window of a depthwise convolution, or 0. count: outputs of
   the block. */
static PipelinedRow pipelined_row_for(const Rows *rows, int columns, int taps, int count, int residual, int sums) {
    static const PipelinedRow DEPTHWISE[2][2] = {{pipelined_3_columns, pipelined_3_columns_and_sum},
                                                 {pipelined_3_columns_of_2, pipelined_3_columns_of_2_and_sum}};
    static const PipelinedRow BY_TAPS[][2] = {
        [4] = {pipelined_4_taps, pipelined_4_taps_and_sum},
        [6] = {pipelined_6_taps, pipelined_6_taps_and_sum},
        [8] = {pipelined_8_taps, pipelined_8_taps_and_sum},
        [MOST_PIPELINED_TAPS] = {pipelined_9_taps, pipelined_9_taps_and_sum},
    };
    if (!rows->rounds || count < BLOCK || residual || (rows->epilogue->bias && rows->epilogue->g)) return NULL;
    if (columns) return columns == 3 && taps <= 6 ? DEPTHWISE[taps > 3][sums] : NULL;
    return taps <= MOST_PIPELINED_TAPS ? BY_TAPS[taps][sums] : NULL;
}

#endif

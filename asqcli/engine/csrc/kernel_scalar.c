/* The reference: plain loops. Every other kernel equals it bit for bit. */

#include "epilogue.h"
#include "kernel.h"

static int supported(void) { return 1; }

/* The accumulators of 16 outputs. */
typedef struct {
    int32_t lane[BLOCK];
} Sums;
enum { SUMS_LANES = BLOCK, PARTS = BLOCK / SUMS_LANES };

static Sums sums_from(const int32_t *start) {
    Sums sums;
    for (int o = 0; o < BLOCK; o++) sums.lane[o] = start[o];
    return sums;
}

/* Add to each of 16 sums the products of 4 codes and 4 weights. */
static Sums add_products(Sums sums, const uint8_t *codes, const int8_t *weights, int int16_taps) {
    (void)int16_taps;
    for (int o = 0; o < BLOCK; o++)
        for (int d = 0; d < DEPTH; d++) sums.lane[o] += codes[o * DEPTH + d] * weights[o * DEPTH + d];
    return sums;
}

/* The epilogue of pixels that lie `stride` floats apart. */
static void finish(const Epilogue *e, int first, int count, const Sums *sums, const float *residual, float *out,
                   ptrdiff_t stride, double *row_sums, int fresh, int pixels) {
    for (int p = 0; p < pixels; p++)
        apply_epilogue(e, first, count, sums[p].lane, residual ? residual + p * stride : NULL, out + p * stride, row_sums,
                       fresh && p == 0);
}

static void conv(const Conv *c, int first_row, int last_row, int first_block, int last_block) {
    for (int first = first_block * BLOCK; first < last_block * BLOCK; first += BLOCK)
        for (int y = first_row; y < last_row; y++)
            for (int x = 0; x < c->out_w; x++) {
                const uint8_t *codes = c->codes + y * c->down + x * c->across;
                const int8_t *w = c->packed + (size_t)first * DEPTH * c->taps;
                Sums sums = sums_from(c->epilogue.compensation + first);
                for (int i = 0; i < c->taps; i++)
                    for (int o = 0; o < BLOCK; o++)
                        for (int d = 0; d < DEPTH; d++) sums.lane[o] += codes[c->offset[i] + d] * *w++;
                const size_t at = ((size_t)y * c->out_w + x) * c->out_stride + first;
                finish(&c->epilogue, first, c->outputs - first, &sums, c->residual ? c->residual + at : NULL, c->output + at,
                       0, row_sums_of(c, y, first), x == 0, 1);
            }
}

enum { SIDE_BY_SIDE = 1 }; /* pixels of a depthwise convolution */

#include "run.h"

const Kernel asq_kernel_scalar = {.name = "scalar", .supported = supported, .run = run};

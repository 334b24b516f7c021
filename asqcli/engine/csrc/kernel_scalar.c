/* The reference: plain loops. Every other kernel equals it bit for bit. */

#include "epilogue.h"
#include "kernel.h"

static int supported(void) { return 1; }

static void conv(const Conv *c, int first_row, int last_row, int first_block, int last_block) {
    for (int first = first_block * BLOCK; first < last_block * BLOCK; first += BLOCK) {
        const int count = c->outputs - first;
        for (int y = first_row; y < last_row; y++) {
            for (int x = 0; x < c->out_w; x++) {
                const int8_t *w = c->packed + (size_t)first * c->kernel_h * c->kernel_w * c->steps * DEPTH;
                int32_t sum[BLOCK] = {0};
                for (int i = 0; i < c->kernel_h; i++)
                    for (int j = 0; j < c->kernel_w; j++) {
                        const uint8_t *a = c->codes + (y * c->stride_h + i * c->dilation_h) * c->row_stride +
                                           (x * c->stride_w + j * c->dilation_w) * c->pixel_stride;
                        for (int s = 0; s < c->steps; s++, a += DEPTH)
                            for (int o = 0; o < BLOCK; o++, w += DEPTH)
                                for (int d = 0; d < DEPTH; d++) sum[o] += a[d] * w[d];
                    }
                const size_t at = ((size_t)y * c->out_w + x) * c->out_stride + first;
                asq_epilogue(&c->epilogue, first, count, sum, c->residual ? c->residual + at : NULL, c->output + at);
            }
            asq_sum_rows(c, y, 1, first / BLOCK, 1);
        }
    }
}

/* The accumulators of 16 outputs. */
typedef struct {
    int32_t lane[BLOCK];
} Sums;

static Sums no_sums(void) { return (Sums){{0}}; }

/* Add to each of 16 sums the products of 4 codes and 4 weights. */
static Sums add_products(Sums sums, const uint8_t *codes, const int8_t *weights) {
    for (int o = 0; o < BLOCK; o++)
        for (int d = 0; d < DEPTH; d++) sums.lane[o] += codes[o * DEPTH + d] * weights[o * DEPTH + d];
    return sums;
}

/* The epilogue of pixels that lie `stride` floats apart. */
static void finish(const Epilogue *e, int first, int count, const Sums *sums, const float *residual, float *out,
                   ptrdiff_t stride, int pixels) {
    for (int p = 0; p < pixels; p++)
        asq_epilogue(e, first, count, sums[p].lane, residual ? residual + p * stride : NULL, out + p * stride);
}

enum { SIDE_BY_SIDE = 1 }; /* pixels of a depthwise convolution */

#include "run.h"

const Kernel asq_kernel_scalar = {"scalar", supported, run};

/* The interface of the native kernels.

   A convolution here is u8 x s8 -> s32 over an image that is padded physically. Codes are `code - qmin`, so that 0 is the
   smallest; they come in one of three layouts, and four neighbours of them (DEPTH) are multiplied and added at once:

       LAYOUT_PIXELS     [height][width][channels]        four channels; with groups, those of each are padded to 4
       LAYOUT_PLANES     [height][channels][width]        four columns; for the first layer: the image comes as planes
       LAYOUT_ROW_QUADS  [height / 4][width][channels][4] four rows; for depthwise convolutions, which sum over no channels

   A window is a list of taps, of four codes each, as `offset`s in bytes from its first; the weights lie in the same order:

       packed     [block][tap][16 outputs][4]           s8, zeros where there is nothing
       depthwise  [block][first row % 4][tap][16 outputs][4 rows]

   Where all channels of a row of the window are neighbours, they are one run: 3 columns of 3 channels are 12 codes, not 9 x 4.

       output     [height][width][outputs]              float32, after the epilogue
       row sums   [height][outputs]                     float64, of the output

   The sum over the shifted codes is brought back by `compensation`: sum (code - qmin) * w + qmin * sum w = sum code * w. Sums
   begin there: after some products one is the sum of code * w of these and of qmin * w of the others, at most 255 * sum |w|,
   and the loader refuses networks in which that would not fit in 32 bits.

   Glossary. tap: four codes of a window that are multiplied at once. block: 16 output channels. tile: some neighbouring pixels
   of one output row times one or more blocks, whose accumulators stay in registers. epilogue: what turns an accumulator into a
   real value (see epilogue.h).

   Names that other files or Python link to begin with asq_; all others are static, for each kernel compiles its own. */

#ifndef ASQ_KERNEL_H
#define ASQ_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#include "barrier.h"

enum { BLOCK = 16, DEPTH = 4, MOST_ROWS = 64 }; /* MOST_ROWS: of the window of a pool */

/* The steps from accumulators to values; those with null pointers are left out. */
typedef struct {
    const float *scale;           /* [outputs padded to BLOCK] activation scale * weight scale */
    const int32_t *compensation;  /* [outputs padded to BLOCK] */
    const float *bias;            /* [outputs padded to BLOCK] */
    const float *g, *b;           /* [outputs padded to BLOCK] batch norm */
    float low, high;              /* clamp; infinite where there is none */
} Epilogue;

/* One group of one convolution on one image. */
typedef struct {
    const uint8_t *codes;         /* first channel of the group */
    const int8_t *packed;         /* first block of the group */
    const int32_t *offset;        /* [taps] */
    int taps;
    int int16_taps;               /* see ConvOp */
    int shared;                   /* taps of a column of a window, if it has three and its neighbours share them; or 0 */
    ptrdiff_t across, down;       /* bytes from the codes of an output to those of its neighbours */
    float *output;                /* first output of the group */
    double *row_sums;             /* the output's, or null */
    const float *residual;        /* laid out as `output`, or null */
    Epilogue epilogue;            /* the group's */
    int out_w;
    int outputs;                  /* the group's */
    int out_stride;               /* floats from a pixel of the output to the next; 0: none is kept */
    int sums_stride;              /* numbers from the sums of a row to those of the next */
    int winograd;                 /* 1 or 2 dimensions of winograd.h, or 0; then `codes` are the transformed ones, */
    ptrdiff_t plane;              /* those of each transform so many bytes after the last's, */
    int tiles_x, out_h;           /* `across` goes from tile to tile, and out_h cuts the last tiles off */
    const int8_t *next;           /* weights that are needed after these, or null: may be fetched ahead */
} Conv;

/* One layer of an adapter: products and sums are in double. */
typedef struct {
    const int8_t *int8_weight;    /* [outputs / 4][inputs / 8][4][8], in the order of their use; zeros in the gaps */
    const float *float_weight;    /* the same where the weights are not quantized; the other is null */
    const double *row_scale, *bias;
    int inputs, outputs;
} AdapterLayer;

enum { LAYOUT_PIXELS, LAYOUT_PLANES, LAYOUT_ROW_QUADS };
enum { OP_CONV, OP_ELEMENTWISE, OP_MULTIPLY, OP_GATE, OP_MAX_POOL, OP_AVG_POOL, OP_ROW_SUMS, OP_MEAN, OP_COPY };
enum { GATE_SIGMOID, GATE_SILU, GATE_HARDSIGMOID, GATE_HARDSWISH, GATE_GELU, GATE_GELU_TANH };

/* An adapter: the means of an image's channels to beta. */
typedef struct {
    int32_t layer_count;          /* 0: there is none */
    int32_t beta_output;          /* 0 reciprocal, 1 relu */
    AdapterLayer layers[2];
    const double *x_sums;         /* row sums of x */
    double *sums;                 /* scratch: [threads][2][scratch_width] */
    float *means;                 /* scratch: [threads][scratch_width] */
    int32_t scratch_width;        /* the widest of channels and layers, padded to BLOCK */
} Adapter;

/* A max pool: its window, its output, and the last rows of its input where they are not kept elsewhere. */
typedef struct {
    int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, top, left, out_h, out_w;
    int32_t ring;                 /* rows in `rows`, as many as a window reaches over */
    float *rows;                  /* scratch: [threads][ring][width of the input][channels] */
} Pool;

/* The end of an epilogue, which OP_ELEMENTWISE does by itself: batch norm, then + y, then clamp. */
typedef struct {
    const float *g, *b;           /* batch norm, or null; over outputs */
    const float *y;               /* the other summand, of the layout of the output, or null */
    float low, high;              /* clamp; infinite where there is none */
} EpilogueTail;

/* OP_CONV; a linear layer is one of 1x1 on one pixel. */
typedef struct {
    /* The window, and the border of the image. */
    int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, groups;
    int32_t top, left, bottom, right;

    /* From x to codes. */
    int32_t qmin, qmax;
    float step_size;
    int32_t as_printed;           /* from codes back to values by step_size, though the adapter made another */
    Adapter adapter;
    int32_t layout;               /* the codes'; with LAYOUT_PLANES x is [channels][height][width] */
    int32_t group_stride;         /* LAYOUT_PIXELS: bytes from the codes of a group to those of the next */
    uint8_t *codes;               /* scratch: the padded image, and BLOCK * DEPTH bytes that may be read */
    int32_t winograd;             /* 1 or 2 dimensions of winograd.h, or 0 */
    int64_t plane;                /* bytes of the codes of each of its transforms */
    uint8_t *transformed;         /* scratch: those codes */

    /* From codes to accumulators. */
    int32_t taps;                 /* positions of a window */
    int32_t int16_taps;           /* taps whose pair sums fit in int16 before they must be widened; 0: none */
    const int32_t *offset;        /* [taps] */
    const int8_t *packed, *next;  /* next: those of the next convolution, or null */

    /* From accumulators to values. Arrays over outputs are [groups][outputs of a group padded to BLOCK], with LAYOUT_ROW_QUADS
       those of one group. */
    const int32_t *compensation;
    const float *weight_scale;
    float *scale;                 /* scratch: the activations' scale times these */
    int32_t raw;                  /* write the accumulators themselves, for whoever checks them */
    const float *bias;
    EpilogueTail tail;
    Pool pool;                    /* the values', or out_h 0 */

    /* A convolution that is recomputed where its values are read has no `out`, only row sums and scratch,
       [threads][4 rows][out_w][BLOCK], which is not shorter than `outputs` for each thread. */
    float *strip;
    const struct Op *recompute;   /* LAYOUT_ROW_QUADS: that convolution, instead of x; or null */
} ConvOp;

typedef struct {
    EpilogueTail tail;            /* arrays over outputs: [outputs padded to BLOCK] */
    const float *divisor;         /* [channels], before all that, or null */
    const float *slope;           /* [channels], of numbers that are not above 0, before the clamp; or null */
} ElementwiseOp;

typedef struct {
    const float *y;               /* the other factor */
    int32_t y_is_a_pixel;         /* one number for each channel */
} MultiplyOp;

typedef struct {
    int32_t function;             /* GATE_SIGMOID .. */
} GateOp;

typedef struct {
    const int32_t *windows;       /* (first, end) of the windows of each row of the output, then of each column */
    int32_t window_size;          /* by which sums are divided, or 0: by how many numbers a window holds */
} AvgPoolOp;

typedef struct {
    const double *x_sums;         /* row sums of x */
} MeanOp;

/* A box of numbers, strides in floats for (row, column, channel). */
typedef struct {
    int32_t box[3];
    int32_t from_stride[3], to_stride[3];
} CopyOp;

/* One step of the plan, on one image: what all kinds have, then what each needs. All memory belongs to the caller. */
typedef struct Op {
    int32_t kind;                 /* OP_CONV .. */
    const float *x;
    float *out;
    double *row_sums;             /* the output's, or null: OP_CONV and steps by numbers; OP_ROW_SUMS: the result */
    int32_t height, width, channels; /* x's */
    int32_t out_h, out_w, outputs;   /* out's, before the pool of an OP_CONV */
    union {                       /* that of the kind; OP_ROW_SUMS has none */
        ConvOp conv;
        ElementwiseOp elementwise;
        MultiplyOp multiply;
        GateOp gate;
        Pool max_pool;
        AvgPoolOp avg_pool;
        MeanOp mean;
        CopyOp copy;
    };
} Op;

typedef struct {
    const char *name;
    int (*supported)(void);
    int winograd;                 /* does it take convolutions in the form of winograd.h? */
    int recompute;                /* is recomputing a cheap convolution faster than storing its output? */
    void (*run)(const Op *ops, int count, const Thread *thread);
    /* Does nothing but products, in the kernel's fastest instruction, and returns how many; null where it has none. */
    int64_t (*peak_loop)(int64_t rounds);
} Kernel;

static inline int padded(int n, int to) { return (n + to - 1) / to * to; }

/* Pixels of the next tile of a row of which so many are left. Tiles are of nearly the same width: a narrow one takes as long as
   one of a few pixels more. */
static inline int tile_width(int left, int most) {
    const int tiles = (left + most - 1) / most;
    return (left + tiles - 1) / tiles;
}

/* Transforms of winograd.h in so many dimensions; 1 in none, the direct form. */
static inline int winograd_transforms(int dimensions) { return 1 << 2 * dimensions; }

/* Each in its own file, best last. */
extern const Kernel asq_kernel_scalar, asq_kernel_avx2, asq_kernel_avxvnni, asq_kernel_avx512vnni;

#endif

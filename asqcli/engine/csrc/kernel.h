/* The interface of the native kernels.

   A convolution here is u8 x s8 -> s32 over an image that is padded physically, channels last:

       codes     [height][width][channels]      u8: code - qmin, so that 0 is the smallest code;
                                                with groups, channels are padded with zeros to a multiple of 4 (DEPTH)
       packed    [block][row][column][channels / 4][16 outputs][4 channels]      s8, zeros where there is nothing
       output    [height][width][outputs]       float32, after the epilogue
       row sums  [height][outputs]              float64, of the output

   The image itself comes as planes, which stay as they are: the runs of codes are along the row of one channel.

       codes     [height][channels][width]      u8
       packed    [block][row][channel][columns / 4][16 outputs][4 columns]       s8

   In a depthwise convolution there is no sum over channels, so the 4 products are those of 4 rows of the image:

       codes     [height / 4][width][channels][4 rows]                           u8
       packed    [block][first row % 4][rows of 4][column][16 outputs][4 rows]   s8, zeros where the window is not

   The sum over the shifted codes is brought back by `compensation`: sum (code - qmin) * w + qmin * sum w = sum code * w.
   Every partial sum fits in 32 bits: |code - qmin| <= 255 and the loader refuses networks in which
   255 * sum |w| would not fit.

   Glossary. block: 16 output channels. tile: some neighbouring pixels of one output row times one or more blocks, whose
   accumulators stay in registers. epilogue: what turns an accumulator into a real value (see epilogue.h). */

#ifndef ASQ_KERNEL_H
#define ASQ_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#include "team.h"

enum { BLOCK = 16, DEPTH = 4 };

/* What turns accumulators into values; null pointers are steps that are left out. */
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
    float *output;                /* first output of the group */
    double *row_sums;             /* of the output, or null */
    const float *residual;        /* of the layout of `output`, or null */
    Epilogue epilogue;            /* of the group */
    ptrdiff_t pixel_stride;       /* bytes from a code to that of the next pixel */
    ptrdiff_t row_stride;         /* bytes from a code to that of the next row */
    int steps;                    /* channels of the group / DEPTH */
    int kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    int out_h, out_w;
    int outputs;                  /* of the group */
    int out_stride;               /* floats from a pixel of the output to the next */
} Conv;

/* One layer of an adapter: products and sums are in double. */
typedef struct {
    const int8_t *codes;          /* [outputs padded to 4][inputs padded to 8], zeros in the gaps */
    const float *weight;          /* the same where the weights are not quantized; the other is null */
    const double *row_scale, *bias;
    int inputs, outputs;
} AdapterLayer;

enum { OP_CONV, OP_ELEMENTWISE, OP_MAX_POOL, OP_ROW_SUMS, OP_MEAN, OP_COPY };

/* One step of the plan, on one image. All memory belongs to the caller. Sizes are those of the input. */
typedef struct {
    int32_t kind;
    const float *x, *y;           /* inputs; y: what is added, or null */
    const double *x_sums;         /* OP_MEAN and adapters: row sums of x */
    float *out;
    double *row_sums;             /* OP_CONV: of the output, or null; OP_ROW_SUMS: the result */
    int32_t height, width, channels;
    int32_t out_h, out_w, outputs;

    /* OP_CONV; a linear layer is one of 1x1 on one pixel. Also the geometry of OP_MAX_POOL. */
    int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, groups;
    int32_t top, left, bottom, right;
    int32_t qmin, qmax, as_printed, beta_output; /* beta_output: 0 reciprocal, 1 relu */
    float step_size;
    int32_t adapter_layers;
    int32_t depthwise;            /* one filter for each channel */
    int32_t merged;               /* a row of the window is one run of codes: no groups, no dilation along it */
    int32_t planar;               /* x is [channels][height][width] */
    int32_t raw;                  /* write the accumulators themselves, for whoever checks them */
    AdapterLayer adapter[2];
    uint8_t *codes;               /* scratch: the padded image, and BLOCK * DEPTH bytes that may be read */
    double *sums;                 /* scratch of OP_MEAN and adapters: [3][scratch_width] */
    float *means;                 /* scratch: [channels], and the step */
    int32_t scratch_width;        /* the widest of channels and the adapter's layers, padded to 8 */
    float *scale;                 /* scratch: [groups][outputs of a group padded to BLOCK] */
    const int8_t *packed;
    const int32_t *tap_offset;    /* depthwise: from the codes of the first rows and column of a window to those of each */
    const float *weight_scale;    /* the following: [groups][outputs of a group padded to BLOCK] */
    const int32_t *compensation;
    const float *bias;

    /* OP_CONV and OP_ELEMENTWISE: batch norm, then + y, then clamp. */
    const float *g, *b;
    float low, high;

    /* OP_COPY: a box of numbers, strides in floats for (row, column, channel). */
    int32_t box[3];
    int32_t from_stride[3], to_stride[3];
} Op;

typedef struct {
    const char *name;
    int (*supported)(void);
    void (*run)(const Op *ops, int count, const Team *team);
} Kernel;

extern const Kernel asq_kernel_scalar, asq_kernel_avx2, asq_kernel_avx512vnni;

#endif

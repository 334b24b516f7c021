/* Max and average pools, compiled into every kernel. */

#ifndef ASQ_POOLS_H
#define ASQ_POOLS_H

#include "kernel.h"
#include "vector.h"

/* The largest number of a window, in 16 * VECTORS channels; those outside the image do not count. */
static inline __attribute__((always_inline)) void max_of_window(const float *const *row, int rows, ptrdiff_t column_step,
                                                                int columns, float *out, const int VECTORS) {
    Floats most[4];
    for (int k = 0; k < VECTORS; k++) most[k] = (Floats){0} - __builtin_inff();
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++)
            for (int k = 0; k < VECTORS; k++) most[k] = larger(most[k], row[i] + j * column_step + BLOCK * k);
    for (int k = 0; k < VECTORS; k++) *(Floats *)(out + BLOCK * k) = most[k];
}

/* Move the first of `count` taps at a distance `step` from each other to the first that is not negative, and forget those that
   are not below `size`. */
static void clip(int *first, int *count, int step, int size) {
    for (; *count > 0 && *first < 0; --*count) *first += step;
    while (*count > 0 && *first + (*count - 1) * step >= size) --*count;
}

/* A row of a max pool. x: row y of the image is at y % ring. Windows are not higher than MOST_ROWS. */
static void max_pool_row(const Pool *pool, const float *x, int ring, int height, int width, int channels, int y, float *out) {
    const float *row[MOST_ROWS];
    int top = y * pool->stride_h - pool->top, rows = pool->kernel_h;
    clip(&top, &rows, pool->dilation_h, height);
    const ptrdiff_t column_step = (ptrdiff_t)pool->dilation_w * channels;
    for (int o = 0; o < pool->out_w; o++, out += channels) {
        int left = o * pool->stride_w - pool->left, columns = pool->kernel_w, c = 0;
        clip(&left, &columns, pool->dilation_w, width);
        for (int i = 0; i < rows; i++)
            row[i] = x + ((ptrdiff_t)((top + i * pool->dilation_h) % ring) * width + left) * channels;
        for (; channels - c >= 4 * BLOCK; c += 4 * BLOCK) {
            max_of_window(row, rows, column_step, columns, out + c, 4);
            for (int i = 0; i < rows; i++) row[i] += 4 * BLOCK;
        }
        for (; channels - c >= BLOCK; c += BLOCK) {
            max_of_window(row, rows, column_step, columns, out + c, 1);
            for (int i = 0; i < rows; i++) row[i] += BLOCK;
        }
        for (int k = 0; c < channels; c++, k++) {
            out[c] = -__builtin_inff();
            for (int i = 0; i < rows; i++)
                for (int j = 0; j < columns; j++) {
                    const float v = row[i][j * column_step + k];
                    out[c] = ((v > out[c]) | (v != v)) ? v : out[c];
                }
        }
    }
}

static void max_pool(const Op *op, int first_row, int last_row) {
    for (int y = first_row; y < last_row; y++)
        max_pool_row(&op->max_pool, op->x, op->height, op->height, op->width, op->channels, y,
                     op->out + (size_t)y * op->max_pool.out_w * op->channels);
}

/* Averages over windows, in double: every row of a window from left to right, then the rows from top to bottom. */
static void avg_pool(const Op *op, int first_row, int last_row) {
    const int32_t(*const rows)[2] = (const int32_t(*)[2])op->avg_pool.windows, (*const columns)[2] = rows + op->out_h;
    const ptrdiff_t channels = op->channels, row = op->width * channels;
    for (int y = first_row; y < last_row; y++)
        for (int x = 0; x < op->out_w; x++) {
            const int top = rows[y][0], bottom = rows[y][1], left = columns[x][0], right = columns[x][1];
            const int inside = (bottom - top) * (right - left);
            const double size = op->avg_pool.window_size ? op->avg_pool.window_size : inside ? inside : 1;
            float *out = op->out + ((size_t)y * op->out_w + x) * channels;
            int c = 0;
            for (; channels - c >= 8; c += 8) {
                Doubles total = {0.0};
                for (int i = top; i < bottom; i++) {
                    Doubles sum = {0.0};
                    for (int j = left; j < right; j++) sum += widen(op->x + i * row + j * channels + c);
                    total += sum;
                }
                total /= size;
                for (int k = 0; k < 8; k++) out[c + k] = (float)total[k];
            }
            for (; c < channels; c++) {
                double total = 0.0;
                for (int i = top; i < bottom; i++) {
                    double sum = 0.0;
                    for (int j = left; j < right; j++) sum += (double)op->x[i * row + j * channels + c];
                    total += sum;
                }
                out[c] = (float)(total / size);
            }
        }
}

#endif

/* Gradients of a convolution of 3x3 windows at stride 1, in Winograd's form: 36 products where the definition has 144.

   Tiles have 4x4 pixels, the windows that they depend on 6x6. A window d is transformed once, V = B' d B, and

       of the output's gradient     grad_x tile = A' (sum over outputs of V * U) A,      U = G g G' of a filter g turned round
       of the input                 grad_weight = G' (sum over tiles of V * E) G,        E = A e A' of a tile e of the gradient

   so that each of the 36 places of a window is one product of matrices: tiles by outputs by channels. A, B and G evaluate and
   interpolate polynomials at 0, 3/4, -3/4, 3/2, -3/2 and infinity; these points lose half as much in float as 1 and 2 do.

   Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015. */

#ifndef ASQ_PRODUCTS_WINOGRAD_H
#define ASQ_PRODUCTS_WINOGRAD_H

#include <math.h>
#include <string.h>

#include "parts.h"

#define SPAN 4      /* pixels of a tile's side */
#define SIDE 6      /* of a window's */
#define PLACES 36   /* in a window */
#define CHUNK 16    /* channels that lie together; their number is a multiple */
#define ROWS 6      /* tiles whose sums are in registers at once */
#define CHANNELS 4  /* the same of channels */
#define MOST_TILES 36 /* of one product of matrices: windows and tiles stay in a cache; a multiple of ROWS */

typedef struct {
    int64_t images, channels, outputs, height, width, out_height, out_width;
    int64_t top, left;           /* padding, at most 2; as much at the bottom and at the right */
    const float *x;              /* (images, height, width, channels) */
    const float *steps;          /* with a stride of 0: one for all images */
    int64_t step_stride;
    float qmin, qmax;            /* the convolution was of x rounded to whole numbers of a step, from qmin to qmax */
    const float *grad;           /* (images, out_height, out_width, outputs) */
    const float *weight;         /* (outputs, channels, 3, 3) */
    float *grad_x, *grad_weight; /* shaped as x and weight; null: not wanted */
    float *scratch;              /* of winograd_scratch floats */
    int64_t workers;             /* that share the images; the sums over images depend on their number */
} Winograd;

/* ---- scratch: of each worker two images with a border of zeros, windows, and tiles; then all sums, or the filters ---- */

typedef struct {
    int64_t tiles;                      /* of one product of matrices */
    int64_t columns, grad_columns;      /* of an image with its border */
    int64_t image, grad, windows, ends; /* floats; ends: of tiles or of sums, whichever a product of matrices leads to */
    int64_t of_worker, sums;
} Sizes;

INLINE int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

static Sizes sizes_of(const Winograd *t) {
    Sizes s;
    const int64_t border = SIDE - SPAN, most = larger(t->channels, t->outputs);
    /* Windows and tiles together are to take no more memory than a worker's rounded activations, which are not made. */
    const int64_t pixels = t->images / t->workers * t->height * t->width;
    s.tiles = larger(smaller(pixels / (2 * PLACES * ROWS) * ROWS, MOST_TILES), ROWS);
    s.columns = up(t->out_width, SPAN) + border;
    s.image = (up(t->out_height, SPAN) + border) * s.columns * t->channels;
    s.grad_columns = up(larger(t->width, t->out_width), SPAN) + border;
    s.grad = (up(larger(t->height, t->out_height), SPAN) + border) * s.grad_columns * t->outputs;
    s.windows = s.ends = PLACES * s.tiles * most;
    s.of_worker = s.image + s.grad + s.windows + s.ends;
    s.sums = PLACES * t->channels * t->outputs;
    return s;
}

/* The same whichever gradients are wanted. */
static int64_t winograd_scratch(const Winograd *t) {
    const Sizes s = sizes_of(t);
    return t->workers * (s.of_worker + s.sums);
}

/* ---- transforms in one dimension, of WIDTH channels; a point and its negative share their halves ---- */

#define NEAR 0.75f
#define FAR 1.5f
#define NEAR2 (NEAR * NEAR)
#define FAR2 (FAR * FAR)
#define OF_0 (NEAR2 * FAR2) /* products of a point's differences from the others */
#define OF_NEAR (2.0f * NEAR2 * (NEAR2 - FAR2))
#define OF_FAR (2.0f * FAR2 * (FAR2 - NEAR2))

/* Values at NEAR, -NEAR, FAR and -FAR. */
TARGET INLINE void at_both_signs(Vector *v, Vector even_near, Vector odd_near, Vector even_far, Vector odd_far) {
    v[1] = even_near + odd_near;
    v[2] = even_near - odd_near;
    v[3] = even_far + odd_far;
    v[4] = even_far - odd_far;
}

/* B' */
TARGET INLINE void of_window(Vector *v) {
    const Vector even_near = v[4] - FAR2 * v[2], odd_near = NEAR * (v[3] - FAR2 * v[1]);
    const Vector even_far = v[4] - NEAR2 * v[2], odd_far = FAR * (v[3] - NEAR2 * v[1]);
    v[0] = NEAR2 * FAR2 * v[0] - (NEAR2 + FAR2) * v[2] + v[4];
    v[5] = NEAR2 * FAR2 * v[1] - (NEAR2 + FAR2) * v[3] + v[5];
    at_both_signs(v, even_near, odd_near, even_far, odd_far);
}

/* A */
TARGET INLINE void of_tile(const Vector *e, Vector *v) {
    const Vector even_near = e[0] + NEAR2 * e[2], odd_near = NEAR * (e[1] + NEAR2 * e[3]);
    const Vector even_far = e[0] + FAR2 * e[2], odd_far = FAR * (e[1] + FAR2 * e[3]);
    v[0] = e[0];
    at_both_signs(v, even_near, odd_near, even_far, odd_far);
    v[5] = e[3];
}

/* A' */
TARGET INLINE void to_tile(const Vector *m, Vector *e) {
    const Vector even_near = m[1] + m[2], odd_near = NEAR * (m[1] - m[2]);
    const Vector even_far = m[3] + m[4], odd_far = FAR * (m[3] - m[4]);
    e[0] = m[0] + even_near + even_far;
    e[1] = odd_near + odd_far;
    e[2] = NEAR2 * even_near + FAR2 * even_far;
    e[3] = NEAR2 * odd_near + FAR2 * odd_far + m[5];
}

/* G */
TARGET INLINE void of_filter(const Vector *g, Vector *v) {
    const Vector even_near = (g[0] + NEAR2 * g[2]) * (1.0f / OF_NEAR), odd_near = g[1] * (NEAR / OF_NEAR);
    const Vector even_far = (g[0] + FAR2 * g[2]) * (1.0f / OF_FAR), odd_far = g[1] * (FAR / OF_FAR);
    v[0] = g[0] * (1.0f / OF_0);
    at_both_signs(v, even_near, odd_near, even_far, odd_far);
    v[5] = g[2];
}

/* G' */
TARGET INLINE void to_filter(const Vector *m, Vector *g) {
    const Vector even_near = (m[1] + m[2]) * (1.0f / OF_NEAR), odd_near = (m[1] - m[2]) * (NEAR / OF_NEAR);
    const Vector even_far = (m[3] + m[4]) * (1.0f / OF_FAR), odd_far = (m[3] - m[4]) * (FAR / OF_FAR);
    g[0] = m[0] * (1.0f / OF_0) + even_near + even_far;
    g[1] = odd_near + odd_far;
    g[2] = NEAR2 * even_near + FAR2 * even_far + m[5];
}

/* ---- in two dimensions; rows and pixels of an image, and the places of a window, lie so many floats apart ---- */

TARGET INLINE void transform_window(const float *d, int64_t row, int64_t pixel, float *out, int64_t place) {
    Vector v[SIDE][SIDE];
    for (int j = 0; j < SIDE; j++) {
        UNROLL for (int i = 0; i < SIDE; i++) v[j][i] = *(const Vector *)(d + i * row + j * pixel);
        of_window(v[j]);
    }
    for (int i = 0; i < SIDE; i++) {
        Vector w[SIDE];
        UNROLL for (int j = 0; j < SIDE; j++) w[j] = v[j][i];
        of_window(w);
        UNROLL for (int j = 0; j < SIDE; j++) *(Vector *)(out + (SIDE * i + j) * place) = w[j];
    }
}

TARGET INLINE void transform_tile(const float *e, int64_t row, int64_t pixel, float *out, int64_t place) {
    Vector v[SPAN][SIDE];
    for (int j = 0; j < SPAN; j++) {
        Vector w[SPAN];
        UNROLL for (int i = 0; i < SPAN; i++) w[i] = *(const Vector *)(e + i * row + j * pixel);
        of_tile(w, v[j]);
    }
    for (int i = 0; i < SIDE; i++) {
        Vector w[SPAN], z[SIDE];
        UNROLL for (int j = 0; j < SPAN; j++) w[j] = v[j][i];
        of_tile(w, z);
        UNROLL for (int j = 0; j < SIDE; j++) *(Vector *)(out + (SIDE * i + j) * place) = z[j];
    }
}

/* Of a tile only `rows` and `columns` lie in the image. */
TARGET INLINE void make_tile(const float *m, int64_t place, float *out, int64_t row, int64_t pixel, int rows, int columns) {
    Vector v[SIDE][SPAN];
    for (int j = 0; j < SIDE; j++) {
        Vector w[SIDE];
        UNROLL for (int i = 0; i < SIDE; i++) w[i] = *(const Vector *)(m + (SIDE * i + j) * place);
        to_tile(w, v[j]);
    }
    for (int i = 0; i < rows; i++) {
        Vector w[SIDE], e[SPAN];
        UNROLL for (int j = 0; j < SIDE; j++) w[j] = v[j][i];
        to_tile(w, e);
        for (int j = 0; j < columns; j++) *(Vector *)(out + i * row + j * pixel) = e[j];
    }
}

/* ---- products of matrices at one place; rows of CHUNK values ---- */

/* Some tiles' values of all outputs, in chunks that lie `chunk` floats apart, by filters[output][CHUNK]. */
TARGET INLINE void multiply_by_filters(const float *tiles, int64_t chunk, int64_t outputs, const float *filters, float *sums) {
    Vector acc[ROWS][2] = {{{0}}};
    for (int64_t k = 0; k < outputs; k += CHUNK, tiles += chunk)
        for (int64_t i = 0; i < CHUNK; i++, filters += CHUNK) {
            const Vector first = *(const Vector *)filters, second = *(const Vector *)(filters + WIDTH);
            UNROLL for (int r = 0; r < ROWS; r++) {
                acc[r][0] += tiles[r * CHUNK + i] * first;
                acc[r][1] += tiles[r * CHUNK + i] * second;
            }
        }
    UNROLL for (int r = 0; r < ROWS; r++) {
        *(Vector *)(sums + r * CHUNK) = acc[r][0];
        *(Vector *)(sums + r * CHUNK + WIDTH) = acc[r][1];
    }
}

/* Add to sums[channel][CHUNK] the sum over tiles of windows[tile][CHUNK] by tiles[tile][CHUNK]. */
TARGET INLINE void add_products(const float *windows, const float *tiles, int64_t count, float *sums) {
    for (int c = 0; c < CHUNK; c += CHANNELS, sums += CHANNELS * CHUNK) {
        Vector acc[CHANNELS][2] = {{{0}}}; /* from 0: a sum of few has less error than a long one */
        for (int64_t t = 0; t < count; t++) {
            const Vector first = *(const Vector *)(tiles + t * CHUNK), second = *(const Vector *)(tiles + t * CHUNK + WIDTH);
            UNROLL for (int r = 0; r < CHANNELS; r++) {
                acc[r][0] += windows[t * CHUNK + c + r] * first;
                acc[r][1] += windows[t * CHUNK + c + r] * second;
            }
        }
        UNROLL for (int r = 0; r < CHANNELS; r++) {
            *(Vector *)(sums + r * CHUNK) += acc[r][0];
            *(Vector *)(sums + r * CHUNK + WIDTH) += acc[r][1];
        }
    }
}

/* ---- a worker's images ---- */

typedef struct {
    const Winograd *task;
    Sizes sizes;
    float *image, *grad;    /* with a border of zeros */
    float *windows, *ends;  /* [place][chunk][tile][CHUNK] */
    float *sums;            /* [place][chunk of channels][chunk of outputs][channel][CHUNK] */
} Worker;

INLINE float *filters_of(const Winograd *t) { return t->scratch + t->workers * sizes_of(t).of_worker; }

static Worker worker_of(const Winograd *t, int64_t index) {
    Worker w;
    w.task = t;
    w.sizes = sizes_of(t);
    w.image = t->scratch + index * w.sizes.of_worker;
    w.grad = w.image + w.sizes.image;
    w.windows = w.grad + w.sizes.grad;
    w.ends = w.windows + w.sizes.windows;
    w.sums = filters_of(t) + index * w.sizes.sums;
    return w;
}

TARGET static void round_image(const Worker *w, int64_t image) {
    const Winograd *t = w->task;
    const float step = t->steps[image * t->step_stride], reciprocal = 1.0f / step, qmin = t->qmin, qmax = t->qmax;
    const int64_t row = t->width * t->channels;
    for (int64_t y = 0; y < t->height; y++) {
        const float *restrict x = t->x + (image * t->height + y) * row;
        float *restrict out = w->image + ((y + t->top) * w->sizes.columns + t->left) * t->channels;
        for (int64_t i = 0; i < row; i++) {
            float v = x[i] * reciprocal;
            v = v < qmin ? qmin : v; /* a NaN stays one */
            v = v > qmax ? qmax : v;
            out[i] = rintf(v) * step;
        }
    }
}

/* The gradient's border: what a window of grad_x reaches beyond it. */
INLINE int64_t before(int64_t padding) { return SIDE - SPAN - padding; }

static void copy_grad(const Worker *w, int64_t image) {
    const Winograd *t = w->task;
    const int64_t row = t->out_width * t->outputs;
    for (int64_t y = 0; y < t->out_height; y++)
        memcpy(w->grad + ((y + before(t->top)) * w->sizes.grad_columns + before(t->left)) * t->outputs,
               t->grad + (image * t->out_height + y) * row, sizeof(float) * row);
}

/* Where vector `c` of a tile lies in [place][chunk][tile][CHUNK], at place 0. */
INLINE float *vector_of(const Worker *w, float *memory, int64_t tile, int64_t c) {
    return memory + (c / CHUNK * w->sizes.tiles + tile) * CHUNK + c % CHUNK;
}

TARGET static void add_tiles(const Worker *w, int64_t count) {
    const int64_t channels = w->task->channels / CHUNK, outputs = w->task->outputs / CHUNK, chunk = w->sizes.tiles * CHUNK;
    float *sums = w->sums;
    for (int64_t place = 0; place < PLACES; place++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t k = 0; k < outputs; k++, sums += CHUNK * CHUNK)
                add_products(w->windows + (place * channels + c) * chunk, w->ends + (place * outputs + k) * chunk, count, sums);
}

TARGET static void sum_for_weights(const Worker *w, int64_t first, int64_t last) {
    const Winograd *t = w->task;
    const int64_t channels = t->channels, outputs = t->outputs;
    const int64_t columns = w->sizes.columns, grad_columns = w->sizes.grad_columns;
    const int64_t chunk = w->sizes.tiles * CHUNK;
    int64_t count = 0;
    memset(w->sums, 0, sizeof(float) * w->sizes.sums);
    for (int64_t image = first; image < last; image++) {
        round_image(w, image);
        copy_grad(w, image);
        for (int64_t y = 0; y < t->out_height; y += SPAN)
            for (int64_t x = 0; x < t->out_width; x += SPAN) {
                const float *window = w->image + (y * columns + x) * channels;
                const float *tile = w->grad + ((y + before(t->top)) * grad_columns + x + before(t->left)) * outputs;
                for (int64_t c = 0; c < channels; c += WIDTH)
                    transform_window(window + c, columns * channels, channels, vector_of(w, w->windows, count, c),
                                     channels / CHUNK * chunk);
                for (int64_t k = 0; k < outputs; k += WIDTH)
                    transform_tile(tile + k, grad_columns * outputs, outputs, vector_of(w, w->ends, count, k),
                                   outputs / CHUNK * chunk);
                if (++count == w->sizes.tiles) {
                    add_tiles(w, count);
                    count = 0;
                }
            }
    }
    add_tiles(w, count);
}

typedef struct {
    float *out;
    int rows, columns;
} Place;

TARGET static void make_tiles(const Worker *w, const Place *places, int64_t count) {
    const Winograd *t = w->task;
    const int64_t channels = t->channels / CHUNK, outputs = t->outputs / CHUNK, chunk = w->sizes.tiles * CHUNK;
    const float *filters = filters_of(t);
    for (int64_t place = 0; place < PLACES; place++)
        for (int64_t c = 0; c < channels; c++, filters += t->outputs * CHUNK)
            for (int64_t tile = 0; tile < count; tile += ROWS) /* with what is left from before, to whole ROWS */
                multiply_by_filters(w->windows + place * outputs * chunk + tile * CHUNK, chunk, t->outputs, filters,
                                    w->ends + (place * channels + c) * chunk + tile * CHUNK);
    for (int64_t tile = 0; tile < count; tile++)
        for (int64_t c = 0; c < t->channels; c += WIDTH)
            make_tile(vector_of(w, w->ends, tile, c), channels * chunk, places[tile].out + c, t->width * t->channels,
                      t->channels, places[tile].rows, places[tile].columns);
}

TARGET static void make_grad_x(const Worker *w, int64_t first, int64_t last) {
    const Winograd *t = w->task;
    const int64_t outputs = t->outputs, columns = w->sizes.grad_columns;
    Place places[MOST_TILES];
    int64_t count = 0;
    memset(w->windows, 0, sizeof(float) * w->sizes.windows);
    for (int64_t image = first; image < last; image++) {
        copy_grad(w, image);
        for (int64_t y = 0; y < t->height; y += SPAN)
            for (int64_t x = 0; x < t->width; x += SPAN) {
                const float *window = w->grad + (y * columns + x) * outputs;
                for (int64_t k = 0; k < outputs; k += WIDTH)
                    transform_window(window + k, columns * outputs, outputs, vector_of(w, w->windows, count, k),
                                     outputs / CHUNK * w->sizes.tiles * CHUNK);
                places[count].out = t->grad_x + ((image * t->height + y) * t->width + x) * t->channels;
                places[count].rows = (int)smaller(t->height - y, SPAN);
                places[count].columns = (int)smaller(t->width - x, SPAN);
                if (++count == w->sizes.tiles) {
                    make_tiles(w, places, count);
                    count = 0;
                }
            }
    }
    make_tiles(w, places, count);
}

/* ---- filters and their gradients ---- */

/* Filters turned round, of some outputs: [place][chunk of channels][output][CHUNK]. */
TARGET static void transform_filters(const Winograd *t, int64_t first, int64_t last) {
    const int64_t place = t->channels * t->outputs;
    for (int64_t k = first; k < last; k++)
        for (int64_t c = 0; c < t->channels; c += WIDTH) {
            const float *g = t->weight + (k * t->channels + c) * 9;
            float *out = filters_of(t) + (c / CHUNK * t->outputs + k) * CHUNK + c % CHUNK;
            Vector half[3][SIDE];
            for (int j = 0; j < 3; j++) {
                Vector v[3];
                for (int i = 0; i < 3; i++)
                    for (int lane = 0; lane < WIDTH; lane++) v[i][lane] = g[lane * 9 + 8 - (3 * i + j)];
                of_filter(v, half[j]);
            }
            for (int i = 0; i < SIDE; i++) {
                const Vector v[3] = {half[0][i], half[1][i], half[2][i]};
                Vector u[SIDE];
                of_filter(v, u);
                for (int j = 0; j < SIDE; j++) *(Vector *)(out + (SIDE * i + j) * place) = u[j];
            }
        }
}

/* Add all workers' sums, and make gradients of them, of some chunks of outputs. */
TARGET static void make_grad_weight(const Winograd *t, int64_t first, int64_t last) {
    const Worker w = worker_of(t, 0);
    const int64_t outputs = t->outputs / CHUNK, place = t->channels * t->outputs;
    for (int64_t k = first * CHUNK; k < last * CHUNK; k += WIDTH)
        for (int64_t c = 0; c < t->channels; c++) {
            const float *m = w.sums + ((c / CHUNK * outputs + k / CHUNK) * CHUNK + c % CHUNK) * CHUNK + k % CHUNK;
            Vector half[SIDE][3];
            for (int j = 0; j < SIDE; j++) {
                Vector v[SIDE];
                for (int i = 0; i < SIDE; i++) {
                    const float *at = m + (SIDE * i + j) * place;
                    v[i] = *(const Vector *)at;
                    for (int64_t other = 1; other < t->workers; other++)
                        v[i] += *(const Vector *)(at + other * w.sizes.sums);
                }
                to_filter(v, half[j]);
            }
            for (int i = 0; i < 3; i++) {
                Vector v[SIDE], g[3];
                for (int j = 0; j < SIDE; j++) v[j] = half[j][i];
                to_filter(v, g);
                for (int j = 0; j < 3; j++)
                    for (int lane = 0; lane < WIDTH; lane++)
                        t->grad_weight[((k + lane) * t->channels + c) * 9 + 3 * i + j] = g[j][lane];
            }
        }
}

/* ---- parts ---- */

INLINE int64_t image_of(const Winograd *t, int64_t part) { return start_of(part, t->workers, t->images); }

static void sums_of_part(const void *task, int64_t part) {
    const Winograd *t = task;
    const Worker w = worker_of(t, part);
    memset(w.image, 0, sizeof(float) * (w.sizes.image + w.sizes.grad));
    sum_for_weights(&w, image_of(t, part), image_of(t, part + 1));
}

static void weights_of_part(const void *task, int64_t part) {
    const Winograd *t = task;
    const int64_t chunks = t->outputs / CHUNK;
    make_grad_weight(t, start_of(part, t->workers, chunks), start_of(part + 1, t->workers, chunks));
}

static void filters_of_part(const void *task, int64_t part) {
    const Winograd *t = task;
    transform_filters(t, start_of(part, t->workers, t->outputs), start_of(part + 1, t->workers, t->outputs));
}

static void images_of_part(const void *task, int64_t part) {
    const Winograd *t = task;
    const Worker w = worker_of(t, part);
    memset(w.grad, 0, sizeof(float) * w.sizes.grad);
    make_grad_x(&w, image_of(t, part), image_of(t, part + 1));
}

#endif

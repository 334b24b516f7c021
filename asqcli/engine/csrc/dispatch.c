/* The kernels, best first, and the C interface that Python calls through ctypes. setup.py defines those that it could
   compile. */

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "kernel.h"

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(ASQ_ONE_TARGET)
#define EACH_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define EACH_PROCESSOR
#endif

#if defined(_WIN32)
#define PUBLIC __declspec(dllexport)
#else
#define PUBLIC __attribute__((visibility("default")))
#endif

static const Kernel *const KERNELS[] = {
#ifdef ASQ_KERNEL_AVX512VNNI
    &asq_kernel_avx512vnni,
#endif
#ifdef ASQ_KERNEL_AVXVNNI
    &asq_kernel_avxvnni,
#endif
#ifdef ASQ_KERNEL_AVX2
    &asq_kernel_avx2,
#endif
    &asq_kernel_scalar,
};
enum { COUNT = sizeof KERNELS / sizeof KERNELS[0] };

/* The size of Op, so that the caller can tell that both sides mean the same. */
PUBLIC size_t asq_op_size(void) { return sizeof(Op); }

/* The name of a kernel, best first, or null after the last. */
PUBLIC const char *asq_kernel_name(int index) { return index >= 0 && index < COUNT ? KERNELS[index]->name : NULL; }

/* Can this processor run it? */
PUBLIC int asq_kernel_supported(int index) { return index >= 0 && index < COUNT && KERNELS[index]->supported(); }

/* Does it take convolutions in Winograd's form? */
PUBLIC int asq_kernel_winograd(int index) { return KERNELS[index]->winograd; }

/* Is recomputing a cheap convolution faster than storing its output? */
PUBLIC int asq_kernel_recompute(int index) { return KERNELS[index]->recompute; }

/* Run so many rounds of the kernel's fastest products. Returns how many multiply-adds they were, or 0 where it has no
   instruction for them. */
PUBLIC int64_t asq_peak_loop(int kernel, int64_t rounds) {
    return KERNELS[kernel]->peak_loop ? KERNELS[kernel]->peak_loop(rounds) : 0;
}

/* Run a plan on its input as it is; the kernel must be supported. */
PUBLIC void asq_run(int kernel, const Op *ops, int count) {
    const Thread alone = {0, 1, NULL};
    KERNELS[kernel]->run(ops, count, &alone);
}

/* Run a plan on some images of `size` floats, one after the other; `classes` floats from its output. The only step that reads
   an image takes it where it is; if there is not one `reader`, it is copied to the input. Safe from several threads on plans
   that share no scratch. */
PUBLIC void asq_run_images(int kernel, const Op *ops, int count, const float *images, int number, size_t size, Op *reader,
                           float *input, const float *output, size_t classes, float *logits) {
    for (; number > 0; number--, images += size, logits += classes) {
        if (reader)
            reader->x = images;
        else
            memcpy(input, images, size * sizeof *input);
        asq_run(kernel, ops, count);
        memcpy(logits, output, classes * sizeof *logits);
    }
    if (reader) reader->x = input; /* the images are the caller's */
}

/* A convolution of many images, each by a step size of its own, by weights as training has them. */
typedef struct {
    int kernel, number, workers;
    const Op *op;                 /* without adapter; what follows fills in its weights and its scratch */
    const float *images, *step_sizes;
    float *out;
    size_t image_size, out_size;  /* floats */
    int step_stride;              /* 0: one step size for all images */

    const float *weight;          /* [outputs][row], whole numbers of the scale */
    const float *weight_scale;    /* [outputs], or one with a stride of 0 */
    const float *bias;            /* [outputs], or null */
    int row, scale_stride;
    const int32_t *places;        /* [packed_size] of each packed weight in `weight`; that of a gap comes after them */
    size_t packed_size;

    /* Scratch: levels [outputs * row + 1]; the rest as an Op has it, codes and scale for each worker. */
    int8_t *levels, *packed;
    int32_t *compensation;
    float *padded_scale, *padded_bias;
    uint8_t *codes;
    float *scale;
    size_t codes_size, scale_size;
    atomic_int next_image, next_worker;
} Batch;

/* The size of Batch, so that the caller can tell that both sides mean the same. */
PUBLIC size_t asq_batch_size(void) { return sizeof(Batch); }

EACH_PROCESSOR static int has_nan(const float *x, size_t size) {
    int found = 0;
    for (size_t i = 0; i < size; i++) found |= x[i] != x[i];
    return found;
}

/* The levels of an output's weights. Returns their sum, a NaN if one of them is. */
EACH_PROCESSOR static float levels_of(const float *weight, float scale, int row, int8_t *levels) {
    const float reciprocal = 1.0f / scale;
    int32_t sum = 0;
    int broken = 0;
    for (int i = 0; i < row; i++) {
        const float level = rintf(weight[i] * reciprocal);
        const int is_number = level == level;
        levels[i] = (int8_t)(is_number ? level : 0.0f);
        sum += levels[i];
        broken |= !is_number;
    }
    return broken ? NAN : (float)sum;
}

/* Put the weights where the kernels look for them. An output whose weights are not all numbers gets no scale. */
static void pack(const Batch *batch) {
    const int groups = batch->op->conv.groups, per_group = batch->op->outputs / groups, block = padded(per_group, BLOCK);
    memset(batch->compensation, 0, sizeof(int32_t) * groups * block);
    memset(batch->padded_scale, 0, sizeof(float) * groups * block);
    memset(batch->padded_bias, 0, sizeof(float) * groups * block);
    for (int o = 0; o < batch->op->outputs; o++) {
        const int at = o / per_group * block + o % per_group;
        const size_t first = (size_t)o * batch->row;
        const float scale = batch->weight_scale[(size_t)o * batch->scale_stride];
        const float sum = levels_of(batch->weight + first, scale, batch->row, batch->levels + first);
        const int is_number = sum == sum;
        batch->compensation[at] = is_number ? batch->op->conv.qmin * (int32_t)sum : 0;
        batch->padded_scale[at] = is_number ? scale : NAN;
        if (batch->bias) batch->padded_bias[at] = batch->bias[o];
    }
    batch->levels[(size_t)batch->op->outputs * batch->row] = 0;
    for (size_t i = 0; i < batch->packed_size; i++) batch->packed[i] = batch->levels[batch->places[i]];
}

/* Take images until there are none left. A code cannot be NaN, so of an image with one all outputs are, by its step size. Where
   each has a step size of its own, that came from all of its values, and is NaN already. */
static void convolve(void *shared) {
    Batch *batch = shared;
    const int worker = atomic_fetch_add(&batch->next_worker, 1);
    const Thread alone = {0, 1, NULL};
    if (worker >= batch->workers) return;
    Op op = *batch->op;
    op.conv.packed = batch->packed;
    op.conv.compensation = batch->compensation;
    op.conv.weight_scale = batch->padded_scale;
    op.conv.bias = batch->bias ? batch->padded_bias : NULL;
    op.conv.codes = batch->codes + worker * batch->codes_size;
    op.conv.scale = batch->scale + worker * batch->scale_size;
    for (int i; (i = atomic_fetch_add(&batch->next_image, 1)) < batch->number;) {
        op.x = batch->images + i * batch->image_size;
        op.out = batch->out + i * batch->out_size;
        op.conv.step_size = batch->step_sizes[(size_t)i * batch->step_stride];
        if (!batch->step_stride && has_nan(op.x, batch->image_size)) op.conv.step_size = NAN;
        KERNELS[batch->kernel]->run(&op, 1, &alone);
    }
}

/* Run it in the caller's thread, or by `parallel`, which is GOMP_parallel: the threads that PyTorch has anyway. */
PUBLIC void asq_convolve(Batch *batch, void (*parallel)(void (*)(void *), void *, unsigned, unsigned)) {
    pack(batch);
    atomic_store(&batch->next_image, 0);
    atomic_store(&batch->next_worker, 0);
    if (parallel && batch->workers > 1)
        parallel(convolve, batch, (unsigned)batch->workers, 0);
    else
        convolve(batch);
}

/* Work as thread `index`, 1 or above, on every plan that comes, until asq_shutdown. */
PUBLIC void asq_worker_loop(int index, Team *team) {
    for (int seen = 0;; seen++) {
        signal_wait(&team->started, seen);
        if (team->kernel < 0) return;
        const Thread thread = {index, team->threads, team};
        KERNELS[team->kernel]->run(team->ops, team->count, &thread);
    }
}

/* Run a plan on one image together with `threads` - 1 threads in asq_worker_loop. Returns how often one had to sleep at a
   barrier. */
PUBLIC int asq_run_together(int kernel, const Op *ops, int count, int threads, Team *team) {
    const Thread thread = {0, threads, team};
    team->kernel = kernel;
    team->ops = ops;
    team->count = count;
    team->threads = threads;
    atomic_store(&team->sleeps, 0);
    signal_notify(&team->started);
    KERNELS[kernel]->run(ops, count, &thread);
    return atomic_load(&team->sleeps);
}

/* Tell the worker threads to exit. */
PUBLIC void asq_shutdown(Team *team) {
    team->kernel = -1;
    signal_notify(&team->started);
}

/* The size of Team, whose memory is the caller's. */
PUBLIC size_t asq_team_size(void) { return sizeof(Team); }

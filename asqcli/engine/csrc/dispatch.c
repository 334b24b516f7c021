/* The kernels, best first, and the C interface that Python calls through ctypes. setup.py defines those that it could
   compile. */

#include <string.h>

#include "batch.h"
#include "kernel.h"

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

/* The size of Batch, so that the caller can tell that both sides mean the same. */
PUBLIC size_t asq_batch_size(void) { return sizeof(Batch); }

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
        if (!isfinite(1.0f / op.conv.step_size)) op.conv.step_size = NAN; /* 0 times whatever would be 0 */
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
        parallel(convolve, batch, 0, 0); /* a team of another size would make GNU's OpenMP end and start threads */
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

/* The kernels, best first, and the C interface that Python calls through ctypes. setup.py defines those that it could compile. */

#include <string.h>

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
PUBLIC const char *asq_kernel_name(int place) { return place >= 0 && place < COUNT ? KERNELS[place]->name : NULL; }

/* Can this processor run it? */
PUBLIC int asq_kernel_supported(int place) { return place >= 0 && place < COUNT && KERNELS[place]->supported(); }

/* Does it take convolutions in Winograd's form? */
PUBLIC int asq_kernel_winograd(int place) { return KERNELS[place]->winograd; }

/* Run a plan on one image; the kernel must be supported. Safe from several threads on plans that share no scratch. */
PUBLIC void asq_run(int kernel, const Op *ops, int count) {
    const Team alone = {0, 1, NULL};
    KERNELS[kernel]->run(ops, count, &alone);
}

/* Run thread `place` of `threads` on a plan; all of them must be called with the same plan and meeting. */
PUBLIC void asq_run_together(int kernel, const Op *ops, int count, int place, int threads, Meeting *meeting) {
    const Team team = {place, threads, meeting};
    KERNELS[kernel]->run(ops, count, &team);
}

/* Let threads that wait for one that will not come go on. */
PUBLIC void asq_abandon(Meeting *meeting) {
    atomic_store(&meeting->abandoned, 1);
    atomic_fetch_add(&meeting->generation, 1);
    wake(meeting);
}

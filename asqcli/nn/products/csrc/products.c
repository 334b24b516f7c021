/* The C interface that Python calls through ctypes. `parallel`, where it is given, shares the work among threads. */

#include "depthwise.h"
#include "winograd.h"

/* Does this processor run what was compiled? */
EXPORTED int asq_products_supported(void) {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 1;
#endif
}

/* The sizes of the tasks, so that the caller can tell that both sides mean the same. */
EXPORTED int64_t asq_winograd_size(void) { return sizeof(Winograd); }
EXPORTED int64_t asq_depthwise_size(void) { return sizeof(Depthwise); }

/* Floats that a task's scratch must have. */
EXPORTED int64_t asq_winograd_scratch(const Winograd *t) { return winograd_scratch(t); }
EXPORTED int64_t asq_depthwise_scratch(const Depthwise *d) { return depthwise_scratch(d); }

/* grad_x and grad_weight, of which one may be null, of a convolution of 3x3 windows. */
EXPORTED void asq_winograd_gradients(const Winograd *t, Parallel parallel) {
    if (t->grad_weight) {
        share(sums_of_part, t, t->workers, parallel);
        share(weights_of_part, t, t->workers, parallel);
    }
    if (t->grad_x) {
        share(filters_of_part, t, t->workers, parallel);
        share(images_of_part, t, t->workers, parallel);
    }
}

/* The depthwise convolution of x, rounded, by the levels of the weights. */
EXPORTED void asq_depthwise(const Depthwise *d, Parallel parallel) {
    lay_out_levels(d);
    share(forward_part, d, d->workers, parallel);
}

/* Both gradients of it. */
EXPORTED void asq_depthwise_gradients(const Depthwise *d, Parallel parallel) {
    lay_out_weights(d);
    share(backward_part, d, d->workers, parallel);
    add_parts(d);
}

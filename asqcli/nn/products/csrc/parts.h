/* What the passes over convolutions share: vectors, and work in parts that threads take. */

#ifndef ASQ_PARTS_H
#define ASQ_PARTS_H

#include <stdatomic.h>
#include <stdint.h>

#define EXPORTED __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif
#if defined(__x86_64__)
#define TARGET __attribute__((target("avx2,fma"))) /* see asq_products_supported */
#else
#define TARGET
#endif

#define WIDTH 8 /* of a vector, which is read from anywhere in memory */
typedef float Vector __attribute__((vector_size(32), aligned(4), may_alias));

INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- work in parts: what a part is does not depend on who takes it ---- */

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned); /* GOMP_parallel */

typedef struct {
    void (*part)(const void *task, int64_t part);
    const void *task;
    int64_t count;
    atomic_int_fast64_t next;
} Parts;

static void take_parts(void *shared) {
    Parts *parts = shared;
    for (int64_t part; (part = atomic_fetch_add(&parts->next, 1)) < parts->count;) parts->part(parts->task, part);
}

/* Do all of them, in the caller's thread or by `parallel`. */
static void share(void (*part)(const void *, int64_t), const void *task, int64_t count, Parallel parallel) {
    Parts parts = {part, task, count, 0};
    if (parallel && count > 1)
        parallel(take_parts, &parts, 0, 0);
    else
        take_parts(&parts);
}

/* The first of `count` items that belongs to a part; that of the next part comes after its last. */
INLINE int64_t start_of(int64_t part, int64_t parts, int64_t count) { return count * part / parts; }

#endif

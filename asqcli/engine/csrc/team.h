/* Threads that run the same plan on one image, each a part of every step. They meet after each part, so that a step reads only
   what is finished; a whole number of channels, rows or blocks goes to each, so that no sum is cut. */

#ifndef ASQ_TEAM_H
#define ASQ_TEAM_H

#include <stdatomic.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif

/* Zeroed by the caller before its first use, then left alone. */
typedef struct {
    atomic_int waiting, generation, dozing;
    atomic_int abandoned; /* set by the caller when not all threads could be started: those that wait go on */
} Meeting;

typedef struct {
    int place, threads;
    Meeting *meeting; /* null for one thread */
} Team;

enum { SPINS = 2048 }; /* some microseconds; then sleep, for on a busy machine the others may wait for this processor */

/* Sleep until `generation` is no longer `seen`, or at once; wake all that do. */
#if defined(__linux__)
static inline void doze(Meeting *m, int seen) {
    syscall(SYS_futex, (int *)&m->generation, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}
static inline void wake(Meeting *m) {
    syscall(SYS_futex, (int *)&m->generation, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}
#else
static inline void doze(Meeting *m, int seen) { (void)m, (void)seen, sched_yield(); }
static inline void wake(Meeting *m) { (void)m; }
#endif

static inline void meet(const Team *t) {
    if (t->threads == 1) return;
    Meeting *m = t->meeting;
    const int generation = atomic_load(&m->generation);
    if (atomic_fetch_add(&m->waiting, 1) + 1 == t->threads) {
        atomic_store(&m->waiting, 0);
        atomic_fetch_add(&m->generation, 1);
        if (atomic_load(&m->dozing)) wake(m);
        return;
    }
    for (int spins = 0; atomic_load(&m->generation) == generation && !atomic_load(&m->abandoned); spins++) {
        if (spins < SPINS) continue;
        atomic_fetch_add(&m->dozing, 1);
        doze(m, generation);
        atomic_fetch_sub(&m->dozing, 1);
    }
}

/* The part of 0 .. count - 1 that is this thread's, in multiples of `grain`. */
static inline void share(const Team *t, int count, int grain, int *first, int *last) {
    const int grains = (count + grain - 1) / grain;
    *first = (int)((long long)grains * t->place / t->threads) * grain;
    *last = (int)((long long)grains * (t->place + 1) / t->threads) * grain;
    if (*last > count) *last = count;
}

#endif

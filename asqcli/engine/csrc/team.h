/* Threads that run the same plan on one image, each a part of every step. They meet after each part, so that a step reads only
   what is finished; a whole number of channels, rows or blocks goes to each, so that no sum is cut. Between images they wait
   for the next. */

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

/* A number that changes, and how many threads sleep until it does. */
typedef struct {
    atomic_int value, dozing;
} Signal;

/* What the threads of a team share. Zeroed by the caller before its first use. */
typedef struct {
    Signal met, started;
    atomic_int waiting, sleeps; /* how often a thread slept in a meeting of this image */
    int kernel, count, threads; /* of the image that is run now; a kernel of -1 sends the threads home */
    const void *ops;
} Meeting;

typedef struct {
    int index, threads;
    Meeting *meeting; /* null for one thread */
} Team;

enum { SPINS = 10000 }; /* a fraction of a millisecond; then sleep, for the others may be waiting for this processor */

#if defined(__linux__)
static inline void doze(Signal *s, int seen) {
    syscall(SYS_futex, (int *)&s->value, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}
static inline void wake(Signal *s) { syscall(SYS_futex, (int *)&s->value, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0); }
#else
static inline void doze(Signal *s, int seen) { (void)s, (void)seen, sched_yield(); }
static inline void wake(Signal *s) { (void)s; }
#endif

static inline void change(Signal *s) {
    atomic_fetch_add(&s->value, 1);
    if (atomic_load(&s->dozing)) wake(s);
}

/* Returns how often it slept. */
static inline int await(Signal *s, int seen) {
    int sleeps = 0;
    for (int spins = 0; atomic_load(&s->value) == seen;) {
        if (spins++ < SPINS) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
            continue;
        }
        atomic_fetch_add(&s->dozing, 1);
        doze(s, seen);
        atomic_fetch_sub(&s->dozing, 1);
        sleeps++;
    }
    return sleeps;
}

static inline void meet(const Team *t) {
    if (t->threads == 1) return;
    Meeting *m = t->meeting;
    const int seen = atomic_load(&m->met.value);
    if (atomic_fetch_add(&m->waiting, 1) + 1 == t->threads) {
        atomic_store(&m->waiting, 0);
        change(&m->met);
    } else {
        const int sleeps = await(&m->met, seen);
        if (sleeps) atomic_fetch_add(&m->sleeps, sleeps);
    }
}

/* The part of 0 .. count - 1 that is this thread's, in multiples of `grain`. */
static inline void share(const Team *t, int count, int grain, int *first, int *last) {
    const int grains = (count + grain - 1) / grain;
    *first = (int)((long long)grains * t->index / t->threads) * grain;
    *last = (int)((long long)grains * (t->index + 1) / t->threads) * grain;
    if (*last > count) *last = count;
}

#endif

/* Threads that run the same plan on one image, each a part of every step. They wait at a barrier after each part, so that a
   step reads only what is finished; a whole number of channels, rows or blocks goes to each, so that no sum is cut. Between
   images they wait for the next. */

#ifndef ASQ_BARRIER_H
#define ASQ_BARRIER_H

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
    atomic_int value, sleepers;
} Signal;

/* State that the threads of a team share. Zeroed by the caller before its first use. */
typedef struct {
    Signal barrier, started;
    atomic_int arrived, sleeps; /* at the barrier; how often a thread slept there in this image */
    int kernel, count, threads; /* the image's that is run now; a kernel of -1 tells the threads to exit */
    const void *ops;
} Team;

/* One of them, as its steps see it. */
typedef struct {
    int index, threads;
    Team *team; /* null for one thread */
} Thread;

enum { SPINS = 10000 }; /* a fraction of a millisecond; then sleep, for the others may be waiting for this processor */

#if defined(__linux__)
static inline void futex_wait(Signal *s, int seen) {
    syscall(SYS_futex, (int *)&s->value, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}
static inline void futex_wake(Signal *s) { syscall(SYS_futex, (int *)&s->value, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0); }
#else
static inline void futex_wait(Signal *s, int seen) { (void)s, (void)seen, sched_yield(); }
static inline void futex_wake(Signal *s) { (void)s; }
#endif

static inline void signal_notify(Signal *s) {
    atomic_fetch_add(&s->value, 1);
    if (atomic_load(&s->sleepers)) futex_wake(s);
}

/* Wait until the number is another than `seen`. Returns how often it slept. */
static inline int signal_wait(Signal *s, int seen) {
    int sleeps = 0;
    for (int spins = 0; atomic_load(&s->value) == seen;) {
        if (spins++ < SPINS) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
            continue;
        }
        atomic_fetch_add(&s->sleepers, 1);
        futex_wait(s, seen);
        atomic_fetch_sub(&s->sleepers, 1);
        sleeps++;
    }
    return sleeps;
}

static inline void barrier_wait(const Thread *t) {
    if (t->threads == 1) return;
    Team *team = t->team;
    const int seen = atomic_load(&team->barrier.value);
    if (atomic_fetch_add(&team->arrived, 1) + 1 == t->threads) {
        atomic_store(&team->arrived, 0);
        signal_notify(&team->barrier);
    } else {
        const int sleeps = signal_wait(&team->barrier, seen);
        if (sleeps) atomic_fetch_add(&team->sleeps, sleeps);
    }
}

/* The part of 0 .. count - 1 that is this thread's, in multiples of `grain`. */
static inline void share(const Thread *t, int count, int grain, int *first, int *last) {
    const int grains = (count + grain - 1) / grain;
    *first = (int)((long long)grains * t->index / t->threads) * grain;
    *last = (int)((long long)grains * (t->index + 1) / t->threads) * grain;
    if (*last > count) *last = count;
}

#endif

/* Threads that run the same plan on one image, each a part of every step. They meet after each part, so that a step reads only
   what is finished; a whole number of channels, rows or blocks goes to each, so that no sum is cut. */

#ifndef ASQ_TEAM_H
#define ASQ_TEAM_H

#include <sched.h>
#include <stdatomic.h>

/* Zeroed by the caller before its first use, then left alone. */
typedef struct {
    atomic_int waiting, generation;
    atomic_int abandoned; /* set by the caller when not all threads could be started: those that wait go on */
} Meeting;

typedef struct {
    int place, threads;
    Meeting *meeting; /* null for one thread */
} Team;

enum { SPINS = 2048 };

static inline void meet(const Team *t) {
    if (t->threads == 1) return;
    Meeting *m = t->meeting;
    const int generation = atomic_load(&m->generation);
    if (atomic_fetch_add(&m->waiting, 1) + 1 == t->threads) {
        atomic_store(&m->waiting, 0);
        atomic_fetch_add(&m->generation, 1);
        return;
    }
    for (int spins = 0; atomic_load(&m->generation) == generation && !atomic_load(&m->abandoned); spins++)
        if (spins > SPINS) sched_yield();
}

/* The part of 0 .. count - 1 that is this thread's, in multiples of `grain`. */
static inline void share(const Team *t, int count, int grain, int *first, int *last) {
    const int grains = (count + grain - 1) / grain;
    *first = (int)((long long)grains * t->place / t->threads) * grain;
    *last = (int)((long long)grains * (t->place + 1) / t->threads) * grain;
    if (*last > count) *last = count;
}

#endif

/* turns.h: strips of weights, one after another, shared out to threads in turns.
 *
 * Each of nth threads has a run of its own, one part in nth of all, and goes through it from front to back: memory is read fastest in
 * long runs. Whoever is through takes from the back of the run of which most is left. Of a run ever less is taken at once, so that
 * threads end at nearly the same time; what a thread that never comes has not begun the others do. */
#ifndef LLMQ_OPS_TURNS_H
#define LLMQ_OPS_TURNS_H

#include <stdint.h>

typedef struct llmq_turn {
    int64_t first, end; /* both past the last: nothing was left */
} llmq_turn;

typedef struct llmq_turns {
    uint64_t *taken;          /* [nth], strips taken of each run: those from the front + 2^32 * those from the back; 0 at the start */
    int64_t all, least, most; /* of all runs; in a turn, a multiple of `least` but for the last */
    int parts, tid, nth;      /* a turn is one part in `parts` of what is left of its run */
} llmq_turns;

enum { LLMQ_TAKEN_LINE = 8 /* of such words in a cache line */ };
static const uint64_t LLMQ_ALL_TAKEN = UINT32_MAX; /* of any run */

static inline int64_t llmq_turns_start(const llmq_turns *t, int run) { return run < t->nth ? t->all * run / t->nth & -2 : t->all; }

static inline int64_t llmq_turns_left(const llmq_turns *t, int run, uint64_t taken) {
    return llmq_turns_start(t, run + 1) - llmq_turns_start(t, run) - (int64_t)(taken & UINT32_MAX) - (int64_t)(taken >> 32);
}

/* From the front of a run or, for those who help, from its back. */
static inline llmq_turn llmq_turns_take_from(const llmq_turns *t, int run, int back) {
    uint64_t before = __atomic_load_n(&t->taken[run], __ATOMIC_RELAXED), after;
    int64_t count;
    do {
        const int64_t left = llmq_turns_left(t, run, before);
        if (left <= 0) return (llmq_turn){t->all, t->all};
        count = left / t->parts / t->least * t->least;
        count = count > t->most ? t->most : count < t->least ? t->least : count;
        if (count > left) count = left;
        after = before + ((uint64_t)count << (back ? 32 : 0));
    } while (!__atomic_compare_exchange_n(&t->taken[run], &before, after, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    const int64_t first = back ? llmq_turns_start(t, run + 1) - (int64_t)(after >> 32)
                               : llmq_turns_start(t, run) + (int64_t)(before & UINT32_MAX);
    return (llmq_turn){first, first + count};
}

static inline llmq_turn llmq_turns_take(const llmq_turns *t) {
    llmq_turn turn = llmq_turns_take_from(t, t->tid, 0);
    while (turn.first >= turn.end) {
        int64_t most = 0;
        int longest = 0;
        for (int run = 0; run < t->nth; run++) {
            const int64_t left = llmq_turns_left(t, run, __atomic_load_n(&t->taken[run], __ATOMIC_RELAXED));
            if (left > most) {
                most = left;
                longest = run;
            }
        }
        if (most == 0) break;
        turn = llmq_turns_take_from(t, longest, 1);
    }
    return turn;
}

#endif

/* turns.h: strips of weights taken by threads in turns. */
#ifndef LLMQ_OPS_TURNS_H
#define LLMQ_OPS_TURNS_H

#include <stdint.h>

typedef struct llmq_turn {
    int64_t first, end; /* first >= end: nothing was left */
} llmq_turn;

/* The next strips of `all`, *next being the first that nobody took: `most`, and towards the end ever fewer, one part in `parts` of what
 * is left, in multiples of `least`, so that threads end at nearly the same time. */
static inline llmq_turn llmq_turn_take(int64_t *next, int64_t all, int64_t least, int64_t most, int parts) {
    llmq_turn turn = {.first = __atomic_load_n(next, __ATOMIC_RELAXED)};
    do {
        int64_t count = (all - turn.first) / parts / least * least;
        count = count > most ? most : count < least ? least : count;
        turn.end = turn.first + count < all ? turn.first + count : all;
    } while (turn.first < all && !__atomic_compare_exchange_n(next, &turn.first, turn.end, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return turn;
}

#endif

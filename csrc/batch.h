/* batch.h: the tokens of a run, the micro-batches that they are cut into, and which of them are of one sequence. Functions of a batch
 * alone; what they fill is memory of the caller. */
#ifndef LLMQ_BATCH_H
#define LLMQ_BATCH_H

#include <stdint.h>

typedef struct llmq_batch { /* see llmq/engine/base.py; sequences are those of llmq_kv_open */
    int32_t n, n_out;
    const int32_t *tokens, *positions, *sequences, *outputs;
    const int32_t *types; /* NULL: all 0 */
} llmq_batch;

/* The tokens of a batch by sequence: order[first[g] .. first[g+1]-1] are the token indexes of group g, positions counting up. */
typedef struct llmq_groups {
    int32_t n;
    int32_t *order, *first;
    const int32_t *positions, *sequences; /* by token */
} llmq_groups;

/* The micro-batch of up to n tokens from token `from` on. Its outputs are those of the batch in that range, from output *first_output on;
 * they are written to outputs[n]. */
llmq_batch llmq_batch_part(const llmq_batch *, int32_t from, int32_t n, int32_t *outputs, int32_t *first_output);
int32_t llmq_batch_end(const llmq_batch *, int32_t i); /* the length that the batch takes the sequence of its token i to */

int64_t llmq_group_ints(int32_t n, int32_t n_sequences);        /* memory that grouping n tokens needs, in int32_t */
llmq_groups llmq_batch_groups(const llmq_batch *, int32_t *memory); /* in the memory, and with pointers into the batch */

#endif

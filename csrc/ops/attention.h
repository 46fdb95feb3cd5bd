/* attention.h: the ATTN op over paged keys and values. */
#ifndef LLMQ_OPS_ATTENTION_H
#define LLMQ_OPS_ATTENTION_H

#include "kv.h"

/* The tokens of a batch by sequence: order[first[g] .. first[g+1]-1] are the token indexes of group g, positions counting up. */
typedef struct llmq_groups {
    int32_t n;
    int32_t *order, *first;
    const int32_t *positions, *sequences; /* by token */
} llmq_groups;

typedef struct llmq_attn {
    const llmq_kv *kv;
    const llmq_op *op;
    const llmq_groups *groups;
    const float *sinks, *bias, *q;
    float *out;
    int64_t *next;     /* 0 at the start: work items are taken from it */
    int32_t *arrived;  /* zeros, LLMQ_ATTN_SPLIT of them: chunks done of each split tile */
    float *partials;   /* llmq_attn_partials floats */
    float *scratch;    /* this thread's, llmq_attn_scratch floats */
} llmq_attn;

enum { LLMQ_ATTN_SPLIT = 2 * LLMQ_MAX_THREADS };

int64_t llmq_attn_scratch(const llmq_kv *, const llmq_op *);
/* floats that the chunks need when few tiles are split over their keys; 0: they are not */
int64_t llmq_attn_partials(const llmq_kv *, const llmq_op *, const llmq_groups *, int nth);
void llmq_attn_run(const llmq_attn *, int nth); /* every thread of the pool calls it */

#endif

/* attention.h: the ATTN op over paged keys and values. */
#ifndef LLMQ_OPS_ATTENTION_H
#define LLMQ_OPS_ATTENTION_H

#include "batch.h"
#include "kv.h"

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

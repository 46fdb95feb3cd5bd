/* recurrent.h: the CONV, SCAN and DELTA ops, whose state goes from token to token (csrc/states.h). */
#ifndef LLMQ_OPS_RECURRENT_H
#define LLMQ_OPS_RECURRENT_H

#include "batch.h"
#include "kv.h"

typedef struct llmq_recurrent {
    const llmq_kv *kv;
    const llmq_op *op;
    const llmq_groups *groups;
    const float *w0, *w1;                  /* as the kernels read them (slots.h); w1 NULL: none */
    const float *a, *b;
    int64_t a_width, b_width, out_width;
    float *out;
    int64_t *next;                         /* 0 at the start: work items are taken from it */
} llmq_recurrent;

int llmq_is_recurrent(const llmq_op *);
int64_t llmq_recurrent_floats(const llmq_op *); /* of state */
void llmq_recurrent_run(const llmq_recurrent *, int nth); /* every thread of the pool calls it */

#endif

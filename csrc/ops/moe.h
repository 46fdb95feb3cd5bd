/* moe.h: mixtures of experts: ROUTE, EXPERTS (HEADS is the same with a fixed choice) and MIX. */
#ifndef LLMQ_OPS_MOE_H
#define LLMQ_OPS_MOE_H

#include "llmq.h"

enum { LLMQ_MAX_EXPERTS = 1024 };

/* One row: n <= LLMQ_MAX_EXPERTS logits to 2 * i0 columns. bias: w0, factors: w1, or NULL. */
void llmq_route(const llmq_op *, const float *logits, int64_t n, const float *bias, const float *factors, float *out);

/* One row of n columns out of a; weights: i0 of them. */
void llmq_mix(const llmq_op *, const float *a, const float *weights, int64_t n, float *out);

typedef struct llmq_experts { /* an EXPERTS or HEADS op over a batch */
    const llmq_packed *w, *by; /* by, act: as in llmq_product */
    int32_t act;
    const float *bias;      /* [experts][n], or NULL */
    const float *x;         /* [tokens][parts or 1][k] */
    const float *choice;    /* [tokens][choice_width], the first `parts` of each the ids; NULL: part i goes to matrix i */
    float *out;             /* [tokens][parts][n] */
    int64_t tokens, parts, x_parts, choice_width;
} llmq_experts;

/* Bytes of scratch that each thread needs, 64-byte aligned. */
int64_t llmq_experts_scratch(const llmq_experts *);
/* Every thread of a pool calls it; taken: [nth], 0 at the start. */
void llmq_experts_run(const llmq_experts *, uint8_t *scratch, uint64_t *taken, int tid, int nth);

#endif

/* matmul.h: multiplications of some rows of x by one of several matrices, shared out by the caller (moe.c). For a whole matmul see
 * llmq_matmul_run.
 *
 * One thread prepares m <= LLMQ_GATHERED rows of x, chosen by index, into its scratch, then multiplies them by any strips of any expert
 * of w. The kinds of activations and their guarantees are those of matmul.c. */
#ifndef LLMQ_OPS_MATMUL_H
#define LLMQ_OPS_MATMUL_H

#include "llmq.h"

enum { LLMQ_GATHERED = 256 };

int64_t llmq_gathered_scratch(const llmq_packed *, int64_t m); /* bytes, 64-byte aligned, for up to m rows */
void llmq_gathered_prepare(const llmq_packed *, const float *x, int64_t ldx, const int32_t *rows, int64_t m, void *scratch);
/* Result t goes to row rows[t] of out; strips first .. last - 1; ahead: what this thread multiplies after them, or NULL. */
void llmq_gathered_run(const llmq_product *, const int32_t *rows, int64_t m, void *scratch, int64_t first, int64_t last,
                       const uint8_t *ahead);

#endif

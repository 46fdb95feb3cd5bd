/* engine.h: the tape's executor. One engine holds a tape, its weights, the keys and values of its sequences, and a pool.
 *
 * A batch goes through check, prepare (every allocation), run (long) and commit. All functions are for one thread at a time; while
 * run is under way only llmq_engine_cancel may be called. */
#ifndef LLMQ_ENGINE_H
#define LLMQ_ENGINE_H

#include "batch.h"
#include "kv.h"
#include "llmq.h"

enum { LLMQ_MAX_GROUP = 32 };

enum llmq_span_kind { LLMQ_BY_ROWS, LLMQ_PREPARE, LLMQ_MULTIPLY, LLMQ_ATTEND, LLMQ_EXPERTS, LLMQ_RECURRENT };

typedef struct llmq_span { /* a phase: ops first .. first + n - 1 */
    int32_t kind;
    int32_t first, n;  /* PREPARE and MULTIPLY: at most LLMQ_MAX_GROUP matmuls of one input; ATTEND and RECURRENT: one op; EXPERTS: EXPERTS and HEADS */
    int32_t tail;      /* its rows are the output rows */
    int64_t floats;    /* written per row */
    int32_t part;      /* all of them are of this part of the tape */
    int32_t opens;     /* the first of its part over all tokens: it also fills the tables of cosines and sines */
    int32_t gate, up;  /* MULTIPLY and EXPERTS: those of its ops whose results only the GLU after the phase reads; or 0, 0 */
} llmq_span;

typedef struct llmq_rope { /* a distinct table of cosines and sines */
    int32_t weight, dims;
    float scale;
    int64_t offset;   /* floats per token before it */
} llmq_rope;

typedef struct llmq_plan {
    llmq_span *spans;
    int32_t n_spans;
    int32_t n_ropes;
    llmq_rope *ropes;
    int32_t *rope_of;    /* by op: the table of a ROPE */
    int64_t rope_floats; /* per token */
    int64_t arena;       /* floats per token, without the result */
    int32_t whole_batch; /* attention that is not causal: a batch must not be cut */
} llmq_plan;

llmq_status llmq_plan_make(llmq_plan *, const llmq_op *ops, int32_t n_ops, const llmq_value *values, int32_t n_values, int32_t result);
void llmq_plan_free(llmq_plan *);

typedef struct llmq_engine llmq_engine;

/* ops and values are copied; the tape must have been verified. kv_type: as in kv.h. */
llmq_status llmq_engine_new(llmq_engine **, const llmq_op *ops, int32_t n_ops, const llmq_value *values, int32_t n_values, int32_t n_weights,
                            int32_t result, int32_t kv_type, int32_t n_batch, int n_threads);
void llmq_engine_free(llmq_engine *);
llmq_kv *llmq_engine_kv(llmq_engine *);

/* Weights, before the first batch. What MATMUL reads is checked (LLMQ_ERR_NONFINITE) and packed by all threads into memory of the engine;
 * vectors and the rows of EMBED are set in place and stay the caller's memory. huge: of llmq_paging. */
llmq_status llmq_engine_pack(llmq_engine *, int32_t i, int32_t type, int64_t n, int64_t k, int64_t experts, llmq_rows rows, int huge,
                             int passing);
llmq_weight *llmq_engine_weight(llmq_engine *, int32_t i);
int64_t llmq_engine_scratch(const llmq_engine *, int32_t n); /* bytes that a batch of n tokens with one output needs beside the pages */

/* In this order, the first three quickly; only run takes long, and only it may run without the lock that guards the engine. */
llmq_status llmq_engine_check(llmq_engine *, const llmq_batch *, int32_t n_vocab); /* LLMQ_ERR_ARG: a rule of batches is broken */
int64_t llmq_engine_growth(const llmq_engine *, const llmq_batch *);               /* bytes of pages and records that prepare will allocate */
llmq_status llmq_engine_prepare(llmq_engine *, const llmq_batch *);                /* LLMQ_ERR_NOMEM: nothing has changed */
/* Runs the parts of the tape whose bits are set; out [n_out][width] gets `value`, which they write with the output rows only and nothing
 * overwrites; -1: nothing. */
llmq_status llmq_engine_run(llmq_engine *, const llmq_batch *, uint32_t parts, int32_t value, float *out);
void llmq_engine_commit(llmq_engine *, const llmq_batch *, int done);              /* the sequences take the tokens, or are as before */

int32_t llmq_engine_phases(const llmq_engine *); /* of the last run's last micro-batch: how often its threads waited for each other */

/* cancel makes the run under way return LLMQ_ERR_CANCELLED soon; arm forgets it. Not at the same time as each other. */
void llmq_engine_arm(llmq_engine *);
void llmq_engine_cancel(llmq_engine *);

#endif

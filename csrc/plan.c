/* plan.c: a tape cut into phases (see llmq_pool_run).
 *
 * Ops that treat every row by itself share a phase as long as each row can go through all of them alone: a thread takes some rows and
 * carries them from the first op to the last. Walking the tape, the accesses of the phase's ops are remembered as ranges of an address
 * space: arena floats per token, then one address each for the result and the state slots. An op must begin a new phase when it touches
 * an overlapping range and one of the two writes, unless both go by rows over the very same matrix. Values that share arena memory at
 * different times are covered by the same rule.
 *
 * Matmuls that read the same input share two phases, one to prepare the input and one to multiply; each attention and each recurrent op
 * is a phase, and so are neighbouring multiplications by experts. Two products and the GLU of their results are found, which can run as
 * one. What is left of these for a batch is decided by the engine: it skips phases, and leaves small ones to one thread. */
#include <stdlib.h>

#include "engine.h"

typedef struct {
    int64_t from, to;
    int32_t rows, tail, write;
} access;

enum { RESULT, FIRST_SLOT }; /* addresses past the arena */
static const int64_t PAST_ARENA = (int64_t)1 << 60;
enum {
    MAX_ACCESSES = 4,
    SCATTERED = 8, /* a key or value goes to as many cache lines as it has columns: such a float takes the time of so many others */
};

typedef struct {
    const llmq_value *values;
    int32_t result;
} tape;

static access value_access(const tape *t, int32_t v, int32_t rows, int32_t write) {
    const llmq_value *value = &t->values[v];
    if (v == t->result) return (access){PAST_ARENA + RESULT, PAST_ARENA + RESULT + 1, rows, 1, write};
    return (access){value->offset, value->offset + value->width, rows, value->tail, write};
}

static access other_access(int64_t address, int32_t rows, int32_t write) {
    return (access){PAST_ARENA + address, PAST_ARENA + address + 1, rows, 0, write};
}

static int conflict(const access *x, const access *y) {
    const int same = x->rows && y->rows && x->from == y->from && x->to == y->to && x->tail == y->tail;
    return x->from < y->to && y->from < x->to && (x->write || y->write) && !same;
}

static int32_t kind_of(const llmq_op *op) {
    switch (op->kind) {
    case LLMQ_OP_MATMUL: return LLMQ_MULTIPLY;
    case LLMQ_OP_ATTN: return LLMQ_ATTEND;
    case LLMQ_OP_EXPERTS:
    case LLMQ_OP_HEADS: return LLMQ_EXPERTS;
    case LLMQ_OP_CONV:
    case LLMQ_OP_SCAN:
    case LLMQ_OP_DELTA: return LLMQ_RECURRENT;
    default: return LLMQ_BY_ROWS;
    }
}

static int32_t accesses_of(const tape *t, const llmq_op *op, access out[MAX_ACCESSES]) {
    const int32_t rows = kind_of(op) == LLMQ_BY_ROWS;
    int32_t n = 0;
    if (op->slot >= 0) out[n++] = other_access(FIRST_SLOT + op->slot, rows, op->kind == LLMQ_OP_KV_PUT);
    if (op->a >= 0) out[n++] = value_access(t, op->a, rows && op->kind != LLMQ_OP_ROWS, 0);
    if (op->b >= 0) out[n++] = value_access(t, op->b, rows, 0);
    if (op->out >= 0) out[n++] = value_access(t, op->out, rows, 1);
    return n;
}

static int32_t rope_table(llmq_plan *plan, const llmq_op *op) {
    for (int32_t i = 0; i < plan->n_ropes; i++)
        if (plan->ropes[i].weight == op->w0 && plan->ropes[i].dims == op->i[2] && plan->ropes[i].scale == op->f[0]) return i;
    plan->ropes[plan->n_ropes] = (llmq_rope){op->w0, op->i[2], op->f[0], plan->rope_floats};
    plan->rope_floats += op->i[2];
    return plan->n_ropes++;
}

/* 1 when op can go on in a span that holds `n_since` accesses */
static int continues(const tape *t, const llmq_span *span, const llmq_op *first, const llmq_op *op, const access *since, int32_t n_since) {
    access mine[MAX_ACCESSES];
    const int32_t n = accesses_of(t, op, mine), tail = t->values[op->out >= 0 ? op->out : op->a].tail;
    if (span == NULL || span->kind != kind_of(op) || span->tail != tail || span->part != op->part) return 0;
    if (span->kind == LLMQ_ATTEND || span->kind == LLMQ_RECURRENT) return 0;
    if (span->kind == LLMQ_MULTIPLY && (op->a != first->a || span->n == LLMQ_MAX_GROUP)) return 0;
    for (int32_t x = 0; x < n; x++)
        for (int32_t y = 0; y < n_since; y++)
            if (conflict(&mine[x], &since[y])) return 0;
    return 1;
}

static int overlap(const tape *t, int32_t v, int32_t u) {
    if (u < 0) return 0;
    const llmq_value *x = &t->values[v], *y = &t->values[u];
    return x->offset < y->offset + y->width && y->offset < x->offset + x->width;
}

/* The op of a span that gives v without a bias, if nothing but op `reader` may read v; else -1. */
static int32_t given_by(const tape *t, const llmq_span *span, const llmq_op *ops, int32_t n_ops, int32_t v, int32_t reader) {
    int32_t found = -1;
    for (int32_t i = 0; i < n_ops; i++)
        if (i != reader && (ops[i].a == v || ops[i].b == v)) return -1;
    for (int32_t i = 0; i < span->n; i++)
        if (ops[span->first + i].out == v && ops[span->first + i].w1 < 0 && v != t->result) found = i;
    return found;
}

/* Finds the GLU of two results of a span. What it writes must not be what its matrices read, which other threads are still at. */
static void find_gate(const tape *t, llmq_span *span, const llmq_op *ops, int32_t n_ops) {
    const int32_t next = span->first + span->n;
    if (next >= n_ops || ops[next].kind != LLMQ_OP_GLU || ops[next].part != span->part || ops[next].out == t->result) return;
    const int32_t gate = given_by(t, span, ops, n_ops, ops[next].a, next), up = given_by(t, span, ops, n_ops, ops[next].b, next);
    if (gate < 0 || up < 0 || gate == up) return;
    const llmq_op *x = &ops[span->first + gate], *y = &ops[span->first + up];
    if (x->kind != y->kind || x->a != y->a || x->b != y->b || x->i[0] != y->i[0]) return;
    if (overlap(t, ops[next].out, x->a) || overlap(t, ops[next].out, x->b)) return;
    span->gate = gate;
    span->up = up;
}

llmq_status llmq_plan_make(llmq_plan *plan, const llmq_op *ops, int32_t n_ops, const llmq_value *values, int32_t n_values, int32_t result) {
    const tape t = {values, result};
    access *since = malloc(((size_t)n_ops + 1) * MAX_ACCESSES * sizeof *since); /* of the last span */
    int32_t n_since = 0;
    *plan = (llmq_plan){0};
    plan->spans = calloc(2 * (size_t)n_ops + 1, sizeof *plan->spans);
    plan->ropes = calloc((size_t)n_ops + 1, sizeof *plan->ropes);
    plan->rope_of = calloc((size_t)n_ops + 1, sizeof *plan->rope_of);
    if (since == NULL || plan->spans == NULL || plan->ropes == NULL || plan->rope_of == NULL) {
        free(since);
        llmq_plan_free(plan);
        return LLMQ_ERR_NOMEM;
    }
    for (int32_t v = 0; v < n_values; v++)
        if (v != result && values[v].offset + values[v].width > plan->arena) plan->arena = values[v].offset + values[v].width;
    llmq_span *span = NULL;
    int opens_well = 1;
    for (int32_t i = 0; i < n_ops; i++) {
        const llmq_op *op = &ops[i];
        if (!continues(&t, span, span ? &ops[span->first] : NULL, op, since, n_since)) {
            const llmq_span next = {.kind = kind_of(op), .first = i, .tail = values[op->out >= 0 ? op->out : op->a].tail,
                                    .part = op->part, .opens = op->part != LLMQ_PART_HEAD && (i == 0 || op->part != ops[i - 1].part)};
            span = &plan->spans[plan->n_spans];
            *span = next;
            if (next.kind == LLMQ_MULTIPLY) {
                span->kind = LLMQ_PREPARE;
                *++span = next;
            }
            plan->n_spans = (int32_t)(span - plan->spans) + 1;
            n_since = 0;
        }
        span->n++;
        span->floats += values[op->out >= 0 ? op->out : op->a].width * (op->kind == LLMQ_OP_KV_PUT ? SCATTERED : 1);
        if (span->kind == LLMQ_MULTIPLY) span[-1].n++;
        n_since += accesses_of(&t, op, since + n_since);
        if (op->kind == LLMQ_OP_ROPE) plan->rope_of[i] = rope_table(plan, op);
        if (op->kind == LLMQ_OP_ATTN && op->i[5] == 1) plan->whole_batch = 1;
        opens_well &= !span->opens || ops[span->first].kind == LLMQ_OP_EMBED;
    }
    free(since);
    for (int32_t i = 0; i < plan->n_spans; i++)
        if (plan->spans[i].kind == LLMQ_MULTIPLY || plan->spans[i].kind == LLMQ_EXPERTS) find_gate(&t, &plan->spans[i], ops, n_ops);
    /* the tables are filled along with the first op of a part, which goes by rows over all tokens */
    if (n_ops < 1 || !opens_well) {
        llmq_plan_free(plan);
        return LLMQ_ERR_ARG;
    }
    return LLMQ_OK;
}

void llmq_plan_free(llmq_plan *plan) {
    free(plan->spans);
    free(plan->ropes);
    free(plan->rope_of);
    *plan = (llmq_plan){0};
}

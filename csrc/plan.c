/* plan.c: where threads must wait for each other on a tape.
 *
 * Every op spreads its work in one of two ways: by rows (thread t has a share of the tokens; the same share in every such op) or by
 * anything else. Walking the tape, all accesses since the last barrier are remembered as ranges of an address space: arena floats per
 * token, then one address each for the result, the scratch memories and the state slots. A barrier is needed before an op that touches
 * an overlapping range when one of the two writes, unless both go by rows over the very same matrix: then each thread meets only its own
 * rows. Values that share arena memory at different times are covered by the same rule. */
#include <stdlib.h>

#include "engine.h"

typedef struct {
    int64_t from, to;
    int32_t rows, tail, write;
} access;

enum { MATMUL_SCRATCH, ATTN_SCRATCH, RESULT, FIRST_SLOT }; /* addresses past the arena */
static const int64_t PAST_ARENA = (int64_t)1 << 60;
enum { MAX_ACCESSES = 6 };

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

/* continues: a MATMUL that shares the prepared input of the one before it, so it leaves the scratch alone */
static int32_t accesses_of(const tape *t, const llmq_op *op, int continues, access out[MAX_ACCESSES]) {
    int32_t n = 0, by_rows = 1;
    switch (op->kind) {
    case LLMQ_OP_MATMUL:
        by_rows = 0;
        if (!continues) out[n++] = other_access(MATMUL_SCRATCH, 0, 1);
        break;
    case LLMQ_OP_ATTN:
        by_rows = 0;
        out[n++] = other_access(ATTN_SCRATCH, 0, 1);
        out[n++] = other_access(FIRST_SLOT + op->slot, 0, 0);
        break;
    case LLMQ_OP_KV_PUT:
        out[n++] = other_access(FIRST_SLOT + op->slot, 1, 1);
        break;
    default:
        break;
    }
    if (op->a >= 0) out[n++] = value_access(t, op->a, by_rows && op->kind != LLMQ_OP_ROWS, 0);
    if (op->b >= 0) out[n++] = value_access(t, op->b, by_rows, 0);
    if (op->out >= 0) out[n++] = value_access(t, op->out, by_rows, 1);
    return n;
}

static int32_t rope_table(llmq_plan *plan, const llmq_op *op) {
    for (int32_t i = 0; i < plan->n_ropes; i++)
        if (plan->ropes[i].weight == op->w0 && plan->ropes[i].dims == op->i[2] && plan->ropes[i].scale == op->f[0]) return i;
    plan->ropes[plan->n_ropes] = (llmq_rope){op->w0, op->i[2], op->f[0], plan->rope_floats};
    plan->rope_floats += op->i[2];
    return plan->n_ropes++;
}

llmq_status llmq_plan_make(llmq_plan *plan, const llmq_op *ops, int32_t n_ops, const llmq_value *values, int32_t n_values, int32_t result) {
    const tape t = {values, result};
    access *since = malloc(((size_t)n_ops + 1) * MAX_ACCESSES * sizeof *since); /* accesses since the last barrier */
    *plan = (llmq_plan){.steps = calloc((size_t)n_ops + 1, sizeof *plan->steps), .ropes = calloc((size_t)n_ops + 1, sizeof *plan->ropes)};
    if (since == NULL || plan->steps == NULL || plan->ropes == NULL) {
        free(since);
        llmq_plan_free(plan);
        return LLMQ_ERR_NOMEM;
    }
    for (int32_t v = 0; v < n_values; v++)
        if (v != result && values[v].offset + values[v].width > plan->arena) plan->arena = values[v].offset + values[v].width;
    int32_t n_since = 0;
    llmq_step *head = NULL; /* of the matmul group that the next op may continue */
    for (int32_t i = 0; i < n_ops; i++) {
        llmq_step *step = &plan->steps[i];
        const int continues = head != NULL && ops[i].kind == LLMQ_OP_MATMUL && ops[i].a == head->op->a && head->group < LLMQ_MAX_GROUP;
        access mine[MAX_ACCESSES];
        int32_t n = accesses_of(&t, &ops[i], continues, mine);
        *step = (llmq_step){.op = &ops[i]};
        for (int32_t x = 0; x < n; x++)
            for (int32_t y = 0; y < n_since; y++) step->barrier |= conflict(&mine[x], &since[y]);
        if (step->barrier) {
            n_since = 0;
            n = accesses_of(&t, &ops[i], 0, mine);
        }
        if (ops[i].kind != LLMQ_OP_MATMUL) {
            head = NULL;
        } else if (continues && !step->barrier) {
            head->group++;
        } else {
            head = step;
            step->group = 1;
        }
        for (int32_t x = 0; x < n; x++) since[n_since++] = mine[x];
        if (ops[i].kind == LLMQ_OP_ROPE) step->rope = rope_table(plan, &ops[i]);
        if (ops[i].kind == LLMQ_OP_ATTN && ops[i].i[5]) plan->whole_batch = 1;
    }
    free(since);
    return LLMQ_OK;
}

void llmq_plan_free(llmq_plan *plan) {
    free(plan->steps);
    free(plan->ropes);
    *plan = (llmq_plan){0};
}

/* engine.c: runs a tape as one job of the pool, phase by phase (plan.c).
 *
 * A cancelled run still goes through its phases, doing nothing; taking all counters to their end lets threads inside a long phase come
 * out after their current piece. */
#include "engine.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "ops/attention.h"
#include "ops/moe.h"
#include "ops/recurrent.h"
#include "ops/turns.h"

enum {
    OWN_INPUT = 16384, /* up to this many activations every thread prepares a matmul's input for itself: cheaper than a phase */
    ALONE = 8192,      /* up to this many floats to write are one thread's work, and not a phase of their own */
    ALONE_PRODUCTS = 1 << 16, /* the same for attention, counted in multiplications */
    GATED = 32,        /* from so many rows on a GLU is a part of the products before it; fewer read one matrix after the other, which is faster */
    SHARES = 4,        /* pieces of work per thread, where pieces are made to measure */
};

typedef struct {
    uint8_t *data;
    int64_t bytes;
} block;

struct llmq_engine {
    llmq_op *ops;
    llmq_value *values;
    llmq_weight *weights;
    uint64_t *taken;                                  /* strips of matmuls: taken_of() */
    llmq_phase *phases;                               /* by span; then one for packing */
    int32_t n_ops, n_weights, result, n_batch;
    llmq_plan plan;
    llmq_kv kv;
    llmq_pool *pool;
    llmq_paging paging;
    atomic_int cancelled;
    block arena, ropes, shared, own, partials, index; /* own: a part per thread */
    int64_t own_part;                                 /* bytes */
    int32_t arrived[LLMQ_ATTN_SPLIT];
    /* the micro-batch under way */
    llmq_batch batch;
    llmq_groups groups;
    float *out; /* of the result, when it is what the run gives back */
};

/* ---- memory ------------------------------------------------------------------------------------------------------------ */

static int64_t align64(int64_t bytes) { return (bytes + 63) & ~(int64_t)63; }

static llmq_status grow(block *b, int64_t bytes) {
    if (bytes <= b->bytes) return LLMQ_OK;
    free(b->data);
    b->bytes = align64(bytes);
    b->data = aligned_alloc(64, (size_t)b->bytes);
    if (b->data == NULL) b->bytes = 0;
    return b->data == NULL ? LLMQ_ERR_NOMEM : LLMQ_OK;
}

static int64_t rows_of(const llmq_batch *b, const llmq_span *span) { return span->tail ? b->n_out : b->n; }

static int goes_alone(const llmq_engine *e, const llmq_packed *w, int64_t m) {
    return m * w->k <= OWN_INPUT || llmq_pool_threads(e->pool) == 1;
}

static const llmq_packed *matrix(const llmq_engine *e, const llmq_span *span, int32_t i) {
    return &e->weights[e->ops[span->first + i].w0].packed;
}

/* Whether the GLU behind a group of products is a part of two of them, for a batch of m rows. An expert may get fewer. */
static int is_gated(const llmq_engine *e, const llmq_span *span, int64_t m) {
    if (span->gate == span->up || m < GATED) return 0;
    const llmq_packed *gate = matrix(e, span, span->gate), *up = matrix(e, span, span->up);
    return llmq_matmul_kind(gate, m) == llmq_matmul_kind(up, m) && llmq_matmul_kind(gate, 1) == llmq_matmul_kind(up, 1);
}

/* Where the prepared inputs of a matmul group lie in the shared scratch: members of one kind share one. Returns the bytes of all. */
static int64_t place_inputs(const llmq_engine *e, const llmq_span *span, int64_t m, int64_t *offsets) {
    const int nth = llmq_pool_threads(e->pool);
    int64_t bytes = 0;
    for (int32_t i = 0; i < span->n; i++) {
        const int kind = llmq_matmul_kind(matrix(e, span, i), m);
        int32_t first = 0;
        while (llmq_matmul_kind(matrix(e, span, first), m) != kind) first++;
        int64_t most = 0;
        for (int32_t j = first; j < span->n && first == i; j++) {
            const llmq_packed *w = matrix(e, span, j);
            const int64_t need = llmq_matmul_kind(w, m) == kind ? llmq_matmul_scratch(w, m, nth) : 0;
            if (need > most) most = need;
        }
        offsets[i] = first < i ? offsets[first] : bytes;
        bytes += align64(most);
    }
    return bytes;
}

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

static llmq_experts experts_of(const llmq_engine *e, const llmq_op *op, int64_t tokens) {
    const llmq_packed *w = &e->weights[op->w0].packed;
    return (llmq_experts){.w = w, .bias = op->w1 >= 0 ? e->weights[op->w1].f32 : NULL, .tokens = tokens, .parts = op->i[0],
                          .x_parts = e->values[op->a].width == w->k ? 1 : op->i[0]};
}

/* bytes of shared and of each thread's own scratch for a micro-batch of this size */
static void scratch_sizes(const llmq_engine *e, const llmq_batch *b, int64_t *shared, int64_t *own) {
    int64_t offsets[LLMQ_MAX_GROUP];
    *shared = *own = 0;
    for (int32_t i = 0; i < e->plan.n_spans; i++) {
        const llmq_span *span = &e->plan.spans[i];
        const int64_t m = rows_of(b, span);
        if (m > 0 && span->kind == LLMQ_ATTEND)
            *own = max64(*own, llmq_attn_scratch(&e->kv, &e->ops[span->first]) * (int64_t)sizeof(float));
        for (int32_t j = 0; m > 0 && span->kind == LLMQ_EXPERTS && j < span->n; j++) {
            const llmq_experts experts = experts_of(e, &e->ops[span->first + j], m);
            *own = max64(*own, llmq_experts_scratch(&experts));
        }
        if (m == 0 || span->kind != LLMQ_MULTIPLY) continue;
        if (!goes_alone(e, matrix(e, span, 0), m)) *shared = max64(*shared, place_inputs(e, span, m, offsets));
        for (int32_t j = 0; j < span->n && goes_alone(e, matrix(e, span, 0), m); j++)
            *own = max64(*own, llmq_matmul_scratch(matrix(e, span, j), m, llmq_pool_threads(e->pool)));
    }
    *own = align64(*own);
}

static int32_t part_size(const llmq_engine *e, const llmq_batch *b) {
    return e->plan.whole_batch || b->n < e->n_batch ? b->n : e->n_batch;
}

/* Index memory for micro-batches of up to n tokens: outputs[n], then what grouping needs. */
static int32_t *index_of(const llmq_engine *e) { return (int32_t *)(void *)e->index.data; }
static int64_t index_bytes(const llmq_engine *e, int32_t n) {
    return (n + llmq_group_ints(n, e->kv.n_sequences)) * (int64_t)sizeof(int32_t);
}

/* ---- ops --------------------------------------------------------------------------------------------------------------- */

static float *value(const llmq_engine *e, int32_t v) {
    return v == e->result ? e->out : (float *)(void *)e->arena.data + e->values[v].offset * e->batch.n;
}

static int64_t width(const llmq_engine *e, int32_t v) { return e->values[v].width; }

static float *rope_row(const llmq_engine *e, const llmq_rope *table, int64_t token) {
    return (float *)(void *)e->ropes.data + table->offset * e->batch.n + token * table->dims;
}

/* Angles in float32, as the models were trained with. */
static void fill_ropes(const llmq_engine *e, int64_t r0, int64_t r1) {
    for (int32_t t = 0; t < e->plan.n_ropes; t++) {
        const llmq_rope *table = &e->plan.ropes[t];
        const float *frequency = e->weights[table->weight].f32;
        for (int64_t r = r0; r < r1; r++) {
            float *row = rope_row(e, table, r);
            for (int32_t j = 0; j < table->dims / 2; j++) {
                const float angle = (float)e->batch.positions[r] * frequency[j];
                row[j] = cosf(angle) * table->scale;
                row[j + table->dims / 2] = sinf(angle) * table->scale;
            }
        }
    }
}

static void embed_row(const llmq_engine *e, const llmq_op *op, int64_t r) {
    const llmq_weight *w = &e->weights[op->w0];
    const int32_t *ids = op->i[0] == 0 ? e->batch.tokens : op->i[0] == 1 ? e->batch.positions : e->batch.types;
    const int64_t id = ids == NULL ? 0 : ids[r], n = width(e, op->out);
    float *out = value(e, op->out) + r * n;
    if (w->packed.data != NULL) { /* tied embeddings are held once */
        llmq_packed_row(&w->packed, 0, id, out);
    } else {
        const llmq_codec *codec = llmq_codec_of(w->type);
        codec->dequantize((const uint8_t *)w->rows + id * (n / codec->block * codec->bytes), out, n);
    }
    if (op->f[0] != 1.0f) llmq_kernels_used()->affine(out, out, n, op->f[0], 0.0f);
}

/* `heads` runs of n columns, at strides of `to_step` and `from_step` columns */
static void copy_heads(float *to, int64_t to_step, const float *from, int64_t from_step, int64_t n, int64_t heads) {
    for (int64_t h = 0; h < heads; h++) memcpy(to + h * to_step, from + h * from_step, (size_t)n * sizeof(float));
}

static void slice_row(float *out, int64_t n, const float *a, int64_t a_width, const llmq_op *op) {
    const int64_t heads = op->i[1] > 0 ? op->i[1] : 1;
    copy_heads(out, n / heads, a + op->i[0], a_width / heads, n / heads, heads);
}

static void join_row(float *out, int64_t n, const float *a, int64_t a_width, const float *b, int64_t b_width, int64_t heads) {
    const int64_t left = a_width / heads, right = n / heads - left;
    copy_heads(out, n / heads, a, left, left, heads);
    copy_heads(out + left, n / heads, b, b_width == right ? 0 : right, right, heads);
}

/* Rows r0 .. r1-1 of an op that goes by rows. */
static void run_rows(const llmq_engine *e, int32_t i, int64_t r0, int64_t r1) {
    const llmq_op *op = &e->ops[i];
    const llmq_kernels *k = llmq_kernels_used();
    const int32_t shape = op->out >= 0 ? op->out : op->a;
    const int64_t n = width(e, shape), all = (r1 - r0) * n; /* most ops see their rows as one vector */
    float *out = op->out >= 0 ? value(e, op->out) + r0 * n : NULL;
    const int64_t a_width = op->a >= 0 ? width(e, op->a) : 0;
    const float *a = op->a >= 0 ? value(e, op->a) + r0 * a_width : NULL;
    const int64_t b_width = op->b >= 0 ? width(e, op->b) : 0;
    const float *b = op->b >= 0 ? value(e, op->b) + r0 * b_width : NULL;
    const float *w0 = op->w0 >= 0 ? e->weights[op->w0].f32 : NULL, *w1 = op->w1 >= 0 ? e->weights[op->w1].f32 : NULL;
    switch (op->kind) {
    case LLMQ_OP_ACT: k->act(out, a, all, op->i[0]); return;
    case LLMQ_OP_GLU: k->glu(out, a, b, all, op->i[0]); return;
    case LLMQ_OP_ADD: k->add(out, a, b, all); return;
    case LLMQ_OP_MUL: k->mul(out, a, b, all); return;
    case LLMQ_OP_SCALE: k->affine(out, a, all, op->f[0], op->f[1]); return;
    case LLMQ_OP_SOFTCAP: k->softcap(out, a, all, op->f[0]); return;
    case LLMQ_OP_CLAMP: k->clamp(out, a, all, op->f[0], op->f[1]); return;
    case LLMQ_OP_RMSNORM: {
        const int64_t group = op->i[0] > 0 ? op->i[0] : n;
        const int own = w0 != NULL && op->i[1];
        for (int64_t at = 0; at < all; at += group) k->rmsnorm(out + at, a + at, own ? w0 + at % n : w0, group, op->f[0]);
        return;
    }
    default: break;
    }
    for (int64_t r = r0; r < r1; r++, a += a_width, out += out != NULL ? n : 0) {
        switch (op->kind) {
        case LLMQ_OP_EMBED: embed_row(e, op, r); break;
        case LLMQ_OP_LAYERNORM: {
            const int64_t group = op->i[0] > 0 ? op->i[0] : n;
            for (int64_t at = 0; at < n; at += group) k->layernorm(out + at, a + at, w0 + at, w1 == NULL ? NULL : w1 + at, group, op->f[0]);
            break;
        }
        case LLMQ_OP_ROPE: k->rope(out, a, rope_row(e, &e->plan.ropes[e->plan.rope_of[i]], r), op->i[0], op->i[1], op->i[2], op->i[3]); break;
        case LLMQ_OP_KV_PUT:
            llmq_kv_put(&e->kv, e->batch.sequences[r], op->slot, e->batch.positions[r], a, b + (r - r0) * b_width);
            break;
        case LLMQ_OP_ADD_BIAS: k->add(out, a, w0, n); break;
        case LLMQ_OP_SLICE: slice_row(out, n, a, a_width, op); break;
        case LLMQ_OP_JOIN: join_row(out, n, a, a_width, b + (r - r0) * b_width, b_width, op->i[0]); break;
        case LLMQ_OP_ROUTE: llmq_route(op, a, a_width, w0, w1, out); break;
        case LLMQ_OP_MIX: llmq_mix(op, a, b + (r - r0 + 1) * b_width - op->i[0], n, out); break;
        case LLMQ_OP_ROWS: memcpy(out, value(e, op->a) + e->batch.outputs[r] * n, (size_t)n * sizeof(float)); break;
        default: break;
        }
    }
}

static int is_cancelled(llmq_engine *e) { return atomic_load_explicit(&e->cancelled, memory_order_relaxed); }

/* 1: the first op of the span, a GLU, was done in the phase before */
static int follows_gate(const llmq_engine *e, const llmq_span *span) {
    return span > e->plan.spans && is_gated(e, span - 1, rows_of(&e->batch, span - 1));
}

/* Piece `piece` of a phase that is cut into `pieces`: a share of the rows, carried through all its ops. */
static void carry_rows(llmq_engine *e, const llmq_span *span, int64_t piece, int64_t pieces) {
    const int64_t rows = rows_of(&e->batch, span), r0 = rows * piece / pieces, r1 = rows * (piece + 1) / pieces;
    if (span->opens) fill_ropes(e, r0, r1);
    for (int32_t i = follows_gate(e, span); i < span->n && !is_cancelled(e); i++) run_rows(e, span->first + i, r0, r1);
}

/* The same for the input of matmuls: prepared once for each kind of them. */
static void prepare_input(llmq_engine *e, const llmq_span *span, int64_t piece, int64_t pieces) {
    const int32_t a = e->ops[span->first].a;
    const int64_t m = rows_of(&e->batch, span);
    int64_t offsets[LLMQ_MAX_GROUP];
    place_inputs(e, span, m, offsets);
    for (int32_t i = 0; i < span->n && !is_cancelled(e); i++) {
        int32_t first = 0;
        while (offsets[first] != offsets[i]) first++;
        if (first == i) llmq_matmul_prepare(matrix(e, span, i), value(e, a), m, width(e, a), e->shared.data + offsets[i], (int)piece, (int)pieces);
    }
}

/* Of the matmul, or the first of several that run as one, op i: a word per thread, and no line for two ops. */
static int64_t taken_words(const llmq_pool *pool) { return (llmq_pool_threads(pool) + LLMQ_TAKEN_LINE - 1) / LLMQ_TAKEN_LINE * LLMQ_TAKEN_LINE; }
static uint64_t *taken_of(llmq_engine *e, int32_t i) { return e->taken + i * taken_words(e->pool); }

/* What op i of a group gives: to value `out`, with `by` and `act` of llmq_product where a GLU is a part of it; out -1: it is a part of
 * another itself. */
typedef struct {
    const llmq_packed *by;
    int32_t act, out;
} target;

static target target_of(const llmq_engine *e, const llmq_span *span, int32_t i, int gated) {
    if (gated && i == span->up) return (target){.out = -1};
    if (!gated || i != span->gate) return (target){.out = e->ops[span->first + i].out};
    const llmq_op *glu = &e->ops[span->first + span->n];
    return (target){matrix(e, span, span->up), glu->i[0], glu->out};
}

static void multiply(llmq_engine *e, const llmq_span *span, uint8_t *own, int tid, int nth) {
    const int32_t a = e->ops[span->first].a;
    const int64_t m = rows_of(&e->batch, span);
    const int alone = goes_alone(e, matrix(e, span, 0), m);
    int64_t offsets[LLMQ_MAX_GROUP];
    if (!alone) place_inputs(e, span, m, offsets);
    const int gated = is_gated(e, span, m);
    for (int32_t i = 0, n; i < span->n && !is_cancelled(e); i += n) {
        llmq_product products[LLMQ_MAX_GROUP]; /* neighbours of one kind */
        int32_t n_products = 0;
        const llmq_packed *w = matrix(e, span, i);
        for (n = 0; i + n < span->n && llmq_matmul_kind(matrix(e, span, i + n), m) == llmq_matmul_kind(w, m); n++) {
            const llmq_op *op = &e->ops[span->first + i + n];
            const target to = target_of(e, span, i + n, gated);
            if (to.out < 0) continue;
            products[n_products++] = (llmq_product){.w = matrix(e, span, i + n), .bias = op->w1 >= 0 ? e->weights[op->w1].f32 : NULL,
                                                    .out = value(e, to.out), .ldo = width(e, to.out), .by = to.by, .act = to.act};
        }
        if (alone) llmq_matmul_prepare(w, value(e, a), m, width(e, a), own, 0, 1);
        if (n_products == 0) continue;
        llmq_matmul_run(products, n_products, value(e, a), m, width(e, a), alone ? own : e->shared.data + offsets[i],
                        taken_of(e, span->first + i), tid, nth);
    }
}

static void attend(llmq_engine *e, const llmq_span *span, int64_t *next, uint8_t *own, int nth) {
    const llmq_op *op = &e->ops[span->first];
    const llmq_attn attn = {
        .kv = &e->kv, .op = op, .groups = &e->groups, .sinks = op->w0 >= 0 ? e->weights[op->w0].f32 : NULL,
        .bias = op->w1 >= 0 ? e->weights[op->w1].f32 : NULL, .q = value(e, op->a),
        .out = value(e, op->out), .next = next, .arrived = e->arrived,
        .partials = (float *)(void *)e->partials.data, .scratch = (float *)(void *)own,
    };
    llmq_attn_run(&attn, nth);
}

static void recur(llmq_engine *e, const llmq_span *span, int64_t *next, int nth) {
    const llmq_op *op = &e->ops[span->first];
    const llmq_recurrent x = {
        .kv = &e->kv, .op = op, .groups = &e->groups, .w0 = e->weights[op->w0].f32, .w1 = op->w1 >= 0 ? e->weights[op->w1].f32 : NULL,
        .a = value(e, op->a), .b = op->b >= 0 ? value(e, op->b) : NULL, .a_width = width(e, op->a),
        .b_width = op->b >= 0 ? width(e, op->b) : 0, .out_width = width(e, op->out), .out = value(e, op->out), .next = next,
    };
    llmq_recurrent_run(&x, nth);
}

static void run_experts(llmq_engine *e, const llmq_span *span, uint8_t *own, int tid, int nth) {
    const int64_t m = rows_of(&e->batch, span);
    const int gated = is_gated(e, span, m);
    for (int32_t i = 0; i < span->n && !is_cancelled(e); i++) {
        const llmq_op *op = &e->ops[span->first + i];
        const target to = target_of(e, span, i, gated);
        if (to.out < 0) continue;
        llmq_experts x = experts_of(e, op, m);
        x.x = value(e, op->a);
        x.out = value(e, to.out);
        x.by = to.by;
        x.act = to.act;
        x.choice = op->b >= 0 ? value(e, op->b) : NULL;
        x.choice_width = op->b >= 0 ? width(e, op->b) : 0;
        llmq_experts_run(&x, own, taken_of(e, span->first + i), tid, nth);
    }
}

static void work(void *arg, int phase, int64_t *next, int tid, int nth) {
    llmq_engine *e = arg;
    const llmq_span *span = &e->plan.spans[phase];
    const int64_t rows = rows_of(&e->batch, span), pieces = rows < SHARES * nth ? rows : SHARES * nth;
    uint8_t *own = e->own.data + tid * e->own_part;
    if (is_cancelled(e)) return;
    if (span->kind == LLMQ_MULTIPLY) {
        multiply(e, span, own, tid, nth);
    } else if (span->kind == LLMQ_ATTEND) {
        attend(e, span, next, own, nth);
    } else if (span->kind == LLMQ_RECURRENT) {
        recur(e, span, next, nth);
    } else if (span->kind == LLMQ_EXPERTS) {
        run_experts(e, span, own, tid, nth);
    } else {
        for (int64_t piece; (piece = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < pieces;)
            (span->kind == LLMQ_PREPARE ? prepare_input : carry_rows)(e, span, piece, pieces);
    }
}

/* ---- the engine -------------------------------------------------------------------------------------------------------- */

static llmq_phase *phases_new(int32_t n) {
    llmq_phase *phases = aligned_alloc(64, (size_t)n * sizeof *phases);
    if (phases != NULL) memset(phases, 0, (size_t)n * sizeof *phases);
    return phases;
}

llmq_status llmq_engine_new(llmq_engine **out, const llmq_op *ops, int32_t n_ops, const llmq_value *values, int32_t n_values, int32_t n_weights,
                            int32_t result, int32_t kv_type, int32_t n_batch, int n_threads) {
    llmq_engine *e = aligned_alloc(64, (sizeof *e + 63) / 64 * 64);
    llmq_status status = LLMQ_ERR_NOMEM;
    int32_t n_slots = 0;
    *out = NULL;
    if (e == NULL) return LLMQ_ERR_NOMEM;
    memset(e, 0, sizeof *e);
    e->n_ops = n_ops;
    e->n_weights = n_weights;
    e->result = result;
    e->n_batch = n_batch;
    e->ops = malloc(((size_t)n_ops + 1) * sizeof *ops);
    e->values = malloc(((size_t)n_values + 1) * sizeof *values);
    e->weights = calloc((size_t)n_weights + 1, sizeof *e->weights);
    llmq_kv_slot *slots = calloc((size_t)n_ops + 1, sizeof *slots);
    if (e->ops != NULL && e->values != NULL && e->weights != NULL && slots != NULL) {
        memcpy(e->ops, ops, (size_t)n_ops * sizeof *ops);
        memcpy(e->values, values, (size_t)n_values * sizeof *values);
        for (int32_t i = 0; i < n_ops; i++)
            if (ops[i].kind == LLMQ_OP_KV_PUT || llmq_is_recurrent(&ops[i])) {
                slots[ops[i].slot] = llmq_is_recurrent(&ops[i]) ? (llmq_kv_slot){.floats = llmq_recurrent_floats(&ops[i])}
                                   : (llmq_kv_slot){.heads = ops[i].i[0], .d_k = ops[i].i[1], .d_v = ops[i].i[2]};
                n_slots = ops[i].slot >= n_slots ? ops[i].slot + 1 : n_slots;
            }
        status = llmq_kv_init(&e->kv, kv_type, slots, n_slots);
        if (status == LLMQ_OK) status = llmq_plan_make(&e->plan, e->ops, n_ops, e->values, n_values, result);
        if (status == LLMQ_OK && (e->phases = phases_new(e->plan.n_spans + 1)) == NULL) status = LLMQ_ERR_NOMEM;
        if (status == LLMQ_OK && (e->pool = llmq_pool_new(n_threads)) == NULL) status = LLMQ_ERR_NOMEM;
        if (status == LLMQ_OK) e->taken = aligned_alloc(64, (size_t)(n_ops * taken_words(e->pool)) * sizeof *e->taken);
        if (status == LLMQ_OK && e->taken == NULL) status = LLMQ_ERR_NOMEM;
    }
    free(slots);
    if (status == LLMQ_OK)
        *out = e;
    else
        llmq_engine_free(e);
    return status;
}

void llmq_engine_free(llmq_engine *e) {
    if (e == NULL) return;
    llmq_pool_free(e->pool);
    llmq_plan_free(&e->plan);
    llmq_kv_free(&e->kv);
    block *blocks[] = {&e->arena, &e->ropes, &e->shared, &e->own, &e->partials, &e->index};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) free(blocks[i]->data);
    for (int32_t i = 0; e->weights != NULL && i < e->n_weights; i++) free(e->weights[i].packed.data);
    free(e->ops);
    free(e->values);
    free(e->weights);
    free(e->taken);
    free(e->phases);
    free(e);
}

llmq_weight *llmq_engine_weight(llmq_engine *e, int32_t i) { return &e->weights[i]; }
llmq_kv *llmq_engine_kv(llmq_engine *e) { return &e->kv; }

llmq_status llmq_engine_pack(llmq_engine *e, int32_t i, int32_t type, int64_t n, int64_t k, int64_t experts, llmq_rows rows, int huge,
                             int passing) {
    llmq_packed w;
    e->paging.huge = huge;
    const llmq_status status = llmq_packed_new(&w, type, n, k, experts, rows, &e->paging, e->pool, &e->phases[e->plan.n_spans]);
    if (status != LLMQ_OK) return status;
    free(e->weights[i].packed.data);
    e->weights[i].packed = w;
    e->weights[i].packed.passing = passing;
    return LLMQ_OK;
}

int64_t llmq_engine_scratch(const llmq_engine *e, int32_t n) {
    const llmq_batch b = {.n = n, .n_out = 1};
    int64_t shared, own;
    scratch_sizes(e, &b, &shared, &own);
    return shared + own * llmq_pool_threads(e->pool) + (e->plan.arena + e->plan.rope_floats) * n * (int64_t)sizeof(float);
}

llmq_status llmq_engine_check(llmq_engine *e, const llmq_batch *b, int32_t n_vocab) {
    llmq_sequence *sequences = e->kv.sequences;
    if (b->n < 1) return LLMQ_ERR_ARG;
    for (int32_t i = 0; i < b->n_out; i++)
        if (b->outputs[i] < 0 || b->outputs[i] >= b->n || (i > 0 && b->outputs[i] <= b->outputs[i - 1])) return LLMQ_ERR_ARG;
    for (int32_t i = 0; i < b->n; i++) {
        const int32_t s = b->sequences[i];
        if (b->tokens[i] < 0 || b->tokens[i] >= n_vocab || s < 0 || s >= e->kv.n_sequences || !sequences[s].live) return LLMQ_ERR_ARG;
    }
    int32_t good = 0; /* positions must count up; the lengths serve as the counters and are put back */
    while (good < b->n && b->positions[good] == sequences[b->sequences[good]].length) sequences[b->sequences[good++]].length++;
    for (int32_t i = 0; i < good; i++) sequences[b->sequences[i]].length--;
    return good == b->n ? LLMQ_OK : LLMQ_ERR_ARG;
}

/* Where the states of token i's sequence end up; without recurrent slots the answer does not matter, and is not searched for. */
static int32_t end_of(const llmq_engine *e, const llmq_batch *b, int32_t i) {
    return e->kv.records.floats > 0 ? llmq_batch_end(b, i) : b->positions[i] + 1;
}

int64_t llmq_engine_growth(const llmq_engine *e, const llmq_batch *b) {
    int64_t pages = 0, records = 0;
    for (int32_t i = 0; i < b->n; i++) {
        const llmq_sequence *s = &e->kv.sequences[b->sequences[i]];
        pages += b->positions[i] % LLMQ_PAGE == 0 || (b->positions[i] == s->length && llmq_kv_is_shared(s, s->length / LLMQ_PAGE));
        if (b->positions[i] == s->length) records += llmq_states_growth(&e->kv.records, s->length, end_of(e, b, i));
    }
    return pages * e->kv.page_bytes + max64(records - e->kv.records.n_spare, 0) * llmq_record_bytes(&e->kv.records);
}

llmq_status llmq_engine_prepare(llmq_engine *e, const llmq_batch *b) {
    const int nth = llmq_pool_ready(e->pool);
    const int32_t n = part_size(e, b);
    llmq_status status = LLMQ_OK;
    for (int32_t i = 0; i < b->n && status == LLMQ_OK; i++) status = llmq_kv_reserve(&e->kv, b->sequences[i], b->positions[i] + 1);
    e->kv.records.taken = 0;
    for (int32_t i = 0; i < b->n && status == LLMQ_OK; i++) {
        llmq_sequence *s = &e->kv.sequences[b->sequences[i]];
        if (b->positions[i] == s->length) status = llmq_states_reserve(&e->kv.records, &s->states, s->length, end_of(e, b, i));
    }
    if (status == LLMQ_OK) status = grow(&e->index, index_bytes(e, n));
    if (status == LLMQ_OK) status = grow(&e->arena, e->plan.arena * n * (int64_t)sizeof(float));
    if (status == LLMQ_OK) status = grow(&e->ropes, e->plan.rope_floats * n * (int64_t)sizeof(float));
    int64_t partials = 0, shared = 0, own = 0;
    for (int32_t from = 0; from < b->n && status == LLMQ_OK; from += n) {
        int32_t first;
        const llmq_batch part = llmq_batch_part(b, from, n, index_of(e), &first);
        int64_t s, o;
        scratch_sizes(e, &part, &s, &o);
        shared = max64(shared, s);
        own = max64(own, o);
        e->groups = llmq_batch_groups(&part, index_of(e) + n);
        for (int32_t i = 0; i < e->n_ops; i++)
            if (e->ops[i].kind == LLMQ_OP_ATTN) partials = max64(partials, llmq_attn_partials(&e->kv, &e->ops[i], &e->groups, nth));
    }
    e->own_part = own;
    if (status == LLMQ_OK) status = grow(&e->shared, shared);
    if (status == LLMQ_OK) status = grow(&e->own, own * nth);
    if (status == LLMQ_OK) status = grow(&e->partials, partials * (int64_t)sizeof(float));
    if (status != LLMQ_OK) llmq_engine_commit(e, b, 0);
    return status;
}

/* Atomic, because llmq_engine_cancel comes from another thread than llmq_engine_run. */
static void set_taken(llmq_engine *e, uint64_t taken) {
    for (int64_t i = 0; i < e->n_ops * taken_words(e->pool); i++) __atomic_store_n(&e->taken[i], taken, __ATOMIC_RELAXED);
}

/* Too little for several threads: one row, which cannot be shared, or less than a phase costs. */
static int is_small(const llmq_engine *e, const llmq_span *span, int64_t m) {
    const llmq_op *op = &e->ops[span->first];
    if (span->kind == LLMQ_BY_ROWS) return m == 1 || m * span->floats <= ALONE;
    if (span->kind == LLMQ_RECURRENT) return m * e->kv.slots[op->slot].floats <= ALONE;
    if (span->kind != LLMQ_ATTEND || m > 16) return 0;
    int64_t keys = 0;
    for (int64_t t = 0; t < m; t++) keys += e->batch.positions[t] + 1;
    return keys * op->i[0] * (op->i[1] + op->i[3]) <= ALONE_PRODUCTS;
}

static void set_modes(llmq_engine *e, uint32_t parts) {
    int begun = 0; /* a phase done by the last thread of another needs one before it */
    for (int32_t i = 0; i < e->plan.n_spans; i++) {
        const llmq_span *span = &e->plan.spans[i];
        const int64_t m = rows_of(&e->batch, span);
        const int skipped = m == 0 || !(parts >> span->part & 1) || (span->kind == LLMQ_PREPARE && goes_alone(e, matrix(e, span, 0), m)) ||
                            (span->kind == LLMQ_BY_ROWS && span->n == follows_gate(e, span));
        e->phases[i].mode = skipped ? LLMQ_SKIPPED : begun && is_small(e, span, m) ? LLMQ_ALONE : LLMQ_TOGETHER;
        begun |= !skipped;
    }
}

int32_t llmq_engine_phases(const llmq_engine *e) {
    int32_t n = 0;
    for (int32_t i = 0; i < e->plan.n_spans; i++) n += e->phases[i].mode == LLMQ_TOGETHER;
    return n;
}

llmq_status llmq_engine_run(llmq_engine *e, const llmq_batch *b, uint32_t parts, int32_t wanted, float *out) {
    const int32_t n = part_size(e, b);
    for (int32_t from = 0; from < b->n; from += n) {
        int32_t first;
        e->batch = llmq_batch_part(b, from, n, index_of(e), &first);
        float *rows = wanted >= 0 ? out + first * width(e, wanted) : NULL;
        e->out = wanted == e->result ? rows : NULL;
        e->groups = llmq_batch_groups(&e->batch, index_of(e) + n);
        memset(e->arrived, 0, sizeof e->arrived);
        set_taken(e, 0);
        set_modes(e, parts);
        if (atomic_load(&e->cancelled)) return LLMQ_ERR_CANCELLED;
        llmq_pool_run(e->pool, e->phases, e->plan.n_spans, work, e);
        if (atomic_load(&e->cancelled)) return LLMQ_ERR_CANCELLED;
        if (wanted >= 0 && wanted != e->result)
            memcpy(rows, value(e, wanted), (size_t)(e->batch.n_out * width(e, wanted)) * sizeof *rows);
    }
    return LLMQ_OK;
}

void llmq_engine_commit(llmq_engine *e, const llmq_batch *b, int done) {
    for (int32_t i = 0; i < b->n; i++) {
        llmq_sequence *s = &e->kv.sequences[b->sequences[i]];
        if (done) {
            llmq_states_commit(&e->kv.records, &s->states);
            s->length = b->positions[i] + 1;
        } else {
            llmq_kv_truncate(&e->kv, b->sequences[i], s->length);
        }
    }
}

void llmq_engine_arm(llmq_engine *e) { atomic_store(&e->cancelled, 0); }

void llmq_engine_cancel(llmq_engine *e) {
    atomic_store(&e->cancelled, 1);
    set_taken(e, LLMQ_ALL_TAKEN);
    for (int32_t i = 0; i < e->plan.n_spans; i++) __atomic_store_n(&e->phases[i].next, INT64_MAX / 2, __ATOMIC_RELAXED);
}

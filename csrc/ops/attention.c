/* attention.c: softmax(scale * q . k) . v over paged keys and values.
 *
 * The unit is a tile: the G query heads that share a KV head, for as many tokens of one sequence as make about TILE_ROWS rows; keys
 * are read once per tile. Keys are taken in chunks of LLMQ_CHUNK positions counted from the sequence's start, each chunk gives a partial
 * softmax (top, sum, acc), and partials are folded in the order of the chunks:
 *
 *     top' = max(top, top_c);  sum' = sum e^(top - top') + sum_c e^(top_c - top');  acc likewise      (online softmax, Milakov & Gimelshein 2018)
 *
 * Where there are fewer tiles than threads to feed, each chunk is a work item of its own (as in Flash-Decoding) and the thread that
 * finishes a tile's last chunk folds them all. Both ways do the same operations, so a row's result depends neither on the number of threads
 * nor on what else is in the batch. */
#include "ops/attention.h"

#include <math.h>
#include <string.h>

#include "kernels.h"

enum { TILE_ROWS = 16 };
static const int64_t MAX_PARTIALS = 1 << 23; /* floats; beyond, tiles are not split */

typedef struct { /* one tile of tokens; the same for every KV head */
    int32_t group, at; /* first token: order[at] */
    int32_t tokens, position, total; /* total: positions of the sequence or its source, for non-causal attention */
    int32_t first_chunk, chunks;
} tile;

typedef struct {
    float *top, *sum, *acc;
} partial;

static int32_t tile_tokens(const llmq_op *op) {
    const int32_t per_kv = op->i[0] / op->i[2];
    return per_kv < TILE_ROWS ? TILE_ROWS / per_kv : 1;
}

static int32_t tile_rows(const llmq_op *op) { return tile_tokens(op) * (op->i[0] / op->i[2]); }

static int32_t from_of(const llmq_op *op, int32_t position) {
    return op->i[4] > 0 && position >= op->i[4] ? position - op->i[4] + 1 : 0;
}

static int32_t to_of(const llmq_op *op, int32_t position, int32_t total) { return op->i[5] ? total : position + 1; }

/* The sequence that holds the keys for a token of the batch. Memory is planned for every op, those over a source too while it is
 * being encoded and nobody has it. */
static const llmq_sequence *keys_of(const llmq_kv *kv, const llmq_op *op, const llmq_groups *g, int32_t token) {
    const llmq_sequence *s = &kv->sequences[g->sequences[token]];
    return op->i[5] == 2 && s->source >= 0 ? &kv->sequences[s->source] : s;
}

/* The tile after *t; 0 at the end. A tile of 0 tokens in group 0 at 0 comes before the first. */
static int next_tile(const llmq_kv *kv, const llmq_op *op, const llmq_groups *g, tile *t) {
    t->at += t->tokens;
    if (t->at == g->first[t->group + 1]) t->group++;
    if (t->group == g->n) return 0;
    const int32_t end = g->first[t->group + 1], most = tile_tokens(op);
    t->tokens = end - t->at < most ? end - t->at : most;
    t->position = g->positions[g->order[t->at]];
    t->total = op->i[5] == 2 ? keys_of(kv, op, g, g->order[t->at])->length : g->positions[g->order[end - 1]] + 1;
    t->first_chunk = from_of(op, t->position) / LLMQ_CHUNK;
    t->chunks = (to_of(op, t->position + t->tokens - 1, t->total) + LLMQ_CHUNK - 1) / LLMQ_CHUNK - t->first_chunk;
    return 1;
}

static partial partial_at(float *memory, int64_t rows) { return (partial){memory, memory + rows, memory + 2 * rows}; }

static int64_t partial_floats(int64_t rows, int64_t d_v) { return rows * (2 + d_v); }

int64_t llmq_attn_scratch(const llmq_kv *kv, const llmq_op *op) {
    const int64_t rows = tile_rows(op), d_v = kv->slots[op->slot].v_cols;
    return rows * (op->i[1] + 5 + LLMQ_CHUNK) + 2 * partial_floats(rows, d_v);
}

int64_t llmq_attn_partials(const llmq_kv *kv, const llmq_op *op, const llmq_groups *g, int nth) {
    int64_t tiles = 0, chunks = 0;
    for (tile t = {0}; next_tile(kv, op, g, &t);) {
        tiles += op->i[2];
        chunks += (int64_t)op->i[2] * t.chunks;
        if (tiles >= 2 * nth) return 0; /* so tiles <= LLMQ_ATTN_SPLIT */
    }
    const int64_t floats = chunks * partial_floats(tile_rows(op), kv->slots[op->slot].v_cols);
    return nth == 1 || chunks == tiles || floats > MAX_PARTIALS ? 0 : floats;
}

/* ---- one tile ---------------------------------------------------------------------------------------------------------- */

static float alibi_slope(const llmq_op *op, int32_t head) { /* Press et al. 2022, as in BLOOM for other than powers of two */
    int32_t power = 1;
    while (2 * power <= op->i[0]) power *= 2;
    const float base = exp2f(-op->f[2] / (float)power);
    if (head < power) return powf(base, (float)(head + 1));
    return powf(exp2f(-op->f[2] / (float)(2 * power)), (float)(2 * (head - power) + 1));
}

/* Rows of the tile: token-major, then the heads of KV head h. Returns their number. */
static int32_t gather(const llmq_attn *a, const tile *t, int32_t h, float *q, int32_t *rows, float *slope) {
    const llmq_op *op = a->op;
    const int32_t most = tile_rows(op);
    int32_t *from = rows, *to = from + most, *heads_of = to + most, *position = heads_of + most;
    const int32_t heads = op->i[0], d = op->i[1], per_kv = heads / op->i[2];
    for (int32_t i = 0; i < t->tokens; i++) {
        const int64_t token = a->groups->order[t->at + i];
        for (int32_t g = 0; g < per_kv; g++) {
            const int32_t row = i * per_kv + g, head = h * per_kv + g;
            const float *source = a->q + (token * heads + head) * d;
            for (int32_t c = 0; c < d; c++) q[(int64_t)row * d + c] = source[c] * op->f[0];
            from[row] = from_of(op, t->position + i);
            to[row] = to_of(op, t->position + i, t->total);
            heads_of[row] = head;
            position[row] = t->position + i;
            if (op->f[2] > 0.0f) slope[row] = alibi_slope(op, head);
        }
    }
    return t->tokens * per_kv;
}

static void fold(const partial *into, const partial *p, int32_t rows, int32_t d_v) {
    for (int32_t r = 0; r < rows; r++) {
        float *acc = into->acc + (int64_t)r * d_v;
        const float *more = p->acc + (int64_t)r * d_v;
        if (p->top[r] == -INFINITY) continue;
        if (p->top[r] > into->top[r]) {
            const float scale = expf(into->top[r] - p->top[r]);
            into->top[r] = p->top[r];
            into->sum[r] = into->sum[r] * scale + p->sum[r];
            for (int32_t c = 0; c < d_v; c++) acc[c] = acc[c] * scale + more[c];
        } else {
            const float scale = expf(p->top[r] - into->top[r]);
            into->sum[r] += p->sum[r] * scale;
            for (int32_t c = 0; c < d_v; c++) acc[c] += more[c] * scale;
        }
    }
}

static void fold_start(const partial *p, int32_t rows, int32_t d_v) {
    for (int32_t r = 0; r < rows; r++) p->top[r] = -INFINITY;
    memset(p->sum, 0, (size_t)rows * sizeof(float));
    memset(p->acc, 0, (size_t)rows * (size_t)d_v * sizeof(float));
}

static void finish(const llmq_attn *a, const tile *t, int32_t h, const partial *p, int32_t d_v) {
    const int32_t heads = a->op->i[0], per_kv = heads / a->op->i[2], width = a->op->i[3];
    for (int32_t i = 0; i < t->tokens; i++)
        for (int32_t g = 0; g < per_kv; g++) {
            const int32_t row = i * per_kv + g, head = h * per_kv + g;
            float scale = 1.0f, sum = p->sum[row];
            if (a->sinks != NULL) { /* one more logit in the denominator, without a value */
                const float sink = a->sinks[head], top = sink > p->top[row] ? sink : p->top[row];
                scale = expf(p->top[row] - top);
                sum = sum * scale + expf(sink - top);
            }
            float *out = a->out + ((int64_t)a->groups->order[t->at + i] * heads + head) * width;
            for (int32_t c = 0; c < width; c++) out[c] = p->acc[(int64_t)row * d_v + c] * scale / sum;
        }
}

static void attend_chunk(const llmq_attn *a, const tile *t, int32_t h, int32_t chunk, llmq_attn_chunk *c) {
    const llmq_kv_slot *slot = &a->kv->slots[a->op->slot];
    const llmq_sequence *s = keys_of(a->kv, a->op, a->groups, a->groups->order[t->at]);
    c->start = chunk * LLMQ_CHUNK;
    for (int32_t i = 0; i < LLMQ_CHUNK / LLMQ_PAGE; i++) {
        const int32_t page = chunk * (LLMQ_CHUNK / LLMQ_PAGE) + i;
        c->k[i] = page < s->n_pages ? s->pages[page] + slot->k + h * slot->k_head : NULL;
        c->v[i] = page < s->n_pages ? s->pages[page] + slot->v + h * slot->v_head : NULL;
    }
    llmq_kernels_used()->attend(c);
}

/* KV head h of a tile: the whole of it (chunk < 0), or one chunk into item's place among the partials */
static void run_tile(const llmq_attn *a, const tile *t, int32_t h, int32_t chunk, int64_t item, int32_t *arrived) {
    const llmq_op *op = a->op;
    const int32_t d_v = a->kv->slots[op->slot].v_cols, most = tile_rows(op);
    float *q = a->scratch, *slope = q + (int64_t)most * op->i[1], *scores = slope + 5 * most;
    int32_t *per_row = (int32_t *)(void *)(slope + most);
    float *own = scores + (int64_t)most * LLMQ_CHUNK;
    const int64_t size = partial_floats(most, d_v);
    const partial state = partial_at(own, most);
    float *place = chunk < 0 ? own + size : a->partials + item * size;
    const int32_t rows = gather(a, t, h, q, per_row, slope);
    partial p = partial_at(place, most);
    llmq_attn_chunk c = {.type = a->kv->type, .rows = rows, .d_k = op->i[1], .d_v = d_v, .q = q, .from = per_row, .to = per_row + most,
                         .bias = a->bias, .head = per_row + 2 * most, .position = per_row + 3 * most, .reach = op->i[6],
                         .slope = op->f[2] > 0.0f ? slope : NULL, .softcap = op->f[1], .scores = scores,
                         .top = p.top, .sum = p.sum, .acc = p.acc};
    if (chunk >= 0) {
        attend_chunk(a, t, h, t->first_chunk + chunk, &c);
        if (__atomic_add_fetch(arrived, 1, __ATOMIC_ACQ_REL) < t->chunks) return;
        *arrived = 0; /* for the next op */
    }
    fold_start(&state, rows, d_v);
    for (int32_t i = 0; i < t->chunks; i++) {
        if (chunk < 0)
            attend_chunk(a, t, h, t->first_chunk + i, &c);
        else
            p = partial_at(a->partials + (item - chunk + i) * size, most);
        fold(&state, &p, rows, d_v);
    }
    finish(a, t, h, &state, d_v);
}

void llmq_attn_run(const llmq_attn *a, int nth) {
    const llmq_op *op = a->op;
    const int32_t kv_heads = op->i[2];
    const int split = llmq_attn_partials(a->kv, op, a->groups, nth) > 0;
    tile t = {0};
    int64_t begin = 0, end = 0, tiles = -1; /* items of tile t; its number */
    for (;;) {
        const int64_t item = __atomic_fetch_add(a->next, 1, __ATOMIC_RELAXED);
        while (item >= end) {
            if (!next_tile(a->kv, op, a->groups, &t)) return;
            tiles++;
            begin = end;
            end += (int64_t)kv_heads * (split ? t.chunks : 1);
        }
        const int64_t i = item - begin;
        if (split)
            run_tile(a, &t, (int32_t)(i / t.chunks), (int32_t)(i % t.chunks), item, a->arrived + tiles * kv_heads + i / t.chunks);
        else
            run_tile(a, &t, (int32_t)i, -1, 0, NULL);
    }
}

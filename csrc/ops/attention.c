/* attention.c: softmax(scale * q . k) . v over paged keys and values.
 *
 * The unit is a tile: the G query heads that share a KV head, for as many tokens of one sequence as make about ROWS rows, or
 * WIDE_ROWS; keys are read once per tile. Wide tiles go to attend_tiles, whose products are of bfloat16, where the level in use has it and
 * keys and values are bfloat16: those of a sequence that has WIDE_FROM or more tokens in the batch. So a token's result may depend on
 * how many tokens of its own sequence are read with it, and on nothing else: decoding, alone or among any others, is in float32.
 *
 * Keys are taken in chunks of LLMQ_CHUNK positions counted from the sequence's start, each chunk gives a partial softmax (top, sum,
 * acc), and partials are folded in the order of the chunks:
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

enum {
    ROWS = 16,
    WIDE_ROWS = 64,
    WIDE_FROM = 32, /* tokens of a sequence; as TILES_FROM of matmul.c, so that a small batch of one sequence is exact in both */
};
static const int64_t MAX_PARTIALS = 1 << 23; /* floats; beyond, tiles are not split */

typedef struct { /* one tile of tokens; the same for every KV head */
    int32_t group, at; /* first token: order[at] */
    int32_t wide; /* for attend_tiles */
    int32_t tokens, position, total; /* total: positions of the sequence or its source, for non-causal attention */
    int32_t first_chunk, chunks;
} tile;

static int may_be_wide(const llmq_kv *kv) { return kv->type == LLMQ_BF16 && llmq_kernels_used()->attend_tiles != NULL; }

static int32_t tile_tokens(const llmq_op *op, int wide) {
    const int32_t per_kv = op->i[0] / op->i[2], rows = wide ? WIDE_ROWS : ROWS;
    return per_kv < rows ? rows / per_kv : 1;
}

/* What there must be room for. */
static int32_t tile_rows(const llmq_kv *kv, const llmq_op *op) {
    return (tile_tokens(op, may_be_wide(kv)) * (op->i[0] / op->i[2]) + 15) / 16 * 16;
}

static int32_t from_of(const llmq_op *op, int32_t position) {
    if (op->i[7]) return position / op->i[4] * op->i[4];
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
    const int32_t end = g->first[t->group + 1];
    t->wide = may_be_wide(kv) && end - g->first[t->group] >= WIDE_FROM;
    const int32_t most = tile_tokens(op, t->wide);
    t->tokens = end - t->at < most ? end - t->at : most;
    t->position = g->positions[g->order[t->at]];
    t->total = op->i[5] == 2 ? keys_of(kv, op, g, g->order[t->at])->length : g->positions[g->order[end - 1]] + 1;
    t->first_chunk = from_of(op, t->position) / LLMQ_CHUNK;
    t->chunks = (to_of(op, t->position + t->tokens - 1, t->total) + LLMQ_CHUNK - 1) / LLMQ_CHUNK - t->first_chunk;
    return 1;
}

static llmq_attn_part part_at(float *memory, int64_t rows) { return (llmq_attn_part){memory, memory + rows, memory + 2 * rows}; }

static int64_t part_floats(int64_t rows, int64_t d_v) { return rows * (2 + d_v); }

/* scratch of attend_tiles */
static int64_t wide_floats(const llmq_kv *kv, const llmq_op *op) {
    return may_be_wide(kv) ? llmq_attend_scratch(op->i[1], kv->slots[op->slot].v_cols) / (int64_t)sizeof(float) : 0;
}

int64_t llmq_attn_scratch(const llmq_kv *kv, const llmq_op *op) {
    const int64_t rows = tile_rows(kv, op), d_v = kv->slots[op->slot].v_cols;
    return rows * (op->i[1] + 5 + LLMQ_CHUNK) + 2 * part_floats(rows, d_v) + wide_floats(kv, op);
}

int64_t llmq_attn_partials(const llmq_kv *kv, const llmq_op *op, const llmq_groups *g, int nth) {
    int64_t tiles = 0, chunks = 0;
    for (tile t = {0}; next_tile(kv, op, g, &t);) {
        tiles += op->i[2];
        chunks += (int64_t)op->i[2] * t.chunks;
        if (tiles >= 2 * nth) return 0; /* so tiles <= LLMQ_ATTN_SPLIT */
    }
    const int64_t floats = chunks * part_floats(tile_rows(kv, op), kv->slots[op->slot].v_cols);
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
static int32_t gather(const llmq_attn *a, const tile *t, int32_t h, float *q, int32_t *rows, int32_t most, float *slope) {
    const llmq_op *op = a->op;
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

static void finish(const llmq_attn *a, const tile *t, int32_t h, const llmq_attn_part *p, int32_t d_v) {
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
            scale /= sum;
            for (int32_t c = 0; c < width; c++) out[c] = p->acc[(int64_t)row * d_v + c] * scale;
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
    (t->wide ? llmq_kernels_used()->attend_tiles : llmq_kernels_used()->attend)(c);
}

/* KV head h of a tile: the whole of it (chunk < 0), or one chunk into item's place among the partials */
static void run_tile(const llmq_attn *a, const tile *t, int32_t h, int32_t chunk, int64_t item, int32_t *arrived) {
    const llmq_op *op = a->op;
    const int32_t d_v = a->kv->slots[op->slot].v_cols, most = tile_rows(a->kv, op);
    const int64_t size = part_floats(most, d_v);
    float *whole = a->scratch, *one = whole + size, *scores = one + size; /* whole cache lines, as tiles */
    float *tiles = scores + (int64_t)most * LLMQ_CHUNK;
    float *q = tiles + wide_floats(a->kv, op), *slope = q + (int64_t)most * op->i[1];
    int32_t *per_row = (int32_t *)(void *)(slope + most);
    const llmq_attn_part state = part_at(whole, most);
    const int32_t rows = gather(a, t, h, q, per_row, most, slope);
    llmq_attn_chunk c = {.type = a->kv->type, .rows = rows, .d_k = op->i[1], .d_v = d_v, .q = q, .from = per_row,
                         .to = per_row + most, .bias = a->bias, .head = per_row + 2 * most,
                         .position = per_row + 3 * most, .reach = op->i[6],
                         .slope = op->f[2] > 0.0f ? slope : NULL, .softcap = op->f[1], .scores = scores,
                         .scratch = (uint8_t *)(void *)tiles};
    if (chunk >= 0) {
        c.out = part_at(a->partials + item * size, most);
        attend_chunk(a, t, h, t->first_chunk + chunk, &c);
        if (__atomic_add_fetch(arrived, 1, __ATOMIC_ACQ_REL) < t->chunks) return;
        *arrived = 0; /* for the next op */
    }
    for (int32_t i = 0; i < t->chunks; i++) {
        c.out = chunk >= 0 ? part_at(a->partials + (item - chunk + i) * size, most) : i > 0 ? part_at(one, most) : state;
        if (chunk < 0) attend_chunk(a, t, h, t->first_chunk + i, &c);
        if (i > 0) llmq_kernels_used()->fold(&state, &c.out, rows, d_v);
        else if (chunk >= 0) memcpy(whole, c.out.top, (size_t)size * sizeof *whole);
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

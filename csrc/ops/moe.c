/* moe.c: mixtures of experts.
 *
 * EXPERTS multiplies every part (a token and one of its experts) by its expert's matrix. Each thread sorts the parts by expert for itself,
 * a counting sort that costs less than waiting for another thread to do it. The strips of the experts in use stand in one row, expert
 * after expert, and threads take them in turns (turns.h): so a matrix is read once for all its tokens, only experts in use are read, and
 * threads share one large expert as well as many small ones. The thread that takes strips prepares their expert's activations itself.
 *
 * A part's result does not depend on who computes it or what else is in the batch, as far as the matmul's does not (matmul.c). */
#include "ops/moe.h"

#include <math.h>
#include <string.h>

#include "ops/matmul.h"
#include "ops/turns.h"

/* ---- routing ------------------------------------------------------------------------------------------------------------ */

enum { SOFTMAX, SIGMOID };

static void scores_of(int kind, const float *logits, int64_t n, float *score) {
    float top = logits[0], sum = 0.0f;
    for (int64_t e = 0; e < n; e++) {
        if (logits[e] > top) top = logits[e];
    }
    for (int64_t e = 0; e < n; e++) {
        score[e] = kind == SIGMOID ? 1.0f / (1.0f + expf(-logits[e])) : expf(logits[e] - top);
        sum += score[e];
    }
    for (int64_t e = 0; e < n && kind == SOFTMAX; e++) score[e] /= sum;
}

/* The place of the largest number that is not taken, the first of equal ones, NaN being the smallest; takes it. */
static int64_t take_largest(const float *x, uint8_t *taken, int64_t n) {
    int64_t best = -1;
    for (int64_t i = 0; i < n; i++)
        if (!taken[i] && (best < 0 || x[i] > x[best] || (isnan(x[best]) && !isnan(x[i])))) best = i;
    taken[best] = 1;
    return best;
}

/* Only the best i3 of i2 groups of neighbours stay in the choice. */
static void keep_groups(const llmq_op *op, float *choice, int64_t n) {
    const int64_t groups = op->i[2], size = n / groups;
    float best[LLMQ_MAX_EXPERTS];
    uint8_t kept[LLMQ_MAX_EXPERTS] = {0};
    for (int64_t g = 0; g < groups; g++) {
        float first = -INFINITY, second = -INFINITY;
        for (int64_t e = g * size; e < (g + 1) * size; e++) {
            if (choice[e] > first) {
                second = first;
                first = choice[e];
            } else if (choice[e] > second) {
                second = choice[e];
            }
        }
        best[g] = op->i[4] ? first + second : first;
    }
    for (int32_t i = 0; i < op->i[3]; i++) take_largest(best, kept, groups);
    for (int64_t e = 0; e < n; e++)
        if (!kept[e / size]) choice[e] = -INFINITY;
}

void llmq_route(const llmq_op *op, const float *logits, int64_t n, const float *bias, const float *factors, float *out) {
    float score[LLMQ_MAX_EXPERTS], choice[LLMQ_MAX_EXPERTS], sum = 0.0f, factor = op->f[0];
    uint8_t taken[LLMQ_MAX_EXPERTS] = {0};
    const int32_t used = op->i[0];
    scores_of(op->i[1], logits, n, score);
    for (int64_t e = 0; e < n; e++) choice[e] = bias ? score[e] + bias[e] : score[e];
    if (op->i[2] > 1) keep_groups(op, choice, n);
    for (int32_t i = 0; i < used; i++) {
        const int64_t e = take_largest(choice, taken, n);
        out[i] = (float)e;
        out[used + i] = score[e];
        sum += score[e];
    }
    if (op->i[5]) factor /= sum + 1e-20f;
    for (int32_t i = 0; i < used; i++) out[used + i] *= factors ? factor * factors[(int64_t)out[i]] : factor;
}

void llmq_mix(const llmq_op *op, const float *a, const float *weights, int64_t n, float *out) {
    for (int64_t c = 0; c < n; c++) out[c] = weights[0] * a[c];
    for (int32_t i = 1; i < op->i[0]; i++)
        for (int64_t c = 0; c < n; c++) out[c] += weights[i] * a[i * n + c];
}

/* ---- experts ------------------------------------------------------------------------------------------------------------ */

typedef struct { /* the parts in the order of their experts; part p is part p % parts of token p / parts */
    int64_t used;       /* experts with parts */
    int32_t *experts;   /* [used], their ids */
    int32_t *first;     /* [used + 1], their first entries of order */
    int32_t *order;     /* [tokens * parts] */
    int32_t *source;    /* [LLMQ_GATHERED], rows of x of the parts at hand */
    uint8_t *scratch;   /* of the matmul */
} sorted;

static int64_t align64(int64_t x) { return (x + 63) & -64; }

static int64_t gathered_rows(const llmq_experts *x) { return x->tokens * x->parts < LLMQ_GATHERED ? x->tokens * x->parts : LLMQ_GATHERED; }

static int64_t index_bytes(const llmq_experts *x) {
    return align64((2 * x->w->experts + 1 + x->tokens * x->parts + LLMQ_GATHERED) * (int64_t)sizeof(int32_t));
}

int64_t llmq_experts_scratch(const llmq_experts *x) { return index_bytes(x) + align64(llmq_gathered_scratch(x->w, gathered_rows(x))); }

static int32_t expert_of(const llmq_experts *x, int64_t part) {
    if (x->choice == NULL) return (int32_t)(part % x->parts);
    const float id = x->choice[part / x->parts * x->choice_width + part % x->parts];
    return id >= 0.0f && id < (float)x->w->experts ? (int32_t)id : 0; /* ROUTE gives no other */
}

static sorted sort_parts(const llmq_experts *x, uint8_t *memory) {
    const int64_t n = x->tokens * x->parts, experts = x->w->experts;
    int32_t *ints = (int32_t *)(void *)memory;
    sorted s = {.experts = ints, .first = ints + experts, .order = ints + 2 * experts + 1, .source = ints + 2 * experts + 1 + n,
                .scratch = memory + index_bytes(x)};
    memset(s.first, 0, ((size_t)experts + 1) * sizeof *s.first);
    for (int64_t p = 0; p < n; p++) s.first[expert_of(x, p)]++;
    for (int32_t e = 0, sum = 0; e <= experts; e++) { /* counts become starts */
        const int32_t count = s.first[e];
        s.first[e] = sum;
        sum += count;
    }
    for (int64_t p = 0; p < n; p++) s.order[s.first[expert_of(x, p)]++] = (int32_t)p; /* starts become ends */
    for (int32_t e = 0, start = 0; e < experts; e++) { /* ends of all become starts of those in use */
        const int32_t end = s.first[e];
        if (end == start) continue;
        s.experts[s.used] = e;
        s.first[s.used++] = start;
        start = end;
    }
    s.first[s.used] = (int32_t)n;
    return s;
}

/* Where strip i of those in use stands; NULL past the last. */
static const uint8_t *strip_in_use(const llmq_experts *x, const sorted *s, int64_t i) {
    const llmq_packed *w = x->w;
    return i < s->used * w->strips ? w->data + (s->experts[i / w->strips] * w->strips + i % w->strips) * w->strip_bytes : NULL;
}

/* Strips begin .. end-1 of the u-th expert in use. *ready: the block of its parts whose activations the scratch holds. */
static void run_expert(const llmq_experts *x, const sorted *s, int64_t u, int64_t begin, int64_t end, const uint8_t *ahead, int64_t *ready) {
    const int64_t e = s->experts[u];
    const llmq_product product = {.w = x->w, .expert = e, .bias = x->bias ? x->bias + e * x->w->n : NULL, .out = x->out, .ldo = x->w->n,
                                  .by = x->by, .act = x->act};
    for (int64_t at = s->first[u]; at < s->first[u + 1]; at += LLMQ_GATHERED) {
        const int64_t left = s->first[u + 1] - at, m = left < LLMQ_GATHERED ? left : LLMQ_GATHERED;
        if (*ready != at) {
            for (int64_t i = 0; i < m; i++) s->source[i] = (int32_t)(s->order[at + i] * x->x_parts / x->parts);
            llmq_gathered_prepare(x->w, x->x, x->w->k, s->source, m, s->scratch);
            *ready = at;
        }
        llmq_gathered_run(&product, s->order + at, m, s->scratch, begin, end, ahead);
    }
}

void llmq_experts_run(const llmq_experts *x, uint8_t *scratch, uint64_t *taken, int tid, int nth) {
    const sorted s = sort_parts(x, scratch);
    const int64_t strips = x->w->strips, all = s.used * strips;
    const llmq_turns turns = {.taken = taken, .all = all, .least = 1, .most = all, .parts = 4, .tid = tid, .nth = nth};
    int64_t ready = -1;
    for (llmq_turn turn = llmq_turns_take(&turns), then; turn.first < turn.end; turn = then) {
        then = llmq_turns_take(&turns); /* early, to know what comes */
        for (int64_t at = turn.first, count; at < turn.end; at += count) {
            const int64_t begin = at % strips, left = turn.end - at;
            count = left < strips - begin ? left : strips - begin;
            run_expert(x, &s, at / strips, begin, begin + count, strip_in_use(x, &s, at + count < turn.end ? at + count : then.first), &ready);
        }
    }
}

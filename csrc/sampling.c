/* sampling.c: the sampler chain.
 *
 *     logits + bias -> repeat/presence/frequency penalties -> dry -> top_k -> typical_p -> top_p -> min_p -> xtc -> temperature -> draw
 *
 * in llama.cpp's order: every cut looks at the probabilities before the temperature. A temperature below 1e-5 takes the highest logit
 * after the penalties. mirostat replaces the cuts from top_k to xtc. A cut always leaves at least one token; of equal logits the lower id
 * comes first.
 *
 * Cost: a few passes over the vocabulary that compilers vectorise and no sort of it: cuts work on a set that is ordered only as far
 * down as they look.
 *
 * Numbers: random numbers come from a counter (seed, step, stream), so a draw depends on nothing but its own row and its place;
 * exp and log are ours and sums have a fixed order, so the same logits and seed give the same token on every machine.
 *
 * Sources: penalties CTRL (Keskar 2019) and OpenAI's API; dry: P. E. Weidmann 2024; top_k: Fan 2018; typical: Meister 2022; top_p:
 * Holtzman 2019; min_p: Nguyen 2023; xtc: P. E. Weidmann 2024; mirostat: Basu 2020; Philox: Salmon 2011. */
#include "sampling.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 256, LANES = 16, DRY_LONGEST = 50, MIROSTAT_M = 100 };
enum { STREAM_DRAW, STREAM_XTC };

/* ---- arithmetic that is the same everywhere ---------------------------------------------------------------------------- */

/* exp(x) for x <= 0, relative error < 3e-7, 0 below -87. Masks in place of branches, so that loops over it become SIMD. */
static inline float exp_f(float x) {
    union { float f; int32_t i; } y = {.f = x}, floor = {.f = -87.0f}, out;
    int32_t mask = -(x >= -87.0f);
    y.i = (y.i & mask) | (floor.i & ~mask);
    float k = (y.f * 1.44269504f + 12582912.0f) - 12582912.0f; /* to the nearest integer */
    float r = (y.f - k * 0.693359375f) + k * 2.12194440e-4f;
    float e = 1.9875691500e-4f;
    e = e * r + 1.3981999507e-3f;
    e = e * r + 8.3334519073e-3f;
    e = e * r + 4.1665795894e-2f;
    e = e * r + 1.6666665459e-1f;
    e = e * r + 5.0000001201e-1f;
    e = e * r * r + r + 1.0f;
    out.i = ((int32_t)k + 127) << 23;
    out.f *= e;
    out.i &= mask;
    return out.f;
}

/* log(x) for finite normal x > 0, to about 1e-15: 2 atanh((m - 1) / (m + 1)) of the mantissa */
static double log_d(double x) {
    union { double f; uint64_t u; } bits = {.f = x};
    int64_t e = (int64_t)(bits.u >> 52) - 1023;
    bits.u = (bits.u & 0x000fffffffffffffu) | 0x3ff0000000000000u;
    if (bits.f > 1.4142135623730951) bits.f *= 0.5, e += 1;
    double s = (bits.f - 1) / (bits.f + 1), s2 = s * s, sum = 0;
    for (int i = 21; i >= 1; i -= 2) sum = sum * s2 + 1.0 / i;
    return (double)e * 0.6931471805599453 + 2 * s * sum;
}

/* exp(x) for any x, to about 1e-15, clamped to 1e-300..1e300 */
static double exp_d(double x) {
    x = x < -690 ? -690 : x > 690 ? 690 : x;
    double k = (double)(int64_t)(x * 1.4426950408889634 + (x < 0 ? -0.5 : 0.5));
    double r = (x - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10, sum = 1;
    for (int i = 14; i >= 1; i--) sum = 1 + sum * r / i;
    union { uint64_t u; double f; } scale = {.u = (uint64_t)((int64_t)k + 1023) << 52};
    return sum * scale.f;
}

/* Philox 4x32-10: a uniform number in [0, 1) that depends on seed, step and stream alone */
static double uniform(uint64_t seed, uint64_t step, uint32_t stream) {
    uint32_t c[4] = {(uint32_t)step, (uint32_t)(step >> 32), stream, 0};
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k0, (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ k1, (uint32_t)a};
        memcpy(c, next, sizeof c);
    }
    return (double)(((uint64_t)c[0] << 32 | c[1]) >> 11) * 0x1p-53;
}

/* the maximum, or LLMQ_ERR_NONFINITE for NaN, +inf, or nothing above -inf */
static llmq_status maximum(const float *x, int32_t n, float *out) {
    float best[LANES];
    int32_t bad[LANES] = {0}, i = 0, any = 0;
    for (int l = 0; l < LANES; l++) best[l] = -INFINITY;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            bad[l] |= -!(x[i + l] <= FLT_MAX);
            best[l] = x[i + l] > best[l] ? x[i + l] : best[l];
        }
    for (; i < n; i++) {
        bad[0] |= !(x[i] <= FLT_MAX);
        best[0] = x[i] > best[0] ? x[i] : best[0];
    }
    for (int l = 0; l < LANES; l++) {
        any |= bad[l];
        best[0] = best[l] > best[0] ? best[l] : best[0];
    }
    *out = best[0];
    return any || !(best[0] >= -FLT_MAX) ? LLMQ_ERR_NONFINITE : LLMQ_OK;
}

/* sum of exp((x - max) * scale); the terms go to p unless it is NULL */
static double exp_sum(const float *x, int32_t n, float max, float scale, float *p) {
    float block[BLOCK];
    double total = 0;
    for (int32_t start = 0; start < n; start += BLOCK) {
        int32_t m = n - start < BLOCK ? n - start : BLOCK;
        float lane[LANES] = {0};
        for (int32_t i = 0; i < m; i++) block[i] = exp_f((x[start + i] - max) * scale);
        memset(block + m, 0, sizeof(float) * (size_t)(BLOCK - m));
        for (int32_t i = 0; i < BLOCK; i += LANES)
            for (int l = 0; l < LANES; l++) lane[l] += block[i + l];
        for (int l = 0; l < LANES; l++) total += lane[l];
        if (p) memcpy(p + start, block, sizeof(float) * (size_t)m);
    }
    return total;
}

llmq_status llmq_logsumexp(const float *x, int32_t n, double *out) {
    float max;
    llmq_status status = maximum(x, n, &max);
    if (status == LLMQ_OK) *out = (double)max + log_d(exp_sum(x, n, max, 1, NULL));
    return status;
}

/* ---- a set of candidates, in order only as far as asked ---------------------------------------------------------------- */

typedef struct pool {
    llmq_candidate *c;
    int32_t n, sorted; /* the first `sorted` are the best, in order */
} pool;

static inline int before(llmq_candidate a, llmq_candidate b) {
    return a.key > b.key || (a.key == b.key && a.id < b.id);
}

static int compare(const void *a, const void *b) {
    return before(*(const llmq_candidate *)a, *(const llmq_candidate *)b) ? -1 : 1; /* ids differ, so none are equal */
}

/* quickselect: c[k-1] becomes the k-th best and everything before it is better; 1 <= k <= n */
static void select_best(llmq_candidate *c, int32_t n, int32_t k) {
    int32_t lo = 0, hi = n - 1;
    uint32_t random = 2463534242u;
    while (lo < hi) {
        random = random * 1664525u + 1013904223u;
        llmq_candidate pivot = c[lo + (int32_t)((uint64_t)random * (uint32_t)(hi - lo + 1) >> 32)];
        int32_t i = lo, j = hi;
        while (i <= j) {
            while (before(c[i], pivot)) i++;
            while (before(pivot, c[j])) j--;
            if (i <= j) {
                llmq_candidate t = c[i];
                c[i++] = c[j];
                c[j--] = t;
            }
        }
        if (k - 1 <= j) hi = j;
        else if (k - 1 >= i) lo = i;
        else return;
    }
}

/* put at least the best `want` in order; steps grow, so walking down a pool costs little more than what is looked at */
static void sort_to(pool *s, int32_t want) {
    while (s->sorted < want) {
        int32_t left = s->n - s->sorted, step = s->sorted < 32 ? 64 : 2 * s->sorted;
        if (step < want - s->sorted) step = want - s->sorted;
        if (step < left) select_best(s->c + s->sorted, left, step);
        else step = left;
        qsort(s->c + s->sorted, (size_t)step, sizeof *s->c, compare);
        s->sorted += step;
    }
}

static void cut_to(pool *s, int32_t n) {
    s->n = n;
    if (s->sorted > n) s->sorted = n;
}

/* all x >= floor (but never -inf) in the order of their ids */
static pool gather(const float *x, int32_t n, float floor, llmq_candidate *c) {
    pool s = {c, 0, 0};
    if (!(floor >= -FLT_MAX)) floor = -FLT_MAX;
    for (int32_t i = 0; i < n; i++) {
        c[s.n] = (llmq_candidate){x[i], i};
        s.n += x[i] >= floor;
    }
    return s;
}

/* the k highest. Blocks whose maximum is not above the k-th best so far are skipped without a branch per token. */
static pool gather_top(const float *x, int32_t n, int32_t k, llmq_candidate *c) {
    pool s = {c, 0, 0};
    int32_t room = 2 * k + 64;
    if (k > n / 4 || room > n) {
        s = gather(x, n, -FLT_MAX, c);
    } else {
        float floor = -INFINITY;
        for (int32_t start = 0; start < n; start += LANES) {
            int32_t m = n - start < LANES ? n - start : LANES, above = 0;
            for (int32_t l = 0; l < m; l++) above |= x[start + l] > floor;
            for (int32_t l = 0; above && l < m; l++) {
                if (!(x[start + l] > floor)) continue;
                c[s.n++] = (llmq_candidate){x[start + l], start + l};
                if (s.n == room) {
                    select_best(c, s.n, k);
                    s.n = k;
                    floor = c[k - 1].key;
                }
            }
        }
    }
    if (s.n > k) {
        select_best(c, s.n, k);
        s.n = k;
    }
    return s;
}

int32_t llmq_top(const float *x, int32_t n, int32_t k, llmq_candidate *c) {
    pool s = gather_top(x, n, k, c);
    sort_to(&s, s.n);
    return s.n;
}

static double pool_sum(const pool *s, float max, float scale) {
    double total = 0;
    for (int32_t i = 0; i < s->n; i++) total += exp_f((s->c[i].key - max) * scale);
    return total;
}

/* ---- penalties --------------------------------------------------------------------------------------------------------- */

static llmq_status penalise(const llmq_sampling *g, float *x, int32_t *count, int32_t n_vocab, const int32_t *history, int64_t n) {
    if (g->repeat_penalty == 1 && g->presence_penalty == 0 && g->frequency_penalty == 0) return LLMQ_OK;
    int64_t first = g->repeat_last_n < 0 || g->repeat_last_n > n ? 0 : n - g->repeat_last_n;
    for (int64_t i = first; i < n; i++)
        if (history[i] < 0 || history[i] >= n_vocab) return LLMQ_ERR_ARG;
    for (int64_t i = first; i < n; i++) count[history[i]]++;
    for (int64_t i = first; i < n; i++) {
        int32_t id = history[i], times = count[id];
        if (times == 0) continue;
        count[id] = 0;
        x[id] = x[id] <= 0 ? x[id] * g->repeat_penalty : x[id] / g->repeat_penalty;
        x[id] -= (float)times * g->frequency_penalty + g->presence_penalty;
    }
    return LLMQ_OK;
}

/* "don't repeat yourself": where the last m tokens (no breaker among them) stood before, followed by token y, y loses
 * multiplier * base^(m - allowed); m is the longest such repetition, at most DRY_LONGEST */
static llmq_status dry(const llmq_sampling *g, const uint8_t *breaker, float *x, int32_t *count, int32_t n_vocab,
                       const int32_t *history, int64_t n_history) {
    if (g->dry_multiplier == 0) return LLMQ_OK;
    int64_t n = g->dry_last_n < 0 || g->dry_last_n > n_history ? n_history : g->dry_last_n;
    const int32_t *h = history + (n_history - n);
    for (int64_t i = 0; i < n; i++)
        if (h[i] < 0 || h[i] >= n_vocab) return LLMQ_ERR_ARG;
    for (int64_t i = 0; i + 1 < n; i++) {
        if (h[i] != h[n - 1] || breaker[h[i + 1]]) continue;
        int32_t m = 0;
        while (m < DRY_LONGEST && m <= i && h[i - m] == h[n - 1 - m] && !breaker[h[i - m]]) m++;
        if (m > count[h[i + 1]]) count[h[i + 1]] = m;
    }
    for (int64_t i = 1; i < n; i++) {
        int32_t m = count[h[i]];
        count[h[i]] = 0;
        if (m > 0 && m >= g->dry_allowed_length)
            x[h[i]] -= g->dry_multiplier * (float)exp_d((m - g->dry_allowed_length) * log_d(g->dry_base));
    }
    return LLMQ_OK;
}

/* ---- cuts -------------------------------------------------------------------------------------------------------------- */

/* locally typical: tokens whose surprise is nearest to the entropy, until their mass exceeds typical_p */
static void typical(pool *s, float typical_p, const float *x, float max) {
    double log_total = log_d(pool_sum(s, max, 1)), entropy = 0, mass = 0;
    for (int32_t i = 0; i < s->n; i++) {
        double log_p = (double)s->c[i].key - max - log_total;
        entropy -= exp_f((float)log_p) * log_p;
    }
    for (int32_t i = 0; i < s->n; i++) s->c[i].key = (float)-fabs((double)s->c[i].key - max - log_total + entropy);
    s->sorted = 0;
    for (int32_t i = 0; i < s->n; i++) {
        sort_to(s, i + 1);
        mass += exp_f((float)((double)x[s->c[i].id] - max - log_total));
        if (mass > typical_p) s->n = i + 1;
    }
    for (int32_t i = 0; i < s->n; i++) s->c[i].key = x[s->c[i].id];
    s->sorted = 0;
}

/* nucleus: the best tokens until their mass reaches top_p of `total` */
static void nucleus(pool *s, float top_p, float max, double total) {
    double mass = 0;
    for (int32_t i = 0; i < s->n; i++) {
        sort_to(s, i + 1);
        mass += exp_f(s->c[i].key - max);
        if (mass >= top_p * total) cut_to(s, i + 1);
    }
}

static void cut_below(pool *s, float floor) {
    int32_t kept = 0, sorted = 0;
    for (int32_t i = 0; i < s->n; i++) {
        if (s->c[i].key < floor) continue;
        sorted += i < s->sorted;
        s->c[kept++] = s->c[i];
    }
    s->n = kept;
    s->sorted = sorted;
}

/* exclude top choices: of the tokens with p >= threshold only the least probable stays */
static void exclude_top(pool *s, float threshold, float max) {
    double total = pool_sum(s, max, 1);
    int32_t n = 0;
    for (; n < s->n; n++) {
        sort_to(s, n + 1);
        if (exp_f(s->c[n].key - max) < threshold * total) break;
    }
    if (n < 2) return;
    s->c += n - 1;
    s->n -= n - 1;
    s->sorted -= n - 1;
}

/* what can still be drawn after the cuts that need no order: top_k, or the few tokens that top_p and min_p can keep. total: the
 * mass, relative to max, of what top_p measures. */
static pool first_cut(const llmq_sampling *g, const llmq_sampler_scratch *scratch, int32_t n, float max, double *total) {
    const float *x = scratch->logits;
    pool s;
    if (g->top_k > 0 && g->top_k < n) {
        s = gather_top(x, n, g->top_k, scratch->candidates);
    } else if (g->typical_p < 1 || (g->top_p >= 1 && g->min_p <= 0)) {
        s = gather(x, n, -FLT_MAX, scratch->candidates);
    } else {
        *total = exp_sum(x, n, max, 1, scratch->p);
        float lowest = g->min_p > 0 ? max + (float)log_d(g->min_p) : -FLT_MAX;
        for (float window = 8;; window *= 2) { /* widened until what top_p keeps is certainly inside */
            float floor = max - window > lowest ? max - window : lowest;
            double mass = 0;
            s = gather(x, n, floor, scratch->candidates);
            for (int32_t i = 0; i < s.n; i++) mass += scratch->p[s.c[i].id];
            if (floor <= lowest || window > 128 || (g->top_p < 1 && mass >= g->top_p * *total)) return s;
        }
    }
    if (g->typical_p < 1) typical(&s, g->typical_p, x, max);
    *total = g->top_p < 1 ? pool_sum(&s, max, 1) : 0;
    return s;
}

/* ---- draws ------------------------------------------------------------------------------------------------------------- */

/* one of the pool by softmax(key / temperature), walked from the most probable down; its probability in *p */
static int32_t draw(pool *s, float temperature, double u, double *p) {
    sort_to(s, s->n);
    float max = s->c[0].key, scale = 1 / temperature;
    double total = pool_sum(s, max, scale), mass = 0;
    for (int32_t i = 0; i < s->n; i++) {
        double weight = exp_f((s->c[i].key - max) * scale);
        mass += weight;
        if (mass > u * total || i + 1 == s->n) {
            *p = weight / total;
            return s->c[i].id;
        }
    }
    return s->c[0].id;
}

/* nothing was cut: the same walk in the order of ids */
static int32_t draw_all(const float *x, float *p, int32_t n, float max, float temperature, double u) {
    double total = exp_sum(x, n, max, 1 / temperature, p), mass = 0;
    int32_t last = 0;
    for (int32_t i = 0; i < n; i++) {
        mass += p[i];
        if (p[i] > 0) last = i;
        if (mass > u * total) return last;
    }
    return last;
}

/* mirostat: keep the surprise of the tokens near tau by choosing where to cut; mu moves after every token. Version 1 estimates the
 * Zipf exponent from the best MIROSTAT_M tokens and cuts to k of them, version 2 cuts what is more surprising than mu. */
static int32_t mirostat(const llmq_sampling *g, const llmq_sampler_scratch *scratch, int32_t n, float max, double u, double *mu) {
    const float *x = scratch->logits;
    double scale = 1.0 / g->temperature, p = 1;
    pool s;
    if (g->mirostat == 1) {
        double num = 0, den = 0;
        s = gather_top(x, n, n < MIROSTAT_M ? n : MIROSTAT_M, scratch->candidates);
        sort_to(&s, s.n);
        for (int32_t i = 0; i + 1 < s.n; i++) {
            double t = log_d((i + 2.0) / (i + 1.0));
            num += t * ((double)s.c[i].key - s.c[i + 1].key) * scale;
            den += t * t;
        }
        double zipf = den > 0 && num > 0 ? num / den : 1, excess = zipf - 1, ln_n = log_d(n);
        double norm = fabs(excess) < 1e-6 ? 1 / ln_n : excess / (1 - exp_d(-excess * ln_n));
        double k = exp_d((log_d(norm) + *mu * 0.6931471805599453) / zipf);
        s = gather_top(x, n, k < 1 ? 1 : k > n ? n : (int32_t)k, scratch->candidates);
    } else {
        double total = exp_sum(x, n, max, (float)scale, NULL);
        float floor = (float)(max + (log_d(total) - *mu * 0.6931471805599453) * g->temperature);
        s = gather(x, n, floor < max ? floor : max, scratch->candidates);
    }
    int32_t token = draw(&s, g->temperature, u, &p);
    *mu -= g->mirostat_eta * (-log_d(p > 1e-300 ? p : 1e-300) / 0.6931471805599453 - g->mirostat_tau);
    return token;
}

llmq_status llmq_sample(const llmq_sampling *g, const llmq_sampler_scratch *scratch, const float *logits, int32_t n,
                        const int32_t *history, int64_t n_history, const int32_t *bias_id, const float *bias, int32_t n_bias,
                        uint64_t step, double *mu, int32_t *token) {
    float *x = scratch->logits, max;
    llmq_status status;
    memcpy(x, logits, sizeof(float) * (size_t)n);
    for (int32_t i = 0; i < n_bias; i++) {
        if (bias_id[i] < 0 || bias_id[i] >= n) return LLMQ_ERR_ARG;
        x[bias_id[i]] += bias[i];
    }
    if ((status = penalise(g, x, scratch->count, n, history, n_history)) != LLMQ_OK) return status;
    if ((status = dry(g, scratch->breaker, x, scratch->count, n, history, n_history)) != LLMQ_OK) return status;
    if ((status = maximum(x, n, &max)) != LLMQ_OK) return status;
    if (g->temperature < 1e-5f) {
        int32_t i = 0;
        while (x[i] != max) i++;
        *token = i;
        return LLMQ_OK;
    }
    double u = uniform(g->seed, step, STREAM_DRAW), total, p;
    if (g->mirostat) {
        *token = mirostat(g, scratch, n, max, u, mu);
        return LLMQ_OK;
    }
    int xtc = g->xtc_probability > 0 && uniform(g->seed, step, STREAM_XTC) < g->xtc_probability;
    if ((g->top_k <= 0 || g->top_k >= n) && g->typical_p >= 1 && g->top_p >= 1 && g->min_p <= 0 && !xtc) {
        *token = draw_all(x, scratch->p, n, max, g->temperature, u);
        return LLMQ_OK;
    }
    pool s = first_cut(g, scratch, n, max, &total);
    if (g->top_p < 1) nucleus(&s, g->top_p, max, total);
    sort_to(&s, 1);
    if (g->min_p > 0) cut_below(&s, s.c[0].key + (float)log_d(g->min_p));
    if (xtc) exclude_top(&s, g->xtc_threshold, s.c[0].key);
    *token = draw(&s, g->temperature, u, &p);
    return LLMQ_OK;
}

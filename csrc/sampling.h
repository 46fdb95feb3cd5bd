/* sampling.h: from one row of logits to one token; the contract stands in sampling.c. */
#ifndef LLMQ_SAMPLING_H
#define LLMQ_SAMPLING_H

#include "llmq.h"

typedef struct llmq_sampling {
    float temperature;                    /* < 1e-5: the most probable token */
    int32_t top_k;                        /* <= 0: off */
    float top_p, min_p, typical_p;
    float repeat_penalty, presence_penalty, frequency_penalty;
    int32_t repeat_last_n;                /* tokens looked back; -1: all */
    float dry_multiplier, dry_base;
    int32_t dry_allowed_length, dry_last_n; /* -1: all */
    float xtc_probability, xtc_threshold;
    int32_t mirostat;                     /* 0: off, 1, 2 */
    float mirostat_tau, mirostat_eta;
    uint64_t seed;
} llmq_sampling;

typedef struct llmq_candidate {
    float key;                            /* ranked by key, higher first, then by id, lower first */
    int32_t id;
} llmq_candidate;

/* Buffers of one sampler, each of n_vocab entries. `count` is all zeros between calls. */
typedef struct llmq_sampler_scratch {
    float *logits, *p;
    int32_t *count;
    llmq_candidate *candidates;
    const uint8_t *breaker;               /* dry: 1 where a token ends a repetition; may be NULL when dry is off */
} llmq_sampler_scratch;

/* history: the tokens so far, prompt included. step: the number of the draw, each seed has 2^64. mu: mirostat's state, 2 * tau at
 * first. bias_id, bias: n_bias additions to the logits. LLMQ_ERR_NONFINITE: a NaN, a +inf, or nothing above -inf in the logits;
 * LLMQ_ERR_ARG: an id in history or bias_id that is not 0..n_vocab-1. */
llmq_status llmq_sample(const llmq_sampling *, const llmq_sampler_scratch *, const float *logits, int32_t n_vocab,
                        const int32_t *history, int64_t n_history, const int32_t *bias_id, const float *bias, int32_t n_bias,
                        uint64_t step, double *mu, int32_t *token);

/* log(sum(exp(x))); LLMQ_ERR_NONFINITE as above. */
llmq_status llmq_logsumexp(const float *x, int32_t n, double *out);

/* The k highest x, 1 <= k <= n, in order, without those at -inf: returns how many. c has room for n. */
int32_t llmq_top(const float *x, int32_t n, int32_t k, llmq_candidate *c);

#endif

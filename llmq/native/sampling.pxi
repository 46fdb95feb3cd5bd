# Sampling: one row of logits to one token (csrc/sampling.c), and log-probabilities.

from libc.stdint cimport uint64_t

cdef extern from "sampling.h" nogil:
    ctypedef struct llmq_sampling:
        float temperature, top_p, min_p, typical_p, repeat_penalty, presence_penalty, frequency_penalty
        float dry_multiplier, dry_base, xtc_probability, xtc_threshold, mirostat_tau, mirostat_eta
        int32_t top_k, repeat_last_n, dry_allowed_length, dry_last_n, mirostat
        uint64_t seed

    ctypedef struct llmq_candidate:
        float key
        int32_t id

    ctypedef struct llmq_sampler_scratch:
        float *logits
        float *p
        int32_t *count
        llmq_candidate *candidates
        const uint8_t *breaker

    llmq_status llmq_sample(const llmq_sampling *, const llmq_sampler_scratch *, const float *logits, int32_t n_vocab,
                            const int32_t *history, int64_t n_history, const int32_t *bias_id, const float *bias,
                            int32_t n_bias, uint64_t step, double *mu, int32_t *token)
    llmq_status llmq_logsumexp(const float *x, int32_t n, double *out)
    int32_t llmq_top(const float *x, int32_t n, int32_t k, llmq_candidate *c)


cdef int check_logits(llmq_status status) except -1:
    if status == LLMQ_ERR_NONFINITE:
        raise ValueError("logits: a NaN, a +infinity, or no token above -infinity; the model or the logit_bias is broken")
    return check_status(status, "sampling")


cdef class Sampler:
    """The sampler chain for one generation: `sample` turns logits into tokens. `options` are the numeric fields of
    llmq.Sampling; `bias` maps token ids to what is added to their logits; `breakers`, uint8 (n_vocab,), are 1 where dry ends a
    repetition."""

    cdef llmq_sampling chain
    cdef llmq_sampler_scratch scratch
    cdef readonly int32_t n_vocab
    cdef double mu
    cdef object buffers
    cdef int32_t[::1] bias_ids
    cdef float[::1] bias

    def __init__(self, int32_t n_vocab, dict options, dict bias, const uint8_t[::1] breakers=None):
        if n_vocab < 1 or (breakers is not None and breakers.shape[0] != n_vocab):
            raise ValueError("Sampler: breakers must have n_vocab entries, and n_vocab be at least 1")
        self.n_vocab = n_vocab
        self.chain = options
        self.mu = 2 * self.chain.mirostat_tau
        if self.chain.dry_multiplier != 0 and breakers is None:
            breakers = np.zeros(n_vocab, np.uint8)
        self.bias_ids = np.fromiter(bias.keys(), np.int32, len(bias))
        self.bias = np.fromiter(bias.values(), np.float32, len(bias))
        cdef float[::1] logits = np.empty(n_vocab, np.float32)
        cdef float[::1] p = np.empty(n_vocab, np.float32)
        cdef int32_t[::1] count = np.zeros(n_vocab, np.int32)
        cdef uint64_t[::1] candidates = np.empty(n_vocab, np.uint64)
        self.buffers = (logits, p, count, candidates, breakers)
        self.scratch.logits = &logits[0]
        self.scratch.p = &p[0]
        self.scratch.count = &count[0]
        self.scratch.candidates = <llmq_candidate *>&candidates[0]
        self.scratch.breaker = &breakers[0] if breakers is not None else NULL

    def sample(self, const float[::1] logits, const int32_t[::1] history, uint64_t step):
        """The next token. `logits` (n_vocab,) stay as they are; `history` are the tokens so far, prompt included; `step` counts
        the draws of this seed: the same step draws the same random number."""
        cdef llmq_status status
        cdef int32_t token = 0
        cdef int64_t n_history = history.shape[0]
        cdef int32_t n_bias = <int32_t>self.bias.shape[0]
        cdef const int32_t *past = &history[0] if n_history else NULL
        cdef const int32_t *ids = &self.bias_ids[0] if n_bias else NULL
        cdef const float *bias = &self.bias[0] if n_bias else NULL
        if logits.shape[0] != self.n_vocab:
            raise ValueError(f"sample: {self.n_vocab} logits expected, found {logits.shape[0]}")
        with nogil:
            status = llmq_sample(&self.chain, &self.scratch, &logits[0], self.n_vocab, past, n_history, ids, bias, n_bias, step,
                                 &self.mu, &token)
        check_logits(status)
        return token


def top_logprobs(const float[::1] logits, int32_t token, int32_t k):
    """(log p of `token`, [(id, log p) of the k most probable, best first]) under softmax(logits)."""
    cdef int32_t n = <int32_t>logits.shape[0]
    cdef double total = 0
    cdef llmq_status status
    cdef uint64_t[::1] room
    cdef llmq_candidate *best
    cdef int32_t found = 0
    if not 0 <= token < n or not 0 <= k <= n:
        raise ValueError(f"top_logprobs: token and k within the {n} logits expected, found {token} and {k}")
    room = np.empty(n, np.uint64)
    best = <llmq_candidate *>&room[0]
    with nogil:
        status = llmq_logsumexp(&logits[0], n, &total)
        if status == LLMQ_OK and k > 0:
            found = llmq_top(&logits[0], n, k, best)
    check_logits(status)
    return logits[token] - total, [(best[i].id, best[i].key - total) for i in range(found)]


def target_logprobs(const float[:, ::1] logits, const int32_t[::1] targets):
    """log p of targets[i] under softmax(logits[i]): float64 (n,)."""
    cdef int64_t i
    cdef int64_t rows = logits.shape[0]
    cdef int32_t n = <int32_t>logits.shape[1]
    cdef llmq_status status = LLMQ_OK
    if targets.shape[0] != rows or (rows and (np.min(targets) < 0 or np.max(targets) >= n)):
        raise ValueError(f"target_logprobs: one target of 0..{n - 1} for each of {rows} rows expected")
    out = np.empty(rows, np.float64)
    cdef double[::1] view = out
    with nogil:
        for i in range(rows):
            status = llmq_logsumexp(&logits[i, 0], n, &view[i])
            if status != LLMQ_OK:
                break
            view[i] = logits[i, targets[i]] - view[i]
    check_logits(status)
    return out

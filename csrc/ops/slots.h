/* slots.h: the kernel slots of the ops that are not matmuls. One body, csrc/isa/ops.inc, compiled once per instruction set.
 *
 * Numbers: float32 throughout. exp, tanh, sigmoid and softplus are within 2 ulp or 1e-37; gelu (erf) within 1e-7 * max(|x|, 1). Sets differ
 * in the order of sums and in fused multiply-adds, by a few float32 roundings; on one set a row's result depends on that row alone. */
#ifndef LLMQ_OPS_SLOTS_H
#define LLMQ_OPS_SLOTS_H

#include <stdint.h>

/* Attention of some query rows over at most LLMQ_CHUNK keys of one KV head: the softmax's partial result for those keys. A row is
 * one query head of one token. Keys of a chunk lie in pages of LLMQ_PAGE; layout in csrc/kv.h. */
enum { LLMQ_PAGE = 64, LLMQ_CHUNK = 256 };

typedef struct llmq_attn_part {
    float *top;                   /* largest score; -inf when no key takes part, and then sum and acc are 0 */
    float *sum;                   /* of exp(score - top) */
    float *acc;                   /* [rows][d_v], sum of exp(score - top) * value */
} llmq_attn_part;

typedef struct llmq_attn_chunk {
    int32_t type;                 /* of keys and values: LLMQ_F32, LLMQ_F16, LLMQ_BF16, LLMQ_Q8_0 */
    int32_t rows, d_k, d_v;       /* d_v rounded up to 16 */
    int32_t start;                /* position of the chunk's first key, a multiple of LLMQ_CHUNK */
    const uint8_t *k[4], *v[4];   /* this head's keys and values in each page; a page past the last key may be NULL */
    const float *q;               /* [rows][d_k], already multiplied by the scale */
    const int32_t *from, *to;     /* per row: the keys at positions from <= j < to take part */
    const float *slope;           /* per row: slope * (j - (to - 1)) is added to the score; NULL: nothing */
    const float *bias;            /* [heads][2 * reach + 1], added by j - position within -reach .. reach; NULL: nothing */
    const int32_t *head, *position; /* per row, for the bias */
    int32_t reach;
    float softcap;                /* > 0: score = softcap * tanh(score / softcap), before the slope */
    float *scores;                /* [rows][LLMQ_CHUNK], scratch */
    uint8_t *scratch;             /* of attend_tiles: llmq_attend_scratch bytes */
    llmq_attn_part out;           /* [rows], of attend_tiles room for [rows rounded up to 16] */
} llmq_attn_chunk;

/* Tokens of a sequence on their way through at most LLMQ_CHANNELS channels of a recurrent op. Lanes are channels and every one is a
 * chain of its own, in the same order however many tokens come at once. */
enum { LLMQ_CHANNELS = 16, LLMQ_MAX_TAPS = 16 };

typedef struct llmq_channels {
    int n;                        /* channels, 1 to LLMQ_CHANNELS */
    const int32_t *rows;          /* where in x and out the tokens stand */
    int64_t tokens;
    const float *x;               /* of the first channel, x_step from row to row */
    int64_t x_step;
    float *out;
    int64_t out_step;
    float *state;                 /* [..][LLMQ_CHANNELS], read and written */
} llmq_channels;

typedef struct llmq_scan {
    int states, shared;           /* shared: all states of a channel decay alike */
    const float *a;               /* [states][LLMQ_CHANNELS], with shared by head */
    const float *d;               /* by head; NULL: none */
    const float *b, *c;           /* [states], x_step from row to row */
    const float *dt;              /* by head, dt_step from row to row */
    int64_t dt_step;
    int32_t head[LLMQ_CHANNELS];  /* of each channel; past n that of the last */
} llmq_scan;

typedef struct llmq_delta { /* all channels are of one head */
    int states;
    float a, scale;
    const float *q, *k;           /* [states], x_step from row to row */
    const float *dt, *rate;       /* of the head, dt_step from row to row */
    int64_t dt_step;
} llmq_delta;

/* state: the last taps - 1 rows; w: [taps][LLMQ_CHANNELS], the last for the token itself; bias NULL: none */
typedef void llmq_conv_fn(const llmq_channels *, const float *w, const float *bias, int taps);
typedef void llmq_scan_fn(const llmq_channels *, const llmq_scan *);
typedef void llmq_delta_fn(const llmq_channels *, const llmq_delta *);
/* attend: float32 products. attend_tiles: bfloat16 keys and values only, for many rows; products of bfloat16 as
 * csrc/isa/attend_bf16.inc states, and only the first LLMQ_ATTEND_ROWS rows of scores are used. */
typedef void llmq_attend_fn(const llmq_attn_chunk *);
enum { LLMQ_ATTEND_ROWS = 32 };
static inline int64_t llmq_attend_scratch(int64_t d_k, int64_t d_v) {
    return LLMQ_ATTEND_ROWS * ((d_k + 31) / 32 * 32 + LLMQ_CHUNK) * 2 + 32 * d_v * 2;
}

/* into: the same rows over more keys */
typedef void llmq_fold_fn(const llmq_attn_part *into, const llmq_attn_part *more, int32_t rows, int32_t d_v);
typedef void llmq_rmsnorm_fn(float *out, const float *a, const float *w, int64_t n, float eps); /* one row; w NULL: ones */
typedef void llmq_layernorm_fn(float *out, const float *a, const float *w, const float *b, int64_t n, float eps);
/* one token: cosines[dims/2], then sines[dims/2]; halves: i3 of ROPE */
typedef void llmq_rope_fn(float *out, const float *a, const float *cosines, int heads, int head_dim, int dims, int halves);
typedef void llmq_act_fn(float *out, const float *a, int64_t n, int kind); /* kind: i0 of ACT */
typedef void llmq_glu_fn(float *out, const float *a, const float *b, int64_t n, int kind);
typedef void llmq_binary_fn(float *out, const float *a, const float *b, int64_t n);
typedef void llmq_affine_fn(float *out, const float *a, int64_t n, float factor, float offset);
typedef void llmq_softcap_fn(float *out, const float *a, int64_t n, float cap);
typedef void llmq_clamp_fn(float *out, const float *a, int64_t n, float low, float high); /* a NaN stays */

#endif

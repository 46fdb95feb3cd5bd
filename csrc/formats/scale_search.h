/* scale_search.h: choosing the scale, the minimum and the integers of the types whose blocks have one scale.
 *
 *     w[i] = d * level[q[i]] + m        d, m binary16 (or d as `scale` says); level: the integers lo..hi, or a codebook of 16;
 *                                       m only with has_min
 *
 * The search is described in scale_search.inc; llmq/quant/scale_search.py is the same in NumPy and gives the same bits. */
#ifndef LLMQ_FORMATS_SCALE_SEARCH_H
#define LLMQ_FORMATS_SCALE_SEARCH_H

#include "formats/codec.h"

enum { SS_LANES = 16, SS_CHUNKS = 2, SS_MAX_STARTS = 29 };

typedef struct ss_shape {
    int32_t n;                  /* weights per block */
    float lo, hi;               /* the integer levels; of a codebook, what counts as level 0, and unused */
    const int8_t *codebook;     /* 16 ascending levels, or NULL */
    int32_t has_min;
    int32_t scale;              /* enum llmq_scale: F16, or without a minimum and with levels of both signs E8M0 and E4M3 */
    int32_t parts;              /* of n weights, with a scale each, that make a block of the type; 0 is 1 */
    int32_t plain, starts;      /* how many starts are tried without and with importances, which make clipping pay */
    /* First guesses of the scale. Without a minimum: the level (not only an integer, not only within range) that the weight of
     * largest magnitude stands at. With one: how many steps the lowest level stands above the least weight, and the highest below
     * the greatest. */
    float start[SS_MAX_STARTS][2];
} ss_shape;

/* Starts, chosen one after another by what each takes away from the error on real rows that those before it leave, and held against
 * adversarial ones. The first is the usual one: a block of one value is then as exact as binary16 allows. */
#define SS_UNIFORM_STARTS(lo, hi, plain_) .plain = plain_, .starts = 29, .start = { \
    {lo}, {lo - 0.5f}, {lo + 0.8f}, {lo - 0.8f}, {lo + 0.3f}, {lo - 0.2f}, {hi - 0.1f}, {lo + 1.3f}, \
    {lo + 0.5f}, {lo + 0.1f}, {lo + 1.0f}, {lo + 1.8f}, {lo - 1.0f}, {hi}, {hi - 0.2f}, {hi - 0.4f}, \
    {hi - 0.6f}, {hi - 0.8f}, {hi + 0.2f}, {hi + 0.4f}, {hi + 0.6f}, {hi - 1.0f}, {hi - 1.4f}, {hi - 1.8f}, \
    {lo - 0.35f}, {lo + 0.6f}, {hi - 2.2f}, {lo - 0.65f}, {lo + 1.5f}}
#define SS_MIN_STARTS .plain = 16, .starts = 29, .start = { \
    {0, 0}, {-0.6f, -0.6f}, {-0.6f, -0.2f}, {-0.6f, 0.2f}, {-0.6f, 0.6f}, {-0.2f, -0.6f}, {-0.2f, -0.2f}, {-0.2f, 0.2f}, \
    {-0.2f, 0.6f}, {0.2f, -0.6f}, {0.2f, -0.2f}, {0.2f, 0.2f}, {0.2f, 0.6f}, {0.6f, -0.2f}, {0.6f, 0.2f}, {0.6f, 0.6f}, \
    {-1, -1}, {-1, 0}, {0, -1}, {-1, -0.5f}, {-0.5f, -1}, {-0.5f, -0.5f}, {-0.5f, 0}, {0, -0.5f}, \
    {0, 1}, {1, 0}, {0.5f, 1}, {1, 0.5f}, {1, 1}}
#define SS_IQ4_STARTS .plain = 16, .starts = 16, .start = { \
    {-127}, {-122}, {-117}, {-112}, {-132}, {-137}, {-142}, {-147}, {113}, {108}, {103}, {98}, {118}, {123}, {128}, {93}}
#define SS_EIGHT_BIT_STARTS .plain = 8, .starts = 16, .start = { \
    {127}, {126.1f}, {123.1f}, {124}, {124.9f}, {120.1f}, {118.9f}, {121}, \
    {116.8f}, {121.9f}, {127.4f}, {126.6f}, {125.4f}, {123.6f}, {122.5f}, {117.8f}}

/* Ternary weights as trained stand at 1; of others, most are far below the largest. */
#define SS_TERNARY_STARTS .plain = 16, .starts = 16, .start = { \
    {1}, {0.75f}, {1.25f}, {1.5f}, {1.7f}, {1.9f}, {2.1f}, {2.3f}, {2.6f}, {2.9f}, {3.3f}, {3.8f}, {4.5f}, {5.5f}, {7}, {10}}

/* FP4 (formats/fp4.h). Powers of two: the first has the greatest weight below 16 / 12 of the highest level. */
#define SS_MXFP4_STARTS .plain = 5, .starts = 5, .start = {{8}, {4}, {2}, {16}, {32}}
#define SS_NVFP4_STARTS .plain = 16, .starts = 16, .start = { \
    {12}, {11.5f}, {11}, {10.5f}, {12.5f}, {13}, {13.5f}, {8}, {7.5f}, {8.5f}, {6}, {6.5f}, {4}, {14}, {16}, {9}}

/* For each of SS_LANES blocks: level[i], counted from lo, d and m. */
typedef struct ss_fit {
    uint8_t level[SS_LANES][LLMQ_MAX_BLOCK];
    float d[SS_LANES], m[SS_LANES];
} ss_fit;

/* A slot of the kernel table; every instruction set gives the same result. src: `chunks` (1..SS_CHUNKS) times SS_LANES blocks of finite
 * weights; weight: their importances, or NULL; out: a fit for each chunk. */
typedef void ss_body(const ss_shape *, const float *src, const float *weight, int chunks, ss_fit *out);

/* The quantize of a type: search, then pack each block of `bytes` from its lane of a fit. */
typedef void ss_pack(const ss_fit *, int lane, uint8_t *block); /* lane: the first of the block's parts */
llmq_status ss_quantize(const ss_shape *, ss_pack *, int32_t bytes, const float *src, void *dst, int64_t n, const float *weight);

#endif

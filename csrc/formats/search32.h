/* search32.h: choosing the scale, the minimum and the integers of a block of 32 weights, for the types whose block is just that.
 *
 *     w[i] = d * level[q[i]] + m        d, m binary16; level: the integers lo..hi, or a codebook of 16; m only with has_min
 *
 * The search is described in search32.inc; llmq/quant/search.py is the same in NumPy and gives the same bits. */
#ifndef LLMQ_FORMATS_SEARCH32_H
#define LLMQ_FORMATS_SEARCH32_H

#include "formats/codec.h"

enum { S32_LANES = 16, S32_MAX_STARTS = 31 };

typedef struct s32_shape {
    float lo, hi;               /* the integer levels; of a codebook, what counts as level 0, and unused */
    const int8_t *codebook;     /* 16 ascending levels, or NULL */
    int32_t has_min;
    int32_t plain, starts;      /* how many starts are tried without and with importances, which make clipping pay */
    /* First guesses of the scale. Without a minimum: the level (not only an integer, not only within range) that the weight of
     * largest magnitude stands at. With one: how many steps the lowest level stands above the least weight, and the highest below
     * the greatest. */
    float start[S32_MAX_STARTS][2];
} s32_shape;

/* Starts, chosen by what they leave of the error on normal, real and adversarial rows. Whole levels at the ends of the range are
 * among them: a block of one value is then as exact as binary16 allows. */
#define S32_UNIFORM_STARTS(lo, hi) .plain = 16, .starts = 31, .start = { \
    {lo}, {lo + 0.2f}, {lo + 0.4f}, {lo + 0.6f}, {lo + 0.8f}, {lo - 0.2f}, {lo - 0.4f}, {lo - 0.6f}, \
    {hi}, {hi - 0.2f}, {hi - 0.4f}, {hi - 0.6f}, {hi - 0.8f}, {hi + 0.2f}, {hi + 0.4f}, {hi + 0.6f}, \
    {lo + 0.1f}, {lo + 0.3f}, {lo + 0.5f}, {lo + 0.7f}, {lo - 0.1f}, {lo - 0.3f}, {lo - 0.5f}, {lo - 1.0f}, \
    {lo + 1.0f}, {lo + 1.4f}, {lo + 1.8f}, {hi - 1.0f}, {hi - 1.4f}, {hi - 1.8f}, {hi - 2.2f}}
#define S32_MIN_STARTS .plain = 16, .starts = 29, .start = { \
    {0, 0}, {-0.6f, -0.6f}, {-0.6f, -0.2f}, {-0.6f, 0.2f}, {-0.6f, 0.6f}, {-0.2f, -0.6f}, {-0.2f, -0.2f}, {-0.2f, 0.2f}, \
    {-0.2f, 0.6f}, {0.2f, -0.6f}, {0.2f, -0.2f}, {0.2f, 0.2f}, {0.2f, 0.6f}, {0.6f, -0.2f}, {0.6f, 0.2f}, {0.6f, 0.6f}, \
    {-1, -1}, {-1, 0}, {0, -1}, {-1, -0.5f}, {-0.5f, -1}, {-0.5f, -0.5f}, {-0.5f, 0}, {0, -0.5f}, \
    {0, 1}, {1, 0}, {0.5f, 1}, {1, 0.5f}, {1, 1}}
#define S32_IQ4_STARTS .plain = 16, .starts = 16, .start = { \
    {-127}, {-122}, {-117}, {-112}, {-132}, {-137}, {-142}, {-147}, {113}, {108}, {103}, {98}, {118}, {123}, {128}, {93}}
#define S32_EIGHT_BIT_STARTS .plain = 16, .starts = 16, .start = { \
    {127}, {127.4f}, {126.6f}, {126.2f}, {125.8f}, {125.4f}, {125}, {124.6f}, \
    {124.2f}, {123.8f}, {123.4f}, {123}, {122.6f}, {122.2f}, {121.8f}, {121.4f}}

/* S32_LANES blocks: level[i] is counted from lo. */
typedef struct s32_fit {
    uint8_t level[S32_LANES][32];
    float d[S32_LANES], m[S32_LANES];
} s32_fit;

/* A slot of the kernel table; every instruction set gives the same result. src: S32_LANES blocks of finite weights; weight: importances, or NULL. */
typedef void s32_body(const s32_shape *, const float *src, const float *weight, s32_fit *out);

/* The quantize of a type: search, then pack(level, binary16 of d and m) each block of `bytes`. */
typedef void s32_pack(const uint8_t level[32], uint16_t d, uint16_t m, uint8_t *block);
llmq_status s32_quantize(const s32_shape *, s32_pack *, int32_t bytes, const float *src, void *dst, int64_t n, const float *weight);

#endif

/* search32.h: choosing the scale, the minimum and the integers of a block of 32 weights, for the types whose block is just that.
 *
 *     w[i] = d * level[q[i]] + m        d, m binary16; level: the integers lo..hi, or a codebook of 16; m only with has_min
 *
 * The search is described in search32.inc; llmq/quant/search.py is the same in NumPy and gives the same bits. */
#ifndef LLMQ_FORMATS_SEARCH32_H
#define LLMQ_FORMATS_SEARCH32_H

#include "formats/codec.h"

enum { S32_LANES = 16, S32_MAX_STARTS = 32 };

typedef struct s32_shape {
    float lo, hi;               /* the integer levels; of a codebook, what counts as level 0, and unused */
    const int8_t *codebook;     /* 16 ascending levels, or NULL */
    int32_t has_min, starts;
    /* First guesses of the scale. Without a minimum: the level (not only an integer, not only within range) that the weight of
     * largest magnitude stands at. With one: how many steps the lowest level stands above the least weight, and the highest below
     * the greatest. */
    float start[S32_MAX_STARTS][2];
} s32_shape;

/* The starts of Q4_1 and Q5_1, and those of IQ4_NL and IQ4_XS: chosen by what they leave of the error on normal and on real rows. */
#define S32_MIN_STARTS .starts = 16, .start = { \
    {0, 0}, {-0.4f, -0.4f}, {-0.4f, 0}, {-0.4f, 0.4f}, {-0.4f, 0.8f}, {0, -0.4f}, {0, 0.4f}, {0, 0.8f}, \
    {0.4f, -0.4f}, {0.4f, 0}, {0.4f, 0.4f}, {0.4f, 0.8f}, {0.8f, -0.4f}, {0.8f, 0}, {0.8f, 0.4f}, {0.8f, 0.8f}}
#define S32_IQ4_STARTS .starts = 16, .start = { \
    {-127}, {-115}, {-121}, {-133}, {-139}, {-145}, {-109}, {-151}, {113}, {101}, {107}, {119}, {125}, {131}, {95}, {137}}

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

/* grid.h: what the IQ1, IQ2 and IQ3 types share: weights that are points of a grid, in blocks of 256 with scaled groups.
 *
 *     w[i] = D * (2 s[g] + 1) * level[i],   g = i / group,  D = d * unit
 *
 * Four or eight neighbouring weights are one point of the type's grid, which lists the tuples of levels that occur. Where levels
 * have no signs of their own, those are stored beside the points. The grids come from the gguf package (grids.py). */
#ifndef LLMQ_FORMATS_GRID_H
#define LLMQ_FORMATS_GRID_H

#include "formats/codec.h"

/* A point is 16 bits: the place of weight j among the levels in bits j * bits.. (8 weights of 2 bits, or 4 of 4). */
typedef struct llmq_grid {
    int32_t bits, places, points;   /* `places` levels, `points` points */
    const uint16_t *point;          /* ascending */
    const uint16_t *first;          /* of 257: points first[b] .. first[b + 1] - 1 have the high byte b */
    int8_t level[8];
} llmq_grid;

extern const llmq_grid llmq_grid_iq1_s, llmq_grid_iq2_xxs, llmq_grid_iq2_xs, llmq_grid_iq2_s, llmq_grid_iq3_xxs, llmq_grid_iq3_s;

enum llmq_signs {
    LLMQ_SIGNS_IN_GRID, /* IQ1: level = 8 * (that of the grid) + 1, or - 1 where it is lowered */
    LLMQ_SIGNS_FREE,    /* one bit per weight */
    LLMQ_SIGNS_EVEN,    /* seven bits per eight weights, of which an even number is negative */
};

typedef struct llmq_grid_type {
    const llmq_grid *grid;
    enum llmq_signs signs;
    int32_t group;      /* weights per scale, 16 or 32 */
    int32_t lowered;    /* IQ1: weights that are lowered together, 8 or 32 */
    int32_t top;        /* s is 0..top */
    float unit;         /* a power of two */
} llmq_grid_type;

/* What a block stores. */
typedef struct llmq_grid_block {
    float d;
    uint8_t s[16];          /* per group */
    uint16_t point[64];     /* per 16 / bits weights: an index into the grid */
    uint8_t minus[32];      /* per 8 weights: bit j is set where weight j is negative */
    uint8_t lower[32];      /* per 8 weights: 1 where they are lowered */
} llmq_grid_block;

/* llmq_levels of these types: q = level + off. The codebooks of IQ1 and IQ2 have eight places, the others sixteen. */
enum { LLMQ_GRID_OFF = 128 };
extern const int8_t llmq_iq1_levels[16], llmq_iq2_levels[16], llmq_iq3_xxs_levels[16], llmq_iq3_s_levels[16];
#define LLMQ_GRID_CODEC(group_, scale_, code, book) \
    .bits = 8, .group = group_, .off = LLMQ_GRID_OFF, .has_scales = 1, .scale = scale_, .code_bits = code, .codebook = book

/* Seven sign bits as eight: the last makes the number of ones even. */
static inline uint8_t llmq_even_signs(unsigned seven) {
    const unsigned four = seven ^ seven >> 4, two = four ^ four >> 2;
    return (uint8_t)(seven | ((two ^ two >> 1) & 1) << 7);
}

static inline uint32_t llmq_load_u32(const uint8_t p[4]) {
    return llmq_load_u16(p) | (uint32_t)llmq_load_u16(p + 2) << 16;
}

static inline void llmq_store_u32(uint8_t p[4], uint32_t v) {
    llmq_store_u16(p, (uint16_t)v);
    llmq_store_u16(p + 2, (uint16_t)(v >> 16));
}

/* The words of IQ2_XXS and IQ3_XXS: seven sign bits of each of four eights from the lowest bits up, then s. */
static inline void llmq_unpack_signs(uint32_t word, uint8_t minus[4], uint8_t *s) {
    for (int i = 0; i < 4; i++) minus[i] = llmq_even_signs(word >> 7 * i & 127);
    *s = (uint8_t)(word >> 28);
}

static inline uint32_t llmq_pack_signs(const uint8_t minus[4], uint8_t s) {
    uint32_t word = (uint32_t)s << 28;
    for (int i = 0; i < 4; i++) word |= (uint32_t)(minus[i] & 127) << 7 * i;
    return word;
}

void llmq_grid_levels(const llmq_grid_type *, const llmq_grid_block *, llmq_levels *out);

/* The dequantize of a type, given its levels. */
void llmq_grid_dequantize(void (*levels)(const void *block, llmq_levels *out), int bytes, int group, const void *src, float *dst,
                          int64_t n);

/* The quantize of a type: search, then pack each block. */
typedef void llmq_grid_pack(const llmq_grid_block *, void *block);
llmq_status llmq_grid_quantize(const llmq_grid_type *, llmq_grid_pack *, int32_t bytes, const float *src, void *dst, int64_t n,
                               const float *weight);

/* A slot of the kernel table, described in grid_search.inc; every instruction set gives the same result. src: 256 finite weights;
 * weight: their importances, or NULL. */
typedef void llmq_grid_search_fn(const llmq_grid_type *, const float *src, const float *weight, llmq_grid_block *out);

#endif

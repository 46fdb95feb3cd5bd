/* iq2_xxs.c: 256 weights of levels 8, 25 and 43, eight to a point of a grid of 256, in 8 groups of 32.
 *
 *     w[i] = d / 8 * (2 s[g] + 1) * (+-level[i]),   g = i / 32,  s in 0..15, an even number of minus signs in each eight weights
 *
 *     byte  0..1           d, binary16
 *     byte  2 + 8 g + t    index of the point of weights 32 g + 8 t ..  (t = 0..3)
 *     byte  6 + 8 g ..     32 bits, little-endian: bits 7 t .. 7 t + 6 have the signs of the first seven weights of point t; bits
 *                          28..31 s[g]
 */
#include "formats/grid.h"

typedef struct {
    uint8_t d[2];
    struct {
        uint8_t point[4], signs[4];
    } group[8];
} block_iq2_xxs;
LLMQ_CHECK_BLOCK(IQ2_XXS, block_iq2_xxs);

static const llmq_grid_type iq2_xxs_type = {
    .grid = &llmq_grid_iq2_xxs, .signs = LLMQ_SIGNS_EVEN, .group = 32, .top = 15, .unit = 0.125f,
};

static void iq2_xxs_levels(const void *block, llmq_levels *out) {
    const block_iq2_xxs *b = block;
    llmq_grid_block w = {.d = llmq_load_f16(b->d)};
    for (int g = 0; g < 8; g++) {
        for (int t = 0; t < 4; t++) w.point[4 * g + t] = b->group[g].point[t];
        llmq_unpack_signs(llmq_load_u32(b->group[g].signs), w.minus + 4 * g, w.s + g);
    }
    llmq_grid_levels(&iq2_xxs_type, &w, out);
}

static void iq2_xxs_pack(const llmq_grid_block *w, void *block) {
    block_iq2_xxs *b = block;
    llmq_store_f16(b->d, w->d);
    for (int g = 0; g < 8; g++) {
        for (int t = 0; t < 4; t++) b->group[g].point[t] = (uint8_t)w->point[4 * g + t];
        llmq_store_u32(b->group[g].signs, llmq_pack_signs(w->minus + 4 * g, w->s[g]));
    }
}

static void iq2_xxs_dequantize(const void *src, float *dst, int64_t n) {
    llmq_grid_dequantize(iq2_xxs_levels, sizeof(block_iq2_xxs), 32, src, dst, n);
}

static llmq_status iq2_xxs_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return llmq_grid_quantize(&iq2_xxs_type, iq2_xxs_pack, sizeof(block_iq2_xxs), src, dst, n, weight);
}

static int iq2_xxs_check(const void *src, int64_t n) {
    return llmq_finite_f16(src, n / 256, sizeof(block_iq2_xxs));
}

const llmq_codec LLMQ_CODEC_OF(IQ2_XXS) = {
    LLMQ_CODEC(IQ2_XXS), LLMQ_GRID_CODEC(32, LLMQ_SCALE_F32, 3, llmq_iq2_levels),
    .dequantize = iq2_xxs_dequantize, .quantize = iq2_xxs_quantize, .levels = iq2_xxs_levels, .check = iq2_xxs_check,
};

/* iq3_xxs.c: 256 weights of levels 4, 12, 20, 28, 36, 44, 52 and 62, four to a point of a grid of 256, in 8 groups of 32.
 *
 *     w[i] = d / 4 * (2 s[g] + 1) * (+-level[i]),   g = i / 32,  s in 0..15, an even number of minus signs in each eight weights
 *
 *     byte   0..1     d, binary16
 *     byte   2..65    byte 2 + t: index of the point of weights 4 t ..  (t = 0..63)
 *     byte  66..97    byte 66 + 4 g ..: 32 bits, little-endian: bits 7 e .. 7 e + 6 have the signs of the first seven of weights
 *                     32 g + 8 e ..  (e = 0..3); bits 28..31 s[g]
 */
#include "formats/grid.h"

typedef struct {
    uint8_t d[2], point[64], signs[8][4];
} block_iq3_xxs;
LLMQ_CHECK_BLOCK(IQ3_XXS, block_iq3_xxs);

static const llmq_grid_type iq3_xxs_type = {
    .grid = &llmq_grid_iq3_xxs, .signs = LLMQ_SIGNS_EVEN, .group = 32, .top = 15, .unit = 0.25f,
};

static void iq3_xxs_levels(const void *block, llmq_levels *out) {
    const block_iq3_xxs *b = block;
    llmq_grid_block w = {.d = llmq_load_f16(b->d)};
    for (int t = 0; t < 64; t++) w.point[t] = b->point[t];
    for (int g = 0; g < 8; g++) llmq_unpack_signs(llmq_load_u32(b->signs[g]), w.minus + 4 * g, w.s + g);
    llmq_grid_levels(&iq3_xxs_type, &w, out);
}

static void iq3_xxs_pack(const llmq_grid_block *w, void *block) {
    block_iq3_xxs *b = block;
    llmq_store_f16(b->d, w->d);
    for (int t = 0; t < 64; t++) b->point[t] = (uint8_t)w->point[t];
    for (int g = 0; g < 8; g++) llmq_store_u32(b->signs[g], llmq_pack_signs(w->minus + 4 * g, w->s[g]));
}

static void iq3_xxs_dequantize(const void *src, float *dst, int64_t n) {
    llmq_grid_dequantize(iq3_xxs_levels, sizeof(block_iq3_xxs), 32, src, dst, n);
}

static llmq_status iq3_xxs_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return llmq_grid_quantize(&iq3_xxs_type, iq3_xxs_pack, sizeof(block_iq3_xxs), src, dst, n, weight);
}

static int iq3_xxs_check(const void *src, int64_t n) {
    return llmq_finite_f16(src, n / 256, sizeof(block_iq3_xxs));
}

const llmq_codec LLMQ_CODEC_OF(IQ3_XXS) = {
    LLMQ_CODEC(IQ3_XXS), LLMQ_GRID_CODEC(32, LLMQ_SCALE_F32, 4, llmq_iq3_xxs_levels),
    .dequantize = iq3_xxs_dequantize, .quantize = iq3_xxs_quantize, .levels = iq3_xxs_levels, .check = iq3_xxs_check,
};

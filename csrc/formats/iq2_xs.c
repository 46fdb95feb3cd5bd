/* iq2_xs.c: 256 weights of levels 8, 25 and 43, eight to a point of a grid of 512, in 16 groups of 16.
 *
 *     w[i] = d / 8 * (2 s[g] + 1) * (+-level[i]),   g = i / 16,  s in 0..15, an even number of minus signs in each eight weights
 *
 *     byte   0..1     d, binary16
 *     byte   2..65    byte 2 + 2 t ..: 16 bits, little-endian, of weights 8 t ..: index of the point in bits 0..8, the signs of the
 *                     first seven in bits 9..15  (t = 0..31)
 *     byte  66..73    byte 66 + h: s[2 h] in bits 0..3, s[2 h + 1] in bits 4..7
 */
#include "formats/grid.h"

typedef struct {
    uint8_t d[2], points[32][2], s[8];
} block_iq2_xs;
LLMQ_CHECK_BLOCK(IQ2_XS, block_iq2_xs);

static const llmq_grid_type iq2_xs_type = {
    .grid = &llmq_grid_iq2_xs, .signs = LLMQ_SIGNS_EVEN, .group = 16, .top = 15, .unit = 0.125f,
};

static void iq2_xs_levels(const void *block, llmq_levels *out) {
    const block_iq2_xs *b = block;
    llmq_grid_block w = {.d = llmq_load_f16(b->d)};
    for (int t = 0; t < 32; t++) {
        const unsigned field = llmq_load_u16(b->points[t]);
        w.point[t] = field & 511;
        w.minus[t] = llmq_even_signs(field >> 9);
    }
    for (int g = 0; g < 16; g++) w.s[g] = b->s[g / 2] >> 4 * (g % 2) & 15;
    llmq_grid_levels(&iq2_xs_type, &w, out);
}

static void iq2_xs_pack(const llmq_grid_block *w, void *block) {
    block_iq2_xs *b = block;
    llmq_store_f16(b->d, w->d);
    for (int t = 0; t < 32; t++) llmq_store_u16(b->points[t], (uint16_t)(w->point[t] | (w->minus[t] & 127) << 9));
    for (int h = 0; h < 8; h++) b->s[h] = (uint8_t)(w->s[2 * h] | w->s[2 * h + 1] << 4);
}

static void iq2_xs_dequantize(const void *src, float *dst, int64_t n) {
    llmq_grid_dequantize(iq2_xs_levels, sizeof(block_iq2_xs), 16, src, dst, n);
}

static llmq_status iq2_xs_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return llmq_grid_quantize(&iq2_xs_type, iq2_xs_pack, sizeof(block_iq2_xs), src, dst, n, weight);
}

static int iq2_xs_check(const void *src, int64_t n) {
    return llmq_finite_f16(src, n / 256, sizeof(block_iq2_xs));
}

const llmq_codec LLMQ_CODEC_OF(IQ2_XS) = {
    LLMQ_CODEC(IQ2_XS), LLMQ_GRID_CODEC(16, LLMQ_SCALE_F32, 3, llmq_iq2_levels),
    .dequantize = iq2_xs_dequantize, .quantize = iq2_xs_quantize, .levels = iq2_xs_levels, .check = iq2_xs_check,
};

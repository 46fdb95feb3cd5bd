/* iq2_s.c: 256 weights of levels 8, 25 and 43, eight to a point of a grid of 1024, in 16 groups of 16.
 *
 *     w[i] = d / 8 * (2 s[g] + 1) * (+-level[i]),   g = i / 16,  s in 0..15
 *
 *     byte   0..1     d, binary16
 *     byte   2..33    byte 2 + t: bits 0..7 of the index of the point of weights 8 t ..  (t = 0..31)
 *     byte  34..65    byte 34 + t: bit j is set where weight 8 t + j is negative
 *     byte  66..73    byte 66 + t / 4: bits 8..9 of the index in bits 2 (t % 4), 2 (t % 4) + 1
 *     byte  74..81    byte 74 + h: s[2 h] in bits 0..3, s[2 h + 1] in bits 4..7
 */
#include "formats/grid.h"

typedef struct {
    uint8_t d[2], low[32], minus[32], high[8], s[8];
} block_iq2_s;
LLMQ_CHECK_BLOCK(IQ2_S, block_iq2_s);

static const llmq_grid_type iq2_s_type = {
    .grid = &llmq_grid_iq2_s, .signs = LLMQ_SIGNS_FREE, .group = 16, .top = 15, .unit = 0.125f,
};

static void iq2_s_levels(const void *block, llmq_levels *out) {
    const block_iq2_s *b = block;
    llmq_grid_block w = {.d = llmq_load_f16(b->d)};
    for (int t = 0; t < 32; t++) w.point[t] = (uint16_t)(b->low[t] | (b->high[t / 4] >> 2 * (t % 4) & 3) << 8);
    for (int g = 0; g < 16; g++) w.s[g] = b->s[g / 2] >> 4 * (g % 2) & 15;
    memcpy(w.minus, b->minus, sizeof w.minus);
    llmq_grid_levels(&iq2_s_type, &w, out);
}

static void iq2_s_pack(const llmq_grid_block *w, void *block) {
    block_iq2_s *b = block;
    memset(b, 0, sizeof *b);
    llmq_store_f16(b->d, w->d);
    for (int t = 0; t < 32; t++) {
        b->low[t] = (uint8_t)w->point[t];
        b->high[t / 4] |= (uint8_t)(w->point[t] >> 8 << 2 * (t % 4));
    }
    for (int h = 0; h < 8; h++) b->s[h] = (uint8_t)(w->s[2 * h] | w->s[2 * h + 1] << 4);
    memcpy(b->minus, w->minus, sizeof b->minus);
}

static void iq2_s_dequantize(const void *src, float *dst, int64_t n) {
    llmq_grid_dequantize(iq2_s_levels, sizeof(block_iq2_s), 16, src, dst, n);
}

static llmq_status iq2_s_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return llmq_grid_quantize(&iq2_s_type, iq2_s_pack, sizeof(block_iq2_s), src, dst, n, weight);
}

static int iq2_s_check(const void *src, int64_t n) {
    return llmq_finite_f16(src, n / 256, sizeof(block_iq2_s));
}

const llmq_codec LLMQ_CODEC_OF(IQ2_S) = {
    LLMQ_CODEC(IQ2_S), LLMQ_GRID_CODEC(16, LLMQ_SCALE_F32, 3, llmq_iq2_levels),
    .dequantize = iq2_s_dequantize, .quantize = iq2_s_quantize, .levels = iq2_s_levels, .check = iq2_s_check,
};

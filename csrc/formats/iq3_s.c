/* iq3_s.c: 256 weights of levels 1, 3, 5 .. 15, four to a point of a grid of 512, in 8 groups of 32.
 *
 *     w[i] = d * (2 s[g] + 1) * (+-level[i]),   g = i / 32,  s in 0..15
 *
 *     byte    0..1     d, binary16
 *     byte    2..65    byte 2 + t: bits 0..7 of the index of the point of weights 4 t ..  (t = 0..63)
 *     byte   66..73    bit 8 of the index: bit t % 8 of byte 66 + t / 8
 *     byte   74..105   byte 74 + e: bit j is set where weight 8 e + j is negative  (e = 0..31)
 *     byte  106..109   byte 106 + h: s[2 h] in bits 0..3, s[2 h + 1] in bits 4..7
 */
#include "formats/grid.h"

typedef struct {
    uint8_t d[2], low[64], high[8], minus[32], s[4];
} block_iq3_s;
LLMQ_CHECK_BLOCK(IQ3_S, block_iq3_s);

static const llmq_grid_type iq3_s_type = {
    .grid = &llmq_grid_iq3_s, .signs = LLMQ_SIGNS_FREE, .group = 32, .top = 15, .unit = 1,
};

static void iq3_s_levels(const void *block, llmq_levels *out) {
    const block_iq3_s *b = block;
    llmq_grid_block w = {.d = llmq_load_f16(b->d)};
    for (int t = 0; t < 64; t++) w.point[t] = (uint16_t)(b->low[t] | (b->high[t / 8] >> t % 8 & 1) << 8);
    for (int g = 0; g < 8; g++) w.s[g] = b->s[g / 2] >> 4 * (g % 2) & 15;
    memcpy(w.minus, b->minus, sizeof w.minus);
    llmq_grid_levels(&iq3_s_type, &w, out);
}

static void iq3_s_pack(const llmq_grid_block *w, void *block) {
    block_iq3_s *b = block;
    memset(b, 0, sizeof *b);
    llmq_store_f16(b->d, w->d);
    for (int t = 0; t < 64; t++) {
        b->low[t] = (uint8_t)w->point[t];
        b->high[t / 8] |= (uint8_t)(w->point[t] >> 8 << t % 8);
    }
    for (int h = 0; h < 4; h++) b->s[h] = (uint8_t)(w->s[2 * h] | w->s[2 * h + 1] << 4);
    memcpy(b->minus, w->minus, sizeof b->minus);
}

static void iq3_s_dequantize(const void *src, float *dst, int64_t n) {
    llmq_grid_dequantize(iq3_s_levels, sizeof(block_iq3_s), 32, src, dst, n);
}

static llmq_status iq3_s_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return llmq_grid_quantize(&iq3_s_type, iq3_s_pack, sizeof(block_iq3_s), src, dst, n, weight);
}

static int iq3_s_check(const void *src, int64_t n) {
    return llmq_finite_f16(src, n / 256, sizeof(block_iq3_s));
}

const llmq_codec LLMQ_CODEC_OF(IQ3_S) = {
    LLMQ_CODEC(IQ3_S), LLMQ_GRID_CODEC(32, LLMQ_SCALE_F16, 4, llmq_iq3_s_levels),
    .dequantize = iq3_s_dequantize, .quantize = iq3_s_quantize, .levels = iq3_s_levels, .check = iq3_s_check,
};

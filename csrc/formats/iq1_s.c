/* iq1_s.c: 256 ternary weights that are moved by an eighth, eight to a point of a grid of 2048, in 8 groups of 32.
 *
 *     w[i] = d / 8 * (2 s[g] + 1) * (8 t[i] +- 1),   g = i / 32,  t in -1..1,  s in 0..7;  a sign for each group
 *
 *     byte   0..1     d, binary16
 *     byte   2..33    byte 2 + t: bits 0..7 of the index of the point of weights 8 t ..  (t = 0..31)
 *     byte  34..49    byte 34 + 2 g ..: 16 bits, little-endian: bits 8..10 of the index of point 4 g + t in bits 3 t .. 3 t + 2
 *                     (t = 0..3); s[g] in bits 12..14; bit 15 is set for 8 t - 1
 */
#include "formats/grid.h"

typedef struct {
    uint8_t d[2], low[32], high[8][2];
} block_iq1_s;
LLMQ_CHECK_BLOCK(IQ1_S, block_iq1_s);

static const llmq_grid_type iq1_s_type = {
    .grid = &llmq_grid_iq1_s, .signs = LLMQ_SIGNS_IN_GRID, .group = 32, .lowered = 32, .top = 7, .unit = 0.125f,
};

static void iq1_s_levels(const void *block, llmq_levels *out) {
    const block_iq1_s *b = block;
    llmq_grid_block w = {.d = llmq_load_f16(b->d)};
    for (int i = 0; i < 32; i++) {
        const unsigned high = llmq_load_u16(b->high[i / 4]);
        w.point[i] = (uint16_t)(b->low[i] | (high >> 3 * (i % 4) & 7) << 8);
        w.lower[i] = (uint8_t)(high >> 15);
        w.s[i / 4] = high >> 12 & 7;
    }
    llmq_grid_levels(&iq1_s_type, &w, out);
}

static void iq1_s_pack(const llmq_grid_block *w, void *block) {
    block_iq1_s *b = block;
    llmq_store_f16(b->d, w->d);
    for (int g = 0; g < 8; g++) {
        unsigned high = (unsigned)w->s[g] << 12 | (unsigned)w->lower[4 * g] << 15;
        for (int t = 0; t < 4; t++) {
            b->low[4 * g + t] = (uint8_t)w->point[4 * g + t];
            high |= (unsigned)(w->point[4 * g + t] >> 8) << 3 * t;
        }
        llmq_store_u16(b->high[g], (uint16_t)high);
    }
}

static void iq1_s_dequantize(const void *src, float *dst, int64_t n) {
    llmq_grid_dequantize(iq1_s_levels, sizeof(block_iq1_s), 32, src, dst, n);
}

static llmq_status iq1_s_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return llmq_grid_quantize(&iq1_s_type, iq1_s_pack, sizeof(block_iq1_s), src, dst, n, weight);
}

static int iq1_s_check(const void *src, int64_t n) {
    return llmq_finite_f16(src, n / 256, sizeof(block_iq1_s));
}

const llmq_codec LLMQ_CODEC_OF(IQ1_S) = {
    LLMQ_CODEC(IQ1_S), LLMQ_GRID_CODEC(32, LLMQ_SCALE_F32, 3, llmq_iq1_levels),
    .dequantize = iq1_s_dequantize, .quantize = iq1_s_quantize, .levels = iq1_s_levels, .check = iq1_s_check,
};

/* iq1_m.c: 256 ternary weights that are moved by an eighth, eight to a point of a grid of 2048, in 16 groups of 16.
 *
 *     w[i] = d / 8 * (2 s[g] + 1) * (8 t[i] +- 1),   g = i / 16,  t in -1..1,  s in 0..7;  a sign for each eight weights
 *
 *     byte   0..31    byte t: bits 0..7 of the index of the point of weights 8 t ..  (t = 0..31)
 *     byte  32..47    byte 32 + t / 2: a nibble, the low one for even t: bits 8..10 of the index; then 1 for 8 t - 1
 *     byte  48..55    byte 48 + 2 j ..: 16 bits, little-endian: s[4 j + i] in bits 3 i .. 3 i + 2 (i = 0..3), bits 4 j .. 4 j + 3
 *                     of d, binary16, in bits 12..15  (j = 0..3)
 */
#include "formats/grid.h"

typedef struct {
    uint8_t low[32], high[16], s[4][2];
} block_iq1_m;
LLMQ_CHECK_BLOCK(IQ1_M, block_iq1_m);

static const llmq_grid_type iq1_m_type = {
    .grid = &llmq_grid_iq1_s, .signs = LLMQ_SIGNS_IN_GRID, .group = 16, .lowered = 8, .top = 7, .unit = 0.125f,
};

static uint16_t iq1_m_d(const block_iq1_m *b) {
    unsigned d = 0;
    for (int j = 0; j < 4; j++) d |= (unsigned)(llmq_load_u16(b->s[j]) >> 12) << 4 * j;
    return (uint16_t)d;
}

static void iq1_m_levels(const void *block, llmq_levels *out) {
    const block_iq1_m *b = block;
    llmq_grid_block w = {.d = llmq_f16_to_f32(iq1_m_d(b))};
    for (int t = 0; t < 32; t++) {
        const unsigned high = b->high[t / 2] >> 4 * (t % 2) & 15;
        w.point[t] = (uint16_t)(b->low[t] | (high & 7) << 8);
        w.lower[t] = (uint8_t)(high >> 3);
    }
    for (int g = 0; g < 16; g++) w.s[g] = llmq_load_u16(b->s[g / 4]) >> 3 * (g % 4) & 7;
    llmq_grid_levels(&iq1_m_type, &w, out);
}

static void iq1_m_pack(const llmq_grid_block *w, void *block) {
    block_iq1_m *b = block;
    const unsigned d = llmq_f32_to_f16(w->d);
    memset(b, 0, sizeof *b);
    for (int t = 0; t < 32; t++) {
        b->low[t] = (uint8_t)w->point[t];
        b->high[t / 2] |= (uint8_t)((w->point[t] >> 8 | w->lower[t] << 3) << 4 * (t % 2));
    }
    for (int j = 0; j < 4; j++) {
        unsigned field = (d >> 4 * j & 15) << 12;
        for (int i = 0; i < 4; i++) field |= (unsigned)w->s[4 * j + i] << 3 * i;
        llmq_store_u16(b->s[j], (uint16_t)field);
    }
}

static void iq1_m_dequantize(const void *src, float *dst, int64_t n) {
    llmq_grid_dequantize(iq1_m_levels, sizeof(block_iq1_m), 16, src, dst, n);
}

static llmq_status iq1_m_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return llmq_grid_quantize(&iq1_m_type, iq1_m_pack, sizeof(block_iq1_m), src, dst, n, weight);
}

static int iq1_m_check(const void *src, int64_t n) {
    const block_iq1_m *b = src;
    for (int64_t i = 0; i < n / 256; i++) {
        if ((iq1_m_d(b + i) & 0x7c00) == 0x7c00) return 0;
    }
    return 1;
}

const llmq_codec LLMQ_CODEC_OF(IQ1_M) = {
    LLMQ_CODEC(IQ1_M), LLMQ_GRID_CODEC(16, LLMQ_SCALE_F32, 3, llmq_iq1_levels),
    .dequantize = iq1_m_dequantize, .quantize = iq1_m_quantize, .levels = iq1_m_levels, .check = iq1_m_check,
};

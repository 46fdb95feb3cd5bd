/* iq4_xs.c: 256 weights of 4 bits, places in the codebook of IQ4_NL, in 8 groups of 32, each with a 6-bit scale.
 *
 *     w[i] = d * (s[g] - 32) * level[q[i]],   g = i / 32,  s in 0..63
 *
 *     byte  0..1    d, binary16
 *     byte  2..3    bits 4..5 of every s, little-endian: s[g] has bits 2 g, 2 g + 1
 *     byte  4..7    bits 0..3 of every s: byte 4 + g / 2, the low nibble for even g
 *     byte  8..135  byte 8 + 16 g + l: q[32 g + l] in bits 0..3, q[32 g + 16 + l] in bits 4..7
 */
#include "formats/kquant.h"

typedef struct {
    uint8_t d[2], sh[2], sl[4];
    uint8_t qs[128];
} block_iq4_xs;
LLMQ_CHECK_BLOCK(IQ4_XS, block_iq4_xs);

static void iq4_xs_places(const void *block, llmq_levels *out) {
    const block_iq4_xs *b = block;
    const unsigned high = llmq_load_u16(b->sh);
    for (int g = 0; g < 8; g++) {
        const unsigned low = b->sl[g / 2] >> 4 * (g % 2) & 15;
        out->sc[g] = (int8_t)((int)(low | (high >> 2 * g & 3) << 4) - 32);
        out->m[g] = 0;
        llmq_unpack_nibbles(b->qs + 16 * g, out->q + 32 * g);
    }
    out->d = llmq_load_f16(b->d);
    out->dmin = 0;
}

static void iq4_xs_levels(const void *block, llmq_levels *out) {
    iq4_xs_places(block, out);
    llmq_look_up_iq4(out->q, 256);
}

static void iq4_xs_pack(const llmq_levels *w, void *block) {
    block_iq4_xs *b = block;
    unsigned high = 0;
    memset(b->sl, 0, sizeof b->sl);
    for (int g = 0; g < 8; g++) {
        const unsigned s = (unsigned)(w->sc[g] + 32);
        b->sl[g / 2] |= (uint8_t)((s & 15) << 4 * (g % 2));
        high |= s >> 4 << 2 * g;
        llmq_pack_iq4(w->q + 32 * g, b->qs + 16 * g);
    }
    llmq_store_u16(b->sh, (uint16_t)high);
    llmq_store_u16(b->d, llmq_f32_to_f16(w->d));
}

static void iq4_xs_dequantize(const void *src, float *dst, int64_t n) {
    llmq_kquant_dequantize(iq4_xs_levels, sizeof(block_iq4_xs), 32, 128, src, dst, n);
}

static llmq_status iq4_xs_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    static const kq_shape shape = {
        .group = 32, .off = 128, .codebook = llmq_iq4_levels, .slo = -32, .shi = 31, .step = 1,
        .reach_sc = 2, .starts = 8, .start = {{-127}, {-115}, {-139}, {-151}, {113}, {101}, {125}, {137}},
    };
    return llmq_kquant_quantize(&shape, iq4_xs_pack, sizeof(block_iq4_xs), src, dst, n, weight);
}

static int iq4_xs_check(const void *src, int64_t n) {
    return llmq_finite_f16(src, n / 256, sizeof(block_iq4_xs));
}

const llmq_codec LLMQ_CODEC_OF(IQ4_XS) = {
    LLMQ_CODEC(IQ4_XS), .bits = 8, .group = 32, .off = 128, .has_scales = 1, .code_bits = 4, .codebook = llmq_iq4_levels,
    .dequantize = iq4_xs_dequantize, .quantize = iq4_xs_quantize, .levels = iq4_xs_levels, .places = iq4_xs_places,
    .check = iq4_xs_check,
};

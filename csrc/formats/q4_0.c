/* q4_0.c: 32 weights of 4 bits with one scale.
 *
 *     w[i] = d * (q[i] - 8),  q in 0..15
 *
 *     byte  0..1   d, binary16, of either sign
 *     byte  2..17  byte 2 + l: q[l] in bits 0..3, q[l + 16] in bits 4..7
 */
#include "formats/search32.h"

typedef struct {
    uint8_t d[2];
    uint8_t qs[16];
} block_q4_0;
LLMQ_CHECK_BLOCK(Q4_0, block_q4_0);

static void q4_0_dequantize(const void *src, float *dst, int64_t n) {
    const block_q4_0 *b = src;
    for (int64_t i = 0; i < n / 32; i++, b++, dst += 32) {
        const float d = llmq_load_f16(b->d);
        uint8_t q[32];
        llmq_unpack_nibbles(b->qs, q);
        for (int j = 0; j < 32; j++) dst[j] = d * (float)(q[j] - 8);
    }
}

static void q4_0_pack(const uint8_t level[32], uint16_t d, uint16_t m, uint8_t *block) {
    (void)m;
    block_q4_0 *b = (block_q4_0 *)block;
    llmq_store_u16(b->d, d);
    llmq_pack_nibbles(level, b->qs);
}

static const s32_shape q4_0_shape = {.lo = -8, .hi = 7, S32_UNIFORM_STARTS(-8, 7)};

static llmq_status q4_0_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return s32_quantize(&q4_0_shape, q4_0_pack, sizeof(block_q4_0), src, dst, n, weight);
}

static void q4_0_levels(const void *block, llmq_levels *out) {
    const block_q4_0 *b = block;
    llmq_unpack_nibbles(b->qs, out->q);
    out->sc[0] = 1;
    out->m[0] = 0;
    out->d = llmq_load_f16(b->d);
    out->dmin = 0;
}

static int q4_0_check(const void *src, int64_t n) {
    return llmq_finite_f16(src, n / 32, sizeof(block_q4_0));
}

const llmq_codec llmq_codec_Q4_0 = {
    LLMQ_CODEC(Q4_0), .bits = 4, .group = 32, .off = 8,
    .dequantize = q4_0_dequantize, .quantize = q4_0_quantize, .levels = q4_0_levels, .check = q4_0_check,
};

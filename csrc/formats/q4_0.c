/* q4_0.c: 32 weights of 4 bits with one scale.
 *
 *     w[i] = d * (q[i] - 8),  q in 0..15
 *
 *     byte  0..1   d, binary16, of either sign
 *     byte  2..17  byte 2 + l: q[l] in bits 0..3, q[l + 16] in bits 4..7
 */
#include <math.h>

#include "formats/codec.h"

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

static llmq_status q4_0_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    (void)weight;
    if (!llmq_finite_f32(src, n)) return LLMQ_ERR_NONFINITE;
    block_q4_0 *b = dst;
    for (int64_t i = 0; i < n / 32; i++, b++, src += 32) {
        float extreme = 0;
        for (int j = 0; j < 32; j++) {
            if (fabsf(src[j]) > fabsf(extreme)) extreme = src[j];
        }
        const uint16_t rounded = llmq_f32_to_f16_finite(extreme / -8), h = rounded == 0x8000 ? 0 : rounded;
        const float d = llmq_f16_to_f32(h), id = d != 0 ? 1 / d : 0;
        uint8_t q[32];
        for (int j = 0; j < 32; j++) q[j] = (uint8_t)rintf(fminf(fmaxf(src[j] * id + 8, 0), 15));
        llmq_store_u16(b->d, h);
        llmq_pack_nibbles(q, b->qs);
    }
    return LLMQ_OK;
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

/* q4_1.c: 32 weights of 4 bits with one scale and one minimum.
 *
 *     w[i] = d * q[i] + m,  q in 0..15
 *
 *     byte  0..1   d, binary16
 *     byte  2..3   m, binary16
 *     byte  4..19  byte 4 + l: q[l] in bits 0..3, q[l + 16] in bits 4..7
 */
#include "formats/scale_search.h"

typedef struct {
    uint8_t d[2], m[2];
    uint8_t qs[16];
} block_q4_1;
LLMQ_CHECK_BLOCK(Q4_1, block_q4_1);

static void q4_1_dequantize(const void *src, float *dst, int64_t n) {
    const block_q4_1 *b = src;
    for (int64_t i = 0; i < n / 32; i++, b++, dst += 32) {
        const float d = llmq_load_f16(b->d), m = llmq_load_f16(b->m);
        uint8_t q[32];
        llmq_unpack_nibbles(b->qs, q);
        for (int j = 0; j < 32; j++) dst[j] = d * (float)q[j] + m;
    }
}

static void q4_1_pack(const ss_fit *fit, int lane, uint8_t *block) {
    block_q4_1 *b = (block_q4_1 *)block;
    llmq_store_f16(b->d, fit->d[lane]);
    llmq_store_f16(b->m, fit->m[lane]);
    llmq_pack_nibbles(fit->level[lane], b->qs);
}

static const ss_shape q4_1_shape = {.n = 32, .lo = 0, .hi = 15, .has_min = 1, SS_MIN_STARTS};

static llmq_status q4_1_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return ss_quantize(&q4_1_shape, q4_1_pack, sizeof(block_q4_1), src, dst, n, weight);
}

static void q4_1_levels(const void *block, llmq_levels *out) {
    const block_q4_1 *b = block;
    llmq_unpack_nibbles(b->qs, out->q);
    out->sc[0] = out->m[0] = 1;
    out->d = llmq_load_f16(b->d);
    out->dmin = -llmq_load_f16(b->m);
}

static int q4_1_check(const void *src, int64_t n) {
    const block_q4_1 *b = src;
    return llmq_finite_f16(b->d, n / 32, sizeof *b) && llmq_finite_f16(b->m, n / 32, sizeof *b);
}

const llmq_codec LLMQ_CODEC_OF(Q4_1) = {
    LLMQ_CODEC(Q4_1), .bits = 4, .group = 32, .has_min = 1,
    .dequantize = q4_1_dequantize, .quantize = q4_1_quantize, .levels = q4_1_levels, .check = q4_1_check,
};

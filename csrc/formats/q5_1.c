/* q5_1.c: 32 weights of 5 bits with one scale and one minimum.
 *
 *     w[i] = d * q[i] + m,  q in 0..31
 *
 *     byte  0..1   d, binary16
 *     byte  2..3   m, binary16
 *     byte  4..7   bit 4 of every q, little-endian: q[i] has bit i
 *     byte  8..23  byte 8 + l: bits 0..3 of q[l] in its bits 0..3, of q[l + 16] in its bits 4..7
 */
#include "formats/scale_search.h"

typedef struct {
    uint8_t d[2], m[2];
    uint8_t qh[4], qs[16];
} block_q5_1;
LLMQ_CHECK_BLOCK(Q5_1, block_q5_1);

static void q5_1_dequantize(const void *src, float *dst, int64_t n) {
    const block_q5_1 *b = src;
    for (int64_t i = 0; i < n / 32; i++, b++, dst += 32) {
        const float d = llmq_load_f16(b->d), m = llmq_load_f16(b->m);
        uint8_t q[32];
        llmq_unpack_fives(b->qh, b->qs, q);
        for (int j = 0; j < 32; j++) dst[j] = d * (float)q[j] + m;
    }
}

static void q5_1_pack(const ss_fit *fit, int lane, uint8_t *block) {
    block_q5_1 *b = (block_q5_1 *)block;
    llmq_store_f16(b->d, fit->d[lane]);
    llmq_store_f16(b->m, fit->m[lane]);
    llmq_pack_fives(fit->level[lane], b->qh, b->qs);
}

static const ss_shape q5_1_shape = {.n = 32, .lo = 0, .hi = 31, .has_min = 1, SS_MIN_STARTS};

static llmq_status q5_1_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return ss_quantize(&q5_1_shape, q5_1_pack, sizeof(block_q5_1), src, dst, n, weight);
}

static void q5_1_levels(const void *block, llmq_levels *out) {
    const block_q5_1 *b = block;
    llmq_unpack_fives(b->qh, b->qs, out->q);
    out->sc[0] = out->m[0] = 1;
    out->d = llmq_load_f16(b->d);
    out->dmin = -llmq_load_f16(b->m);
}

static int q5_1_check(const void *src, int64_t n) {
    const block_q5_1 *b = src;
    return llmq_finite_f16(b->d, n / 32, sizeof *b) && llmq_finite_f16(b->m, n / 32, sizeof *b);
}

const llmq_codec LLMQ_CODEC_OF(Q5_1) = {
    LLMQ_CODEC(Q5_1), .bits = 5, .group = 32, .has_min = 1,
    .dequantize = q5_1_dequantize, .quantize = q5_1_quantize, .levels = q5_1_levels, .check = q5_1_check,
};

/* q5_0.c: 32 weights of 5 bits with one scale.
 *
 *     w[i] = d * (q[i] - 16),  q in 0..31
 *
 *     byte  0..1   d, binary16, of either sign
 *     byte  2..5   bit 4 of every q, little-endian: q[i] has bit i
 *     byte  6..21  byte 6 + l: bits 0..3 of q[l] in its bits 0..3, of q[l + 16] in its bits 4..7
 */
#include "formats/scale_search.h"
#include "formats/weights.h"

typedef struct {
    uint8_t d[2];
    uint8_t qh[4], qs[16];
} block_q5_0;
LLMQ_CHECK_BLOCK(Q5_0, block_q5_0);

static void q5_0_levels(const void *block, llmq_levels *out) {
    const block_q5_0 *b = block;
    llmq_unpack_fives(b->qh, b->qs, out->q);
    llmq_one_scale(out, 1, llmq_load_f16(b->d));
}

static void q5_0_dequantize(const void *src, float *dst, int64_t n) {
    llmq_dequantize_one_scale(q5_0_levels, 32, sizeof(block_q5_0), 16, src, dst, n);
}

static void q5_0_pack(const ss_fit *fit, int lane, uint8_t *block) {
    block_q5_0 *b = (block_q5_0 *)block;
    llmq_store_f16(b->d, fit->d[lane]);
    llmq_pack_fives(fit->level[lane], b->qh, b->qs);
}

static const ss_shape q5_0_shape = {.n = 32, .lo = -16, .hi = 15, SS_UNIFORM_STARTS(-16, 15, 16)};

static llmq_status q5_0_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return ss_quantize(&q5_0_shape, q5_0_pack, sizeof(block_q5_0), src, dst, n, weight);
}

static int q5_0_check(const void *src, int64_t n) {
    return llmq_finite_f16(src, n / 32, sizeof(block_q5_0));
}

const llmq_codec LLMQ_CODEC_OF(Q5_0) = {
    LLMQ_CODEC(Q5_0), .bits = 5, .group = 32, .off = 16,
    .dequantize = q5_0_dequantize, .quantize = q5_0_quantize, .levels = q5_0_levels, .check = q5_0_check,
};

/* q2_0.c: 64 weights of 2 bits with one scale.
 *
 *     w[i] = d * (q[i] - 1),  q in 0..3
 *
 *     byte  0..1   d, binary16, of either sign
 *     byte  2..17  weight i has bits 2 (i % 4), 2 (i % 4) + 1 of byte 2 + i / 4
 */
#include "formats/scale_search.h"
#include "formats/weights.h"

typedef struct {
    uint8_t d[2];
    uint8_t qs[16];
} block_q2_0;
LLMQ_CHECK_BLOCK(Q2_0, block_q2_0);

static void q2_0_levels(const void *block, llmq_levels *out) {
    const block_q2_0 *b = block;
    for (int i = 0; i < 16; i++) llmq_spread_pairs(b->qs[i], out->q + 4 * i);
    llmq_one_scale(out, 2, llmq_load_f16(b->d));
}

static void q2_0_dequantize(const void *src, float *dst, int64_t n) {
    llmq_dequantize_one_scale(q2_0_levels, 64, sizeof(block_q2_0), 1, src, dst, n);
}

static void q2_0_pack(const ss_fit *fit, int lane, uint8_t *block) {
    block_q2_0 *b = (block_q2_0 *)block;
    llmq_store_f16(b->d, fit->d[lane]);
    memset(b->qs, 0, sizeof b->qs);
    for (int i = 0; i < 64; i++) b->qs[i / 4] |= (uint8_t)(fit->level[lane][i] << 2 * (i % 4));
}

static const ss_shape q2_0_shape = {
    .n = 64, .lo = -1, .hi = 2, .plain = 16, .starts = 16,
    .start = {{-1}, {-0.8f}, {-1.2f}, {-1.4f}, {-1.6f}, {-1.9f}, {2}, {1.8f}, {2.2f}, {2.4f}, {2.7f}, {3}, {1.6f}, {3.4f}, {4}, {1}},
};

static llmq_status q2_0_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return ss_quantize(&q2_0_shape, q2_0_pack, sizeof(block_q2_0), src, dst, n, weight);
}

static int q2_0_check(const void *src, int64_t n) {
    return llmq_finite_f16(src, n / 64, sizeof(block_q2_0));
}

const llmq_codec LLMQ_CODEC_OF(Q2_0) = {
    LLMQ_CODEC(Q2_0), .bits = 2, .group = 32, .off = 1,
    .dequantize = q2_0_dequantize, .quantize = q2_0_quantize, .levels = q2_0_levels, .check = q2_0_check,
};

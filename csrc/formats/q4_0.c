/* q4_0.c: 32 weights of 4 bits with one scale.
 *
 *     w[i] = d * (q[i] - 8),  q in 0..15
 *
 *     byte  0..1   d, binary16, of either sign
 *     byte  2..17  byte 2 + l: q[l] in bits 0..3, q[l + 16] in bits 4..7
 */
#include "formats/scale_search.h"
#include "formats/weights.h"

typedef struct {
    uint8_t d[2];
    uint8_t qs[16];
} block_q4_0;
LLMQ_CHECK_BLOCK(Q4_0, block_q4_0);

static inline void q4_0_levels(const void *block, llmq_levels *out) {
    const block_q4_0 *b = block;
    llmq_unpack_nibbles(b->qs, out->q);
    llmq_one_scale(out, 1, llmq_load_f16(b->d));
}

static void q4_0_dequantize(const void *src, float *dst, int64_t n) {
    llmq_dequantize_one_scale(q4_0_levels, 32, sizeof(block_q4_0), 8, src, dst, n);
}

static void q4_0_pack(const ss_fit *fit, int lane, uint8_t *block) {
    block_q4_0 *b = (block_q4_0 *)block;
    llmq_store_f16(b->d, fit->d[lane]);
    llmq_pack_nibbles(fit->level[lane], b->qs);
}

static const ss_shape q4_0_shape = {.n = 32, .lo = -8, .hi = 7, SS_UNIFORM_STARTS(-8, 7, 7)};

static llmq_status q4_0_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return ss_quantize(&q4_0_shape, q4_0_pack, sizeof(block_q4_0), src, dst, n, weight);
}

static int q4_0_check(const void *src, int64_t n) {
    return llmq_finite_f16(src, n / 32, sizeof(block_q4_0));
}

const llmq_codec LLMQ_CODEC_OF(Q4_0) = {
    LLMQ_CODEC(Q4_0), .bits = 4, .group = 32, .off = 8,
    .dequantize = q4_0_dequantize, .quantize = q4_0_quantize, .levels = q4_0_levels, .check = q4_0_check,
};

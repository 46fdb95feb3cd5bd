/* q8_0.c: 32 weights of 8 bits with one scale.
 *
 *     w[i] = d * q[i],  q in -127..127
 *
 *     byte  0..1   d, binary16
 *     byte  2..33  q[0..31], int8
 */
#include "formats/scale_search.h"
#include "formats/weights.h"

typedef struct {
    uint8_t d[2];
    int8_t q[32];
} block_q8_0;
LLMQ_CHECK_BLOCK(Q8_0, block_q8_0);

static inline void q8_0_levels(const void *block, llmq_levels *out) {
    const block_q8_0 *b = block;
    for (int j = 0; j < 32; j++) out->q[j] = (uint8_t)(b->q[j] + 128);
    llmq_one_scale(out, 1, llmq_load_f16(b->d));
}

static void q8_0_dequantize(const void *src, float *dst, int64_t n) {
    llmq_dequantize_one_scale(q8_0_levels, 32, sizeof(block_q8_0), 128, src, dst, n);
}

static void q8_0_pack(const ss_fit *fit, int lane, uint8_t *block) {
    block_q8_0 *b = (block_q8_0 *)block;
    llmq_store_f16(b->d, fit->d[lane]);
    for (int j = 0; j < 32; j++) b->q[j] = (int8_t)(fit->level[lane][j] - 127);
}

static const ss_shape q8_0_shape = {.n = 32, .lo = -127, .hi = 127, SS_EIGHT_BIT_STARTS};

static llmq_status q8_0_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return ss_quantize(&q8_0_shape, q8_0_pack, sizeof(block_q8_0), src, dst, n, weight);
}

static int q8_0_check(const void *src, int64_t n) {
    return llmq_finite_f16(src, n / 32, sizeof(block_q8_0));
}

const llmq_codec LLMQ_CODEC_OF(Q8_0) = {
    LLMQ_CODEC(Q8_0), .bits = 8, .group = 32, .off = 128,
    .dequantize = q8_0_dequantize, .quantize = q8_0_quantize, .levels = q8_0_levels, .check = q8_0_check,
};

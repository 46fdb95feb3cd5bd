/* q1_0.c: 128 weights of 1 bit, their signs, with one scale.
 *
 *     w[i] = d if bit i is set, else -d
 *
 *     byte  0..1   d, binary16, of either sign
 *     byte  2..17  weight i has bit i % 8 of byte 2 + i / 8
 */
#include "formats/scale_search.h"
#include "formats/weights.h"

typedef struct {
    uint8_t d[2];
    uint8_t qs[16];
} block_q1_0;
LLMQ_CHECK_BLOCK(Q1_0, block_q1_0);

/* two levels; the search takes 16, ascending */
static const int8_t signs[16] = {-1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

static void q1_0_levels(const void *block, llmq_levels *out) {
    const block_q1_0 *b = block;
    for (int i = 0; i < 16; i++) llmq_spread_bits(b->qs[i], out->q + 8 * i);
    for (int i = 0; i < 128; i++) out->q[i] = (uint8_t)(out->q[i] << 1);
    llmq_one_scale(out, 4, llmq_load_f16(b->d));
}

static void q1_0_dequantize(const void *src, float *dst, int64_t n) {
    llmq_dequantize_one_scale(q1_0_levels, 128, sizeof(block_q1_0), 1, src, dst, n);
}

static void q1_0_pack(const ss_fit *fit, int lane, uint8_t *block) {
    block_q1_0 *b = (block_q1_0 *)block;
    llmq_store_f16(b->d, fit->d[lane]);
    memset(b->qs, 0, sizeof b->qs);
    for (int i = 0; i < 128; i++) b->qs[i / 8] |= (uint8_t)(fit->level[lane][i] >> 1 << i % 8);
}

/* With any positive scale the bits are the signs of the weights; solving for the scale then finds the best there is, the weighted
 * mean of the magnitudes. A start is kept when it is less than twice that. */
static const ss_shape q1_0_shape = {
    .n = 128, .lo = -1, .codebook = signs, .plain = 9, .starts = 16,
    .start = {{1}, {2}, {3}, {4}, {6}, {8}, {16}, {32}, {128}, {512}, {2048}, {8192}, {0x1p15f}, {0x1p17f}, {0x1p19f}, {0x1p21f}},
};

static llmq_status q1_0_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return ss_quantize(&q1_0_shape, q1_0_pack, sizeof(block_q1_0), src, dst, n, weight);
}

static int q1_0_check(const void *src, int64_t n) {
    return llmq_finite_f16(src, n / 128, sizeof(block_q1_0));
}

const llmq_codec LLMQ_CODEC_OF(Q1_0) = {
    LLMQ_CODEC(Q1_0), .bits = 2, .group = 32, .off = 1, .code_bits = 1, .codebook = signs,
    .dequantize = q1_0_dequantize, .quantize = q1_0_quantize, .levels = q1_0_levels, .check = q1_0_check,
};

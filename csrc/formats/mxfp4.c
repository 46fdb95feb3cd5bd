/* mxfp4.c: 32 weights of 4 bits, floating-point numbers of their own (E2M1), with one power of two as scale: the MXFP4 of the OCP
 * Microscaling Formats specification 1.0.
 *
 *     w[i] = 2^(e - 127) * v[i]        v: 0, 0.5, 1, 1.5, 2, 3, 4, 6 of either sign
 *
 *     byte  0      e; above 252 the weights could be infinite, and 255 is no number
 *     byte  1..16  byte 1 + l: weight l in bits 0..3, weight l + 16 in bits 4..7; bit 3 of a weight is its sign
 *
 * Levels are 2 v, so d = 2^(e - 128). */
#include "formats/fp4.h"
#include "formats/scale_search.h"
#include "formats/weights.h"

typedef struct {
    uint8_t e;
    uint8_t qs[16];
} block_mxfp4;
LLMQ_CHECK_BLOCK(MXFP4, block_mxfp4);

static void mxfp4_places(const void *block, llmq_levels *out) {
    const block_mxfp4 *b = block;
    llmq_unpack_nibbles(b->qs, out->q);
    for (int i = 0; i < 32; i++) out->q[i] = llmq_fp4_place(out->q[i]);
    llmq_one_scale(out, 1, llmq_e8m0_to_f32(b->e));
}

static void mxfp4_levels(const void *block, llmq_levels *out) {
    mxfp4_places(block, out);
    llmq_look_up_fp4(out->q, 32);
}

static void mxfp4_dequantize(const void *src, float *dst, int64_t n) {
    llmq_dequantize_one_scale(mxfp4_levels, 32, sizeof(block_mxfp4), LLMQ_FP4_OFF, src, dst, n);
}

static void mxfp4_pack(const ss_fit *fit, int lane, uint8_t *block) {
    block_mxfp4 *b = (block_mxfp4 *)block;
    uint8_t code[32];
    b->e = llmq_f32_to_e8m0(fit->d[lane]);
    for (int i = 0; i < 32; i++) code[i] = llmq_fp4_code(fit->level[lane][i] - LLMQ_FP4_OFF);
    llmq_pack_nibbles(code, b->qs);
}

static const ss_shape mxfp4_shape = {
    .n = 32, .lo = -LLMQ_FP4_OFF, .codebook = llmq_fp4_levels, .scale = LLMQ_SCALE_E8M0, SS_MXFP4_STARTS,
};

static llmq_status mxfp4_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return ss_quantize(&mxfp4_shape, mxfp4_pack, sizeof(block_mxfp4), src, dst, n, weight);
}

static int mxfp4_check(const void *src, int64_t n) {
    const block_mxfp4 *b = src;
    for (int64_t i = 0; i < n / 32; i++) {
        if (b[i].e > 252) return 0;
    }
    return 1;
}

const llmq_codec LLMQ_CODEC_OF(MXFP4) = {
    LLMQ_CODEC(MXFP4), .bits = 5, .group = 32, .off = LLMQ_FP4_OFF, .scale = LLMQ_SCALE_E8M0, .code_bits = 4,
    .codebook = llmq_fp4_levels,
    .dequantize = mxfp4_dequantize, .quantize = mxfp4_quantize, .levels = mxfp4_levels, .places = mxfp4_places,
    .check = mxfp4_check,
};

/* iq4_nl.c: 32 weights of 4 bits, places in a codebook of unevenly spaced levels, with one scale.
 *
 *     w[i] = d * level[q[i]]
 *
 *     byte  0..1   d, binary16, of either sign
 *     byte  2..17  byte 2 + l: q[l] in bits 0..3, q[l + 16] in bits 4..7
 *
 * The levels are dense around zero, where most weights are; IQ4_XS has the same. */
#include "formats/scale_search.h"
#include "formats/weights.h"

typedef struct {
    uint8_t d[2];
    uint8_t qs[16];
} block_iq4_nl;
LLMQ_CHECK_BLOCK(IQ4_NL, block_iq4_nl);

static void iq4_nl_places(const void *block, llmq_levels *out) {
    const block_iq4_nl *b = block;
    llmq_unpack_nibbles(b->qs, out->q);
    llmq_one_scale(out, 1, llmq_load_f16(b->d));
}

static void iq4_nl_levels(const void *block, llmq_levels *out) {
    iq4_nl_places(block, out);
    llmq_look_up_iq4(out->q, 32);
}

static void iq4_nl_dequantize(const void *src, float *dst, int64_t n) {
    llmq_dequantize_one_scale(iq4_nl_levels, 32, sizeof(block_iq4_nl), 128, src, dst, n);
}

static void iq4_nl_pack(const ss_fit *fit, int lane, uint8_t *block) {
    block_iq4_nl *b = (block_iq4_nl *)block;
    llmq_store_f16(b->d, fit->d[lane]);
    llmq_pack_iq4(fit->level[lane], b->qs);
}

static const ss_shape iq4_nl_shape = {.n = 32, .lo = -128, .codebook = llmq_iq4_levels, SS_IQ4_STARTS};

static llmq_status iq4_nl_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return ss_quantize(&iq4_nl_shape, iq4_nl_pack, sizeof(block_iq4_nl), src, dst, n, weight);
}

static int iq4_nl_check(const void *src, int64_t n) {
    return llmq_finite_f16(src, n / 32, sizeof(block_iq4_nl));
}

const llmq_codec LLMQ_CODEC_OF(IQ4_NL) = {
    LLMQ_CODEC(IQ4_NL), .bits = 8, .group = 32, .off = 128, .code_bits = 4, .codebook = llmq_iq4_levels,
    .dequantize = iq4_nl_dequantize, .quantize = iq4_nl_quantize, .levels = iq4_nl_levels, .places = iq4_nl_places,
    .check = iq4_nl_check,
};

/* tq2_0.c: 256 ternary weights in 2 bits each, with one scale.
 *
 *     w[i] = d * (q[i] - 1),  q in 0..3, of which 3 is not written
 *
 *     byte  0..63   byte 32 h + l: q[128 h + 32 t + l] in bits 2 t, 2 t + 1  (h = 0, 1; t = 0..3; l = 0..31)
 *     byte  64..65  d, binary16
 */
#include <stddef.h>

#include "formats/kquant.h"
#include "formats/scale_search.h"
#include "formats/weights.h"

typedef struct {
    uint8_t qs[64];
    uint8_t d[2];
} block_tq2_0;
LLMQ_CHECK_BLOCK(TQ2_0, block_tq2_0);

static void tq2_0_levels(const void *block, llmq_levels *out) {
    const block_tq2_0 *b = block;
    memset(out->q, 0, 256);
    llmq_unpack_runs(b->qs, 2, 0, out->q, 256);
    llmq_one_scale(out, 8, llmq_load_f16(b->d));
}

static void tq2_0_dequantize(const void *src, float *dst, int64_t n) {
    llmq_dequantize_one_scale(tq2_0_levels, 256, sizeof(block_tq2_0), 1, src, dst, n);
}

static void tq2_0_pack(const ss_fit *fit, int lane, uint8_t *block) {
    block_tq2_0 *b = (block_tq2_0 *)block;
    llmq_store_f16(b->d, fit->d[lane]);
    llmq_pack_runs(fit->level[lane], 2, 0, b->qs, 256);
}

static const ss_shape tq2_0_shape = {.n = 256, .lo = -1, .hi = 1, SS_TERNARY_STARTS};

static llmq_status tq2_0_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return ss_quantize(&tq2_0_shape, tq2_0_pack, sizeof(block_tq2_0), src, dst, n, weight);
}

static int tq2_0_check(const void *src, int64_t n) {
    return llmq_finite_f16((const uint8_t *)src + offsetof(block_tq2_0, d), n / 256, sizeof(block_tq2_0));
}

const llmq_codec LLMQ_CODEC_OF(TQ2_0) = {
    LLMQ_CODEC(TQ2_0), .bits = 2, .group = 32, .off = 1,
    .dequantize = tq2_0_dequantize, .quantize = tq2_0_quantize, .levels = tq2_0_levels, .check = tq2_0_check,
};

/* q6_k.c: 256 weights of 6 bits in 16 groups of 16, each with an 8-bit scale.
 *
 *     w[i] = d * sc[g] * (q[i] - 32),   g = i / 16,  q in 0..63,  sc in -128..127
 *
 *     byte    0..127  byte 64 h + 32 t + l: bits 0..3 of q[128 h + 32 t + l] in bits 0..3, of q[128 h + 64 + 32 t + l] in bits 4..7
 *                     (h = 0, 1; t = 0, 1; l = 0..31)
 *     byte  128..191  byte 128 + 32 h + l: bits 4..5 of q[128 h + 32 t + l] in bits 2 t, 2 t + 1  (t = 0..3)
 *     byte  192..207  sc, int8
 *     byte  208..209  d, binary16
 */
#include <stddef.h>

#include "formats/kquant.h"

typedef struct {
    uint8_t ql[128], qh[64];
    int8_t sc[16];
    uint8_t d[2];
} block_q6_k;
LLMQ_CHECK_BLOCK(Q6_K, block_q6_k);

static inline void q6_k_levels(const void *block, llmq_levels *out) {
    const block_q6_k *b = block;
    for (int h = 0; h < 2; h++) {
        for (int l = 0; l < 64; l++) {
            out->q[128 * h + l] = b->ql[64 * h + l] & 15;
            out->q[128 * h + 64 + l] = b->ql[64 * h + l] >> 4;
        }
    }
    llmq_unpack_runs(b->qh, 2, 4, out->q, 256);
    memcpy(out->sc, b->sc, 16);
    memset(out->m, 0, 16);
    out->d = llmq_load_f16(b->d);
    out->dmin = 0;
}

static void q6_k_pack(const llmq_levels *w, void *block) {
    block_q6_k *b = block;
    for (int h = 0; h < 2; h++) {
        const uint8_t *q = w->q + 128 * h;
        for (int l = 0; l < 64; l++) b->ql[64 * h + l] = (uint8_t)((q[l] & 15) | (q[64 + l] & 15) << 4);
    }
    llmq_pack_runs(w->q, 2, 4, b->qh, 256);
    memcpy(b->sc, w->sc, 16);
    llmq_store_u16(b->d, llmq_f32_to_f16(w->d));
}

static void q6_k_dequantize(const void *src, float *dst, int64_t n) {
    llmq_kquant_dequantize(q6_k_levels, sizeof(block_q6_k), 16, 32, src, dst, n);
}

static llmq_status q6_k_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    static const kq_shape shape = {
        .group = 16, .off = 32, .qlo = -32, .qhi = 31, .slo = -128, .shi = 127, .step = 1, .reach_sc = 12, .reach_m = 0,
        .starts = 4,
        .start = {{-32}, {31}, {-31.5f}, {-30}},
    };
    return llmq_kquant_quantize(&shape, q6_k_pack, sizeof(block_q6_k), src, dst, n, weight);
}

static int q6_k_check(const void *src, int64_t n) {
    return llmq_finite_f16((const uint8_t *)src + offsetof(block_q6_k, d), n / 256, sizeof(block_q6_k));
}

const llmq_codec LLMQ_CODEC_OF(Q6_K) = {
    LLMQ_CODEC(Q6_K), .bits = 6, .group = 16, .off = 32, .has_scales = 1,
    .dequantize = q6_k_dequantize, .quantize = q6_k_quantize, .levels = q6_k_levels, .check = q6_k_check,
};

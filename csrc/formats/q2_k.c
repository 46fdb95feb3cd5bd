/* q2_k.c: 256 weights of 2 bits in 16 groups of 16, each with a 4-bit scale and minimum.
 *
 *     w[i] = d * sc[g] * q[i]  -  dmin * m[g],   g = i / 16,  q in 0..3,  sc and m in 0..15
 *
 *     byte   0..15   byte g has sc[g] in bits 0..3, m[g] in bits 4..7
 *     byte  16..79   byte 16 + 32 h + l has q[128 h + 32 t + l] in bits 2 t, 2 t + 1  (h = 0, 1; t = 0..3; l = 0..31)
 *     byte  80..81   d, binary16
 *     byte  82..83   dmin, binary16
 */
#include <stddef.h>

#include "formats/kquant.h"

typedef struct {
    uint8_t scales[16], qs[64];
    uint8_t d[2], dmin[2];
} block_q2_k;
LLMQ_CHECK_BLOCK(Q2_K, block_q2_k);

static void q2_k_levels(const void *block, llmq_levels *out) {
    const block_q2_k *b = block;
    for (int g = 0; g < 16; g++) {
        out->sc[g] = b->scales[g] & 15;
        out->m[g] = b->scales[g] >> 4;
    }
    memset(out->q, 0, sizeof out->q);
    llmq_unpack_runs(b->qs, 2, 0, out->q, 256);
    out->d = llmq_load_f16(b->d);
    out->dmin = llmq_load_f16(b->dmin);
}

static void q2_k_pack(const llmq_levels *w, void *block) {
    block_q2_k *b = block;
    for (int g = 0; g < 16; g++) b->scales[g] = (uint8_t)(w->sc[g] | w->m[g] << 4);
    llmq_pack_runs(w->q, 2, 0, b->qs, 256);
    llmq_store_u16(b->d, llmq_f32_to_f16(w->d));
    llmq_store_u16(b->dmin, llmq_f32_to_f16(w->dmin));
}

static void q2_k_dequantize(const void *src, float *dst, int64_t n) {
    llmq_kquant_dequantize(q2_k_levels, sizeof(block_q2_k), 16, 0, src, dst, n);
}

static llmq_status q2_k_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    static const kq_shape shape = {
        .group = 16, .qhi = 3, .shi = 15, .mhi = 15, .step = 0.5f, .reach_sc = 1, .reach_m = 1, .starts = 8,
        .start = {{-0.45f, -0.45f}, {-0.3f, -1.2f}, {-0.6f, 0}, {0, -0.15f}, {-1.2f, -0.15f}, {0, -1.2f}, {-0.45f, -0.15f},
                  {-0.15f, -0.6f}},
    };
    return llmq_kquant_quantize(&shape, q2_k_pack, sizeof(block_q2_k), src, dst, n, weight);
}

static int q2_k_check(const void *src, int64_t n) {
    const uint8_t *p = src;
    return llmq_finite_f16(p + offsetof(block_q2_k, d), n / 256, sizeof(block_q2_k)) &&
           llmq_finite_f16(p + offsetof(block_q2_k, dmin), n / 256, sizeof(block_q2_k));
}

const llmq_codec LLMQ_CODEC_OF(Q2_K) = {
    LLMQ_CODEC(Q2_K), .bits = 2, .group = 16, .has_min = 1, .has_scales = 1,
    .dequantize = q2_k_dequantize, .quantize = q2_k_quantize, .levels = q2_k_levels, .check = q2_k_check,
};

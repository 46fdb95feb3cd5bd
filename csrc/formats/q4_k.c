/* q4_k.c: 256 weights of 4 bits in 8 groups of 32, each with a 6-bit scale and minimum.
 *
 *     w[i] = d * sc[g] * q[i]  -  dmin * m[g],   g = i / 32,  q in 0..15,  sc and m in 0..63
 *
 *     byte   0..1    d, binary16
 *     byte   2..3    dmin, binary16
 *     byte   4..15   sc and m (kquant.h)
 *     byte  16..143  q: byte 16 + 32 r + l has q[64 r + l] in bits 0..3, q[64 r + 32 + l] in bits 4..7
 */
#include "formats/kquant.h"

typedef struct {
    uint8_t d[2], dmin[2];
    uint8_t scales[12];
    uint8_t qs[128];
} block_q4_k;
LLMQ_CHECK_BLOCK(Q4_K, block_q4_k);

static void q4_k_levels(const void *block, llmq_levels *out) {
    const block_q4_k *b = block;
    llmq_unpack_scales(b->scales, out->sc, out->m);
    memset(out->q, 0, sizeof out->q);
    llmq_unpack_runs(b->qs, 4, 0, out->q, 256);
    out->d = llmq_load_f16(b->d);
    out->dmin = llmq_load_f16(b->dmin);
}

static void q4_k_pack(const llmq_levels *w, void *block) {
    block_q4_k *b = block;
    llmq_store_u16(b->d, llmq_f32_to_f16(w->d));
    llmq_store_u16(b->dmin, llmq_f32_to_f16(w->dmin));
    llmq_pack_scales(w->sc, w->m, b->scales);
    llmq_pack_runs(w->q, 4, 0, b->qs, 256);
}

static void q4_k_dequantize(const void *src, float *dst, int64_t n) {
    llmq_kquant_dequantize(q4_k_levels, sizeof(block_q4_k), 32, 0, src, dst, n);
}

static llmq_status q4_k_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    static const kq_shape shape = {
        .group = 32, .qhi = 15, .shi = 63, .mhi = 63, .step = 1, .reach_sc = 1, .starts = 16,
        .start = {{-0.2f, -0.2f}, {0.25f, -0.35f}, {-0.5f, 0.1f}, {-0.05f, 1}, {-0.05f, -0.35f}, {-0.35f, -0.05f},
                  {0.85f, 0.85f}, {1.15f, -0.2f}, {-0.8f, 0.1f}, {-0.8f, -0.8f}, {0.25f, 0.1f}, {0.1f, -0.8f}, {-0.2f, 1.15f},
                  {-0.35f, -0.8f}, {-0.05f, 0.25f}, {-0.8f, -0.35f}},
    };
    return llmq_kquant_quantize(&shape, q4_k_pack, sizeof(block_q4_k), src, dst, n, weight);
}

static int q4_k_check(const void *src, int64_t n) {
    return llmq_finite_f16(src, n / 256, sizeof(block_q4_k)) &&
           llmq_finite_f16((const uint8_t *)src + 2, n / 256, sizeof(block_q4_k));
}

const llmq_codec LLMQ_CODEC_OF(Q4_K) = {
    LLMQ_CODEC(Q4_K), .bits = 4, .group = 32, .has_min = 1, .has_scales = 1,
    .dequantize = q4_k_dequantize, .quantize = q4_k_quantize, .levels = q4_k_levels, .check = q4_k_check,
};

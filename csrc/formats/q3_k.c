/* q3_k.c: 256 weights of 3 bits in 16 groups of 16, each with a 6-bit scale of either sign.
 *
 *     w[i] = d * sc[g] * (q[i] - 4),   g = i / 16,  q in 0..7,  sc in -32..31, stored as u[g] = sc[g] + 32
 *
 *     byte    0..31   byte l has bit 2 of q[32 s + l] in bit s  (s = 0..7; l = 0..31)
 *     byte   32..95   byte 32 + 32 h + l has bits 0..1 of q[128 h + 32 t + l] in bits 2 t, 2 t + 1  (h = 0, 1; t = 0..3)
 *     byte   96..103  byte 96 + j has bits 0..3 of u[j] in bits 0..3, of u[8 + j] in bits 4..7  (j = 0..7)
 *     byte  104..107  byte 104 + j has bits 4..5 of u[4 t + j] in bits 2 t, 2 t + 1  (j = 0..3; t = 0..3)
 *     byte  108..109  d, binary16
 */
#include <stddef.h>

#include "formats/kquant.h"

typedef struct {
    uint8_t hmask[32], qs[64];
    uint8_t low[8], high[4];
    uint8_t d[2];
} block_q3_k;
LLMQ_CHECK_BLOCK(Q3_K, block_q3_k);

static void q3_k_levels(const void *block, llmq_levels *out) {
    const block_q3_k *b = block;
    for (int g = 0; g < 16; g++) {
        const int low = b->low[g % 8] >> g / 8 * 4 & 15, high = b->high[g % 4] >> g / 4 * 2 & 3;
        out->sc[g] = (int8_t)((low | high << 4) - 32);
    }
    memset(out->m, 0, sizeof out->m);
    memset(out->q, 0, sizeof out->q);
    llmq_unpack_runs(b->qs, 2, 0, out->q, 256);
    llmq_unpack_runs(b->hmask, 1, 2, out->q, 256);
    out->d = llmq_load_f16(b->d);
    out->dmin = 0;
}

static void q3_k_pack(const llmq_levels *w, void *block) {
    block_q3_k *b = block;
    llmq_pack_runs(w->q, 1, 2, b->hmask, 256);
    llmq_pack_runs(w->q, 2, 0, b->qs, 256);
    memset(b->low, 0, sizeof b->low);
    memset(b->high, 0, sizeof b->high);
    for (int g = 0; g < 16; g++) {
        const int u = w->sc[g] + 32;
        b->low[g % 8] = (uint8_t)(b->low[g % 8] | (u & 15) << g / 8 * 4);
        b->high[g % 4] = (uint8_t)(b->high[g % 4] | u >> 4 << g / 4 * 2);
    }
    llmq_store_u16(b->d, llmq_f32_to_f16(w->d));
}

static void q3_k_dequantize(const void *src, float *dst, int64_t n) {
    llmq_kquant_dequantize(q3_k_levels, sizeof(block_q3_k), 16, 4, src, dst, n);
}

static llmq_status q3_k_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    static const kq_shape shape = {
        .group = 16, .off = 4, .qlo = -4, .qhi = 3, .slo = -32, .shi = 31, .step = 0.5f, .reach_sc = 2, .starts = 14,
        .start = {{-4}, {2}, {-3.2f}, {-3.6f}, {-4.4f}, {-5}, {-6}, {-2.8f}, {2.5f}, {3}, {3.3f}, {3.6f}, {4}, {5}},
    };
    return llmq_kquant_quantize(&shape, q3_k_pack, sizeof(block_q3_k), src, dst, n, weight);
}

static int q3_k_check(const void *src, int64_t n) {
    return llmq_finite_f16((const uint8_t *)src + offsetof(block_q3_k, d), n / 256, sizeof(block_q3_k));
}

const llmq_codec LLMQ_CODEC_OF(Q3_K) = {
    LLMQ_CODEC(Q3_K), .bits = 3, .group = 16, .off = 4, .has_scales = 1,
    .dequantize = q3_k_dequantize, .quantize = q3_k_quantize, .levels = q3_k_levels, .check = q3_k_check,
};

/* tq1_0.c: 256 ternary weights, five to a byte, with one scale.
 *
 *     w[i] = d * (q[i] - 1),  q in 0..2
 *
 *     byte  0..31   byte l: q[l], q[32 + l], q[64 + l], q[96 + l], q[128 + l]
 *     byte  32..47  byte 32 + l: q[160 + l], q[176 + l], q[192 + l], q[208 + l], q[224 + l]
 *     byte  48..51  byte 48 + l: q[240 + l], q[244 + l], q[248 + l], q[252 + l]
 *     byte  52..53  d, binary16
 *
 * The digits q, first the most significant, are the ternary fraction v = 0.qqqqq of 243 parts; the byte is ceil(256 v). Multiplying
 * the byte by 3^n modulo 256 brings digit n to the front, and its product with 3 has the digit above bit 8: no division. */
#include <stddef.h>

#include "formats/scale_search.h"
#include "formats/weights.h"

typedef struct {
    uint8_t qs[48], qh[4];
    uint8_t d[2];
} block_tq1_0;
LLMQ_CHECK_BLOCK(TQ1_0, block_tq1_0);

/* `digits` weights in each of `n` bytes, the next digit `n` weights further */
static void unpack_digits(const uint8_t *from, int n, int digits, uint8_t *q) {
    uint8_t power = 1;
    for (int t = 0; t < digits; t++, power = (uint8_t)(power * 3)) {
        for (int l = 0; l < n; l++) q[n * t + l] = (uint8_t)((uint8_t)(from[l] * power) * 3 >> 8);
    }
}

static void pack_digits(const uint8_t *q, int n, int digits, uint8_t *to) {
    for (int l = 0; l < n; l++) {
        int v = 0;
        for (int t = 0; t < 5; t++) v = v * 3 + (t < digits ? q[n * t + l] : 0);
        to[l] = (uint8_t)((v * 256 + 242) / 243);
    }
}

static void tq1_0_levels(const void *block, llmq_levels *out) {
    const block_tq1_0 *b = block;
    unpack_digits(b->qs, 32, 5, out->q);
    unpack_digits(b->qs + 32, 16, 5, out->q + 160);
    unpack_digits(b->qh, 4, 4, out->q + 240);
    llmq_one_scale(out, 8, llmq_load_f16(b->d));
}

static void tq1_0_dequantize(const void *src, float *dst, int64_t n) {
    llmq_dequantize_one_scale(tq1_0_levels, 256, sizeof(block_tq1_0), 1, src, dst, n);
}

static void tq1_0_pack(const ss_fit *fit, int lane, uint8_t *block) {
    block_tq1_0 *b = (block_tq1_0 *)block;
    const uint8_t *q = fit->level[lane];
    llmq_store_f16(b->d, fit->d[lane]);
    pack_digits(q, 32, 5, b->qs);
    pack_digits(q + 160, 16, 5, b->qs + 32);
    pack_digits(q + 240, 4, 4, b->qh);
}

static const ss_shape tq1_0_shape = {.n = 256, .lo = -1, .hi = 1, SS_TERNARY_STARTS};

static llmq_status tq1_0_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return ss_quantize(&tq1_0_shape, tq1_0_pack, sizeof(block_tq1_0), src, dst, n, weight);
}

static int tq1_0_check(const void *src, int64_t n) {
    return llmq_finite_f16((const uint8_t *)src + offsetof(block_tq1_0, d), n / 256, sizeof(block_tq1_0));
}

const llmq_codec LLMQ_CODEC_OF(TQ1_0) = {
    LLMQ_CODEC(TQ1_0), .bits = 2, .group = 32, .off = 1,
    .dequantize = tq1_0_dequantize, .quantize = tq1_0_quantize, .levels = tq1_0_levels, .check = tq1_0_check,
};

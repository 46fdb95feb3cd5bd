/* nvfp4.c: 64 weights of 4 bits, the numbers of mxfp4.c, in 4 groups of 16, each with a scale of 7 bits (E4M3).
 *
 *     w[i] = s[g] * v[i],   g = i / 16
 *
 *     byte  0..3   s[g]: bits 3..6 exponent e, bits 0..2 mantissa m: (8 + m) * 2^(e - 10), m * 2^-9 for e = 0. 0x7f is no
 *                  number, which llama.cpp reads as 0; bit 7 is not read.
 *     byte  4..35  byte 4 + 8 g + l: weight 16 g + l in bits 0..3, weight 16 g + 8 + l in bits 4..7
 *
 * Levels are 2 v, so sc holds s / 2. */
#include "formats/fp4.h"
#include "formats/scale_search.h"

typedef struct {
    uint8_t s[4];
    uint8_t qs[4][8];
} block_nvfp4;
LLMQ_CHECK_BLOCK(NVFP4, block_nvfp4);

static void nvfp4_places(const void *block, llmq_levels *out) {
    const block_nvfp4 *b = block;
    for (int g = 0; g < 4; g++) {
        for (int l = 0; l < 8; l++) {
            out->q[16 * g + l] = llmq_fp4_place(b->qs[g][l] & 15);
            out->q[16 * g + 8 + l] = llmq_fp4_place(b->qs[g][l] >> 4);
        }
        out->sc[g] = (int8_t)(b->s[g] == 0x7f ? 0 : b->s[g] & 0x7f);
        out->m[g] = 0;
    }
    out->d = 1;
    out->dmin = 0;
}

static void nvfp4_levels(const void *block, llmq_levels *out) {
    nvfp4_places(block, out);
    llmq_look_up_fp4(out->q, 64);
}

static void nvfp4_dequantize(const void *src, float *dst, int64_t n) {
    const block_nvfp4 *b = src;
    for (int64_t i = 0; i < n; i += 64, b++) {
        llmq_levels w;
        nvfp4_levels(b, &w);
        for (int j = 0; j < 64; j++) dst[i + j] = llmq_e4m3_to_f32((uint8_t)w.sc[j / 16]) * (float)(w.q[j] - LLMQ_FP4_OFF);
    }
}

static void nvfp4_pack(const ss_fit *fit, int lane, uint8_t *block) {
    block_nvfp4 *b = (block_nvfp4 *)block;
    for (int g = 0; g < 4; g++) {
        const uint8_t *level = fit->level[lane + g];
        b->s[g] = llmq_f32_to_e4m3(fit->d[lane + g]);
        for (int l = 0; l < 8; l++) {
            b->qs[g][l] = (uint8_t)(llmq_fp4_code(level[l] - LLMQ_FP4_OFF) | llmq_fp4_code(level[8 + l] - LLMQ_FP4_OFF) << 4);
        }
    }
}

static const ss_shape nvfp4_shape = {
    .n = 16, .parts = 4, .lo = -LLMQ_FP4_OFF, .codebook = llmq_fp4_levels, .scale = LLMQ_SCALE_E4M3, SS_NVFP4_STARTS,
};

static llmq_status nvfp4_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    return ss_quantize(&nvfp4_shape, nvfp4_pack, sizeof(block_nvfp4), src, dst, n, weight);
}

static int nvfp4_check(const void *src, int64_t n) {
    const block_nvfp4 *b = src;
    for (int64_t i = 0; i < n / 64 * 4; i++) {
        if ((b[i / 4].s[i % 4] & 0x7f) == 0x7f) return 0;
    }
    return 1;
}

const llmq_codec LLMQ_CODEC_OF(NVFP4) = {
    LLMQ_CODEC(NVFP4), .bits = 5, .group = 16, .off = LLMQ_FP4_OFF, .has_scales = 1, .scale = LLMQ_SCALE_E4M3, .code_bits = 4,
    .codebook = llmq_fp4_levels,
    .dequantize = nvfp4_dequantize, .quantize = nvfp4_quantize, .levels = nvfp4_levels, .places = nvfp4_places,
    .check = nvfp4_check,
};

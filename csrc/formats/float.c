/* float.c: the types without blocks: F32, F16 (IEEE 754 binary16) and BF16 (the high half of binary32).
 *
 * Values are rounded to nearest, ties to even; what is beyond the range of the type becomes its largest finite number, because one
 * infinity in a weight matrix makes every output NaN. NaN and infinity are refused like in every other type. */
#include "formats/codec.h"
#include "simd/vec.h"

static void f32_dequantize(const void *src, float *dst, int64_t n) {
    memcpy(dst, src, (size_t)n * sizeof(float));
}

static llmq_status f32_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    (void)weight;
    if (!llmq_finite_f32(src, n)) return LLMQ_ERR_NONFINITE;
    memcpy(dst, src, (size_t)n * sizeof(float));
    return LLMQ_OK;
}

static int f32_check(const void *src, int64_t n) {
    const uint8_t *p = src;
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, p + 4 * i, 4);
        bad |= (u & 0x7f800000u) == 0x7f800000u;
    }
    return !bad;
}

const llmq_codec LLMQ_CODEC_OF(F32) = {
    LLMQ_CODEC(F32), .dequantize = f32_dequantize, .quantize = f32_quantize, .check = f32_check,
};

static void f16_dequantize(const void *src, float *dst, int64_t n) {
    const uint8_t *p = src;
    int64_t i = 0;
    for (; i + LLMQ_LANES <= n; i += LLMQ_LANES) vf_store(dst + i, vf_load_f16(p + 2 * i));
    for (; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        dst[i] = llmq_f16_to_f32(h);
    }
}

static llmq_status f16_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    (void)weight;
    if (!llmq_finite_f32(src, n)) return LLMQ_ERR_NONFINITE;
    uint8_t *p = dst;
    for (int64_t i = 0; i < n; i++) {
        const uint16_t h = llmq_f32_to_f16_finite(src[i]);
        memcpy(p + 2 * i, &h, 2);
    }
    return LLMQ_OK;
}

/* 1 when no number has all of these bits set, those of the exponent. */
static int halves_without(uint16_t bits, const void *src, int64_t n) {
    const uint8_t *p = src;
    uint16_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        bad |= (h & bits) == bits;
    }
    return !bad;
}

static int f16_check(const void *src, int64_t n) {
    return halves_without(0x7c00, src, n);
}

const llmq_codec LLMQ_CODEC_OF(F16) = {
    LLMQ_CODEC(F16), .dequantize = f16_dequantize, .quantize = f16_quantize, .check = f16_check,
};

static void bf16_dequantize(const void *src, float *dst, int64_t n) {
    const uint8_t *p = src;
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        dst[i] = llmq_bf16_to_f32(h);
    }
}

static llmq_status bf16_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    (void)weight;
    if (!llmq_finite_f32(src, n)) return LLMQ_ERR_NONFINITE;
    uint8_t *p = dst;
    for (int64_t i = 0; i < n; i++) {
        uint16_t h = llmq_f32_to_bf16(src[i]);
        if ((h & 0x7fff) == 0x7f80) h--; /* rounded up to infinity: the largest finite number is one below */
        memcpy(p + 2 * i, &h, 2);
    }
    return LLMQ_OK;
}

static int bf16_check(const void *src, int64_t n) {
    return halves_without(0x7f80, src, n);
}

const llmq_codec LLMQ_CODEC_OF(BF16) = {
    LLMQ_CODEC(BF16), .dequantize = bf16_dequantize, .quantize = bf16_quantize, .check = bf16_check,
};

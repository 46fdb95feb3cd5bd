/* half.h: binary16 and bfloat16 in portable C, round to nearest even, exact for every bit pattern. */
#ifndef LLMQ_HALF_H
#define LLMQ_HALF_H

#include <stdint.h>
#include <string.h>

static inline float llmq_bits_f32(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t llmq_f32_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float llmq_bf16_to_f32(uint16_t h) {
    return llmq_bits_f32((uint32_t)h << 16);
}

static inline uint16_t llmq_f32_to_bf16(float x) {
    uint32_t u = llmq_f32_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 64); /* NaN stays NaN, made quiet */
    return (uint16_t)((u + (0x7fffu + ((u >> 16) & 1))) >> 16);
}

/* A binary16 subnormal is m * 2^-24; a normal one gets its exponent shifted from bias 15 to 127. */
static inline float llmq_f16_to_f32(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
    if (exponent == 31) return llmq_bits_f32(sign | 0x7f800000u | mantissa << 13);
    if (exponent == 0) {
        const float tiny = (float)mantissa * 0x1p-24f;
        return sign ? -tiny : tiny;
    }
    return llmq_bits_f32(sign | (exponent + 112) << 23 | mantissa << 13);
}

static inline uint16_t llmq_f32_to_f16(float x) {
    const uint32_t u = llmq_f32_bits(x), magnitude = u & 0x7fffffffu;
    const uint16_t sign = (uint16_t)((u >> 16) & 0x8000);
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00); /* NaN */
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); /* 65520 and above round to infinity */
    if (magnitude < 0x38800000u) {
        /* below 2^-14: adding 0.5 leaves the value as a multiple of 2^-24 in the low mantissa bits, rounded by the FPU */
        const float sum = llmq_bits_f32(magnitude) + 0.5f;
        return (uint16_t)(sign | (llmq_f32_bits(sum) - 0x3f000000u));
    }
    return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13));
}

#endif

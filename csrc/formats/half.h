/* half.h: binary16 and bfloat16 in portable C, round to nearest even, exact for every bit pattern.
 *
 * The conversions have no branches, so that a loop over a row becomes vector code for any target, and no step computes with a
 * denormal float32, so that the FPU's flush-to-zero modes change nothing. */
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
    const uint32_t u = llmq_f32_bits(x), rounded = (u + (0x7fffu + ((u >> 16) & 1))) >> 16;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? ((u >> 16) | 64) : rounded); /* NaN stays NaN, made quiet */
}

/* A normal number gets its exponent shifted from bias 15 to 127 (by 112), an infinity or NaN once more. A subnormal is
 * m * 2^-24: as the low mantissa bits of 0.5, which has that spacing, less 0.5. */
static inline float llmq_f16_to_f32(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = h & 0x7fff;
    const uint32_t normal = (magnitude << 13) + (112u << 23) + (magnitude >= 0x7c00 ? 112u << 23 : 0);
    const uint32_t tiny = llmq_f32_bits(llmq_bits_f32(0x3f000000u | magnitude) - 0.5f);
    return llmq_bits_f32(sign | (magnitude < 0x0400 ? tiny : normal));
}

/* 65520 and above round to infinity. Below 2^-14, adding 0.5 leaves the value as a multiple of 2^-24 in the low mantissa bits,
 * rounded by the FPU. */
static inline uint16_t llmq_f32_to_f16(float x) {
    const uint32_t u = llmq_f32_bits(x), magnitude = u & 0x7fffffffu, sign = (u >> 16) & 0x8000;
    const uint32_t tiny = llmq_f32_bits(llmq_bits_f32(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
    const uint32_t finite = magnitude < 0x38800000u ? tiny : normal;
    const uint32_t special = magnitude > 0x7f800000u ? 0x7e00 : 0x7c00;
    return (uint16_t)(sign | (magnitude >= 0x477ff000u ? special : finite));
}

/* As above, but what is beyond the range becomes the largest finite number of its sign. */
static inline uint16_t llmq_f32_to_f16_finite(float x) {
    const uint16_t h = llmq_f32_to_f16(x);
    return (h & 0x7fff) == 0x7c00 ? (uint16_t)((h & 0x8000) | 0x7bff) : h;
}

/* E8M0, the exponents of OCP microscaling, halved: 2^(e - 128). The least two are not normal float32 numbers. */
static inline float llmq_e8m0_to_f32(uint8_t e) {
    return llmq_bits_f32(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

/* Of such a number. */
static inline uint8_t llmq_f32_to_e8m0(float x) {
    const uint32_t u = llmq_f32_bits(x);
    return (uint8_t)(u < 0x00800000u ? u >> 22 : (u >> 23) + 1);
}

/* E4M3, the scales of NVFP4, halved; 7 bits, no sign: binary16 with a shorter exponent. */
static inline float llmq_e4m3_to_f32(uint8_t code) {
    return llmq_f16_to_f32((uint16_t)(code << 7)) * 128;
}

/* Of such a number. */
static inline uint8_t llmq_f32_to_e4m3(float x) {
    return (uint8_t)(llmq_f32_to_f16(x * 0x1p-7f) >> 7);
}

#endif

/* codec.h: what the codecs of csrc/formats/ share. A block in a file has no alignment, so the block structs hold bytes only. */
#ifndef LLMQ_FORMATS_CODEC_H
#define LLMQ_FORMATS_CODEC_H

#include "formats/half.h"
#include "llmq.h"

/* The name of a codec; codecs.inc gives it another for every instruction set that the codecs are compiled for. */
#ifndef LLMQ_CODEC_OF
#define LLMQ_CODEC_OF(T) llmq_codec_##T
#endif

/* The fields of a codec that types.def knows, and the check that the struct that draws the block has its size. */
#define LLMQ_CODEC(T) .type = LLMQ_##T, .name = #T, .block = LLMQ_BLOCK_##T, .bytes = LLMQ_BYTES_##T
#define LLMQ_CHECK_BLOCK(T, block_struct) _Static_assert(sizeof(block_struct) == LLMQ_BYTES_##T, #T " block size")

static inline uint16_t llmq_load_u16(const uint8_t p[2]) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline void llmq_store_u16(uint8_t p[2], uint16_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline float llmq_load_f16(const uint8_t p[2]) {
    return llmq_f16_to_f32(llmq_load_u16(p));
}

static inline void llmq_store_f16(uint8_t p[2], float v) {
    llmq_store_u16(p, llmq_f32_to_f16(v));
}

/* 1 when the binary16 numbers at p, p + stride, … (n of them) are all finite. */
static inline int llmq_finite_f16(const uint8_t *p, int64_t n, int64_t stride) {
    for (int64_t i = 0; i < n; i++) {
        if ((p[i * stride + 1] & 0x7c) == 0x7c) return 0;
    }
    return 1;
}

/* 1 when x[0..n) holds neither NaN nor infinity. */
static inline int llmq_finite_f32(const float *x, int64_t n) {
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) bad |= (llmq_f32_bits(x[i]) & 0x7f800000u) == 0x7f800000u;
    return !bad;
}

/* 2^floor(log2 v) of v >= 0, at most 2^126 so that its inverse is a normal number too. */
static inline float llmq_power_below(float v) {
    const uint32_t exponent = llmq_f32_bits(v) & 0x7f800000u;
    return llmq_bits_f32(exponent < 0x7e800000u ? exponent : 0x7e800000u);
}

/* A group's scale as a number. */
static inline float llmq_group_scale(const llmq_codec *codec, int8_t sc) {
    return codec->scale == LLMQ_SCALE_E4M3 ? llmq_e4m3_to_f32((uint8_t)sc) : (float)sc;
}

/* What no quantize accepts: weights that are not finite, importances (when there are any) that are not finite or below 0. */
static inline llmq_status llmq_refuse(const float *src, int64_t n, const float *weight) {
    if (!llmq_finite_f32(src, n) || (weight && !llmq_finite_f32(weight, n))) return LLMQ_ERR_NONFINITE;
    int negative = 0;
    for (int64_t i = 0; weight && i < n; i++) negative |= weight[i] < 0;
    return negative ? LLMQ_ERR_ARG : LLMQ_OK;
}

/* The quantize of types whose search takes many blocks at once: refuses what llmq_refuse does, then calls `pack` for each `chunk`
 * weights (at most LLMQ_MAX_CHUNK) with their importances or NULL; of the last chunk, perhaps padded with zeros, only `n` are to be
 * packed. `pack` returns the end of what it wrote. */
enum { LLMQ_MAX_CHUNK = 32 * LLMQ_MAX_BLOCK };
typedef uint8_t *llmq_pack_chunk(const void *how, const float *src, const float *weight, int64_t n, uint8_t *dst);
llmq_status llmq_quantize_chunks(llmq_pack_chunk *pack, const void *how, int64_t chunk, const float *src, void *dst, int64_t n,
                                 const float *weight);

/* Bits 0..7 as bytes of 0 or 1: each byte keeps one of eight copies' bits, and carries into its top bit unless that is 0. */
static inline void llmq_spread_bits(uint8_t bits, uint8_t to[8]) {
    const uint64_t kept = bits * UINT64_C(0x0101010101010101) & UINT64_C(0x8040201008040201);
    const uint64_t ones = (kept + UINT64_C(0x7f7f7f7f7f7f7f7f)) >> 7 & UINT64_C(0x0101010101010101);
    memcpy(to, &ones, sizeof ones);
}

/* Four pairs of bits, and four nibbles, as bytes from the lowest bits up. */
static inline void llmq_spread_pairs(uint8_t bits, uint8_t to[4]) {
    const uint32_t far = (bits | (uint32_t)bits << 12) & 0x000f000fu, each = (far | far << 6) & 0x03030303u;
    memcpy(to, &each, sizeof each);
}

static inline void llmq_spread_nibbles(uint16_t bits, uint8_t to[4]) {
    const uint32_t far = (bits | (uint32_t)bits << 8) & 0x00ff00ffu, each = (far | far << 4) & 0x0f0f0f0fu;
    memcpy(to, &each, sizeof each);
}

typedef uint8_t llmq_sixteen __attribute__((vector_size(16))); /* compilers do not make a vector of every loop over 16 bytes */

/* The 4-bit levels of a block of 32: byte l holds weight l in its low and weight l + 16 in its high nibble. */
static inline void llmq_unpack_nibbles(const uint8_t qs[16], uint8_t q[32]) {
    llmq_sixteen both;
    memcpy(&both, qs, 16);
    const llmq_sixteen low = both & 15, high = both >> 4;
    memcpy(q, &low, 16);
    memcpy(q + 16, &high, 16);
}

static inline void llmq_pack_nibbles(const uint8_t q[32], uint8_t qs[16]) {
    llmq_sixteen low, high;
    memcpy(&low, q, 16);
    memcpy(&high, q + 16, 16);
    low |= high << 4;
    memcpy(qs, &low, 16);
}

/* The 5-bit levels of a block of 32: the low 4 bits as above, bit 4 of level i in bit i of the four bytes of qh. */
static inline void llmq_unpack_fives(const uint8_t qh[4], const uint8_t qs[16], uint8_t q[32]) {
    uint8_t high[32];
    llmq_unpack_nibbles(qs, q);
    for (int i = 0; i < 4; i++) llmq_spread_bits(qh[i], high + 8 * i);
    for (int l = 0; l < 32; l++) q[l] |= (uint8_t)(high[l] << 4);
}

static inline void llmq_pack_fives(const uint8_t q[32], uint8_t qh[4], uint8_t qs[16]) {
    for (int l = 0; l < 16; l++) qs[l] = (uint8_t)((q[l] & 15) | q[l + 16] << 4);
    for (int i = 0; i < 4; i++) {
        qh[i] = 0;
        for (int bit = 0; bit < 8; bit++) qh[i] |= (uint8_t)(q[8 * i + bit] >> 4 << bit);
    }
}

/* IQ4_NL and IQ4_XS: nibbles as above, places in this codebook (iq4_nl.c); q is the level there plus 128. */
extern const int8_t llmq_iq4_levels[16]; /* codecs.c */

static inline void llmq_look_up_iq4(uint8_t *q, int n) {
    for (int l = 0; l < n; l++) q[l] = (uint8_t)(llmq_iq4_levels[q[l]] + 128);
}

static inline void llmq_pack_iq4(const uint8_t q[32], uint8_t qs[16]) {
    uint8_t place[32] = {0};
    for (int i = 1; i < 16; i++) {
        for (int l = 0; l < 32; l++) place[l] += q[l] >= llmq_iq4_levels[i] + 128;
    }
    llmq_pack_nibbles(place, qs);
}

#endif

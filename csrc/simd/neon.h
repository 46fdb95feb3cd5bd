/* neon.h: the vocabulary of csrc/isa/matmul.inc in NEON with the dot product extension (Armv8.2-A FEAT_DotProd, Arm ARM C7.2 SDOT). A
 * vector holds 4 rows: `vi` 4 quads of bytes or 4 int32, `vf` 4 floats. With V_I8MM defined there are
 * also words for two rows of x at once (FEAT_I8MM, SMMLA).
 *
 * SDOT multiplies signed by signed bytes straight into int32, so that narrow weights (0..63) and wide ones (-128..127) go the same way and
 * nothing saturates: a span ends within 32 * 128 * 127 < 2^20. */
#ifndef LLMQ_SIMD_NEON_H
#define LLMQ_SIMD_NEON_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#include "simd/inline.h"

#define V_SPAN(bits, off, group) (group)
#ifdef V_I8MM
#define V_EIGHTS 1
enum { V_TOKENS = 2 };
#else
enum { V_TOKENS = 4 };
#endif
enum { V_ROWS = 4, V_STRIPS = 1, V_STREAM = 2, V_FLOAT_TOKENS = 4, V_WIDE_XOR = 0, V_OFFSET_LAST = 0 };
typedef int32x4_t vi;
typedef float32x4_t vf;

#define V_S8(a) vreinterpretq_s8_s32(a)
#define V_U8(a) vreinterpretq_u8_s32(a)

V_INLINE vi v_zero(void) { return vdupq_n_s32(0); }
V_INLINE vi v_load(const void *p) { return vreinterpretq_s32_u8(vld1q_u8((const uint8_t *)p)); }
V_INLINE vi v_held(vi a) { return a; } /* no instruction loads on the way */
V_INLINE void v_store(void *p, vi a) { vst1q_u8((uint8_t *)p, V_U8(a)); }
V_INLINE vi v_quad(const void *p) { return vld1q_dup_s32((const int32_t *)p); } /* the same 4 bytes for every row */
V_INLINE vi v_bytes(int byte) { return vreinterpretq_s32_s8(vdupq_n_s8((int8_t)byte)); }
V_INLINE vi v_and(vi a, vi b) { return vandq_s32(a, b); }
V_INLINE vi v_or(vi a, vi b) { return vorrq_s32(a, b); }
V_INLINE vi v_xor(vi a, vi b) { return veorq_s32(a, b); }
/* a shifted up by n bits, or down by -n; bits cross bytes and must be masked */
V_INLINE vi v_shift(vi a, int n) {
    return vreinterpretq_s32_u16(vshlq_u16(vreinterpretq_u16_s32(a), vdupq_n_s16((int16_t)n)));
}
V_INLINE vi v_table(const void *p) { return v_load(p); }
V_INLINE vi v_lookup(vi table, vi index) { return vreinterpretq_s32_u8(vqtbl1q_u8(V_U8(table), V_U8(index))); }
V_INLINE vi v_add32(vi a, vi b) { return vaddq_s32(a, b); }
V_INLINE void v_prefetch(const void *p) { __builtin_prefetch(p); }
V_INLINE void v_prefetch_once(const void *p) { __builtin_prefetch(p, 0, 0); }

/* ---- sums of products ---------------------------------------------------------------------------------------------------- */

/* -off * (sum of x), or 0 where weights are signed; half: the split sums of x (kernels.h) */
V_INLINE vi v_dot_start(int wide, int off, int span, const uint8_t *sum, const uint8_t *half) {
    int16_t part[4] = {0};
    (void)sum;
    memcpy(part, half, span == 32 ? 8 : 4);
    return vdupq_n_s32(wide ? 0 : -off * (part[0] + part[1] + part[2] + part[3]));
}
V_INLINE vi v_dot_step(int wide, vi acc, vi w, vi x) {
    (void)wide;
    return vdotq_s32(acc, V_S8(w), V_S8(x));
}
V_INLINE vi v_dot_end(int wide, vi acc) {
    (void)wide;
    return acc;
}
V_INLINE vi v_dot_scaled(int wide, vi acc, vi scale) {
    (void)wide;
    return vmulq_s32(acc, scale);
}
/* 4 bytes in the low half of a vector */
V_INLINE uint8x8_t v_four(const void *p) {
    uint32_t bytes;
    memcpy(&bytes, p, 4);
    return vcreate_u8(bytes);
}
/* int8 scales of 4 rows, as v_dot_scaled takes them */
V_INLINE vi v_scales(int wide, const void *p) {
    (void)wide;
    return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(v_four(p)))));
}
/* the numbers (int8 or uint8) of two groups for 4 rows, and their products with the sums of x in both (two int16) */
V_INLINE vi v_pairs(int is_signed, const void *first, const void *second) {
    const uint8x8_t both = vzip1_u8(v_four(first), v_four(second));
    return is_signed ? vreinterpretq_s32_s16(vmovl_s8(vreinterpret_s8_u8(both))) : vreinterpretq_s32_u16(vmovl_u8(both));
}
V_INLINE vi v_one_pairs(void) { return vreinterpretq_s32_s16(vdupq_n_s16(1)); }
V_INLINE vi v_pair_step(vi acc, vi pairs, vi sums) {
    const int16x8_t a = vreinterpretq_s16_s32(pairs), b = vreinterpretq_s16_s32(sums);
    return vaddq_s32(acc, vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b)));
}
V_INLINE vi v_times16(vi a, int by) { return vreinterpretq_s32_s16(vmulq_n_s16(vreinterpretq_s16_s32(a), (int16_t)by)); }

#ifdef V_I8MM
/* SMMLA takes 8 columns of two rows by 8 columns of two rows of x to a block of 2x2 sums. Lanes alternate in both, so one word makes
 * of two quads the 8 columns of rows 0, 1 and of rows 2, 3, and of the sums for two rows of x the blocks of rows 0, 1 and of 2, 3. */
V_INLINE void v_zip(vi a, vi b, vi half[2]) {
    half[0] = vzip1q_s32(a, b);
    half[1] = vzip2q_s32(a, b);
}
V_INLINE void v_unzip(const vi half[2], vi *a, vi *b) {
    *a = vuzp1q_s32(half[0], half[1]);
    *b = vuzp2q_s32(half[0], half[1]);
}
/* 8 columns of two rows of x */
V_INLINE vi v_eights(const uint8_t *a, const uint8_t *b) { return vreinterpretq_s32_u8(vcombine_u8(vld1_u8(a), vld1_u8(b))); }
V_INLINE vi v_eights_step(vi acc, vi w, vi x) { return vmmlaq_s32(acc, V_S8(w), V_S8(x)); }
#endif

/* ---- floats --------------------------------------------------------------------------------------------------------------- */

V_INLINE vf v_fzero(void) { return vdupq_n_f32(0); }
V_INLINE vf v_fload(const float *p) { return vld1q_f32(p); }
V_INLINE void v_fstore(float *p, vf a) { vst1q_f32(p, a); }
V_INLINE vf v_fset(float x) { return vdupq_n_f32(x); }
V_INLINE vf v_fadd(vf a, vf b) { return vaddq_f32(a, b); }
V_INLINE vf v_fsub(vf a, vf b) { return vsubq_f32(a, b); }
V_INLINE vf v_fmul(vf a, vf b) { return vmulq_f32(a, b); }
V_INLINE vf v_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
V_INLINE vf v_float(vi a) { return vcvtq_f32_s32(a); }
V_INLINE vf v_half4(uint16x4_t bits) { return vcvt_f32_f16(vreinterpret_f16_u16(bits)); }
V_INLINE vf v_halves(const void *p) { return v_half4(vreinterpret_u16_u8(vld1_u8((const uint8_t *)p))); }
V_INLINE vi v_bits(vf a) { return vreinterpretq_s32_f32(a); }
V_INLINE vf v_real(vi a) { return vreinterpretq_f32_s32(a); }
/* E4M3, halved: binary16 with an exponent that is less by 8 */
V_INLINE vf v_e4m3(const void *p) {
    return vmulq_n_f32(v_half4(vshl_n_u16(vget_low_u16(vmovl_u8(v_four(p))), 7)), 128);
}
/* 2^(e-128) of 4 bytes e, with 2^-128 for 0: half of the float with exponent e */
V_INLINE vf v_powers(const void *p) {
    const vi twice = vshlq_n_s32(vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(v_four(p))))), 23);
    return vmulq_n_f32(vreinterpretq_f32_s32(vmaxq_s32(twice, vdupq_n_s32(0x00400000))), 0.5f);
}

/* [4 rows][2 columns] of 16-bit floats -> the first and the second column */
V_INLINE void v_pair_bf16(const void *p, vf column[2]) {
    const vi w = v_load(p);
    column[0] = vreinterpretq_f32_s32(vshlq_n_s32(w, 16));
    column[1] = vreinterpretq_f32_s32(vandq_s32(w, vdupq_n_s32((int32_t)0xffff0000)));
}
V_INLINE void v_pair_f16(const void *p, vf column[2]) {
    const uint16x4x2_t both = vld2_u16((const uint16_t *)p);
    column[0] = v_half4(both.val[0]);
    column[1] = v_half4(both.val[1]);
}

#endif

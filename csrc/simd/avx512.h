/* avx512.h: the vocabulary of csrc/isa/matmul.inc in AVX-512 F/BW/VL/DQ, a vector being the 16 rows of a strip; with V_VNNI defined
 * the sums of products use VNNI.
 *
 * Without VNNI integers are summed as in avx2.h, where the bounds are derived; there is no vpsign for 512 bits, so x is negated under a
 * mask of the weights' signs. With VNNI every product goes straight to int32 (vpdpbusd): at most 32 * 255 * 127 < 2^20, no saturation.
 * It multiplies unsigned by signed bytes: signed weights get their top bit flipped, which adds 128, an offset like any other. With V_SIGNED
 * defined they stay as they are, for a body whose products are of signed bytes. V_GFNI: there is an instruction that moves bits in bytes. */
#ifndef LLMQ_SIMD_AVX512_H
#define LLMQ_SIMD_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#include "simd/inline.h"

#ifdef V_VNNI
#define V_SPAN(bits, off, group) (group)
#ifdef V_SIGNED
enum { V_WIDE_XOR = 0, V_OFFSET_LAST = 0 };
#else
enum { V_WIDE_XOR = 0x80, V_OFFSET_LAST = 1 };
#endif
#else
#define V_SPAN(bits, off, group) ((group) == 16 || ((bits) == 5 && (off) == 0) ? 16 : 32)
enum { V_WIDE_XOR = 0, V_OFFSET_LAST = 0 };
#endif
enum { V_ROWS = 16, V_STRIPS = 2, V_TOKENS = 5, V_STREAM = 2, V_FLOAT_TOKENS = 12 };
typedef __m512i vi;
typedef __m512 vf;

V_INLINE vi v_zero(void) { return _mm512_setzero_si512(); }
V_INLINE vi v_load(const void *p) { return _mm512_loadu_si512(p); }
/* In a register from here on: compilers would load it again for every use. */
V_INLINE vi v_held(vi a) {
#ifdef __AVX512F__ /* not when it is emulated */
    __asm__("" : "+v"(a));
#endif
    return a;
}
V_INLINE void v_store(void *p, vi a) { _mm512_storeu_si512(p, a); }
V_INLINE vi v_quad(const void *p) { return _mm512_set1_epi32(*(const int32_t *)p); } /* the same 4 bytes for every row */
V_INLINE void v_prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }
V_INLINE void v_prefetch_once(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_NTA); } /* to L1 alone */
V_INLINE vi v_bytes(int byte) { return _mm512_set1_epi8((char)byte); }
V_INLINE vi v_and(vi a, vi b) { return _mm512_and_si512(a, b); }
V_INLINE vi v_or(vi a, vi b) { return _mm512_or_si512(a, b); }
V_INLINE vi v_xor(vi a, vi b) { return _mm512_xor_si512(a, b); }
/* a shifted up by n bits, or down by -n; bits cross bytes and must be masked */
V_INLINE vi v_shift(vi a, int n) { return n >= 0 ? _mm512_slli_epi16(a, (unsigned)n) : _mm512_srli_epi16(a, (unsigned)-n); }
V_INLINE vi v_table(const void *p) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p)); }
V_INLINE vi v_lookup(vi table, vi index) { return _mm512_shuffle_epi8(table, index); }
#ifdef V_GFNI
/* The part of v_affine's matrix that makes bit `to` of a byte from bit `from`. */
V_INLINE uint64_t v_affine_row(int to, int from) { return (uint64_t)(1 << from) << (7 - to) * 8; }
/* Bits from `flipped` on are flipped. */
V_INLINE vi v_affine(vi a, uint64_t matrix, const int flipped) {
    const vi m = _mm512_set1_epi64((int64_t)matrix);
    switch (flipped) { /* the instruction has the mask in it */
        case 2: return _mm512_gf2p8affine_epi64_epi8(a, m, 0xfc);
        case 3: return _mm512_gf2p8affine_epi64_epi8(a, m, 0xf8);
        case 4: return _mm512_gf2p8affine_epi64_epi8(a, m, 0xf0);
        case 5: return _mm512_gf2p8affine_epi64_epi8(a, m, 0xe0);
        default: return _mm512_gf2p8affine_epi64_epi8(a, m, 0);
    }
}
#endif
V_INLINE vi v_add32(vi a, vi b) { return _mm512_add_epi32(a, b); }

/* ---- sums of products ---------------------------------------------------------------------------------------------------- */

#ifdef V_VNNI
/* -off * (sum of x): sum, the run's two sums; half, the split sums of the first 16 of the span (kernels.h) */
V_INLINE vi v_dot_start(int wide, int off, int span, const uint8_t *sum, const uint8_t *half) {
    (void)wide;
    return _mm512_madd_epi16(v_quad(span == 32 ? sum : half), _mm512_set1_epi16((short)-off));
}
V_INLINE vi v_dot_step(int wide, vi acc, vi w, vi x) {
    (void)wide;
    return _mm512_dpbusd_epi32(acc, w, x);
}
V_INLINE vi v_dot_end(int wide, vi acc) {
    (void)wide;
    return acc;
}
V_INLINE vi v_dot_scaled(int wide, vi acc, vi scale) {
    (void)wide;
    return _mm512_mullo_epi32(acc, scale);
}
V_INLINE vi v_scales(int wide, const void *p) {
    (void)wide;
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
}
#define V_SHORTS 1 /* v_pair_step by a scale is less work than v_dot_scaled and v_add32 */
V_INLINE vi v_short(vi a) { return _mm512_and_si512(a, _mm512_set1_epi32(0xffff)); }
#else
/* -off * (sum of x), or 0 where weights are signed; half: the split sums of x (kernels.h) */
V_INLINE vi v_dot_start(int wide, int off, int span, const uint8_t *sum, const uint8_t *half) {
    (void)sum;
    if (wide) return v_zero();
    const vi first = v_quad(half);
    return _mm512_mullo_epi16(span == 32 ? _mm512_add_epi16(first, v_quad(half + 4)) : first, _mm512_set1_epi16((short)-off));
}
V_INLINE vi v_dot_step(int wide, vi acc, vi w, vi x) {
    if (!wide) return _mm512_add_epi16(acc, _mm512_maddubs_epi16(w, x));
    const vi signed_x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
    const vi pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(w), signed_x);
    return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
V_INLINE vi v_dot_end(int wide, vi acc) {
    return wide ? acc : _mm512_madd_epi16(acc, _mm512_set1_epi16(1));
}
V_INLINE vi v_dot_scaled(int wide, vi acc, vi scale) {
    return wide ? _mm512_mullo_epi32(acc, scale) : _mm512_madd_epi16(acc, scale);
}
/* int8 scales of 16 rows, as v_dot_scaled takes them */
V_INLINE vi v_scales(int wide, const void *p) {
    const __m128i sc = _mm_loadu_si128((const __m128i *)p);
    if (wide) return _mm512_cvtepi8_epi32(sc);
    return _mm512_cvtepi8_epi16(_mm256_set_m128i(_mm_unpackhi_epi8(sc, sc), _mm_unpacklo_epi8(sc, sc)));
}
#endif
/* the numbers (int8 or uint8) of two groups for 16 rows, and their products with the sums of x in both (two int16) */
V_INLINE vi v_pairs(int is_signed, const void *first, const void *second) {
    const __m128i a = _mm_loadu_si128((const __m128i *)first), b = _mm_loadu_si128((const __m128i *)second);
    const __m256i both = _mm256_set_m128i(_mm_unpackhi_epi8(a, b), _mm_unpacklo_epi8(a, b));
    return is_signed ? _mm512_cvtepi8_epi16(both) : _mm512_cvtepu8_epi16(both);
}
V_INLINE vi v_one_pairs(void) { return _mm512_set1_epi16(1); }
#ifdef V_VNNI
V_INLINE vi v_pair_step(vi acc, vi pairs, vi sums) { return _mm512_dpwssd_epi32(acc, pairs, sums); }
#else
V_INLINE vi v_pair_step(vi acc, vi pairs, vi sums) { return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, sums)); }
#endif
V_INLINE vi v_times16(vi a, int by) { return _mm512_mullo_epi16(a, _mm512_set1_epi16((short)by)); }

/* ---- floats --------------------------------------------------------------------------------------------------------------- */

V_INLINE vf v_fzero(void) { return _mm512_setzero_ps(); }
V_INLINE vf v_fload(const float *p) { return _mm512_loadu_ps(p); }
V_INLINE void v_fstore(float *p, vf a) { _mm512_storeu_ps(p, a); }
V_INLINE vf v_fset(float x) { return _mm512_set1_ps(x); }
V_INLINE vf v_fadd(vf a, vf b) { return _mm512_add_ps(a, b); }
V_INLINE vf v_fsub(vf a, vf b) { return _mm512_sub_ps(a, b); }
V_INLINE vf v_fmul(vf a, vf b) { return _mm512_mul_ps(a, b); }
V_INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
V_INLINE vf v_float(vi a) { return _mm512_cvtepi32_ps(a); }
V_INLINE vf v_halves(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
V_INLINE vi v_bits(vf a) { return _mm512_castps_si512(a); }
V_INLINE vf v_real(vi a) { return _mm512_castsi512_ps(a); }
/* E4M3, halved: binary16 with an exponent that is less by 8 */
V_INLINE vf v_e4m3(const void *p) {
    const __m256i halves = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p)), 7);
    return _mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_set1_ps(128));
}
/* E8M0: 2^(byte - 128). 2^-127 is not a normal number, but half of one that is, and 2^-128 is half of 2^-127. */
V_INLINE vf v_powers(const void *p) {
    const vi twice = _mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)), 23);
    return _mm512_mul_ps(_mm512_castsi512_ps(_mm512_max_epi32(twice, _mm512_set1_epi32(0x00400000))), _mm512_set1_ps(0.5f));
}

/* [16 rows][2 columns] of 16-bit floats -> the first and the second column */
V_INLINE void v_pair_bf16(const void *p, vf column[2]) {
    const vi w = v_load(p);
    column[0] = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
    column[1] = _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000)));
}
V_INLINE void v_pair_f16(const void *p, vf column[2]) {
    const vf a = v_halves(p), b = v_halves((const char *)p + 32); /* rows 0..7 and 8..15, columns alternate */
    const vi even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    column[0] = _mm512_permutex2var_ps(a, even, b);
    column[1] = _mm512_permutex2var_ps(a, _mm512_or_si512(even, _mm512_set1_epi32(1)), b);
}

#endif

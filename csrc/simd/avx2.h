/* avx2.h: the vocabulary of csrc/isa/matmul.inc in AVX2 + FMA + F16C. A vector holds 8 rows: `vi` 8 quads of bytes or 8 int32, `vf` 8
 * floats.
 *
 * Narrow weights (2 to 6 bits, unsigned) are multiplied by vpmaddubsw into int16 pairs and summed there, modulo 2^16: the running
 * sum may wrap, the finished sum of a span may not. With an offset of half the range, -off * sum(x) is put in first and a lane ends
 * within (span / 2) * 2^(bits-1) * 127; without one within (span / 2) * (2^bits - 1) * 127. V_SPAN is the longest span for which that
 * is below 2^15: 32 columns, but 16 for 6 bits (8 * 32 * 127 = 32512) and for 5 bits without offset (8 * 31 * 127 = 31496). A single
 * product pair stays below 2 * 63 * 127 = 16002, so vpmaddubsw never saturates.
 * Wide weights are signed bytes: |w| * (x with the sign of w) gives at most 2 * 128 * 127 = 32512 a pair, widened at once. */
#ifndef LLMQ_SIMD_AVX2_H
#define LLMQ_SIMD_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#include "simd/inline.h"

#define V_SPAN(bits, off, group) ((group) == 16 || ((bits) == 5 && (off) == 0) ? 16 : 32)
enum { V_ROWS = 8, V_STRIPS = 1, V_TOKENS = 1, V_STREAM = 1, V_FLOAT_TOKENS = 6, V_WIDE_XOR = 0, V_OFFSET_LAST = 0 };
typedef __m256i vi;
typedef __m256 vf;

V_INLINE vi v_zero(void) { return _mm256_setzero_si256(); }
V_INLINE vi v_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
V_INLINE vi v_held(vi a) { return a; } /* registers are few */
V_INLINE void v_store(void *p, vi a) { _mm256_storeu_si256((__m256i *)p, a); }
V_INLINE vi v_quad(const void *p) { return _mm256_set1_epi32(*(const int32_t *)p); } /* the same 4 bytes for every row */
V_INLINE void v_prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }
V_INLINE void v_prefetch_once(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_NTA); } /* to L1 alone */
V_INLINE vi v_bytes(int byte) { return _mm256_set1_epi8((char)byte); }
V_INLINE vi v_and(vi a, vi b) { return _mm256_and_si256(a, b); }
V_INLINE vi v_or(vi a, vi b) { return _mm256_or_si256(a, b); }
V_INLINE vi v_xor(vi a, vi b) { return _mm256_xor_si256(a, b); }
/* a shifted up by n bits, or down by -n; bits cross bytes and must be masked */
V_INLINE vi v_shift(vi a, int n) { return n >= 0 ? _mm256_slli_epi16(a, n) : _mm256_srli_epi16(a, -n); }
V_INLINE vi v_table(const void *p) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p)); }
V_INLINE vi v_lookup(vi table, vi index) { return _mm256_shuffle_epi8(table, index); }
V_INLINE vi v_add32(vi a, vi b) { return _mm256_add_epi32(a, b); }

/* ---- sums of products ---------------------------------------------------------------------------------------------------- */

/* -off * (sum of x), or 0 where weights are signed; half: the split sums of x (kernels.h) */
V_INLINE vi v_dot_start(int wide, int off, int span, const uint8_t *sum, const uint8_t *half) {
    (void)sum;
    if (wide) return v_zero();
    const vi first = v_quad(half);
    return _mm256_mullo_epi16(span == 32 ? _mm256_add_epi16(first, v_quad(half + 4)) : first, _mm256_set1_epi16((short)-off));
}
V_INLINE vi v_dot_step(int wide, vi acc, vi w, vi x) {
    if (!wide) return _mm256_add_epi16(acc, _mm256_maddubs_epi16(w, x));
    const vi pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
V_INLINE vi v_dot_end(int wide, vi acc) {
    return wide ? acc : _mm256_madd_epi16(acc, _mm256_set1_epi16(1));
}
V_INLINE vi v_dot_scaled(int wide, vi acc, vi scale) {
    return wide ? _mm256_mullo_epi32(acc, scale) : _mm256_madd_epi16(acc, scale);
}
/* int8 scales of 8 rows, as v_dot_scaled takes them */
V_INLINE vi v_scales(int wide, const void *p) {
    const __m128i sc = _mm_loadl_epi64((const __m128i *)p);
    return wide ? _mm256_cvtepi8_epi32(sc) : _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(sc, sc));
}
/* the numbers (int8 or uint8) of two groups for 8 rows, and their products with the sums of x in both (two int16) */
V_INLINE vi v_pairs(int is_signed, const void *first, const void *second) {
    const __m128i both = _mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i *)first), _mm_loadl_epi64((const __m128i *)second));
    return is_signed ? _mm256_cvtepi8_epi16(both) : _mm256_cvtepu8_epi16(both);
}
V_INLINE vi v_one_pairs(void) { return _mm256_set1_epi16(1); }
V_INLINE vi v_pair_step(vi acc, vi pairs, vi sums) { return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, sums)); }
V_INLINE vi v_times16(vi a, int by) { return _mm256_mullo_epi16(a, _mm256_set1_epi16((short)by)); }

/* ---- floats --------------------------------------------------------------------------------------------------------------- */

V_INLINE vf v_fzero(void) { return _mm256_setzero_ps(); }
V_INLINE vf v_fload(const float *p) { return _mm256_loadu_ps(p); }
V_INLINE void v_fstore(float *p, vf a) { _mm256_storeu_ps(p, a); }
V_INLINE vf v_fset(float x) { return _mm256_set1_ps(x); }
V_INLINE vf v_fadd(vf a, vf b) { return _mm256_add_ps(a, b); }
V_INLINE vf v_fsub(vf a, vf b) { return _mm256_sub_ps(a, b); }
V_INLINE vf v_fmul(vf a, vf b) { return _mm256_mul_ps(a, b); }
V_INLINE vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
V_INLINE vf v_float(vi a) { return _mm256_cvtepi32_ps(a); }
V_INLINE vf v_halves(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
V_INLINE vi v_bits(vf a) { return _mm256_castps_si256(a); }
V_INLINE vf v_real(vi a) { return _mm256_castsi256_ps(a); }
/* E4M3, halved: binary16 with an exponent that is less by 8 */
V_INLINE vf v_e4m3(const void *p) {
    const __m128i halves = _mm_slli_epi16(_mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p)), 7);
    return _mm256_mul_ps(_mm256_cvtph_ps(halves), _mm256_set1_ps(128));
}
/* E8M0: 2^(byte - 128). 2^-127 is not a normal number, but half of one that is, and 2^-128 is half of 2^-127. */
V_INLINE vf v_powers(const void *p) {
    const vi twice = _mm256_slli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)), 23);
    return _mm256_mul_ps(_mm256_castsi256_ps(_mm256_max_epi32(twice, _mm256_set1_epi32(0x00400000))), _mm256_set1_ps(0.5f));
}

/* [8 rows][2 columns] of 16-bit floats -> the first and the second column */
V_INLINE void v_pair_bf16(const void *p, vf column[2]) {
    const vi w = v_load(p);
    column[0] = _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
    column[1] = _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32((int)0xffff0000)));
}
V_INLINE void v_pair_f16(const void *p, vf column[2]) {
    const vf a = v_halves(p), b = v_halves((const char *)p + 16); /* rows 0..3 and 4..7, columns alternate */
    const __m256d even = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88)), odd = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xdd));
    column[0] = _mm256_castpd_ps(_mm256_permute4x64_pd(even, 0xd8));
    column[1] = _mm256_castpd_ps(_mm256_permute4x64_pd(odd, 0xd8));
}

#endif

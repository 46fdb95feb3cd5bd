/* lanes.h: float32 lanes in portable C (GNU vector extension), as wide as the file that includes this is compiled for.
 *
 * Code written in these treats its lanes as independent problems and so gives the same bits at every width: each operation is
 * one IEEE operation per lane, and nothing is added across lanes. No intrinsics; every GCC and Clang target has them. */
#ifndef LLMQ_SIMD_LANES_H
#define LLMQ_SIMD_LANES_H

#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { LLMQ_LANES = 16 };
#elif defined(__AVX2__)
enum { LLMQ_LANES = 8 };
#else
enum { LLMQ_LANES = 4 };
#endif

typedef float vf __attribute__((vector_size(4 * LLMQ_LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LLMQ_LANES)));

static inline vf vf_load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void vf_store(float *p, vf v) {
    memcpy(p, &v, sizeof v);
}

static inline vf vf_set(float x) {
    return x - (vf){0};
}

/* a where the mask (the result of a comparison) is set, else b */
static inline vf vf_pick(vi mask, vf a, vf b) {
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}

/* whether the mask is set in any lane */
static inline int vi_any(vi mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256)mask) != 0;
#elif defined(__SSE2__)
    return _mm_movemask_ps((__m128)mask) != 0;
#else
    return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
}

/* a < b ? a : b and a > b ? a : b */
#if defined(__AVX512F__)
static inline vf vf_min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
static inline vf vf_max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
#elif defined(__AVX2__)
static inline vf vf_min(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
static inline vf vf_max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
#elif defined(__SSE2__)
static inline vf vf_min(vf a, vf b) { return (vf)_mm_min_ps((__m128)a, (__m128)b); }
static inline vf vf_max(vf a, vf b) { return (vf)_mm_max_ps((__m128)a, (__m128)b); }
#else
static inline vf vf_min(vf a, vf b) { return vf_pick(a < b, a, b); }
static inline vf vf_max(vf a, vf b) { return vf_pick(a > b, a, b); }
#endif

/* a / b, and 0 where b is 0 */
#if defined(__AVX512F__)
static inline vf vf_div(vf a, vf b) {
    return (vf)_mm512_maskz_div_ps(_mm512_cmp_ps_mask((__m512)b, _mm512_setzero_ps(), _CMP_NEQ_UQ), (__m512)a, (__m512)b);
}
#else
static inline vf vf_div(vf a, vf b) {
    const vi none = b == vf_set(0);
    return (vf)(~none & (vi)(a / vf_pick(none, vf_set(1), b)));
}
#endif

/* nearest integer, ties to even, for |a| < 2^22: adding 1.5 * 2^23 leaves no bits behind the point (and no sign of a zero, which
 * the instructions keep; nothing depends on it) */
#if defined(__AVX512F__)
static inline vf vf_round(vf a) { return (vf)_mm512_roundscale_ps((__m512)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
#elif defined(__AVX2__)
static inline vf vf_round(vf a) { return (vf)_mm256_round_ps((__m256)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
#else
static inline vf vf_round(vf a) { return (a + 0x1.8p23f) - 0x1.8p23f; }
#endif

static inline vf vf_clamp(vf a, vf lo, vf hi) {
    return vf_min(vf_max(a, lo), hi);
}

/* the lanes of a and b in turn: of their first halves, of their second halves */
#if defined(__AVX512F__)
#define LLMQ_ZIP(i) \
    i, i + 16, i + 1, i + 17, i + 2, i + 18, i + 3, i + 19, i + 4, i + 20, i + 5, i + 21, i + 6, i + 22, i + 7, i + 23
#elif defined(__AVX2__)
#define LLMQ_ZIP(i) i, i + 8, i + 1, i + 9, i + 2, i + 10, i + 3, i + 11
#else
#define LLMQ_ZIP(i) i, i + 4, i + 1, i + 5
#endif
#if defined(__clang__)
static inline vf vf_zip_low(vf a, vf b) { return __builtin_shufflevector(a, b, LLMQ_ZIP(0)); }
static inline vf vf_zip_high(vf a, vf b) { return __builtin_shufflevector(a, b, LLMQ_ZIP(LLMQ_LANES / 2)); }
#else
static inline vf vf_zip_low(vf a, vf b) { return __builtin_shuffle(a, b, (vi){LLMQ_ZIP(0)}); }
static inline vf vf_zip_high(vf a, vf b) { return __builtin_shuffle(a, b, (vi){LLMQ_ZIP(LLMQ_LANES / 2)}); }
#endif

/* [rows][LLMQ_LANES] to [LLMQ_LANES][rows], rows a power of two up to 16: each round moves one bit of the row's number into that of
 * the lane */
static inline __attribute__((always_inline)) void vf_transpose(vf *row, int rows) {
    for (int round = 1; round < rows; round *= 2) {
        vf next[16];
        for (int i = 0; i < rows / 2; i++) {
            next[2 * i] = vf_zip_low(row[i], row[i + rows / 2]);
            next[2 * i + 1] = vf_zip_high(row[i], row[i + rows / 2]);
        }
        for (int i = 0; i < rows; i++) row[i] = next[i];
    }
}

/* `rows` rows of n floats, one after another, as [n][rows]; both are multiples of LLMQ_LANES. */
static inline __attribute__((always_inline)) void vf_turn(const float *from, int rows, int n, float *to) {
    for (int at = 0; at < rows; at += LLMQ_LANES) {
        for (int j = 0; j < n; j += LLMQ_LANES) {
            vf tile[LLMQ_LANES];
            for (int i = 0; i < LLMQ_LANES; i++) tile[i] = vf_load(from + (at + i) * n + j);
            vf_transpose(tile, LLMQ_LANES);
            for (int i = 0; i < LLMQ_LANES; i++) vf_store(to + (j + i) * rows + at, tile[i]);
        }
    }
}

/* four whole numbers 0..255 of each lane as its bytes */
static inline vf vf_bytes(vf a, vf b, vf c, vf d) {
#define WHOLE(v) __builtin_convertvector(v, vi)
    return (vf)(WHOLE(a) | WHOLE(b) << 8 | WHOLE(c) << 16 | WHOLE(d) << 24);
#undef WHOLE
}

#endif

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
static inline vf vf_div(vf a, vf b) {
    const vi none = b == vf_set(0);
    return vf_pick(none, vf_set(0), a / vf_pick(none, vf_set(1), b));
}

/* nearest integer, ties to even, for |a| < 2^22: adding 1.5 * 2^23 leaves no bits behind the point */
static inline vf vf_round(vf a) {
    return (a + 0x1.8p23f) - 0x1.8p23f;
}

static inline vf vf_clamp(vf a, vf lo, vf hi) {
    return vf_min(vf_max(a, lo), hi);
}

#endif

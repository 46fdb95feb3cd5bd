/* vec.h: what csrc/isa/ops.inc needs beyond lanes.h: fused multiply-add, half floats, tails, sums across lanes. Unlike lanes.h, results
 * differ between instruction sets: where there is no fused multiply-add, vf_fma rounds twice, and sums go over as many lanes as there are. */
#ifndef LLMQ_SIMD_VEC_H
#define LLMQ_SIMD_VEC_H

#include "formats/half.h"
#include "simd/lanes.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
static inline vf vf_fma(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
static inline vf vf_load_f16(const void *p) { return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
#elif defined(__AVX2__) /* FMA and F16C come with it: setup.py */
static inline vf vf_fma(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
static inline vf vf_load_f16(const void *p) { return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const void *)p)); }
#elif defined(__aarch64__)
static inline vf vf_fma(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
static inline vf vf_load_f16(const void *p) { return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)p))); }
#else
static inline vf vf_fma(vf a, vf b, vf c) { return a * b + c; }
static inline vf vf_load_f16(const void *p) { /* llmq_f16_to_f32 */
    vi bits;
    uint16_t h[LLMQ_LANES];
    memcpy(h, p, sizeof h);
    for (int j = 0; j < LLMQ_LANES; j++) bits[j] = h[j];
    const vi sign = (bits & 0x8000) << 16, magnitude = bits & 0x7fff;
    const vi normal = (magnitude << 13) + (112 << 23) + ((magnitude >= 0x7c00) & (112 << 23));
    const vf tiny = (vf)(magnitude | 0x3f000000) - 0.5f;
    return (vf)(sign | (vi)vf_pick(magnitude < 0x0400, tiny, (vf)normal));
}
#endif

static inline vf vf_abs(vf x) { return (vf)((vi)x & 0x7fffffff); }

/* the binary16 number nearest to a, within its range; never -0 */
static inline vf vf_half(vf a) {
    a = vf_clamp(a, vf_set(-65504), vf_set(65504));
    const vi bits = (vi)a, rounded = (bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fff;
    const vf tiny = (a + 0.75f) - 0.75f; /* below 2^-14 binary16 is a multiple of 2^-24, as float32 is in [0.5, 1) */
    return vf_pick(vf_abs(a) < vf_set(0x1p-14f), tiny, (vf)rounded);
}

static inline vf vf_load_u8(const uint8_t *p) {
#if defined(__AVX512F__)
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p)));
#elif defined(__AVX2__)
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p)));
#else
    vf v;
    for (int j = 0; j < LLMQ_LANES; j++) v[j] = (float)p[j];
    return v;
#endif
}

static inline vf vf_load_s8(const int8_t *p) {
#if defined(__AVX512F__)
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
#elif defined(__AVX2__)
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)));
#else
    vf v;
    for (int j = 0; j < LLMQ_LANES; j++) v[j] = (float)p[j];
    return v;
#endif
}

/* LLMQ_LANES pairs of bfloat16 that lie next to each other, widened exactly */
static inline void vf_load_bf16_pairs(const uint16_t *p, vf *even, vf *odd) {
    vi pair;
    memcpy(&pair, p, sizeof pair);
    *even = (vf)(pair << 16);
    *odd = (vf)(pair & (int32_t)0xffff0000);
}

/* the first n < LLMQ_LANES lanes; the others are 0, or not written */
static inline vf vf_load_n(const float *p, int64_t n) {
    vf v = {0};
    memcpy(&v, p, (size_t)n * 4);
    return v;
}

static inline void vf_store_n(float *p, vf v, int64_t n) { memcpy(p, &v, (size_t)n * 4); }

#if defined(__AVX512F__)
static inline float vf_sum(vf v) { return _mm512_reduce_add_ps((__m512)v); }
static inline float vf_top(vf v) { return _mm512_reduce_max_ps((__m512)v); }
#elif defined(__aarch64__)
static inline float vf_sum(vf v) { return vaddvq_f32((float32x4_t)v); }
static inline float vf_top(vf v) { return vmaxvq_f32((float32x4_t)v); }
#else
static inline float vf_sum(vf v) { /* halves added to each other */
    for (int step = LLMQ_LANES / 2; step > 0; step /= 2)
        for (int i = 0; i < step; i++) v[i] += v[i + step];
    return v[0];
}
static inline float vf_top(vf v) { /* the largest lane */
    float top = v[0];
    for (int i = 1; i < LLMQ_LANES; i++) top = v[i] > top ? v[i] : top;
    return top;
}
#endif

#endif

/* avx2_matmul.c: the matmul of csrc/isa/matmul.inc in AVX2, and the conversion of activations to 8-bit integers. */
#include "simd/avx2.h"

#include "isa/matmul.inc"

/* The largest lane of a. */
static inline uint32_t max_lane(__m256i a) {
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

/* 32 columns of x * inverse as bytes. |x * inverse| < 127.5, so the conversions need no limits. */
static inline __m256i rounded(const float *x, __m256 inverse) {
#define EIGHT(i) _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * (i)), inverse))
    const __m256i ab = _mm256_packs_epi32(EIGHT(0), EIGHT(1)), cd = _mm256_packs_epi32(EIGHT(2), EIGHT(3));
#undef EIGHT
    /* packing works in halves of 128 bits: quads now stand as a0 b0 c0 d0 a1 b1 c1 d1 */
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(ab, cd), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* csrc/formats/dot.c for finite x. Magnitudes order like their bits, NaN and infinity above every number. */
static void x8(const float *x, int64_t k, int32_t width, uint8_t *row) {
    float *dx = (float *)(void *)(row + llmq_x8_dx(k));
    int16_t *sum = (int16_t *)(void *)(row + llmq_x8_sum(k)), *half = (int16_t *)(void *)(row + llmq_x8_half(k));
    int16_t *sum32 = (int16_t *)(void *)(row + llmq_x8_sum32(k));
    for (int64_t i = 0; i < k; i += width, dx++) {
        __m256i top = _mm256_setzero_si256();
        for (int64_t j = i; j < i + width; j += 8) {
            const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + j));
            top = _mm256_max_epu32(top, _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff)));
        }
        const uint32_t bits = max_lane(top);
        const float amax = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128((int)bits)));
        const int finite = bits < 0x7f800000u;
        const float inverse = finite && amax / 127 >= 0x1p-126f ? 127 / amax : 0;
        *dx = !finite ? __builtin_nanf("") : inverse > 0 ? 1 / inverse : 0;
        for (int64_t j = i; j < i + width; j += 32) {
            const __m256i q = finite ? rounded(x + j, _mm256_set1_ps(inverse)) : _mm256_setzero_si256();
            _mm256_storeu_si256((__m256i *)(void *)(row + j), q);
            __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q); /* each dword: columns {0, 1}, {2, 3} of a quad */
            pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0x4e));
            pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0xb1));
            const __m256i whole = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            const int32_t first = _mm256_extract_epi32(pairs, 0), second = _mm256_extract_epi32(pairs, 4);
            memcpy(half + j / 8, &first, 4);
            memcpy(half + j / 8 + 2, &second, 4);
            sum[j / 16] = (int16_t)_mm256_extract_epi32(whole, 0);
            sum[j / 16 + 1] = (int16_t)_mm256_extract_epi32(whole, 4);
            sum32[j / 32] = (int16_t)(sum[j / 16] + sum[j / 16 + 1]);
        }
    }
}

void llmq_body_avx2_matmul(llmq_kernels *k);
void llmq_body_avx2_matmul(llmq_kernels *k) {
    set_matmul(k);
    k->x8 = x8;
}

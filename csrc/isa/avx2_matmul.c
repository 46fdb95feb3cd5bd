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

/* csrc/formats/dot.c for finite x. Magnitudes order like their bits, NaN and infinity above every number. x * (1 / dx) cannot leave
 * -127.5..127.5, so the conversion needs no limits. */
static void x8(const float *x, int64_t k, uint8_t *row) {
    float *dx = (float *)(void *)(row + llmq_x8_dx(k));
    uint8_t *sum = row + llmq_x8_sum(k);
    for (int64_t s = 0; s < k / 32; s++, x += 32, sum += 8) {
        const __m256 a = _mm256_loadu_ps(x), b = _mm256_loadu_ps(x + 8), c = _mm256_loadu_ps(x + 16), d = _mm256_loadu_ps(x + 24);
        const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
#define BITS(v) _mm256_and_si256(_mm256_castps_si256(v), magnitude)
        const __m256i top = _mm256_max_epu32(_mm256_max_epu32(BITS(a), BITS(b)), _mm256_max_epu32(BITS(c), BITS(d)));
#undef BITS
        const uint32_t bits = max_lane(top);
        const float scale = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128((int)bits))) / 127;
        const int finite = bits < 0x7f800000u;
        __m256i q = _mm256_setzero_si256();
        dx[s] = finite ? 0 : __builtin_nanf("");
        if (finite && scale >= 0x1p-126f) {
            const __m256 inverse = _mm256_set1_ps(1 / scale);
            dx[s] = scale;
#define ROUNDED(v) _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse))
            const __m256i ab = _mm256_packs_epi32(ROUNDED(a), ROUNDED(b)), cd = _mm256_packs_epi32(ROUNDED(c), ROUNDED(d));
#undef ROUNDED
            /* packing works in halves of 128 bits: quads now stand as a0 b0 c0 d0 a1 b1 c1 d1 */
            q = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(ab, cd), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        }
        _mm256_storeu_si256((__m256i *)(void *)(row + s * 32), q);
        __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q); /* each dword: columns {0, 1}, {2, 3} of a quad */
        pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0x4e));
        pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0xb1));
        const int32_t sums[2] = {_mm256_extract_epi32(pairs, 0), _mm256_extract_epi32(pairs, 4)};
        memcpy(sum, sums, 8);
    }
}

void llmq_body_avx2_matmul(llmq_kernels *k);
void llmq_body_avx2_matmul(llmq_kernels *k) {
    set_matmul(k);
    k->x8 = x8;
}

/* neon_matmul.c: the matmul of csrc/isa/matmul.inc in NEON, and the conversion of activations to 8-bit integers. */
#include "simd/neon.h"

#include "isa/matmul.inc"

/* 16 columns of x * inverse as bytes. |x * inverse| < 127.5, so the conversions need no limits. */
static inline int8x16_t rounded(const float *x, float inverse) {
    int16x4_t part[4];
    for (int i = 0; i < 4; i++) part[i] = vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4 * i), inverse)));
    return vcombine_s8(vmovn_s16(vcombine_s16(part[0], part[1])), vmovn_s16(vcombine_s16(part[2], part[3])));
}

/* csrc/formats/dot.c for finite x. Magnitudes order like their bits, NaN and infinity above every number. */
static void x8(const float *x, int64_t k, int32_t width, uint8_t *row) {
    float *dx = (float *)(void *)(row + llmq_x8_dx(k));
    int16_t *sum = (int16_t *)(void *)(row + llmq_x8_sum(k)), *half = (int16_t *)(void *)(row + llmq_x8_half(k));
    int16_t *sum32 = (int16_t *)(void *)(row + llmq_x8_sum32(k));
    for (int64_t i = 0; i < k; i += width, dx++) {
        uint32x4_t top = vdupq_n_u32(0);
        for (int64_t j = i; j < i + width; j += 4) top = vmaxq_u32(top, vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + j))));
        const uint32_t bits = vmaxvq_u32(top);
        const float amax = vget_lane_f32(vreinterpret_f32_u32(vdup_n_u32(bits)), 0);
        const int finite = bits < 0x7f800000u;
        const float inverse = finite && amax / 127 >= 0x1p-126f ? 127 / amax : 0;
        *dx = !finite ? __builtin_nanf("") : inverse > 0 ? 1 / inverse : 0;
        for (int64_t j = i; j < i + width; j += 16) {
            const int8x16_t q = finite ? rounded(x + j, inverse) : vdupq_n_s8(0);
            vst1q_s8((int8_t *)row + j, q);
            const int16x8_t pairs = vpaddlq_s8(q); /* columns {0, 1} of a quad, {2, 3} of a quad, and so on */
            const int16x8x2_t split = vuzpq_s16(pairs, pairs);
            half[j / 8] = vaddv_s16(vget_low_s16(split.val[0]));
            half[j / 8 + 1] = vaddv_s16(vget_low_s16(split.val[1]));
            sum[j / 16] = (int16_t)(half[j / 8] + half[j / 8 + 1]);
        }
    }
    for (int64_t i = 0; i < k / 32; i++) sum32[i] = (int16_t)(sum[2 * i] + sum[2 * i + 1]);
}

void llmq_body_neon_matmul(llmq_kernels *k);
void llmq_body_neon_matmul(llmq_kernels *k) {
    set_matmul(k);
    k->x8 = x8;
}

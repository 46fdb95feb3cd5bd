/* dot.c: the product of a weight row and an activation row, as every kernel computes it. This is the definition: the bodies of
 * csrc/isa/ match it bit for bit.
 *
 * Activations. A row of k float32 becomes eight-bit integers with one scale per W columns, W = llmq_x8_width of the weights' type
 * (k % W == 0), all of them finite:
 *
 *     inverse = 127 / max|x|, 0 if max|x| / 127 is below 2^-126      dx = 1 / inverse, 0 where inverse = 0
 *     q = round(x * inverse), ties to even                           sum = sum of q over each 16
 *
 * Weights are integers with scales, w = d * sc * (q - off) - dmin * m (llmq_levels). For each run of W columns, which lies in one
 * block, all float operations in float32, multiplication and addition rounded separately, in this order:
 *
 *     I = sum over groups g of the run:  sc_g * (sum of q * x  -  off * sum of x)           int32, exact
 *     M = sum over groups g of the run:  m_g * (sum of x)                                   int32, exact
 *     t = d * (float) I;   t = t - dmin * (float) M                                         the second only for types with a minimum
 *     total += dx * t                                                                       runs ascending, total starts at 0
 *
 * With E4M3 scales s_g, t is instead the sum, from 0 and ascending, of s_g * (float) I_g over the groups; each product is exact.
 *
 * Bounds: |sc|, |q - off| <= 128 and |x| <= 127 for every type, so |I| <= 256 * 128 * 128 * 127 < 2^29; m <= 255, so
 * |M| <= 256 * 255 * 127 < 2^23. Neither can overflow, nor can any part of their sums.
 * F32, F16 and BF16 rows keep float32 activations: total += w[i] * x[i], i ascending, multiplication and addition rounded separately. */
#include <float.h>
#include <math.h>

#include "formats/codec.h"

void llmq_quantize_x8(const float *x, int64_t k, int32_t width, int8_t *q, float *dx, int16_t *sum) {
    for (int64_t i = 0; i < k; i += width, x += width, q += width) {
        float amax = 0;
        for (int j = 0; j < width; j++) amax = fmaxf(amax, fabsf(x[j]));
        const float inverse = amax / 127 >= FLT_MIN ? 127 / amax : 0;
        for (int j = 0; j < width; j++) q[j] = (int8_t)rintf(x[j] * inverse);
        dx[i / width] = inverse > 0 ? 1 / inverse : 0;
        for (int j = 0; j < width; j += 16) {
            int total = 0;
            for (int l = 0; l < 16; l++) total += q[j + l];
            sum[(i + j) / 16] = (int16_t)total;
        }
    }
}

/* Columns [at, at + width) of a block: t above. q and sum are those of the columns. */
static float dot_run(const llmq_codec *codec, const llmq_levels *w, int32_t at, int32_t width, const int8_t *q, const int16_t *sum) {
    int32_t whole = 0, least = 0;
    float real = 0;
    for (int i = 0; i < width; i += 16) {
        const int g = (at + i) / codec->group;
        int32_t products = -codec->off * sum[i / 16];
        for (int j = i; j < i + 16; j++) products += w->q[at + j] * q[j];
        whole += w->sc[g] * products;
        if (codec->scale == LLMQ_SCALE_E4M3) real += llmq_group_scale(codec, w->sc[g]) * (float)products;
        least += w->m[g] * sum[i / 16];
    }
    if (codec->scale == LLMQ_SCALE_E4M3) return real;
    const float t = w->d * (float)whole;
    return codec->has_min ? t - w->dmin * (float)least : t;
}

float llmq_dot(const llmq_codec *codec, const void *row, const int8_t *q, const float *dx, const int16_t *sum, int64_t k) {
    const uint8_t *block = row;
    const int32_t width = llmq_x8_width(codec);
    float total = 0;
    for (int64_t i = 0; i < k; i += codec->block, block += codec->bytes) {
        llmq_levels w;
        codec->levels(block, &w);
        for (int64_t j = i; j < i + codec->block; j += width) {
            total += dx[j / width] * dot_run(codec, &w, (int32_t)(j - i), width, q + j, sum + j / 16);
        }
    }
    return total;
}

float llmq_dot_float(const llmq_codec *codec, const void *row, const float *x, int64_t k) {
    const uint8_t *p = row;
    float total = 0;
    for (int64_t i = 0; i < k; i++, p += codec->bytes) {
        float w;
        codec->dequantize(p, &w, 1);
        total += w * x[i];
    }
    return total;
}

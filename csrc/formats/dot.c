/* dot.c: the product of a weight row and an activation row, as every kernel computes it. This is the definition: the bodies of
 * csrc/isa/ match it bit for bit.
 *
 * Activations. A row of k float32 (k % 32 == 0) becomes, per 32 columns, eight-bit integers with one scale:
 *
 *     dx = max|x| / 127, 0 if that is below 2^-126      sum = sum of q over each 16
 *     q = round(x * (1 / dx)), ties to even, limited to -127..127; 0 where dx = 0      x must be finite
 *
 * Weights are integers with scales, w = d * sc * (q - off) - dmin * m (llmq_levels). Per block of the type, with s its runs of 32
 * columns, all float operations in float32, multiplication and addition rounded separately, in this order:
 *
 *     acc = accm = 0
 *     for s:  I = sum over groups g of s:  sc_g * (sum of q * x  -  off * sum of x)         int32, exact
 *             M = sum over groups g of s:  m_g * (sum of x)                                 int32, exact
 *             acc += dx_s * (float) I;   accm += dx_s * (float) M                           accm only for types with a minimum
 *     t = d * acc;   t = t - dmin * accm                                                    the second only with a minimum
 *     total += t                                                                            blocks ascending, total starts at 0
 *
 * Bounds: |I| <= 2 * 128 * 16 * 255 * 127 < 2^28, |M| <= 255 * 32 * 127 < 2^20.
 * F32, F16 and BF16 rows keep float32 activations: total += w[i] * x[i], i ascending, multiplication and addition rounded separately. */
#include <float.h>
#include <math.h>

#include "formats/codec.h"

void llmq_quantize_x8(const float *x, int64_t k, int8_t *q, float *dx, int16_t *sum) {
    for (int64_t s = 0; s < k / 32; s++, x += 32, q += 32) {
        float amax = 0;
        for (int j = 0; j < 32; j++) amax = fmaxf(amax, fabsf(x[j]));
        const float scale = amax / 127, d = scale >= FLT_MIN ? scale : 0, id = d > 0 ? 1 / d : 0;
        for (int j = 0; j < 32; j++) q[j] = (int8_t)rintf(fminf(fmaxf(x[j] * id, -127), 127));
        dx[s] = d;
        for (int g = 0; g < 2; g++) {
            int total = 0;
            for (int j = 0; j < 16; j++) total += q[16 * g + j];
            sum[2 * s + g] = (int16_t)total;
        }
    }
}

/* One block against its columns. */
static float dot_block(const llmq_codec *codec, const llmq_levels *w, const int8_t *q, const float *dx, const int16_t *sum) {
    float acc = 0, accm = 0;
    for (int s = 0; s < codec->block / 32; s++) {
        int32_t whole = 0, least = 0;
        for (int half = 0; half < 2; half++) {
            const int at = 32 * s + 16 * half, g = at / codec->group;
            int32_t products = 0;
            for (int j = 0; j < 16; j++) products += w->q[at + j] * q[at + j];
            whole += w->sc[g] * (products - codec->off * sum[at / 16]);
            least += w->m[g] * sum[at / 16];
        }
        acc += dx[s] * (float)whole;
        accm += dx[s] * (float)least;
    }
    const float t = w->d * acc;
    return codec->has_min ? t - w->dmin * accm : t;
}

float llmq_dot(const llmq_codec *codec, const void *row, const int8_t *q, const float *dx, const int16_t *sum, int64_t k) {
    const uint8_t *block = row;
    float total = 0;
    for (int64_t i = 0; i < k; i += codec->block, block += codec->bytes) {
        llmq_levels w;
        codec->levels(block, &w);
        total += dot_block(codec, &w, q + i, dx + i / 32, sum + i / 16);
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

/* search32.c: the quantize of the 32-weight types, a row at a time. */
#include "formats/search32.h"
#include "kernels.h"

llmq_status s32_quantize(const s32_shape *shape, s32_pack *pack, int32_t bytes, const float *src, void *dst, int64_t n,
                         const float *weight) {
    const llmq_status refused = llmq_refuse(src, n, weight);
    if (refused != LLMQ_OK) return refused;
    s32_body *const search = llmq_kernels_used()->search32;
    uint8_t *block = dst;
    for (int64_t left = n / 32; left > 0; left -= S32_LANES) {
        float padded[2][32 * S32_LANES];
        s32_fit fit;
        if (left < S32_LANES) { /* the last lanes are blocks of zeros */
            memset(padded, 0, sizeof padded);
            memcpy(padded[0], src, (size_t)left * 32 * sizeof(float));
            if (weight) memcpy(padded[1], weight, (size_t)left * 32 * sizeof(float));
            src = padded[0];
            weight = weight ? padded[1] : NULL;
        }
        search(shape, src, weight, &fit);
        for (int i = 0; i < S32_LANES && i < left; i++, block += bytes) {
            pack(fit.level[i], llmq_f32_to_f16(fit.d[i]), llmq_f32_to_f16(fit.m[i]), block);
        }
        src += 32 * S32_LANES;
        if (weight) weight += 32 * S32_LANES;
    }
    return LLMQ_OK;
}

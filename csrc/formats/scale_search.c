/* scale_search.c: the quantize of the types with one scale per block, a row at a time. */
#include "formats/scale_search.h"
#include "kernels.h"

llmq_status ss_quantize(const ss_shape *shape, ss_pack *pack, int32_t bytes, const float *src, void *dst, int64_t n,
                        const float *weight) {
    const llmq_status refused = llmq_refuse(src, n, weight);
    if (refused != LLMQ_OK) return refused;
    ss_body *const search = llmq_kernels_used()->scale_search;
    const int64_t chunk = (int64_t)SS_LANES * shape->n;
    uint8_t *block = dst;
    for (int64_t left = n; left > 0; left -= chunk) {
        float padded[2][SS_LANES * LLMQ_MAX_BLOCK];
        ss_fit fit;
        if (left < chunk) { /* the last lanes are zeros */
            memset(padded, 0, sizeof padded);
            memcpy(padded[0], src, (size_t)left * sizeof(float));
            if (weight) memcpy(padded[1], weight, (size_t)left * sizeof(float));
            src = padded[0];
            weight = weight ? padded[1] : NULL;
        }
        search(shape, src, weight, &fit);
        for (int lane = 0; lane < SS_LANES && lane < left / shape->n; lane++, block += bytes) pack(&fit, lane, block);
        src += chunk;
        if (weight) weight += chunk;
    }
    return LLMQ_OK;
}

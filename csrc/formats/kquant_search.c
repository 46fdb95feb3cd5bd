/* kquant_search.c: the quantize of the K types, a row at a time. */
#include "formats/kquant_search.h"
#include "kernels.h"

llmq_status llmq_kquant_quantize(const kq_shape *shape, kq_pack *pack, int32_t bytes, const float *src, void *dst, int64_t n,
                                 const float *weight) {
    const llmq_status refused = llmq_refuse(src, n, weight);
    if (refused != LLMQ_OK) return refused;
    kq_body *const search = llmq_kernels_used()->kquant_search;
    const int64_t chunk = (int64_t)KQ_LANES * shape->group;
    uint8_t *block = dst;
    for (int64_t left = n; left > 0; left -= chunk) {
        float padded[2][KQ_LANES * KQ_MAX_GROUP];
        llmq_levels levels[KQ_LANES * KQ_MAX_GROUP / 256];
        if (left < chunk) { /* the last block is one of zeros */
            memset(padded, 0, sizeof padded);
            memcpy(padded[0], src, (size_t)left * sizeof(float));
            if (weight) memcpy(padded[1], weight, (size_t)left * sizeof(float));
            src = padded[0];
            weight = weight ? padded[1] : NULL;
        }
        search(shape, src, weight, levels);
        for (int64_t i = 0; i < chunk && i < left; i += 256, block += bytes) pack(&levels[i / 256], block);
        src += chunk;
        if (weight) weight += chunk;
    }
    return LLMQ_OK;
}

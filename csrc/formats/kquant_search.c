/* kquant_search.c: quantizing the K types: the search at the baseline instruction set, and its choice at run time. */
#define KQ_FIT llmq_kquant_fit_base
#include "formats/kquant_search.inc"

llmq_status llmq_kquant_quantize(const kq_shape *shape, kq_pack pack, int32_t bytes, const float *src, void *dst, int64_t n,
                                 const float *weight) {
    const int64_t chunk = (int64_t)KQ_LANES * shape->group;
    uint8_t *out = dst;
    llmq_levels levels[KQ_N / 256];
    const llmq_status refused = llmq_refuse(src, n, weight);
    if (refused != LLMQ_OK) return refused;
    for (int64_t at = 0; at < n; at += chunk) {
        float x[KQ_N] = {0}, h[KQ_N] = {0};
        const int64_t have = n - at < chunk ? n - at : chunk;
        if (have < chunk) { /* half of a fit: the other block is zeros */
            memcpy(x, src + at, (size_t)have * sizeof(float));
            if (weight) memcpy(h, weight + at, (size_t)have * sizeof(float));
            llmq_kquant_fit_base(shape, x, weight ? h : NULL, levels);
        } else {
            llmq_kquant_fit_base(shape, src + at, weight ? weight + at : NULL, levels);
        }
        for (int64_t block = 0; block < have / 256; block++, out += bytes) pack(&levels[block], out);
    }
    return LLMQ_OK;
}

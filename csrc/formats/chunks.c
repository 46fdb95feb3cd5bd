/* chunks.c: rows cut into what a search takes at once. */
#include "formats/codec.h"
#include "kernels.h"

llmq_status llmq_quantize_chunks(llmq_pack_chunk *pack, const void *how, int64_t chunk, const float *src, void *dst, int64_t n,
                                 const float *weight) {
    const llmq_status refused = llmq_kernels_used()->refuse(src, n, weight);
    if (refused != LLMQ_OK) return refused;
    uint8_t *block = dst;
    for (; n >= chunk; n -= chunk, src += chunk, weight += weight ? chunk : 0) block = pack(how, src, weight, chunk, block);
    if (n > 0) {
        float padded[2][LLMQ_MAX_CHUNK];
        for (int i = 0; i < (weight ? 2 : 1); i++) {
            memcpy(padded[i], i ? weight : src, (size_t)n * sizeof(float));
            memset(padded[i] + n, 0, (size_t)(chunk - n) * sizeof(float));
        }
        pack(how, padded[0], weight ? padded[1] : NULL, n, block);
    }
    return LLMQ_OK;
}

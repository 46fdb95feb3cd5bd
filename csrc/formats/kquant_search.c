/* kquant_search.c: the quantize of the K types. */
#include "formats/kquant_search.h"
#include "kernels.h"

typedef struct how {
    const kq_shape *shape;
    kq_pack *pack;
    int32_t bytes;
} how;

static uint8_t *pack_chunk(const void *p, const float *src, const float *weight, int64_t n, uint8_t *block) {
    const how *type = p;
    llmq_levels levels[KQ_LANES * KQ_MAX_GROUP / 256];
    llmq_kernels_used()->kquant_search(type->shape, src, weight, levels);
    for (int64_t i = 0; i < n; i += 256, block += type->bytes) type->pack(&levels[i / 256], block);
    return block;
}

llmq_status llmq_kquant_quantize(const kq_shape *shape, kq_pack *pack, int32_t bytes, const float *src, void *dst, int64_t n,
                                 const float *weight) {
    const how type = {shape, pack, bytes};
    return llmq_quantize_chunks(pack_chunk, &type, (int64_t)KQ_LANES * shape->group, src, dst, n, weight);
}

/* scale_search.c: the quantize of the types with one scale per block. */
#include "formats/scale_search.h"
#include "kernels.h"

typedef struct how {
    const ss_shape *shape;
    ss_pack *pack;
    int32_t bytes;
} how;

static uint8_t *pack_chunk(const void *p, const float *src, const float *weight, int64_t n, uint8_t *block) {
    const how *type = p;
    const int parts = type->shape->parts ? type->shape->parts : 1;
    const int blocks = (int)(n / type->shape->n);
    ss_fit fit[SS_CHUNKS];
    llmq_kernels_used()->scale_search(type->shape, src, weight, (blocks + SS_LANES - 1) / SS_LANES, fit);
    for (int i = 0; i < blocks; i += parts, block += type->bytes) type->pack(fit + i / SS_LANES, i % SS_LANES, block);
    return block;
}

llmq_status ss_quantize(const ss_shape *shape, ss_pack *pack, int32_t bytes, const float *src, void *dst, int64_t n,
                        const float *weight) {
    const how type = {shape, pack, bytes};
    return llmq_quantize_chunks(pack_chunk, &type, (int64_t)SS_CHUNKS * SS_LANES * shape->n, src, dst, n, weight);
}

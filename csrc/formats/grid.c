/* grid.c: the grids, and the codecs of the types that have one. */
#include "formats/grid.h"

#include "formats/kquant.h"
#include "grids.inc"
#include "kernels.h"

const int8_t llmq_iq1_levels[16] = {-9, -7, -1, 1, 7, 9, 9, 9};
const int8_t llmq_iq2_levels[16] = {-43, -25, -8, 8, 25, 43, 43, 43};
const int8_t llmq_iq3_xxs_levels[16] = {-62, -52, -44, -36, -28, -20, -12, -4, 4, 12, 20, 28, 36, 44, 52, 62};
const int8_t llmq_iq3_s_levels[16] = {-15, -13, -11, -9, -7, -5, -3, -1, 1, 3, 5, 7, 9, 11, 13, 15};

void llmq_grid_levels(const llmq_grid_type *type, const llmq_grid_block *b, llmq_levels *out) {
    const llmq_grid *grid = type->grid;
    const int dim = 16 / grid->bits, mask = (1 << grid->bits) - 1, in_grid = type->signs == LLMQ_SIGNS_IN_GRID;
    for (int i = 0; i < 256; i++) {
        const int level = grid->level[grid->point[b->point[i / dim]] >> i % dim * grid->bits & mask];
        const int size = in_grid ? 8 * level + 1 - 2 * b->lower[i / 8] : level;
        out->q[i] = (uint8_t)(LLMQ_GRID_OFF + (b->minus[i / 8] >> i % 8 & 1 ? -size : size));
    }
    for (int g = 0; g < 256 / type->group; g++) {
        out->sc[g] = (int8_t)(2 * b->s[g] + 1);
        out->m[g] = 0;
    }
    out->d = b->d * type->unit;
    out->dmin = 0;
}

void llmq_grid_dequantize(void (*levels)(const void *block, llmq_levels *out), int bytes, int group, const void *src, float *dst,
                          int64_t n) {
    llmq_kquant_dequantize(levels, bytes, group, LLMQ_GRID_OFF, src, dst, n);
}

llmq_status llmq_grid_quantize(const llmq_grid_type *type, llmq_grid_pack *pack, int32_t bytes, const float *src, void *dst,
                               int64_t n, const float *weight) {
    const llmq_status refused = llmq_refuse(src, n, weight);
    if (refused != LLMQ_OK) return refused;
    llmq_grid_search_fn *const search = llmq_kernels_used()->grid_search;
    uint8_t *block = dst;
    for (int64_t at = 0; at < n; at += 256, block += bytes) {
        llmq_grid_block b;
        search(type, src + at, weight ? weight + at : NULL, &b);
        pack(&b, block);
    }
    return LLMQ_OK;
}

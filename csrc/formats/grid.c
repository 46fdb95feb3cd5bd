/* grid.c: the grids, and the codecs of the types that have one. */
#include "formats/grid.h"

#include "formats/kquant.h"
#include "grids.inc"
#include "kernels.h"

const int8_t llmq_iq1_levels[16] = {-9, -7, -1, 1, 7, 9, 9, 9};
const int8_t llmq_iq2_levels[16] = {-43, -25, -8, 8, 25, 43, 43, 43};
const int8_t llmq_iq3_xxs_levels[16] = {-62, -52, -44, -36, -28, -20, -12, -4, 4, 12, 20, 28, 36, 44, 52, 62};
const int8_t llmq_iq3_s_levels[16] = {-15, -13, -11, -9, -7, -5, -3, -1, 1, 3, 5, 7, 9, 11, 13, 15};

/* In loops over bytes, which compilers make vectors of. */
void llmq_grid_levels(const llmq_grid_type *type, const llmq_grid_block *b, llmq_levels *out) {
    const llmq_grid *grid = type->grid;
    uint8_t place[256], minus[256], lower[256];
    int8_t size[256] = {0};
    for (int t = 0; t < 32; t++) {
        if (grid->bits == 2) {
            const uint16_t point = grid->point[b->point[t]];
            llmq_spread_pairs((uint8_t)point, place + 8 * t);
            llmq_spread_pairs((uint8_t)(point >> 8), place + 8 * t + 4);
        } else {
            llmq_spread_nibbles(grid->point[b->point[2 * t]], place + 8 * t);
            llmq_spread_nibbles(grid->point[b->point[2 * t + 1]], place + 8 * t + 4);
        }
        llmq_spread_bits(b->minus[t], minus + 8 * t);
    }
    for (uint8_t v = 0; v < grid->places; v++) {
        const int8_t level = (int8_t)(type->signs == LLMQ_SIGNS_IN_GRID ? 8 * grid->level[v] + 1 : grid->level[v]);
        for (int i = 0; i < 256; i++) size[i] = place[i] == v ? level : size[i];
    }
    for (int e = 0; e < 32 && type->signs == LLMQ_SIGNS_IN_GRID; e++) memset(lower + 8 * e, b->lower[e], 8);
    for (int i = 0; i < 256 && type->signs == LLMQ_SIGNS_IN_GRID; i++) size[i] = (int8_t)(size[i] - 2 * lower[i]);
    for (int i = 0; i < 256; i++) out->q[i] = (uint8_t)(LLMQ_GRID_OFF + (minus[i] ? -size[i] : size[i]));
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

/* amx_attention.c: attend_tiles with TDPBF16PS; see attend_bf16.inc. 2 x 2 tiles of C are summed at a time; where there is but one
 * row of tiles, or an odd block of columns at the end, it is multiplied beside itself and both write the same numbers to one place. */
#define V_VNNI 1
#include "simd/avx512.h"

#include "isa/amx.inc"
#include "isa/attend_bf16.inc"

static void square(const product *p, int64_t at, int64_t right, int64_t lower, float *const c[4]) {
    const uint8_t *a = p->a;
    load_square(0, c, p->ldc * 4, p->fresh);
    for (int run = 0; run < p->runs; run++, a += (int64_t)p->row_tiles * TILE) {
        const uint8_t *b = p->b[run] + at;
        add_square(0, a, a + lower, b, b + right, p->ldb);
    }
    store_square(0, c, p->ldc * 4);
}

static void multiply(const product *p) {
    const int64_t lower = p->row_tiles == 2;
    if (p->pairs != RUN / 2) configure(p->pairs);
    BARRIER();
    for (int i = 0; i < p->blocks; i += 2) {
        const int64_t right = i + 1 < p->blocks;
        float *const c = p->c + i * 16, *const below = c + lower * 16 * p->ldc;
        square(p, i * p->block, right * p->block, lower * TILE, (float *const[4]){c, c + right * 16, below, below + right * 16});
    }
    BARRIER();
    if (p->pairs != RUN / 2) configure(RUN / 2);
}

static void attend_in_tiles(const llmq_attn_chunk *c) {
    configure(RUN / 2); /* whatever ran on this thread before */
    attend_tiles(c);
    _tile_release();
}

void llmq_body_amx_attention(llmq_kernels *k);
void llmq_body_amx_attention(llmq_kernels *k) {
    k->attend_tiles = attend_in_tiles;
}

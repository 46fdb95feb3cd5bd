/* amx_attention.c: attend_tiles with TDPBF16PS; see attend_bf16.inc. 2 x 2 tiles of C are summed at a time; where there is but one
 * row of tiles, or an odd block of columns at the end, it is multiplied beside itself and both write the same numbers to one place. */
#define V_VNNI 1
#include "simd/avx512.h"

#include "isa/amx.inc"
#include "isa/attend_bf16.inc"

/* c: of tiles 0 to 3 */
static void square(const product *p, int64_t at, int64_t right, int64_t lower, float *const c[4]) {
    const int64_t ldc = p->ldc * 4;
    const uint8_t *a = p->a;
    if (p->fresh) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, c[0], ldc);
        _tile_loadd(1, c[1], ldc);
        _tile_loadd(2, c[2], ldc);
        _tile_loadd(3, c[3], ldc);
    }
    for (int run = 0; run < p->runs; run++, a += (int64_t)p->row_tiles * TILE) {
        const uint8_t *b = p->b[run] + at;
        _tile_loadd(4, a, 64);
        _tile_loadd(6, b, p->ldb);
        _tile_loadd(5, a + lower, 64);
        _tile_loadd(7, b + right, p->ldb);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c[0], ldc);
    _tile_stored(1, c[1], ldc);
    _tile_stored(2, c[2], ldc);
    _tile_stored(3, c[3], ldc);
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

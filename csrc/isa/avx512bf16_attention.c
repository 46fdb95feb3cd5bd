/* avx512bf16_attention.c: attend_tiles with VDPBF16PS; see attend_bf16.inc. */
#define V_VNNI 1
#include "simd/avx512.h"

#include "isa/attend_bf16.inc"

enum { ROWS = 4, BLOCKS = 4 };

/* C[ROWS][`blocks` blocks] */
V_INLINE void square(const product *p, const int blocks, const uint8_t *a, int64_t at, float *c) {
    vf sum[ROWS][BLOCKS];
    UNROLL(4)
    for (int r = 0; r < ROWS; r++) {
        UNROLL(4)
        for (int i = 0; i < blocks; i++) sum[r][i] = p->fresh ? v_fzero() : v_fload(c + r * p->ldc + i * 16);
    }
    for (int run = 0; run < p->runs; run++, a += (int64_t)p->row_tiles * TILE) {
        const uint8_t *b = p->b[run] + at;
        for (int pair = 0; pair < p->pairs; pair++, b += p->ldb) {
            __m512bh x[ROWS];
            UNROLL(4)
            for (int r = 0; r < ROWS; r++) x[r] = same_pair(a + r * 64 + pair * 4);
            UNROLL(4)
            for (int i = 0; i < blocks; i++) {
                const __m512bh column = (__m512bh)v_load(b + i * p->block);
                UNROLL(4)
                for (int r = 0; r < ROWS; r++) sum[r][i] = _mm512_dpbf16_ps(sum[r][i], column, x[r]);
            }
        }
    }
    UNROLL(4)
    for (int r = 0; r < ROWS; r++) {
        UNROLL(4)
        for (int i = 0; i < blocks; i++) v_fstore(c + r * p->ldc + i * 16, sum[r][i]);
    }
}

static void multiply(const product *p) {
    for (int r = 0; r < p->row_tiles * 16; r += ROWS) {
        const uint8_t *a = p->a + r * 64;
        float *c = p->c + r * p->ldc;
        int i = 0;
        for (; i + BLOCKS <= p->blocks; i += BLOCKS) square(p, BLOCKS, a, i * p->block, c + i * 16);
        for (; i < p->blocks; i++) square(p, 1, a, i * p->block, c + i * 16);
    }
}

void llmq_body_avx512bf16_attention(llmq_kernels *k);
void llmq_body_avx512bf16_attention(llmq_kernels *k) {
    k->attend_tiles = attend_tiles;
}

/* avx512bf16_matmul.c: large batches of F16 and BF16 weights, out = x . W^T with VDPBF16PS. Quantized weights stay with their 8-bit
 * integers, which VNNI multiplies twice as fast. The layouts and the numeric contract are those of csrc/isa/bf16.inc. */
#define V_VNNI 1
#include "simd/avx512.h"

#include "isa/bf16.inc"

/* ---- activations ---------------------------------------------------------------------------------------------------------- */

static void tiles_x(const float *x, const int32_t *rows, int64_t m, int64_t k, int64_t ldx, int64_t first, int64_t last,
                    uint8_t *tiles) {
    const int64_t row_tiles = (m + 31) / 32 * 2, runs = (k + RUN - 1) / RUN;
    for (int64_t i = first; i < last; i++) {
        for (int64_t run = 0; run < runs; run++) {
            const int64_t block = run / RUNS, wide = min64(RUNS, runs - block * RUNS); /* runs of this block */
            uint8_t *tile = tiles + (block * RUNS * row_tiles + i * wide + run % RUNS) * TILE;
            const int64_t left = k - run * RUN;
            const __mmask16 low = lanes_below(left), high = lanes_below(left - 16);
            for (int64_t r = 0; r < 16; r++) {
                const int64_t t = i * 16 + r;
                __m512 a = v_fzero(), b = v_fzero();
                if (t < m) {
                    const float *from = x + (rows ? rows[t] : t) * ldx + run * RUN;
                    a = _mm512_maskz_loadu_ps(low, from);
                    b = _mm512_maskz_loadu_ps(high, from + 16);
                }
                put_run(tile + r * 64, a, b);
            }
        }
    }
}

/* ---- the multiplication --------------------------------------------------------------------------------------------------- */

enum { ROWS = 8 }; /* of x at a time: 16 sums */

/* C[ROWS rows of x][2 strips] += X . W^T over `runs` runs. c1: the second strip's C. */
static void rows_by_strips(const uint8_t *x, const uint8_t *w0, const uint8_t *w1, int64_t runs, int fresh, float *c0, float *c1) {
    __m512 sum[ROWS][2];
    UNROLL(8)
    for (int t = 0; t < ROWS; t++) {
        sum[t][0] = fresh ? v_fzero() : v_fload(c0 + t * LLMQ_STRIP);
        sum[t][1] = fresh ? v_fzero() : v_fload(c1 + t * LLMQ_STRIP);
    }
    for (int64_t i = 0; i < runs; i++, x += TILE) {
        UNROLL(4)
        for (int p = 0; p < RUN / 2; p++, w0 += 64, w1 += 64) {
            const __m512bh first = (__m512bh)v_load(w0), second = (__m512bh)v_load(w1);
            UNROLL(8)
            for (int t = 0; t < ROWS; t++) {
                const __m512bh pair = same_pair(x + t * 64 + p * 4);
                sum[t][0] = _mm512_dpbf16_ps(sum[t][0], first, pair);
                sum[t][1] = _mm512_dpbf16_ps(sum[t][1], second, pair);
            }
        }
    }
    UNROLL(8)
    for (int t = 0; t < ROWS; t++) {
        v_fstore(c0 + t * LLMQ_STRIP, sum[t][0]);
        v_fstore(c1 + t * LLMQ_STRIP, sum[t][1]);
    }
}

/* The runs of a strip from `first` on: where they are, or converted to `room`. */
static const uint8_t *panel_of(const llmq_packed *w, const uint8_t *strip, int64_t first, int64_t wide, uint8_t *room) {
    if (stands_ready(w, first + wide)) return strip + first * TILE;
    for (int64_t i = 0; i < wide; i++) run_half(w, strip, first + i, room + i * TILE);
    return room;
}

/* An odd strip at the end is multiplied beside itself: both halves then write the same numbers to the same place. */
static void tiles_half(const llmq_packed *w, const uint8_t *strips, int64_t count, const uint8_t *tiles, int64_t m, uint8_t *scratch,
                       float *out) {
    const int64_t row_tiles = (m + 31) / 32 * 2, runs = (w->k + RUN - 1) / RUN;
    for (int64_t first = 0; first < runs; first += RUNS) {
        const int64_t wide = min64(RUNS, runs - first);
        const uint8_t *x = tiles + first * row_tiles * TILE;
        const int64_t then = first + RUNS < runs ? first + RUNS : 0;
        const int64_t share = (wide * TILE / m + 7) / 8 * 8; /* of what follows, bytes of a strip for each row: whole lines for 8 */
        for (int64_t s = 0; s < count; s += 2) {
            const int64_t other = s + 1 < count ? s + 1 : s;
            const uint8_t *w0 = panel_of(w, strips + s * w->strip_bytes, first, wide, scratch);
            const uint8_t *w1 = panel_of(w, strips + other * w->strip_bytes, first, wide, scratch + RUNS * TILE);
            const uint8_t *next = strips + (s + 2 < count ? min64(s + 2, count - 2) * w->strip_bytes + first * TILE : then * TILE);
            for (int64_t t = 0; t < m; t += ROWS) {
                for (int64_t i = 0; i < min64(2, count); i++)
                    bring(next + i * w->strip_bytes + t * share, next + i * w->strip_bytes + (t + ROWS) * share);
                const int64_t c = (s * row_tiles * 16 + t) * LLMQ_STRIP, distance = (other - s) * row_tiles * 16 * LLMQ_STRIP;
                rows_by_strips(x + t / 16 * wide * TILE + t % 16 * 64, w0, w1, wide, first == 0, out + c, out + c + distance);
            }
        }
    }
}

void llmq_body_avx512bf16_matmul(llmq_kernels *k);
void llmq_body_avx512bf16_matmul(llmq_kernels *k) {
    k->tiles_x = tiles_x;
    k->tiles_half = tiles_half;
}

/* amx_matmul.c: large batches, out = x . W^T in bfloat16 tiles with float32 sums (TDPBF16PS). The layouts and the numeric contract
 * are those of csrc/isa/bf16.inc.
 *
 * Weights of any type are dequantized to a bf16 panel of two strips by 256 columns, 16 KB, as they pass; scales and minima are folded
 * in there, so that the tiles need no work between columns. 2 x 2 tiles of C are summed at a time. */
#define V_VNNI 1
#include "simd/avx512.h"

#include "isa/amx.inc"
#include "isa/bf16.inc"

/* ---- weights -------------------------------------------------------------------------------------------------------------- */

/* Run s of a strip of quantized weights: w = q * (d * sc) - (off * d * sc + dmin * m). */
V_INLINE void run_quant(const shape f, const llmq_packed *w, const uint8_t *strip, int64_t s, uint8_t *tile) {
    vi q[8];
    fetch(f, w, strip, s, 0, book_table(f, w), q);
    const int64_t block = s * RUN / f.block;
    const vf d = real_scales(f) ? v_fset(1) : block_scale(f, w, strip, block, 0);
    UNROLL(2)
    for (int part = 0; part < RUN / f.group; part++) {
        const int64_t group = (s * (RUN / f.group) + part) * LLMQ_STRIP;
        vf scale = d;
        const uint8_t *sc = strip + w->plane[LLMQ_PLANE_SC] + group;
        if (f.scales) scale = real_scales(f) ? v_e4m3(sc) : v_fmul(d, v_float(v_scales(0, sc)));
        vf base = v_fmul(scale, v_fset((float)-f.off));
        if (f.min) {
            vf least = v_halves(strip + w->plane[LLMQ_PLANE_DMIN] + block * 32);
            if (f.scales) {
                const __m128i m = _mm_loadu_si128((const __m128i *)(const void *)(strip + w->plane[LLMQ_PLANE_M] + group));
                least = v_fmul(least, v_float(_mm512_cvtepu8_epi32(m)));
            }
            base = v_fsub(base, least);
        }
        UNROLL(8)
        for (int i = part * f.group / 4; i < (part + 1) * f.group / 4; i++) {
            vf column[4];
            UNROLL(4)
            for (int j = 0; j < 4; j++) {
                const vi level = _mm512_and_si512(_mm512_srli_epi32(q[i], (unsigned)(8 * j)), _mm512_set1_epi32(255));
                column[j] = v_fma(v_float(level), scale, base);
            }
            put_pair(tile + i * 128, column[0], column[1]);
            put_pair(tile + i * 128 + 64, column[2], column[3]);
        }
    }
}

#define SHAPE(name, bits, group, off, min, scales, code, scale, block)                                                             \
    static void panel_##name(const llmq_packed *w, const uint8_t *strip, int64_t first, int64_t runs, uint8_t *panel) {             \
        for (int64_t i = 0; i < runs; i++)                                                                                       \
            run_quant((shape){bits, group, off, min, scales, code, LLMQ_SCALE_##scale, block}, w, strip, first + i,                \
                      panel + i * TILE);                                                                                        \
    }
#include "shapes.def"
#undef SHAPE

typedef void panel_fn(const llmq_packed *w, const uint8_t *strip, int64_t first, int64_t runs, uint8_t *panel);

static panel_fn *panel_of(const llmq_packed *w) {
    static panel_fn *const by_shape[LLMQ_SHAPES] = {
#define SHAPE(name, ...) panel_##name,
#include "shapes.def"
#undef SHAPE
    };
    const llmq_codec *codec = llmq_codec_of(w->type);
    return codec->bits ? by_shape[llmq_shape_of(codec)] : panel_half;
}

/* ---- the multiplication --------------------------------------------------------------------------------------------------- */

/* C[2 row tiles][2 strips] += X . W^T over `runs` runs. x: the second row tile follows the first; c1: the second strip's C. */
static void square(const uint8_t *x, const uint8_t *panel, int64_t runs, int fresh, float *c0, float *c1) {
    float *const c[4] = {c0, c1, c0 + 256, c1 + 256};
    load_square(c, 64, fresh);
    for (int64_t i = 0; i < runs; i++, x += TILE, panel += TILE) add_square(x, x + runs * TILE, panel, panel + RUNS * TILE, 64);
    store_square(c, 64);
}

/* An odd strip at the end is multiplied beside itself: both halves of the square then write the same numbers to the same place. */
static void tiles_mm(const llmq_packed *w, const uint8_t *strips, int64_t count, const uint8_t *tiles, int64_t m, uint8_t *scratch,
                     float *out) {
    panel_fn *const panel = panel_of(w);
    const int64_t row_tiles = (m + 31) / 32 * 2, runs = (w->k + RUN - 1) / RUN;
    configure(RUN / 2);
    for (int64_t first = 0; first < runs; first += RUNS) {
        const int64_t wide = min64(RUNS, runs - first);
        const uint8_t *x = tiles + first * row_tiles * TILE;
        for (int64_t s = 0; s < count; s += 2) {
            const int64_t other = s + 1 < count ? s + 1 : s;
            panel(w, strips + s * w->strip_bytes, first, wide, scratch);
            panel(w, strips + other * w->strip_bytes, first, wide, scratch + RUNS * TILE);
            BARRIER();
            for (int64_t r = 0; r < row_tiles; r += 2) {
                square(x + r * wide * TILE, scratch, wide, first == 0, out + (s * row_tiles + r) * 256, out + (other * row_tiles + r) * 256);
            }
        }
    }
    _tile_release();
}

void llmq_body_amx_matmul(llmq_kernels *k);
void llmq_body_amx_matmul(llmq_kernels *k) {
    k->tiles_half = tiles_mm;
    k->tiles_quant = tiles_mm;
}

/* amx_matmul.c: large batches, out = x . W^T in bfloat16 tiles with float32 sums (TDPBF16PS). The layouts and the numeric contract
 * are those of csrc/isa/bf16.inc.
 *
 * Weights of any type are dequantized to a bf16 panel of two strips by 256 columns, 16 KB, as they pass; scales and minima are folded
 * in there, so that the tiles need no work between columns. 2 x 2 tiles of C are summed at a time. Vector instructions and tiles use
 * different units: while a panel is multiplied, the next one is made, a run after so many steps, and what follows is brought to L2: the
 * weights of the panel after that and the next block of x (docs/performance.md has the counts). BF16 weights are multiplied where they
 * are. */
#define V_VNNI 1
#define V_GFNI 1
#include "simd/avx512.h"

#include "isa/amx.inc"
#include "isa/bf16.inc"

/* ---- weights -------------------------------------------------------------------------------------------------------------- */

/* Of a run's quad number i: float levels of columns 2j and 2j + 1 of rows 8h to 8h + 7, column beside column. Types of up to 7 bits
 * without a minimum get 128 more, by bits: the level becomes the end of the mantissa's first 7 bits. */
V_INLINE int by_bits(const shape f) { return f.bits < 8 && !f.min && f.scale != LLMQ_SCALE_E8M0; }
V_INLINE vf levels(const shape f, vi quad, int j, int h) {
    const vi lanes = _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29); /* byte of each 32 bits */
    const vi from = _mm512_mullo_epi32(_mm512_add_epi32(lanes, _mm512_set1_epi32(2 * j + 32 * h)), _mm512_set1_epi32(0x01010101));
    if (by_bits(f)) return v_real(_mm512_mask_permutexvar_epi8(v_bits(v_fset(128)), 0x4444444444444444, from, quad));
    return v_float(_mm512_maskz_permutexvar_epi8(0x1111111111111111, from, quad));
}

/* Of 16 rows, rows 8h to 8h + 7, each twice. */
V_INLINE vf twice(vf rows, int h) {
    const vi lanes = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(_mm512_add_epi32(lanes, _mm512_set1_epi32(8 * h)), rows);
}

/* Run s of a strip of quantized weights: w = q * (d * sc) - (off * d * sc + dmin * m). Adding 128 to q and off changes no bit of w:
 * (128 + off) * d * sc has at most 24 bits. */
V_INLINE void run_quant(const shape f, const llmq_packed *w, vi table, const uint8_t *strip, int64_t s, uint8_t *tile) {
    vi q[8];
    fetch(f, w, strip, s, 0, table, q);
    const int64_t block = s * RUN / f.block;
    const vf d = real_scales(f) ? v_fset(1) : block_scale(f, w, strip, block, 0);
    UNROLL(2)
    for (int part = 0; part < RUN / f.group; part++) {
        const int64_t group = (groups_before(f, s) + part) * LLMQ_STRIP;
        vf scale = d;
        const uint8_t *sc = strip + w->plane[LLMQ_PLANE_SC] + group;
        if (f.scales) scale = real_scales(f) ? v_e4m3(sc) : v_fmul(d, v_float(v_scales(0, sc)));
        vf base; /* off or dmin, no type has both */
        if (f.min) {
            base = v_fsub(v_fzero(), v_halves(strip + w->plane[LLMQ_PLANE_DMIN] + block * 32));
            if (f.scales) {
                const __m128i m = _mm_loadu_si128((const __m128i *)(const void *)(strip + w->plane[LLMQ_PLANE_M] + group));
                base = v_fmul(base, v_float(_mm512_cvtepu8_epi32(m)));
            }
        } else {
            base = v_fmul(scale, v_fset((float)(-f.off - (by_bits(f) ? 128 : 0))));
        }
        const vf scales[2] = {twice(scale, 0), twice(scale, 1)}, bases[2] = {twice(base, 0), twice(base, 1)};
        UNROLL(8)
        for (int i = part * f.group / 4; i < (part + 1) * f.group / 4; i++) {
            UNROLL(2)
            for (int j = 0; j < 2; j++) {
                put_run(tile + i * 128 + j * 64, v_fma(levels(f, q[i], j, 0), scales[0], bases[0]),
                        v_fma(levels(f, q[i], j, 1), scales[1], bases[1]));
            }
        }
    }
}

/* table: book_table() of the type */
typedef void run_fn(const llmq_packed *w, vi table, const uint8_t *strip, int64_t s, uint8_t *tile);

#define SHAPE(name, bits, group, off, min, scales, code, scale, block)                                                             \
    static void run_##name(const llmq_packed *w, vi table, const uint8_t *strip, int64_t s, uint8_t *tile) {                        \
        run_quant((shape){bits, group, off, min, scales, code, LLMQ_SCALE_##scale, block}, w, table, strip, s, tile);              \
    }
#include "shapes.def"
#undef SHAPE

static void run_float(const llmq_packed *w, vi table, const uint8_t *strip, int64_t s, uint8_t *tile) {
    (void)table;
    run_half(w, strip, s, tile);
}

static run_fn *run_of(const llmq_codec *codec) {
    static run_fn *const by_shape[LLMQ_SHAPES] = {
#define SHAPE(name, ...) run_##name,
#include "shapes.def"
#undef SHAPE
    };
    return codec->bits ? by_shape[llmq_shape_of(codec)] : run_float;
}

/* ---- panels --------------------------------------------------------------------------------------------------------------- */

typedef struct work {
    const llmq_packed *w;
    const uint8_t *strips, *x;
    int64_t count, pairs, runs, row_tiles;
    int64_t share[LLMQ_MAX_PLANES]; /* bytes of each plane of a strip for a run */
    run_fn *run;
    vi table;
    uint8_t *scratch;       /* two panels in turn */
    float *out;
} work;

/* Two strips by the runs of one block of columns. Their order: block after block, and in a block its pairs of strips. An odd strip at
 * the end is multiplied beside itself: both halves of a square then write the same numbers to the same place. */
typedef struct panel {
    int64_t first, wide;    /* runs of 32 columns; 0: there is no such panel */
    int ready;              /* multiplied where it is */
    const uint8_t *strip[2], *b[2]; /* tiles of each strip, [wide] */
    uint8_t *room;          /* for those that are made */
    float *c[2];            /* sums of each strip, [row tiles] */
} panel;

static panel panel_at(const work *j, int64_t p) {
    panel a = {.first = p / j->pairs * RUNS, .room = j->scratch + p % 2 * 2 * RUNS * TILE};
    if (a.first >= j->runs) return (panel){.c = {j->out, j->out}};
    a.wide = min64(RUNS, j->runs - a.first);
    a.ready = stands_ready(j->w, a.first + a.wide);
    for (int i = 0; i < 2; i++) {
        const int64_t s = min64(p % j->pairs * 2 + i, j->count - 1);
        a.strip[i] = j->strips + s * j->w->strip_bytes;
        a.b[i] = a.ready ? a.strip[i] + a.first * TILE : a.room + i * RUNS * TILE;
        a.c[i] = j->out + s * j->row_tiles * 256;
    }
    return a;
}

/* Run number i of a panel, strip after strip. */
static void make_run(const work *j, const panel *a, int64_t i) {
    const int64_t strip = i / a->wide, run = i % a->wide;
    if (!a->ready) j->run(j->w, j->table, a->strip[strip], a->first + run, a->room + (strip * RUNS + run) * TILE);
}

static void bring_run(const work *j, const panel *a, int64_t i) {
    if (i >= 2 * a->wide) return;
    for (int p = 0; p < LLMQ_MAX_PLANES; p++) {
        const int64_t from = (a->first + i % a->wide) * j->share[p];
        const uint8_t *plane = a->strip[i / a->wide] + j->w->plane[p];
        bring(plane + ((from + 63) & -64), plane + from + j->share[p]);
    }
}

/* ---- the multiplication --------------------------------------------------------------------------------------------------- */

/* What is done beside the steps (32 columns of a square) of a panel. */
typedef struct beside {
    panel next, after;
    int64_t steps, due, made;   /* of this panel; in steps, what is due of next; its runs that are made */
    const uint8_t *x, *x_end;   /* of the next block, what this panel brings */
    int64_t x_share;            /* at a step */
} beside;

static beside beside_panel(const work *j, int64_t p, const panel *a) {
    beside f = {.next = panel_at(j, p + 1), .after = panel_at(j, p + 2), .steps = j->row_tiles / 2 * a->wide};
    const int64_t first = a->first + RUNS < j->runs ? a->first + RUNS : 0; /* other strips begin with the first block again */
    const int64_t bytes = first == a->first ? 0 : j->row_tiles * min64(RUNS, j->runs - first) * TILE, share = bytes / j->pairs;
    f.x = j->x + first * j->row_tiles * TILE + p % j->pairs * share;
    f.x_end = f.x + share;
    f.x_share = (share / f.steps + 63) & -64;
    return f;
}

static void at_step(const work *j, beside *f) {
    bring(f->x, f->x + min64(f->x_share, f->x_end - f->x));
    f->x += f->x_share;
    for (f->due += 2 * f->next.wide; f->due >= f->steps; f->due -= f->steps, f->made++) {
        make_run(j, &f->next, f->made);
        bring_run(j, &f->after, f->made);
    }
}

/* Two row tiles, from r on, of a panel: where its operands and its C are. */
typedef struct place {
    const uint8_t *x, *below, *b[2];
    int64_t wide;
    int fresh;
    float *c[4];
} place;

static place place_at(const work *j, const panel *a, int64_t r) {
    const uint8_t *x = j->x + (a->first * j->row_tiles + r * a->wide) * TILE;
    float *const left = a->c[0] + r * 256, *const right = a->c[1] + r * 256;
    return (place){.x = x, .below = x + a->wide * TILE, .b = {a->b[0], a->b[1]}, .wide = a->wide, .fresh = a->first == 0,
                   .c = {left, right, left + 256, right + 256}};
}

V_INLINE void step(const int high, const place *s, int64_t i) {
    add_square(high, s->x + i * TILE, s->below + i * TILE, s->b[0] + i * TILE, s->b[1] + i * TILE, 64);
}

/* C[2 row tiles][2 strips] += X . W^T over the panel's columns but for the first step, then the first step of the next place. Where there
 * is but one square in a block its C is also the next one. */
V_INLINE void square(const int high, const work *j, const place *s, const place *next, beside *f) {
    at_step(j, f);
    for (int64_t i = 1; i < s->wide; i++) {
        step(high, s, i);
        at_step(j, f);
    }
    BARRIER();
    if (next->wide == 0 || next->c[0] == s->c[0]) {
        store_square(high, s->c, 64);
        if (next->wide == 0) return;
        load_square(!high, next->c, 64, 0);
        step(!high, next, 0);
    } else {
        load_square(!high, next->c, 64, next->fresh);
        leave_square(high, s->c, next->x, next->below, next->b[0], next->b[1]);
    }
}

static void tiles_mm(const llmq_packed *w, const uint8_t *strips, int64_t count, const uint8_t *tiles, int64_t m, uint8_t *scratch,
                     float *out) {
    const llmq_codec *codec = llmq_codec_of(w->type);
    const shape f = {.bits = codec->bits, .off = codec->off, .code = codec->codebook ? codec->code_bits : 0};
    work j = {.w = w, .strips = strips, .x = tiles, .count = count, .pairs = (count + 1) / 2, .runs = (w->k + RUN - 1) / RUN,
              .row_tiles = (m + 31) / 32 * 2, .run = run_of(codec), .table = book_table(f, w), .scratch = scratch, .out = out};
    for (int p = 0; p < LLMQ_MAX_PLANES; p++) {
        const int64_t end = p + 1 < LLMQ_MAX_PLANES ? w->plane[p + 1] : w->strip_bytes;
        j.share[p] = (end - w->plane[p]) / j.runs;
    }
    panel now = panel_at(&j, 0);
    for (int64_t i = 0; i < 2 * now.wide; i++) make_run(&j, &now, i);
    place here = place_at(&j, &now, 0);
    int high = 0;
    configure(RUN / 2); /* all tiles become zeros */
    BARRIER();
    step(0, &here, 0);
    for (int64_t p = 0; now.wide > 0; p++) {
        beside f = beside_panel(&j, p, &now);
        for (int64_t r = 2; r <= j.row_tiles; r += 2, high = !high) {
            const place next = r < j.row_tiles ? place_at(&j, &now, r) : place_at(&j, &f.next, 0);
            if (high) square(1, &j, &here, &next, &f);
            else square(0, &j, &here, &next, &f);
            here = next;
        }
        now = f.next;
    }
    _tile_release();
}

void llmq_body_amx_matmul(llmq_kernels *k);
void llmq_body_amx_matmul(llmq_kernels *k) {
    k->tiles_half = tiles_mm;
    k->tiles_quant = tiles_mm;
}

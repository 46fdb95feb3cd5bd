/* amx_integers.c: some rows of x by quantized weights in 8-bit tiles with int32 sums (TDPBSSD): more rows than vector instructions multiply
 * as fast, fewer than bf16 tiles need. csrc/formats/dot.c bit for bit, as csrc/isa/matmul.inc: a row of x gets the same in any batch.
 *
 * A step is a strip's columns with the same scales: 32, or a group of 16. The work is cut into items: STEPS steps of a strip for a tile of
 * up to 16 rows of x. While vector instructions scale and sum the products of one item the tile unit multiplies the next, and levels of
 * weights are unpacked for the one after that. Scratch:
 *
 *     levels    [2 in turn][step][quad of columns][16 rows of W][4]    int8
 *     products  [2 in turn][step][16 rows of x][16 rows of W]          int32
 *     carried   [MOST rows of x][16 rows of W]                         int32, where a block is longer than an item
 *
 * Where 16 bits hold a product it is scaled and added by VPDPWSSD, the upper half of its word meeting a zero. Levels of 4 bits with a minimum
 * are made so small by subtracting CENTRE; csrc/formats/dot.c's sums begin with what that takes away. */
#define V_VNNI 1
#define V_GFNI 1
#define V_SIGNED 1
#include "simd/avx512.h"

#include "isa/settle.inc"
#include "isa/tiles.inc"

enum {
    ROWS = 16,          /* of a tile */
    STEPS = 8,
    AT_ONCE = 8,        /* rows of x whose sums are in registers */
    LINE = 64,          /* bytes of a row of a tile */
    MOST = 128,         /* rows of x that pass together */
    LEVELS = STEPS * 32 * LLMQ_STRIP,
    PRODUCTS = STEPS * ROWS * LINE,
};
_Static_assert(2 * LEVELS + 2 * PRODUCTS + MOST * LINE <= LLMQ_PANEL, "all have their room");

static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

/* Columns of a step; steps of a block. */
V_INLINE int span_of(const shape f) { return f.scales && f.group < 32 ? f.group : 32; }
V_INLINE int steps_of(const shape f) { return runs_of(f) * 32 / span_of(f); }

/* Levels as they are multiplied: there is no offset to be undone, but in one shape CENTRE to be added. */
enum { CENTRE = 8 };
V_INLINE int centred(const shape f) { return f.bits == 4 && f.min && f.scales; }
V_INLINE shape levels_of(shape f) {
    if (centred(f)) f.off = CENTRE;
    else if (!offset_first(f)) f.off = 0;
    return f;
}
V_INLINE shape settled(shape f) {
    f.off = 0;
    return f;
}

V_INLINE int is_short(const shape f) { return fits_short(f, centred(f) ? CENTRE : f.off ? f.off : (1 << f.bits) - 1, span_of(f)); }

typedef struct work {
    const llmq_packed *w;
    const uint8_t *strips, *ahead, *x;
    int64_t count, m, rows;         /* strips; rows of x, and of a tile of them */
    int64_t parts, tiles;           /* items along a strip, tiles of rows */
    int64_t stride, next_out;       /* bytes from a row of x to the next, floats from the sums of a strip to those of the next */
    int64_t share;                  /* bytes of a strip for each step */
    vi table;
    uint8_t *scratch;
    float *out;
} work;

typedef struct item {
    int64_t column, steps;      /* 0 steps: there is no such item */
    int64_t row, rows, first;   /* of x in the tile; those before the first belong to the tile before */
    const uint8_t *strip, *after; /* after: the strip to be read next, or NULL */
    uint8_t *levels, *products;
    float *out;
} item;

/* Items stand in the order strip, columns, rows of x. */
V_INLINE item item_at(const shape f, const work *j, int64_t i) {
    const int64_t panel = i / j->tiles, s = panel / j->parts;
    if (s >= j->count) return (item){0};
    const int64_t tile = i % j->tiles * j->rows;
    item a = {.column = panel % j->parts * STEPS * span_of(f), .strip = j->strips + s * j->w->strip_bytes, .rows = j->rows};
    a.steps = min64(STEPS, (j->w->k - a.column) / span_of(f));
    a.row = min64(tile, j->m - j->rows);
    a.first = tile - a.row;
    a.after = s + 1 < j->count ? a.strip + j->w->strip_bytes : j->ahead;
    a.levels = j->scratch + panel % 2 * LEVELS;
    a.products = j->scratch + 2 * LEVELS + i % 2 * PRODUCTS;
    a.out = j->out + s * j->next_out + a.row * LLMQ_STRIP;
    return a;
}

/* ---- weights -------------------------------------------------------------------------------------------------------------- */

/* Levels of step i, and of the next where two make the 32 columns that are unpacked at once. */
V_INLINE void unpack(const shape f, const work *j, const item *a, int64_t i) {
    const int64_t column = a->column + i * span_of(f);
    if (i >= a->steps || column % 32) return;
    vi q[8];
    fetch(levels_of(f), j->w, a->strip, column / 32, 0, j->table, q);
    UNROLL(8)
    for (int l = 0; l < 8; l++) {
        const int left = f.off && f.bits < 8 && !f.code && !offset_first(f);
        v_store(a->levels + i * span_of(f) * LLMQ_STRIP + l * LINE, left ? _mm512_sub_epi8(q[l], v_bytes(f.off)) : q[l]);
    }
}

/* A strip is read while the one before it is multiplied. */
V_INLINE void bring(const shape f, const work *j, const item *a, int64_t i) {
    if (a->after == NULL || i >= a->steps) return;
    const int64_t from = (a->column / span_of(f) + i) * j->share, to = min64(from + j->share, j->w->strip_bytes);
    for (int64_t at = from; at < to; at += LINE) _mm_prefetch((const char *)a->after + at, _MM_HINT_T1);
}

/* ---- products ------------------------------------------------------------------------------------------------------------- */

/* Step i of an item. Tiles 0 to 3 are the sums of four steps, 4 and 5 rows of x, 6 and 7 weights, in turn. */
#define MULTIPLY(sums, rows, weights)                                                                                              \
    _tile_zero(sums);                                                                                                             \
    _tile_loadd(rows, x, j->stride);                                                                                              \
    _tile_loadd(weights, a->levels + i * span_of(f) * LLMQ_STRIP, LINE);                                                          \
    _tile_dpbssd(sums, rows, weights)
V_INLINE void multiply(const shape f, const work *j, const item *a, int64_t i) {
    const uint8_t *x = j->x + a->row * j->stride + a->column + i * span_of(f);
    if (i >= a->steps) return;
    BARRIER();
    switch (i % 4) {
        case 0: MULTIPLY(0, 4, 6); break;
        case 1: MULTIPLY(1, 5, 7); break;
        case 2: MULTIPLY(2, 4, 6); break;
        default: MULTIPLY(3, 5, 7); break;
    }
}
#undef MULTIPLY

V_INLINE void put_products(const item *a, int64_t i) {
    if (i < 0 || i >= a->steps) return;
    uint8_t *to = a->products + i * ROWS * LINE;
    switch (i % 4) {
        case 0: _tile_stored(0, to, LINE); break;
        case 1: _tile_stored(1, to, LINE); break;
        case 2: _tile_stored(2, to, LINE); break;
        default: _tile_stored(3, to, LINE); break;
    }
    BARRIER();
}

/* What is done beside step i of an item: for the next one, and for the one whose weights are the next ones after that. */
typedef struct beside {
    item next, after;   /* after: no steps where its levels are there */
} beside;

V_INLINE beside beside_item(const shape f, const work *j, int64_t i) {
    beside b = {.next = item_at(f, j, i + 1)};
    if ((i + 1) % j->tiles == 0) b.after = item_at(f, j, i + 1 + j->tiles);
    return b;
}

/* Products are put where they are read LATE steps after they began: stores that wait for them would keep others from being made. */
enum { LATE = 2 };
V_INLINE void at_step(const shape f, const work *j, const beside *b, int64_t i) {
    multiply(f, j, &b->next, i);
    put_products(&b->next, i - LATE);
    unpack(f, j, &b->after, i);
    bring(f, j, &b->after, i);
}

/* ---- sums ----------------------------------------------------------------------------------------------------------------- */

/* What a block's integer sums of each row of x begin with: CENTRE * sc * (sum of x), over its groups. */
V_INLINE void begin(const shape f, const int rows, const work *j, const item *a, const uint8_t *x, vi whole[AT_ONCE]) {
    const uint8_t *sc = a->strip + j->w->plane[LLMQ_PLANE_SC] + a->column / 32 * LLMQ_STRIP;
    UNROLL(8)
    for (int r = 0; r < rows; r++) whole[r] = v_zero();
    UNROLL(4)
    for (int i = 0; i < centred(f) * STEPS / 2; i++) {
        const vi pairs = v_times16(v_pairs(1, sc + 2 * i * LLMQ_STRIP, sc + (2 * i + 1) * LLMQ_STRIP), CENTRE);
        UNROLL(8)
        for (int r = 0; r < rows; r++)
            whole[r] = v_pair_step(whole[r], pairs, v_quad(x + r * j->stride + llmq_x8_sum32(j->w->k) + a->column / 16 + 4 * i));
    }
}

/* Adds the products of step i; `products` are those of the rows at hand. */
V_INLINE void add_step(const shape f, const int rows, const work *j, const item *a, int64_t i, const uint8_t *products, vi whole[AT_ONCE]) {
    const int real = real_scales(f);
    const uint8_t *sc = a->strip + j->w->plane[LLMQ_PLANE_SC] + (a->column / span_of(f) + i) * LLMQ_STRIP;
    vi scale = !f.scales ? v_zero() : real ? v_bits(v_e4m3(sc)) : v_scales(1, sc);
    if (is_short(f)) scale = v_short(scale);
    UNROLL(8)
    for (int r = 0; r < rows; r++) {
        const vi dot = v_load(products + r * LINE);
        if (real) whole[r] = v_bits(v_fadd(v_real(whole[r]), v_fmul(v_real(scale), v_float(dot))));
        else if (is_short(f)) whole[r] = v_pair_step(whole[r], dot, scale);
        else whole[r] = v_add32(whole[r], f.scales ? _mm512_mullo_epi32(dot, scale) : dot);
    }
}

/* `rows` rows of an item from row t on; b: what to do beside, or NULL. */
V_INLINE void sum_rows(const shape f, const int rows, const work *j, const item *a, int64_t t, const beside *b) {
    const int block = steps_of(f), at_once = block < STEPS ? block : STEPS;
    const int64_t begun = a->column % (block * span_of(f)); /* columns of the block in the item before */
    const uint8_t *x = j->x + (a->row + t) * j->stride, *products = a->products + t * LINE;
    uint8_t *carried = j->scratch + 2 * LEVELS + 2 * PRODUCTS + (a->row + t) * LINE;
    vf total[AT_ONCE];
    UNROLL(8)
    for (int r = 0; r < rows; r++) total[r] = v_fload(a->out + (t + r) * LLMQ_STRIP);
    for (int64_t i = 0; i < a->steps;) {
        vi whole[AT_ONCE];
        begin(f, rows, j, a, x, whole);
        UNROLL(8)
        for (int r = 0; r < rows; r++)
            if (block > STEPS && begun) whole[r] = v_load(carried + r * LINE);
        ROLLED
        for (int l = 0; l < at_once; l++, i++, products += ROWS * LINE) {
            if (b) at_step(f, j, b, i);
            add_step(f, rows, j, a, i, products, whole);
        }
        if (block > STEPS && !begun) {
            UNROLL(8)
            for (int r = 0; r < rows; r++) v_store(carried + r * LINE, whole[r]);
            return;
        }
        const int64_t run = (a->column + (i - at_once) * span_of(f) - begun) / 32;
        edge e;
        fetch_edge(settled(f), j->w, a->strip, run, 0, &e);
        UNROLL(8)
        for (int r = 0; r < rows; r++) {
            vf part;
            settle_block(settled(f), 1, j->w->k, run, &e, x + r * j->stride, &whole[r], &part);
            total[r] = v_fadd(total[r], part);
        }
    }
    UNROLL(8)
    for (int r = 0; r < rows; r++) v_fstore(a->out + (t + r) * LLMQ_STRIP, total[r]);
}

V_INLINE void do_item(const shape f, const work *j, int64_t i) {
    const item a = item_at(f, j, i);
    const beside b = beside_item(f, j, i);
    int64_t t = a.first, done = 0;
    if (a.rows - t >= AT_ONCE) {
        sum_rows(f, AT_ONCE, j, &a, t, &b);
        t += AT_ONCE;
        done = a.steps;
    }
    for (; done < STEPS + LATE; done++) at_step(f, j, &b, done);
    for (; t + AT_ONCE <= a.rows; t += AT_ONCE) sum_rows(f, AT_ONCE, j, &a, t, NULL);
    for (; t + 4 <= a.rows; t += 4) sum_rows(f, 4, j, &a, t, NULL);
    for (; t < a.rows; t++) sum_rows(f, 1, j, &a, t, NULL);
}

/* m <= MOST rows of x */
V_INLINE void some_rows(const shape f, work j, int64_t m) {
    const uint16_t x_bytes = (uint16_t)span_of(f);
    const uint8_t quads = (uint8_t)(span_of(f) / 4), rows = (uint8_t)min64(ROWS, m);
    j.m = m;
    j.rows = rows;
    j.tiles = (m + rows - 1) / rows;
    configure_tiles(&(tile_shapes){.row_bytes = {LINE, LINE, LINE, LINE, x_bytes, x_bytes, LINE, LINE},
                                   .rows = {rows, rows, rows, rows, rows, rows, quads, quads}});
    beside b = {.after = item_at(f, &j, 0)};
    for (int64_t i = 0; i < STEPS; i++) at_step(f, &j, &b, i);
    b = (beside){.next = b.after, .after = item_at(f, &j, j.tiles)};
    for (int64_t i = 0; i < STEPS + LATE; i++) at_step(f, &j, &b, i);
    for (int64_t i = 0; i < j.count * j.parts * j.tiles; i++) do_item(f, &j, i);
    _tile_release();
}

V_INLINE void multiply_all(const shape f, const llmq_packed *w, const uint8_t *strips, int64_t count, const uint8_t *ahead,
                           const uint8_t *x, int64_t m, uint8_t *panel, float *out) {
    const int64_t steps = w->k / span_of(f);
    work j = {.w = w, .strips = strips, .ahead = ahead, .count = count, .parts = (steps + STEPS - 1) / STEPS, .stride = llmq_x8_stride(w->k),
              .next_out = m * LLMQ_STRIP, .share = (w->strip_bytes / steps + LINE - 1) & -LINE, .table = book_table(settled(f), w),
              .scratch = panel};
    memset(out, 0, (size_t)(count * m) * LLMQ_STRIP * sizeof *out);
    for (int64_t t = 0; t < m; t += MOST, j.ahead = NULL) {
        j.x = x + t * j.stride;
        j.out = out + t * LLMQ_STRIP;
        some_rows(f, j, min64(MOST, m - t));
    }
}

#define SHAPE(name, bits, group, off, min, scales, code, scale, block)                                                             \
    static void mm_##name(const llmq_packed *w, const uint8_t *strips, int64_t count, const uint8_t *ahead, const uint8_t *x,       \
                          int64_t m, uint8_t *panel, float *out) {                                                                  \
        const shape f = {bits, group, off, min, scales, code, LLMQ_SCALE_##scale, block};                                           \
        multiply_all(f, w, strips, count, ahead, x, m, panel, out);                                                                 \
    }
#include "shapes.def"
#undef SHAPE

static void tiles_integers(const llmq_packed *w, const uint8_t *strips, int64_t count, const uint8_t *ahead, const uint8_t *x, int64_t m,
                           uint8_t *panel, float *out) {
    static llmq_mm_quant_fn *const by_shape[LLMQ_SHAPES] = {
#define SHAPE(name, ...) mm_##name,
#include "shapes.def"
#undef SHAPE
    };
    by_shape[llmq_shape_of(llmq_codec_of(w->type))](w, strips, count, ahead, x, m, panel, out);
}

void llmq_body_amx_integers(llmq_kernels *k);
void llmq_body_amx_integers(llmq_kernels *k) {
    k->tiles_integers = tiles_integers;
}

/* matmul.c: out[m][ldo] = x[m][ldx] . W^T (+ bias), for several W at once, shared out over the threads of a pool.
 *
 * Four kinds of prepared activations, chosen from the weight's type, the number of rows and the level in use:
 *
 *     FLOATS  F32, F16, BF16 weights: x as it is
 *     X8_32   quantized weights: 8-bit integers with one scale per 32 columns (kernels.h), multiplied by vector instructions or, many
 *             enough, by a tile unit
 *     X8_256  the same with one scale per 256: types whose block is 256 (llmq_x8_width)
 *     TILES   m >= TILES_FROM: bf16 tiles; F16 and BF16 at levels with products of bf16, quantized types at those with a tile unit
 *
 * Scratch is one block, 64-byte aligned: the prepared x, then one part per thread. Strips are taken in turns (turns.h):
 * a thread walks those of a turn for a block of rows of x small enough to stay in its L2 cache while they pass.
 * FLOATS and both X8 give every element of out the same value for any m, turns and number of threads. */
#include "ops/matmul.h"

#include <string.h>

#include "kernels.h"
#include "ops/turns.h"

enum kind { FLOATS, X8_32, X8_256, TILES };
enum {
    TILES_FROM = 32,        /* below, 8-bit integers, which give a row the same in any batch */
    INTEGER_TILES_FROM = 8, /* of those, rows that a tile unit multiplies faster than vector instructions do */
    TILES_CHUNK = 32,       /* strips per turn of the tile path at most: x, too large for L2, passes once for all of them */
    TILES_SUMS = 1 << 20,   /* bytes of their sums at most: in 2 MB of L2 they leave room for two blocks of columns of x */
    TILES_LEAST = 8,        /* strips per turn at the end, where threads wait for the last */
    X_BLOCK = 384 << 10,    /* bytes of x that a block of rows may have */
    M_BLOCK = 128,          /* rows of x in a block at most */
    TILES_BLOCK = 1024,     /* the same for TILES */
};

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t align64(int64_t x) { return (x + 63) & -64; }

static int is_x8(int kind) { return kind == X8_32 || kind == X8_256; }

/* The slot that multiplies tiles by weights of that type at the level in use, or NULL. */
static llmq_tiles_mm_fn *tiles_of(const llmq_packed *w) {
    const llmq_kernels *kernels = llmq_kernels_used();
    if (w->type == LLMQ_F32) return NULL;
    return llmq_codec_of(w->type)->bits ? kernels->tiles_quant : kernels->tiles_half;
}

/* The slot that multiplies 8-bit integers by that quantized type. */
static llmq_mm_quant_fn *integers_of(const llmq_packed *w, int64_t m) {
    const llmq_kernels *kernels = llmq_kernels_used();
    return m >= INTEGER_TILES_FROM && kernels->tiles_integers ? kernels->tiles_integers : llmq_mm_quant(w->type);
}

int llmq_matmul_kind(const llmq_packed *w, int64_t m) {
    if (m >= TILES_FROM && tiles_of(w)) return TILES;
    const llmq_codec *codec = llmq_codec_of(w->type);
    return codec->bits == 0 ? FLOATS : llmq_x8_width(codec) == 32 ? X8_32 : X8_256;
}

/* ---- scratch ------------------------------------------------------------------------------------------------------------ */

static int64_t tile_rows(int64_t m) { return (m + 31) / 32 * 32; }

static int64_t tile_row_bytes(int64_t k) { return (k + 31) / 32 * 64; }

static int64_t prepared_bytes(int kind, int64_t k, int64_t m) {
    if (is_x8(kind)) return m * llmq_x8_stride(k);
    return kind == TILES ? tile_rows(m) * tile_row_bytes(k) : 0;
}

/* The sums of a strip, and strips per turn of the tile path at most. */
static int64_t tile_sum_bytes(int64_t m) { return min64(tile_rows(m), TILES_BLOCK) * LLMQ_STRIP * 4; }
static int64_t tile_strips(int64_t m) { return min64(TILES_CHUNK, TILES_SUMS / tile_sum_bytes(m)); }

/* The sums of two matrices: of tiles, each has half of the strips then. */
static int64_t thread_bytes(int kind, int64_t m) {
    if (kind == TILES) return LLMQ_TILES_SCRATCH + tile_strips(m) * tile_sum_bytes(m);
    return LLMQ_PANEL + 2 * min64(m, M_BLOCK) * LLMQ_STRIPS_AT_ONCE * LLMQ_STRIP * 4;
}

int64_t llmq_matmul_scratch(const llmq_packed *w, int64_t m, int nth) {
    const int kind = llmq_matmul_kind(w, m);
    return align64(prepared_bytes(kind, w->k, m)) + nth * align64(thread_bytes(kind, m));
}

/* ---- prepare ------------------------------------------------------------------------------------------------------------ */

void llmq_matmul_prepare(const llmq_packed *w, const float *x, int64_t m, int64_t ldx, void *scratch, int tid, int nth) {
    const llmq_kernels *kernels = llmq_kernels_used();
    const int kind = llmq_matmul_kind(w, m);
    if (is_x8(kind)) {
        const int64_t stride = llmq_x8_stride(w->k);
        const int32_t width = llmq_x8_width(llmq_codec_of(w->type));
        for (int64_t t = m * tid / nth; t < m * (tid + 1) / nth; t++)
            kernels->x8(x + t * ldx, w->k, width, (uint8_t *)scratch + t * stride);
    } else if (kind == TILES) {
        for (int64_t t = 0; t < m; t += TILES_BLOCK) {
            const int64_t rows = min64(TILES_BLOCK, m - t), tiles = tile_rows(rows) / 16;
            uint8_t *block = (uint8_t *)scratch + t * tile_row_bytes(w->k);
            kernels->tiles_x(x + t * ldx, NULL, rows, w->k, ldx, tiles * tid / nth, tiles * (tid + 1) / nth, block);
        }
    }
}

/* ---- run ---------------------------------------------------------------------------------------------------------------- */

static const uint8_t *strip_of(const llmq_packed *w, int64_t expert, int64_t i) { return w->data + (expert * w->strips + i) * w->strip_bytes; }
static const uint8_t *strip_at(const llmq_product *p, int64_t i) { return strip_of(p->w, p->expert, i); }

typedef struct job {
    const llmq_packed *w, *by;
    const uint8_t *strips, *by_strips; /* of the expert */
    int32_t act;
    const uint8_t *ahead;       /* what this thread multiplies after the strips at hand; NULL: nothing */
    const float *bias, *x;
    const int32_t *rows;        /* row t of the result is row rows[t] of out; NULL: row t */
    int64_t m, ldx;
    const uint8_t *prepared;
    uint8_t *panel;             /* the thread's scratch */
    float *sums;                /* behind it: [strips][rows of x][16] */
    float *out;
    int64_t ldo;
} job;

/* Row t of what strips from `strip` on give. */
static float *out_at(const job *j, int64_t t, int64_t strip) { return j->out + (j->rows ? j->rows[t] : t) * j->ldo + strip * LLMQ_STRIP; }

/* The sums of `count` strips from `strip` on, `next` floats apart, [m][16] each, to their columns of out, from row t0 on. By rows: those of
 * out are far from one another, so that they are asked for early. */
static void put(const job *j, int64_t strip, int64_t count, int64_t next, int64_t t0, int64_t m) {
    enum { EARLY = 16 };
    const int64_t column = strip * LLMQ_STRIP, width = min64(j->w->n - column, count * LLMQ_STRIP), whole = width / LLMQ_STRIP;
    for (int64_t t = 0; t < m; t++) {
        float *out = out_at(j, t0 + t, strip);
        const float *sums = j->sums + t * LLMQ_STRIP, *later = t + EARLY < m ? out_at(j, t0 + t + EARLY, strip) : NULL;
        for (int64_t i = 0; later && i < width; i += 64 / (int64_t)sizeof *later) __builtin_prefetch(later + i, 1);
        for (int64_t i = 0; i < whole; i++) memcpy(out + i * LLMQ_STRIP, sums + i * next, LLMQ_STRIP * sizeof *out); /* inline: its size is known */
        if (whole < count) memcpy(out + whole * LLMQ_STRIP, sums + whole * next, (size_t)(width % LLMQ_STRIP) * sizeof *out);
        for (int64_t i = 0; j->bias && i < width; i++) out[i] += j->bias[column + i];
    }
}

/* out = act(sums) * other, before it is put; by rows and columns as both lie. */
static void gate(const job *j, const float *other, int64_t floats) { llmq_kernels_used()->glu(j->sums, j->sums, other, floats, j->act); }

static void run_x8(const job *j, int64_t first, int64_t last) {
    const int64_t stride = llmq_x8_stride(j->w->k), block = max64(1, min64(M_BLOCK, X_BLOCK / stride));
    for (int64_t t = 0; t < j->m; t += block) {
        const int64_t m = min64(block, j->m - t);
        const uint8_t *x = j->prepared + t * stride;
        float *const other = j->sums + LLMQ_STRIPS_AT_ONCE * m * LLMQ_STRIP;
        for (int64_t s = first, count; s < last; s += count) {
            count = min64(last - s, LLMQ_STRIPS_AT_ONCE);
            const uint8_t *ahead = s + count < last ? j->strips + (s + count) * j->w->strip_bytes : j->ahead;
            const uint8_t *by = j->by ? j->by_strips + s * j->by->strip_bytes : NULL;
            integers_of(j->w, m)(j->w, j->strips + s * j->w->strip_bytes, count, by ? by : ahead, x, m, j->panel, j->sums);
            if (by) integers_of(j->by, m)(j->by, by, count, ahead, x, m, j->panel, other);
            if (by) gate(j, other, count * m * LLMQ_STRIP);
            put(j, s, count, m * LLMQ_STRIP, t, m);
        }
    }
}

static llmq_mm_float_fn *floats_of(const llmq_packed *w) {
    const llmq_kernels *kernels = llmq_kernels_used();
    return w->type == LLMQ_F32 ? kernels->mm_f32 : w->type == LLMQ_F16 ? kernels->mm_f16 : kernels->mm_bf16;
}

static void run_floats(const job *j, int64_t first, int64_t last) {
    const int64_t block = max64(1, min64(M_BLOCK, X_BLOCK / (4 * j->w->k)));
    for (int64_t t = 0; t < j->m; t += block) {
        const int64_t m = min64(block, j->m - t);
        const float *x = j->x + t * j->ldx;
        float *const other = j->sums + LLMQ_STRIPS_AT_ONCE * m * LLMQ_STRIP;
        for (int64_t s = first, count; s < last; s += count) {
            count = min64(last - s, LLMQ_STRIPS_AT_ONCE);
            floats_of(j->w)(j->w, j->strips + s * j->w->strip_bytes, count, x, j->ldx, m, j->panel, j->sums);
            if (j->by) floats_of(j->by)(j->by, j->by_strips + s * j->by->strip_bytes, count, x, j->ldx, m, j->panel, other);
            if (j->by) gate(j, other, count * m * LLMQ_STRIP);
            put(j, s, count, m * LLMQ_STRIP, t, m);
        }
    }
}

/* Strips of a job that are multiplied at once by tiles, at most. */
static int64_t tile_strips_of(int gated, int64_t m) { return gated ? tile_strips(m) / 2 : tile_strips(m); }

static void run_tiles(const job *j, int64_t first, int64_t last) {
    for (int64_t t = 0; t < j->m; t += TILES_BLOCK) {
        const int64_t m = min64(TILES_BLOCK, j->m - t), floats = (last - first) * tile_rows(m) * LLMQ_STRIP;
        const uint8_t *x = j->prepared + t * tile_row_bytes(j->w->k);
        tiles_of(j->w)(j->w, j->strips + first * j->w->strip_bytes, last - first, x, m, j->panel, j->sums);
        if (j->by) tiles_of(j->by)(j->by, j->by_strips + first * j->by->strip_bytes, last - first, x, m, j->panel, j->sums + floats);
        if (j->by) gate(j, j->sums + floats, floats);
        put(j, first, last - first, tile_rows(m) * LLMQ_STRIP, t, m);
    }
}

static void run_strips(int kind, const job *j, int64_t first, int64_t last) {
    if (is_x8(kind)) run_x8(j, first, last);
    else if (kind == FLOATS) run_floats(j, first, last);
    else for (int64_t s = first, most = tile_strips_of(j->by != NULL, j->m); s < last; s += most) run_tiles(j, s, min64(s + most, last));
}

/* A job with its scratch: what was prepared, and `mine`, thread_bytes of it. */
static job job_of(int kind, const llmq_product *p, int64_t m, const void *prepared, uint8_t *mine) {
    return (job){.w = p->w, .strips = strip_at(p, 0), .by = p->by, .by_strips = p->by ? strip_of(p->by, p->expert, 0) : NULL, .act = p->act,
                 .bias = p->bias, .m = m, .prepared = prepared, .panel = mine, .out = p->out, .ldo = p->ldo,
                 .sums = (float *)(void *)(mine + (kind == TILES ? LLMQ_TILES_SCRATCH : LLMQ_PANEL))};
}

/* Which of several products, their strips one after another, strip *i is of; *i becomes its number there. NULL past the last. */
static const llmq_product *product_at(const llmq_product *products, int32_t n, int64_t *i) {
    for (; n > 0 && *i >= products->w->strips; products++, n--) *i -= products->w->strips;
    return n > 0 ? products : NULL;
}

static llmq_turns turns_of(int kind, const llmq_product *products, int32_t n, int64_t m, uint64_t *taken, int tid, int nth) {
    llmq_turns t = {.taken = taken, .tid = tid, .nth = nth};
    int gated = 0;
    for (int32_t i = 0; i < n; i++) {
        t.all += products[i].w->strips;
        gated |= products[i].by != NULL;
    }
    t.parts = kind == TILES ? 2 : 4;
    t.least = kind == TILES ? max64(2, min64(t.all / nth / 2 * 2, TILES_LEAST)) : LLMQ_STRIPS_AT_ONCE;
    t.most = kind == TILES ? tile_strips_of(gated, m) : m == 1 ? 16 : 8; /* many enough to use x while it is near */
    return t;
}

void llmq_matmul_run(const llmq_product *products, int32_t n, const float *x, int64_t m, int64_t ldx, void *scratch, uint64_t *taken, int tid,
                     int nth) {
    const int kind = llmq_matmul_kind(products->w, m), early = kind != TILES; /* to know what comes; tiles take too long for that */
    const llmq_turns turns = turns_of(kind, products, n, m, taken, tid, nth);
    uint8_t *mine = (uint8_t *)scratch + align64(prepared_bytes(kind, products->w->k, m)) + tid * align64(thread_bytes(kind, m));
    llmq_turn turn = llmq_turns_take(&turns), then = {turns.all, turns.all};
    for (; turn.first < turn.end; turn = early ? then : llmq_turns_take(&turns)) {
        if (early) then = llmq_turns_take(&turns);
        for (int64_t at = turn.first, count; at < turn.end; at += count) {
            int64_t first = at;
            const llmq_product *p = product_at(products, n, &first);
            count = min64(turn.end - at, p->w->strips - first);
            int64_t next = at + count < turn.end ? at + count : then.first;
            const llmq_product *after = product_at(products, n, &next);
            job j = job_of(kind, p, m, scratch, mine);
            j.ahead = after ? strip_at(after, next) : NULL;
            j.x = x;
            j.ldx = ldx;
            run_strips(kind, &j, first, first + count);
        }
    }
}

/* ---- gathered rows -------------------------------------------------------------------------------------------------------- */

static int64_t gathered_prepared(int kind, int64_t k, int64_t m) {
    return align64(kind == FLOATS ? m * k * (int64_t)sizeof(float) : prepared_bytes(kind, k, m));
}

static int64_t gathered_bytes(const llmq_packed *w, int64_t m) {
    const int kind = llmq_matmul_kind(w, m);
    return gathered_prepared(kind, w->k, m) + align64(thread_bytes(kind, m));
}

int64_t llmq_gathered_scratch(const llmq_packed *w, int64_t m) {
    return max64(gathered_bytes(w, min64(m, TILES_FROM - 1)), gathered_bytes(w, m));
}

void llmq_gathered_prepare(const llmq_packed *w, const float *x, int64_t ldx, const int32_t *rows, int64_t m, void *scratch) {
    const llmq_kernels *kernels = llmq_kernels_used();
    const int kind = llmq_matmul_kind(w, m);
    if (kind == TILES) {
        kernels->tiles_x(x, rows, m, w->k, ldx, 0, tile_rows(m) / 16, scratch);
        return;
    }
    const int64_t stride = is_x8(kind) ? llmq_x8_stride(w->k) : w->k * (int64_t)sizeof(float);
    const int32_t width = llmq_x8_width(llmq_codec_of(w->type));
    for (int64_t t = 0; t < m; t++) {
        uint8_t *to = (uint8_t *)scratch + t * stride;
        if (is_x8(kind)) kernels->x8(x + rows[t] * ldx, w->k, width, to);
        else memcpy(to, x + rows[t] * ldx, (size_t)stride);
    }
}

void llmq_gathered_run(const llmq_product *p, const int32_t *rows, int64_t m, void *scratch, int64_t first, int64_t last,
                       const uint8_t *ahead) {
    const int kind = llmq_matmul_kind(p->w, m);
    job j = job_of(kind, p, m, scratch, (uint8_t *)scratch + gathered_prepared(kind, p->w->k, m));
    j.x = scratch; /* of FLOATS */
    j.ldx = p->w->k;
    j.rows = rows;
    j.ahead = ahead;
    run_strips(kind, &j, first, last);
}

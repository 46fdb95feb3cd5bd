/* kernels.c: every level of this build and CPU against the scalar one, without Python; for targets that only an emulator runs
 * (make check-all: aarch64). The quantized matmul must have the same bits, everything else the same values within float rounding.
 * Prints the level and the number of comparisons. Usage: kernels LEVEL..., the levels that must be there; the exit status is 1 when
 * one is not, and after a difference. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "kv.h"

static const int32_t types[] = {
#define TYPE(name, id, block, bytes) id,
#include "types.def"
#undef TYPE
};
enum { TYPES = sizeof types / sizeof *types, MOST = 40, WIDE = 1024 };

static uint64_t state = 88172645463325252u; /* xorshift64 (Marsaglia 2003) */
static float uniform(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (float)(int32_t)(state >> 32) * 0x1p-31f;
}

static int compared, wrong;

static void check(const char *what, const float *got, const float *want, int64_t n, float tolerance) {
    compared++;
    for (int64_t i = 0; i < n; i++) {
        const int same = memcmp(got + i, want + i, sizeof *got) == 0;
        if (same || fabsf(got[i] - want[i]) <= tolerance * (1 + fabsf(want[i]))) continue;
        printf("%s: element %lld is %.9g, expected %.9g\n", what, (long long)i, (double)got[i], (double)want[i]);
        wrong++;
        return;
    }
}

static void *memory(int64_t bytes) {
    void *p = aligned_alloc(64, (size_t)((bytes + 63) & -64));
    if (p == NULL) exit(2);
    return p;
}

static void multiply(const llmq_packed *w, const float *x, int64_t m, float *out) {
    uint8_t *scratch = memory(llmq_matmul_scratch(w, m, 1) + 64);
    const llmq_product product = {.w = w, .out = out, .ldo = w->n};
    uint64_t taken = 0;
    llmq_matmul_prepare(w, x, m, w->k, scratch, 0, 1);
    llmq_matmul_run(&product, 1, x, m, w->k, scratch, &taken, 0, 1);
    free(scratch);
}

/* n rows of k weights times m rows of x, at both levels */
static void matmul(int32_t type, llmq_isa level, int64_t n, int64_t k, int64_t m) {
    llmq_isa_use(LLMQ_ISA_SCALAR); /* codecs are in the kernel table, too */
    const llmq_codec *codec = llmq_codec_of(type);
    llmq_packed w;
    float *weights = memory(n * k * 4), *x = memory(m * k * 4), *got = memory(m * n * 4), *want = memory(m * n * 4);
    uint8_t *rows = memory(n * (k / codec->block) * codec->bytes);
    for (int64_t i = 0; i < n * k; i++) weights[i] = uniform();
    for (int64_t i = 0; i < m * k; i++) x[i] = uniform() * (float)(1 + i % 7);
    if (codec->quantize(weights, rows, n * k, NULL) != LLMQ_OK || llmq_pack_plan(&w, type, n, k, 1) != LLMQ_OK) exit(2);
    w.data = memory(w.strips * w.strip_bytes);
    llmq_pack(&w, rows, 0, 1);
    multiply(&w, x, m, want);
    llmq_isa_use(level);
    multiply(&w, x, m, got);
    const llmq_kernels *used = llmq_kernels_used();
    const int tiles = (codec->bits ? used->tiles_quant : used->tiles_half) != NULL && m >= 32;
    check(codec->name, got, want, m * n, tiles ? 0.02f * sqrtf((float)k) : codec->bits ? 0 : 1e-4f);
    free(weights), free(x), free(got), free(want), free(rows), free(w.data);
}

/* the ops of rows, with a length that ends in the middle of a vector */
static void rows(const llmq_kernels *k, float out[10][MOST * 4], const float *a, const float *b) {
    const int64_t n = MOST * 4 - 3;
    k->rmsnorm(out[0], a, b, n, 1e-5f);
    k->layernorm(out[1], a, b, a, n, 1e-5f);
    k->rope(out[2], a, b, 2, 64, 48, 1);
    k->softcap(out[3], a, n, 3);
    for (int act = 0; act < 6; act++) k->glu(out[4 + act], a, b, n, act);
}

static void ops(llmq_isa level) {
    static float a[MOST * 4], b[MOST * 4], got[10][MOST * 4], want[10][MOST * 4];
    for (int i = 0; i < MOST * 4; i++) {
        a[i] = uniform() * 9;
        b[i] = uniform();
    }
    llmq_isa_use(LLMQ_ISA_SCALAR);
    rows(llmq_kernels_used(), want, a, b);
    llmq_isa_use(level);
    rows(llmq_kernels_used(), got, a, b);
    check("ops", got[0], want[0], sizeof got / sizeof(float), 1e-5f);
}

/* ---- attention ---------------------------------------------------------------------------------------------------------- */

typedef struct {
    int32_t type, rows, d_k, d_v, window;
    float slope, softcap;
} attention;

enum { KEYS = 200, START = LLMQ_CHUNK, REACH = 5 };

/* One chunk: rows that end at different keys of it, over keys that llmq_kv_put wrote. */
static void attend(const attention *a, const llmq_sequence *s, const llmq_kv_slot *slot, const float *q, llmq_attend_fn *fn,
                   float *out) {
    static float slope[MOST], bias[REACH * 2 + 1], scores[MOST * LLMQ_CHUNK];
    static int32_t from[MOST], to[MOST], head[MOST];
    const int32_t room = (a->rows + 15) / 16 * 16;
    uint8_t *scratch = memory(llmq_attend_scratch(a->d_k, slot->v_cols));
    float *acc = memory((int64_t)room * slot->v_cols * 4);
    for (int r = 0; r < a->rows; r++) {
        to[r] = START + KEYS - (a->rows - r) / 3;
        from[r] = a->window ? to[r] - a->window : 0;
        slope[r] = a->slope * (float)(1 + r % 4);
    }
    for (int i = 0; i < REACH * 2 + 1; i++) bias[i] = (float)(i % 3) - 1;
    llmq_attn_chunk c = {.type = a->type, .rows = a->rows, .d_k = a->d_k, .d_v = slot->v_cols, .start = START, .q = q, .from = from,
                         .to = to, .slope = a->slope > 0 ? slope : NULL, .bias = a->slope > 0 ? bias : NULL, .head = head,
                         .position = to, .reach = REACH, .softcap = a->softcap, .scores = scores, .scratch = scratch,
                         .out = {out, out + room, acc}};
    for (int i = 0; i < 4; i++) {
        c.k[i] = s->pages[START / LLMQ_PAGE + i] + slot->k;
        c.v[i] = s->pages[START / LLMQ_PAGE + i] + slot->v;
    }
    fn(&c);
    for (int r = 0; r < a->rows; r++) /* what is independent of the choice of the top */
        for (int j = 0; j < a->d_v; j++) out[2 * room + r * a->d_v + j] = acc[r * slot->v_cols + j] / out[room + r];
    free(scratch), free(acc);
}

static void compare_attention(attention a, llmq_isa level) {
    static float q[MOST * 100], k[100], got[MOST * 102], want[MOST * 102];
    const int32_t room = (a.rows + 15) / 16 * 16;
    const llmq_kv_slot like = {.heads = 1, .d_k = a.d_k, .d_v = a.d_v};
    llmq_kv kv;
    int32_t seq;
    if (llmq_kv_init(&kv, a.type, &like, 1) != LLMQ_OK || llmq_kv_open(&kv, &seq) != LLMQ_OK) exit(2);
    if (llmq_kv_reserve(&kv, seq, START + LLMQ_CHUNK) != LLMQ_OK) exit(2);
    for (int p = 0; p < START + KEYS; p++) {
        for (int i = 0; i < 100; i++) k[i] = uniform();
        llmq_kv_put(&kv, seq, 0, p, k, k);
    }
    for (int i = 0; i < a.rows * a.d_k; i++) q[i] = uniform() * 4 / sqrtf((float)a.d_k);
    llmq_isa_use(LLMQ_ISA_SCALAR);
    attend(&a, &kv.sequences[seq], &kv.slots[0], q, llmq_kernels_used()->attend, want);
    llmq_isa_use(level);
    attend(&a, &kv.sequences[seq], &kv.slots[0], q, llmq_kernels_used()->attend, got);
    check("attend: top", got, want, a.rows, 1e-5f);
    check("attend", got + 2 * room, want + 2 * room, (int64_t)a.rows * a.d_v, 1e-5f);
    if (llmq_kernels_used()->attend_tiles != NULL && a.type == LLMQ_BF16) {
        attend(&a, &kv.sequences[seq], &kv.slots[0], q, llmq_kernels_used()->attend_tiles, got);
        check("attend_tiles: top", got, want, a.rows, 1e-2f);
        check("attend_tiles", got + 2 * room, want + 2 * room, (int64_t)a.rows * a.d_v, 3e-3f);
    }
    llmq_kv_free(&kv);
}

static void attentions(llmq_isa level) {
    static const int32_t kv_types[] = {LLMQ_F32, LLMQ_F16, LLMQ_BF16, LLMQ_Q8_0}, sizes[] = {7, 20, 24, 32, 48, 64, 80, 96};
    for (size_t t = 0; t < sizeof kv_types / sizeof *kv_types; t++)
        for (size_t d = 0; d < sizeof sizes / sizeof *sizes; d++)
            for (int32_t rows = 1; rows <= MOST; rows += 13)
                compare_attention((attention){kv_types[t], rows, sizes[d], sizes[(d + 3) % 8], d % 2 ? 0 : 50, d % 3 ? 0 : 0.01f,
                                              d % 4 ? 0 : 2.0f}, level);
}

int main(int argc, char **argv) {
    static const int64_t tokens[] = {1, 2, 3, 5, 7, 8, 13, 33};
    int missing = argc > 1 ? argc - 1 : 1;
    for (int level = LLMQ_ISA_SCALAR + 1; level < LLMQ_ISA_COUNT; level++) {
        if (!llmq_isa_offered((llmq_isa)level)) continue;
        for (int i = 1; i < argc; i++) missing -= strcmp(argv[i], llmq_isa_name((llmq_isa)level)) == 0;
        for (int t = 0; t < TYPES; t++)
            for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
                matmul(types[t], (llmq_isa)level, 16 + (int64_t)i * 5, i % 2 ? WIDE + 256 : 256, tokens[i]);
        ops((llmq_isa)level);
        attentions((llmq_isa)level);
        printf("%s: %d comparisons, %d wrong\n", llmq_isa_name((llmq_isa)level), compared, wrong);
    }
    if (missing > 0) printf("levels that were not compared: %d\n", missing);
    return wrong != 0 || missing > 0;
}

/* llmq.h: what the C rooms share. Types and codecs, the packed weight, the kernel table, the pool, the tape.
 *
 * Nothing here prints, aborts or exits: functions return an llmq_status and the Cython layer raises. Nothing here is global
 * except the kernel table (chosen once from CPUID/XCR0) and the thread pools that callers own. */
#ifndef LLMQ_H
#define LLMQ_H

#include <stddef.h>
#include <stdint.h>

typedef enum llmq_status {
    LLMQ_OK = 0,
    LLMQ_ERR_ARG = 1,       /* an argument out of its documented range */
    LLMQ_ERR_NOMEM = 2,
    LLMQ_ERR_NONFINITE = 3, /* NaN or Inf where a finite number is needed */
    LLMQ_ERR_CANCELLED = 4,
    LLMQ_ERR_UNSUPPORTED = 5,
    LLMQ_ERR_READ = 6,      /* a file could not be read: errno says why, 0 that it ends too early */
} llmq_status;

/* ---- types and codecs (csrc/formats/) ------------------------------------------------------------------------------- */

enum llmq_type {
#define TYPE(name, id, block, bytes) LLMQ_##name = id,
#include "types.def"
#undef TYPE
};

/* LLMQ_BLOCK_x and LLMQ_BYTES_x: weights and bytes per block of each type */
enum {
#define TYPE(name, id, block, bytes) LLMQ_BLOCK_##name = block, LLMQ_BYTES_##name = bytes,
#include "types.def"
#undef TYPE
    LLMQ_MAX_BLOCK = 256,
};

/* Every quantized type is, at run time, integers with scales:
 *
 *     w[i] = d * sc[i / group] * (q[i] - off)  -  dmin * m[i / group]
 *
 * q in 0..255 (as stored, or looked up in the type's codebook and shifted by off to be unsigned), sc in -128..127, m in 0..255. Types
 * with one scale per block have sc = 1 (and m = 1 when they have a minimum; Q4_1's "+ m" is dmin = -m). Multiplying the float32
 * values in exactly this order gives the dequantized value to within float rounding; `dequantize` is the bit-exact definition. */
typedef struct llmq_levels {
    uint8_t q[LLMQ_MAX_BLOCK];
    int8_t sc[LLMQ_MAX_BLOCK / 16];
    uint8_t m[LLMQ_MAX_BLOCK / 16];
    float d, dmin;
} llmq_levels;

/* How the packed form holds d, so that it is exact (pack.c). */
enum llmq_scale {
    LLMQ_SCALE_F16,                 /* binary16 */
    LLMQ_SCALE_F32,                 /* float32, for scales that are not binary16 numbers */
    LLMQ_SCALE_E8M0,                /* powers of two from 2^-128 to 2^127, one byte each */
    LLMQ_SCALE_E4M3,                /* d is 1; instead sc holds codes of the numbers that llmq_e4m3_to_f32 gives (formats/half.h) */
};

typedef struct llmq_codec {
    int32_t type;                   /* id in the file */
    const char *name;
    int32_t block, bytes;           /* weights and bytes per block */
    int32_t bits, group, off;       /* of llmq_levels; bits is the width of q, 0 for float types; 2 off <= 2^bits */
    int32_t has_min, has_scales;    /* m/dmin used; sc/m differ between groups (the 256-weight types) */
    int32_t scale;                  /* enum llmq_scale */
    int32_t code_bits;              /* 1 to 4: q - off is one of the 2^code_bits levels at the start of codebook; 0: any q */
    const int8_t *codebook;         /* 16 numbers (those behind the levels are not used), some levels perhaps equal; or NULL */
    /* n weights, n % block == 0; any alignment; src and dst must not overlap */
    void (*dequantize)(const void *src, float *dst, int64_t n);
    /* weight: n importances >= 0, or NULL. LLMQ_ERR_NONFINITE leaves dst unspecified. Deterministic. */
    llmq_status (*quantize)(const float *src, void *dst, int64_t n, const float *weight);
    void (*levels)(const void *block, llmq_levels *out); /* one block; NULL for float types */
    void (*places)(const void *block, llmq_levels *out); /* the same with places in the codebook as q, or NULL */
    int (*check)(const void *src, int64_t n);            /* 1 when every scale is finite */
} llmq_codec;

const llmq_codec *llmq_codec_of(int32_t type); /* NULL for an unknown id */

/* rows of k weights from one type to another (csrc/formats/convert.inc) and the sums of squares of what is lost and of what was
 * there; weight: importance of each column, or NULL; scratch: 2 k floats; bad: index of the first NaN or infinity on
 * LLMQ_ERR_NONFINITE */
typedef struct llmq_conversion {
    double error, square;
    int64_t bad;
} llmq_conversion;

llmq_status llmq_convert(const llmq_codec *from, const void *src, const llmq_codec *to, void *dst, int64_t rows, int64_t k,
                         const float *weight, float *scratch, llmq_conversion *out);

/* Columns of activations that share a scale when a type is multiplied: its block when that is LLMQ_MAX_BLOCK, else 32. */
static inline int32_t llmq_x8_width(const llmq_codec *codec) {
    return codec->block == LLMQ_MAX_BLOCK ? LLMQ_MAX_BLOCK : 32;
}

/* The product that every matmul kernel computes, its definition in formats/dot.c. Activations x of k columns (k % width == 0) as
 * q int8 [k], dx float [k / width], sum int16 [k / 16]; row: k weights of a quantized type. The second form is for F32, F16, BF16. */
void llmq_quantize_x8(const float *x, int64_t k, int32_t width, int8_t *q, float *dx, int16_t *sum);
float llmq_dot(const llmq_codec *, const void *row, const int8_t *q, const float *dx, const int16_t *sum, int64_t k);
float llmq_dot_float(const llmq_codec *, const void *row, const float *x, int64_t k);

/* ---- thread pool (csrc/threads.c) ------------------------------------------------------------------------------------ */

/* A job is phases in order. Each thread that is awake and finds a phase open takes part in it: it calls work once, which takes
 * pieces from *next until none is left. A phase is over when every thread that took part has come back, and only then does the next
 * one begin; nobody waits for a thread that was not there. So work must find nothing to do once all pieces are taken, and the caller
 * alone must be enough. What is too little to share is put into phases that one thread does alone: the last one to come back from the
 * phase before, without waiting for anybody. */
enum { LLMQ_MAX_THREADS = 64 };
enum llmq_phase_mode { LLMQ_TOGETHER, LLMQ_ALONE, LLMQ_SKIPPED };
typedef struct llmq_pool llmq_pool;
typedef struct llmq_phase {
    _Alignas(64) uint64_t state;      /* the pool's */
    int32_t mode;                     /* set by the caller before the job; the first that is not skipped must be TOGETHER */
    _Alignas(64) int64_t next;        /* set to 0 by the pool; to be used with atomic operations */
} llmq_phase;
typedef void llmq_work(void *arg, int phase, int64_t *next, int tid, int nth);

llmq_pool *llmq_pool_new(int n_threads);                     /* NULL when threads cannot be had; the caller of jobs is thread 0 */
void llmq_pool_free(llmq_pool *);
int llmq_pool_threads(const llmq_pool *);
int llmq_pool_ready(llmq_pool *);                            /* after fork: new workers, perhaps fewer; the number of threads */
/* One job at a time. The phases must stay where they are until the pool is freed: a late thread may still look at their state. */
void llmq_pool_run(llmq_pool *, llmq_phase *phases, int n_phases, llmq_work *work, void *arg);
int64_t llmq_now_ns(void);                                   /* of a clock that never goes back */

/* ---- packed weights and matmul (csrc/pack.c, csrc/ops/matmul.c, csrc/isa/) --------------------------------------------- */

/* A weight matrix W[n][k] as the kernels read it: strips of 16 rows, each strip the planes one after another. See pack.c. */
enum { LLMQ_STRIP = 16, LLMQ_MAX_PLANES = 6 };
typedef struct llmq_packed {
    int32_t type;
    int64_t n, k;                       /* rows (outputs), columns (inputs) of one matrix */
    int64_t experts;                    /* 1, or the number of matrices of a MoE tensor, one after another */
    int64_t strips, strip_bytes;        /* per matrix; rows past n are zeros */
    int64_t plane[LLMQ_MAX_PLANES];     /* byte offset of each plane in a strip, a multiple of 64 */
    int32_t passing;                    /* the caches do not keep these weights from one token to the next */
    uint8_t *data;                      /* 64-byte aligned; owned by the caller */
} llmq_packed;

llmq_status llmq_pack_plan(llmq_packed *, int32_t type, int64_t n, int64_t k, int64_t experts); /* fills all but data */
/* thread's share of packing from file rows (n*experts rows of k weights); 0: a scale or a float weight among them is not finite */
int llmq_pack(const llmq_packed *, const void *rows, int tid, int nth);
/* Where rows stand one after another: in memory or, where that is NULL, in an open file from byte `offset` on. */
typedef struct llmq_rows {
    const void *memory;
    int fd;
    int64_t offset;
} llmq_rows;
/* What kind of pages is asked for, and what the last ones of each cost: nanoseconds of a thread for 2 MB, 0: not known. */
enum { LLMQ_HUGE_OFF, LLMQ_HUGE_ON, LLMQ_HUGE_MEASURED };
typedef struct llmq_paging {
    int huge;
    int64_t small_cost, huge_cost;
} llmq_paging;
/* The same by all threads of a pool, into memory that is to be freed; rows are not read afterwards. LLMQ_ERR_NONFINITE, _NOMEM, _READ and
 * those of the plan leave nothing to free. */
llmq_status llmq_packed_new(llmq_packed *, int32_t type, int64_t n, int64_t k, int64_t experts, llmq_rows rows, llmq_paging *, llmq_pool *,
                            llmq_phase *);
void llmq_packed_row(const llmq_packed *, int64_t expert, int64_t row, float *dst);             /* dequantized, equal to the codec */

/* out[m][ldo] = x[m][ldx] . W^T (+ bias). Two phases: all shares tid of nth of prepare, which converts the activations (8-bit
 * integers, or bf16 tiles, as the path for (type, m, ISA) wants them) into scratch; then run by any of nth threads, which takes strips
 * in turns until none is left. Run takes several products of one x, of equal kinds, as if their strips were those of one matrix.
 * taken: [nth], 0 at the start, to be used with atomic operations. */
typedef struct llmq_product {
    const llmq_packed *w;
    int64_t expert;
    const float *bias;                  /* [w->n], or NULL */
    float *out;
    int64_t ldo;
    const llmq_packed *by;              /* NULL, or of the same shape and kind, without biases: out = act(x . W^T) * (x . by^T) */
    int32_t act;                        /* of GLU */
} llmq_product;
int64_t llmq_matmul_scratch(const llmq_packed *, int64_t m, int nth);  /* bytes of 64-byte aligned scratch */
int llmq_matmul_kind(const llmq_packed *, int64_t m);                  /* equal kinds and equal k share one prepared x */
void llmq_matmul_prepare(const llmq_packed *, const float *x, int64_t m, int64_t ldx, void *scratch, int tid, int nth);
void llmq_matmul_run(const llmq_product *, int32_t n, const float *x, int64_t m, int64_t ldx, void *scratch, uint64_t *taken, int tid,
                     int nth);

/* ---- memory (csrc/bandwidth.c) ----------------------------------------------------------------------------------------- */

uint64_t llmq_sum(const uint64_t *x, int64_t n);

/* ---- the kernel table (csrc/cpu.c, csrc/isa/) -------------------------------------------------------------------------- */

/* Levels are a ladder; each includes those below it. */
typedef enum llmq_isa {
    LLMQ_ISA_SCALAR = 0,
    LLMQ_ISA_NEON,          /* aarch64 with dotprod */
    LLMQ_ISA_NEONI8MM,      /* + i8mm */
    LLMQ_ISA_AVX2,          /* AVX2 + FMA + F16C */
    LLMQ_ISA_AVX512,        /* AVX-512 F/BW/VL/DQ */
    LLMQ_ISA_AVX512VNNI,    /* + VNNI */
    LLMQ_ISA_AVX512BF16,    /* + BF16 */
    LLMQ_ISA_AMX,           /* + AMX tile, int8, bf16, granted by the kernel */
    LLMQ_ISA_COUNT
} llmq_isa;

const char *llmq_isa_name(llmq_isa);
llmq_isa llmq_isa_found(void);              /* best level of this CPU and OS that this build has bodies for */
llmq_isa llmq_isa_used(void);
llmq_status llmq_isa_use(llmq_isa);         /* LLMQ_ERR_UNSUPPORTED above found; not while kernels run */

/* ---- the tape (csrc/engine.c; built and verified by llmq/graph) --------------------------------------------------------- */

enum llmq_op_kind {
#define OP(name, a, b, w, state, doc) LLMQ_OP_##name,
#include "ops.def"
#undef OP
    LLMQ_OP_COUNT
};

/* A tape in parts, run together or alone: the encoder of a model that has both, then what computes the final hidden state, then what
 * turns it into logits. Values pass from BODY to HEAD only; between ENCODE and the others goes state. */
enum llmq_part { LLMQ_PART_BODY, LLMQ_PART_HEAD, LLMQ_PART_ENCODE, LLMQ_PART_COUNT };

typedef struct llmq_op {
    int32_t kind, out, a, b, w0, w1, slot, part;
    int32_t i[8];
    float f[4];
} llmq_op;

typedef struct llmq_value {
    int32_t width;              /* columns */
    int32_t tail;               /* 1: after ROWS, only the output rows */
    int64_t offset;             /* arena offset in floats per token, from the memory plan; values alive together do not overlap */
} llmq_value;

/* a weight as an op sees it: packed for MATMUL, plain float32 for norms, biases and tables, file rows for EMBED */
typedef struct llmq_weight {
    llmq_packed packed;         /* packed.data != NULL for MATMUL */
    const float *f32;           /* != NULL for vectors */
    const void *rows;           /* != NULL for EMBED: file bytes */
    int32_t type;               /* of rows */
    int64_t n, k;
} llmq_weight;

#endif

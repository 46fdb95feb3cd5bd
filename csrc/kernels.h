/* kernels.h: the kernel table, and what kernels read: strips, prepared activations, shapes.
 *
 * A slot holds the best body at or below the level in use (csrc/ladder.def). Every body of the quantized slots and of x8 gives
 * the same bits as the scalar one; the others agree within float32 rounding. */
#ifndef LLMQ_KERNELS_H
#define LLMQ_KERNELS_H

#include "formats/grid.h"
#include "formats/kquant_search.h"
#include "formats/scale_search.h"
#include "llmq.h"
#include "ops/slots.h"

/* ---- planes of a strip (drawn in pack.c) ------------------------------------------------------------------------------- */

enum { LLMQ_PLANE_D, LLMQ_PLANE_DMIN, LLMQ_PLANE_SC, LLMQ_PLANE_M, LLMQ_PLANE_HI, LLMQ_PLANE_LO };

/* What is stored of a weight: its place in the codebook, or q. `stored` bits of it stand in the lo and in the hi plane. */
static inline int llmq_stored_bits(const llmq_codec *codec) { return codec->codebook ? codec->code_bits : codec->bits; }
static inline int llmq_lo_bits(int stored) { return stored == 3 ? 2 : stored == 5 || stored == 6 ? 4 : stored; }
static inline int llmq_hi_bits(int stored) { return stored - llmq_lo_bits(stored); }

/* The d plane: bytes of a scale of that kind, and scale number i. */
static inline int llmq_scale_bytes(int scale) {
    return scale == LLMQ_SCALE_F16 ? 2 : scale == LLMQ_SCALE_F32 ? 4 : scale == LLMQ_SCALE_E8M0 ? 1 : 0;
}
float llmq_plane_scale(const uint8_t *plane, int scale, int64_t i);

/* ---- activations -------------------------------------------------------------------------------------------------------- */

/* One row of k activations as 8-bit integers (csrc/formats/dot.c defines them): int8 q[k], float dx[k / width], int16 sum[k / 16],
 * these sums split for instructions that add pairs of products, int16 half[k / 16][2]: of the columns with index mod 4 in {0, 1} and
 * in {2, 3}, and joined, int16 sum32[k / 32]. Rows follow one another at llmq_x8_stride bytes, 64-byte aligned and an odd number of
 * cache lines, so that the same columns of many rows fall into different sets of a cache. */
static inline int64_t llmq_x8_dx(int64_t k) { return k; }
static inline int64_t llmq_x8_sum(int64_t k) { return k + k / 8; }
static inline int64_t llmq_x8_half(int64_t k) { return k + k / 4; }
static inline int64_t llmq_x8_sum32(int64_t k) { return k + k / 2; }
static inline int64_t llmq_x8_stride(int64_t k) { return ((k + k / 2 + k / 16 + 63) & -64) | 64; }

/* ---- slots -------------------------------------------------------------------------------------------------------------- */

enum {
    LLMQ_KC = 1024,             /* columns that the scalar kernel unpacks at a time */
    LLMQ_FC = 256,              /* columns summed in one float32 chain by the float kernels */
    LLMQ_STRIPS_AT_ONCE = 4,    /* strips that a kernel may be given */
    LLMQ_PANEL = 32 << 10,      /* bytes of scratch a kernel may use: sums, KC columns of a strip in bytes, float [FC][16], products of tiles */
    LLMQ_TILES_SCRATCH = 32 << 10, /* the same for tiles_half and tiles_quant: two panels of two strips by 256 columns in bf16 */
};

/* llmq_codec_of and llmq_convert (llmq.h) */
typedef const llmq_codec *llmq_codec_of_fn(int32_t type);
typedef llmq_status llmq_convert_fn(const llmq_codec *from, const void *src, const llmq_codec *to, void *dst, int64_t rows,
                                    int64_t k, const float *weight, float *scratch, llmq_conversion *out);

/* A strip of `count` rows of a file (isa/pack.inc), the others zeros; 0: a scale, or a float weight, is not finite. */
typedef int llmq_pack_fn(const llmq_packed *w, uint8_t *strip, const uint8_t *rows, int count);
/* llmq_refuse (formats/codec.h) */
typedef llmq_status llmq_refuse_fn(const float *src, int64_t n, const float *weight);

/* x[k] -> one prepared row, width columns (32 or LLMQ_MAX_BLOCK) at a time. Columns with a NaN or an infinity among them get
 * dx = NaN and q = 0, so that the product shows it. */
typedef void llmq_x8_fn(const float *x, int64_t k, int32_t width, uint8_t *row);

/* out[count][m][16] = m prepared rows times `count` <= LLMQ_STRIPS_AT_ONCE neighbouring strips, as csrc/formats/dot.c defines it,
 * for any m >= 1; panel: LLMQ_PANEL bytes. After an odd count one more [m][16] of out may be overwritten. ahead: the strips that
 * the caller will ask for next, NULL when there are none; they are brought into the caches. */
typedef void llmq_mm_quant_fn(const llmq_packed *w, const uint8_t *strips, int64_t count, const uint8_t *ahead, const uint8_t *x,
                              int64_t m, uint8_t *panel, float *out);

/* The slots of shapes.def are of this kind, and tiles_integers, for the types of all shapes: by a tile unit, for more rows than vector
 * instructions multiply as fast; the same bits. */

/* out[count][m][16] = m rows of float32 at stride ldx times `count` <= LLMQ_STRIPS_AT_ONCE neighbouring strips. Each element is
 * the sum, over runs of LLMQ_FC columns, of a chain over the columns of the run in order, whatever m and count are. */
typedef void llmq_mm_float_fn(const llmq_packed *w, const uint8_t *strips, int64_t count, const float *x, int64_t ldx, int64_t m,
                              uint8_t *panel, float *out);

/* The large-batch path: bf16 tiles (see isa/bf16.inc). tiles_x converts tiles [first, last) of 16 rows of m, row t being
 * row rows[t] of x (NULL: row t); tiles_half (F16, BF16) and tiles_quant multiply them by `count` neighbouring strips:
 * out[count][m rounded up to 32][16]. */
typedef void llmq_tiles_x_fn(const float *x, const int32_t *rows, int64_t m, int64_t k, int64_t ldx, int64_t first, int64_t last,
                             uint8_t *tiles);
typedef void llmq_tiles_mm_fn(const llmq_packed *w, const uint8_t *strips, int64_t count, const uint8_t *tiles, int64_t m,
                              uint8_t *scratch, float *out);

typedef struct llmq_kernels {
#define KERNEL(type, name) type *name;
#include "kernels.def"
#undef KERNEL
} llmq_kernels;

enum llmq_slot {
#define KERNEL(type, name) LLMQ_SLOT_##name,
#include "kernels.def"
#undef KERNEL
    LLMQ_SLOTS
};

enum llmq_shape {
#define SHAPE(name, ...) LLMQ_SHAPE_##name,
#include "shapes.def"
#undef SHAPE
    LLMQ_SHAPES
};

const llmq_kernels *llmq_kernels_used(void);
llmq_mm_quant_fn *llmq_mm_quant(int32_t type); /* the slot of the type's shape; NULL for float types and unknown shapes */
int llmq_isa_offered(llmq_isa level);          /* 1 when llmq_isa_use would take it */
const char *llmq_slot_name(int slot);
llmq_isa llmq_slot_level(int slot);            /* level whose body the slot holds; LLMQ_ISA_COUNT when it holds none */
int llmq_shape_of(const llmq_codec *codec);    /* enum llmq_shape, -1 when there is none */

/* csrc/cpuid.c: what this CPU and its operating system offer */
uint32_t llmq_cpu_flags(void);                 /* bit per feature */
const char *llmq_cpu_flag_name(int bit);       /* NULL past the last */
int llmq_cpu_can(llmq_isa level);

#endif

/* kquant_search.h: choosing the integers and scales of the types of 256 weights with scaled groups (K types, IQ4_XS), which all are
 *
 *     w[i] = D * sc[g] * q[i]  -  M * m[g]         g = i / group; D, M binary16; sc, m, q small integers (q perhaps of a codebook)
 *
 * The search is described in kquant_search.inc; the NumPy codecs (llmq/quant/kquants.py) do the same, bit for bit. */
#ifndef LLMQ_FORMATS_KQUANT_SEARCH_H
#define LLMQ_FORMATS_KQUANT_SEARCH_H

#include "formats/codec.h"

enum { KQ_LANES = 16, KQ_STARTS = 16, KQ_MAX_GROUP = 32 };

typedef struct kq_shape {
    int32_t group;          /* weights per group: 16 or 32; 256 / group groups make a block */
    int32_t off;            /* stored level = q + off */
    float qlo, qhi;         /* range of q */
    const int8_t *codebook; /* 16 ascending q, of a type without minima; or NULL: the integers of the range */
    float slo, shi;         /* range of sc */
    float mhi;              /* range of m is 0..mhi; 0: the type has no minima, and its scales have a sign */
    /* First guesses of stage one. With minima: how many levels the lowest stands above the group's least weight and the highest
     * below its greatest (negative: beyond). Without: the level that the weight of largest magnitude is to get, with a sign. */
    float start[KQ_STARTS][2];
    int32_t starts;                 /* an even number */
    float step;                     /* the candidates of stage two give the largest a (or b) the integers shi, shi - step, ... */
    int32_t reach_sc, reach_m;      /* the window of stage three: so many steps of sc and of m to either side */
} kq_shape;

/* One body per instruction set, all with the same result: integers and scales of KQ_LANES groups, which are whole blocks. src:
 * finite weights; weight: importances, or NULL. */
typedef void kq_body(const kq_shape *, const float *src, const float *weight, llmq_levels *out);

/* The quantize of a K type: search, then pack each block. */
typedef void kq_pack(const llmq_levels *, void *block);
llmq_status llmq_kquant_quantize(const kq_shape *, kq_pack *, int32_t bytes, const float *src, void *dst, int64_t n,
                                 const float *weight);

#endif

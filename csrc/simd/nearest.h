/* nearest.h: the level nearest to a number, in lanes: of the integers lo..hi, or of a codebook of 16 ascending levels. */
#ifndef LLMQ_SIMD_NEAREST_H
#define LLMQ_SIMD_NEAREST_H

#include "simd/inline.h"
#include "simd/lanes.h"

typedef struct llmq_nearest {
    float lo, hi;                   /* lowest and highest level */
    float middle[15], step[15];     /* of a codebook: halfway between neighbours (belongs to the upper one), and their difference */
} llmq_nearest;

static inline llmq_nearest llmq_nearest_of(float lo, float hi, const int8_t *codebook) {
    llmq_nearest n = {.lo = lo, .hi = hi};
    if (!codebook) return n;
    n.lo = codebook[0];
    n.hi = codebook[15];
    for (int i = 0; i < 15; i++) {
        n.middle[i] = 0.5f * (float)(codebook[i] + codebook[i + 1]);
        n.step[i] = (float)(codebook[i + 1] - codebook[i]);
    }
    return n;
}

V_INLINE vf vf_nearest_whole(const llmq_nearest *n, vf y) {
    return vf_round(vf_clamp(y, vf_set(n->lo), vf_set(n->hi)));
}

V_INLINE vf vf_nearest_in_book(const llmq_nearest *n, vf y) {
    vf q = vf_set(n->lo);
    for (int i = 0; i < 15; i++) q += vf_pick(y >= vf_set(n->middle[i]), vf_set(n->step[i]), vf_set(0));
    return q;
}

#endif

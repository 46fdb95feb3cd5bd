/* weights.h: from levels to weights. */
#ifndef LLMQ_FORMATS_WEIGHTS_H
#define LLMQ_FORMATS_WEIGHTS_H

#include "formats/codec.h"
#include "simd/inline.h"
#include "simd/vec.h"

/* dst[n] = a * (q - off) - b. The levels lie where a function has just put them, in pieces of 16 bytes; loads of more, which a
 * compiler may choose, would wait until all of them have reached the cache. */
V_INLINE void llmq_weights_of(const uint8_t *q, int n, int off, float a, float b, float *dst) {
    for (int i = 0; i < n; i += LLMQ_LANES) {
        vf_store(dst + i, vf_set(a) * (vf_load_u8(q + i) - vf_set((float)off)) - vf_set(b));
    }
}

/* The levels of a type with one scale: out->q is there already. */
static inline void llmq_one_scale(llmq_levels *out, int groups, float d) {
    memset(out->sc, 1, (size_t)groups);
    memset(out->m, 0, (size_t)groups);
    out->d = d;
    out->dmin = 0;
}

/* And its weights, d * (q - off). With constant arguments all of it is inlined. */
V_INLINE void llmq_dequantize_one_scale(void (*levels)(const void *block, llmq_levels *out), int block, int bytes, int off,
                                        const void *src, float *dst, int64_t n) {
    const uint8_t *p = src;
    for (int64_t at = 0; at < n; at += block, p += bytes, dst += block) {
        llmq_levels w;
        levels(p, &w);
        llmq_weights_of(w.q, block, off, w.d, 0, dst);
    }
}

#endif

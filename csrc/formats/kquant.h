/* kquant.h: what the codecs of the 256-weight K types share beside their search. */
#ifndef LLMQ_FORMATS_KQUANT_H
#define LLMQ_FORMATS_KQUANT_H

#include "formats/kquant_search.h"
#include "formats/weights.h"

/* Fields of 1, 2 or 4 bits in runs of 32 bytes: byte 32 r + l holds, from its lowest bits up, those of weights
 * 32 (r * 8 / bits + t) + l, t = 0, 1, ... Adds them to q, shifted left by `at`; n weights. */
static inline void llmq_unpack_runs(const uint8_t *from, int bits, int at, uint8_t *q, int n) {
    const int per = 8 / bits, mask = (1 << bits) - 1;
    for (int run = 0; run < n / 32; run++) {
        for (int l = 0; l < 32; l++) {
            q[32 * run + l] = (uint8_t)(q[32 * run + l] | (from[run / per * 32 + l] >> bits * (run % per) & mask) << at);
        }
    }
}

/* The inverse: the bits of q from `at` on. */
static inline void llmq_pack_runs(const uint8_t *q, int bits, int at, uint8_t *to, int n) {
    const int per = 8 / bits, mask = (1 << bits) - 1;
    memset(to, 0, (size_t)(n / per));
    for (int run = 0; run < n / 32; run++) {
        for (int l = 0; l < 32; l++) {
            to[run / per * 32 + l] = (uint8_t)(to[run / per * 32 + l] | (q[32 * run + l] >> at & mask) << bits * (run % per));
        }
    }
}

/* The 6-bit scales and minima of 8 groups in 12 bytes:
 *
 *     byte g      (g < 4)   sc[g] in bits 0..5, bits 4..5 of sc[4 + g] in bits 6..7
 *     byte 4 + g            m[g] in bits 0..5, bits 4..5 of m[4 + g] in bits 6..7
 *     byte 8 + g            bits 0..3 of sc[4 + g] in bits 0..3, of m[4 + g] in bits 4..7
 */
static inline void llmq_unpack_scales(const uint8_t from[12], int8_t sc[8], uint8_t m[8]) {
    for (int g = 0; g < 4; g++) {
        sc[g] = from[g] & 63;
        m[g] = from[4 + g] & 63;
        sc[4 + g] = (int8_t)((from[8 + g] & 15) | from[g] >> 6 << 4);
        m[4 + g] = (uint8_t)(from[8 + g] >> 4 | from[4 + g] >> 6 << 4);
    }
}

static inline void llmq_pack_scales(const int8_t sc[8], const uint8_t m[8], uint8_t to[12]) {
    for (int g = 0; g < 4; g++) {
        to[g] = (uint8_t)(sc[g] | sc[4 + g] >> 4 << 6);
        to[4 + g] = (uint8_t)(m[g] | m[4 + g] >> 4 << 6);
        to[8 + g] = (uint8_t)((sc[4 + g] & 15) | (m[4 + g] & 15) << 4);
    }
}

/* Every K type multiplies in the same order: (d * sc) * (q - off) - dmin * m. With a constant `levels` all of it is inlined. */
V_INLINE void llmq_kquant_dequantize(void (*levels)(const void *block, llmq_levels *out), int bytes, int group, int off,
                                    const void *src, float *dst, int64_t n) {
    const uint8_t *block = src;
    for (int64_t at = 0; at < n; at += 256, block += bytes) {
        llmq_levels w;
        levels(block, &w);
        for (int g = 0; g < 256 / group; g++, dst += group) {
            const float a = w.d * (float)w.sc[g], b = w.dmin * (float)w.m[g];
            llmq_weights_of(w.q + group * g, group, off, a, b, dst);
        }
    }
}

#endif

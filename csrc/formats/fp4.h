/* fp4.h: what MXFP4 and NVFP4 share: weights of one sign bit, two bits of exponent and one of mantissa (E2M1). */
#ifndef LLMQ_FORMATS_FP4_H
#define LLMQ_FORMATS_FP4_H

#include "formats/codec.h"

/* q is twice the number, plus 16: an integer of 5 bits. A code's bit 3 is the sign, the others are its place among the magnitudes. */
enum { LLMQ_FP4_OFF = 16 };
extern const int8_t llmq_fp4_levels[16]; /* ascending (codecs.c) */

/* Places 0..7 of the levels are negative, from the largest magnitude to -0, 8..15 positive. */
static inline uint8_t llmq_fp4_place(uint8_t code) {
    return (uint8_t)(code < 8 ? 8 + code : 15 - code);
}

static inline void llmq_look_up_fp4(uint8_t *q, int n) {
    for (int i = 0; i < n; i++) q[i] = (uint8_t)(llmq_fp4_levels[q[i]] + LLMQ_FP4_OFF);
}

static inline uint8_t llmq_fp4_code(int level) {
    uint8_t place = 0;
    for (int i = 9; i < 16; i++) place += (level < 0 ? -level : level) >= llmq_fp4_levels[i];
    return (uint8_t)(place + (level < 0 ? 8 : 0));
}

#endif

/* codecs.c: the codecs of the level in use, and the codebooks that several of them share. */
#include "formats/fp4.h"
#include "kernels.h"

const int8_t llmq_iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
const int8_t llmq_fp4_levels[16] = {-12, -8, -6, -4, -3, -2, -1, 0, 0, 1, 2, 3, 4, 6, 8, 12};

const llmq_codec *llmq_codec_of(int32_t type) {
    return llmq_kernels_used()->codec_of(type);
}

llmq_status llmq_convert(const llmq_codec *from, const void *src, const llmq_codec *to, void *dst, int64_t rows, int64_t k,
                         const float *weight, float *scratch, llmq_conversion *out) {
    return llmq_kernels_used()->convert(from, src, to, dst, rows, k, weight, scratch, out);
}

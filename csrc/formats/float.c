/* float.c: the types without blocks: F32, F16 (IEEE binary16) and BF16 (the high half of binary32). */
#include <string.h>

#include "formats/half.h"
#include "llmq.h"

static void f32_dequantize(const void *src, float *dst, int64_t n) {
    memcpy(dst, src, (size_t)n * sizeof(float));
}

static llmq_status f32_quantize(const float *src, void *dst, int64_t n, const float *weight) {
    (void)weight;
    memcpy(dst, src, (size_t)n * sizeof(float));
    return LLMQ_OK;
}

static int f32_check(const void *src, int64_t n) {
    const uint8_t *p = src;
    for (int64_t i = 0; i < n; i++) {
        float x;
        memcpy(&x, p + 4 * i, 4);
        if (!(x - x == 0.0f)) return 0;
    }
    return 1;
}

const llmq_codec llmq_codec_F32 = {
    .type = LLMQ_F32, .name = "F32", .block = 1, .bytes = 4,
    .dequantize = f32_dequantize, .quantize = f32_quantize, .check = f32_check,
};

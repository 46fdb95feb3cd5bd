/* avx512_matmul.c: the matmul of csrc/isa/matmul.inc in AVX-512 without VNNI. */
#include "simd/avx512.h"

#include "isa/matmul.inc"

void llmq_body_avx512_matmul(llmq_kernels *k);
void llmq_body_avx512_matmul(llmq_kernels *k) {
    set_matmul(k);
}

/* neoni8mm_matmul.c: the matmul of csrc/isa/matmul.inc in NEON with the 8-bit matrix multiplication. */
#define V_I8MM 1
#include "simd/neon.h"

#include "isa/matmul.inc"

void llmq_body_neoni8mm_matmul(llmq_kernels *k);
void llmq_body_neoni8mm_matmul(llmq_kernels *k) {
    set_matmul(k);
}

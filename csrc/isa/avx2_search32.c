/* avx2_search32.c: the search of the 32-weight types in lanes of 8. */
#include "formats/search32.inc"
#include "kernels.h"

void llmq_body_avx2_search32(llmq_kernels *);
void llmq_body_avx2_search32(llmq_kernels *k) {
    k->search32 = s32_search_blocks;
}

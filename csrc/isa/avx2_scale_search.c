/* avx2_scale_search.c: the search of formats/scale_search.inc in lanes of 8. */
#include "formats/scale_search.inc"
#include "kernels.h"

void llmq_body_avx2_scale_search(llmq_kernels *);
void llmq_body_avx2_scale_search(llmq_kernels *k) {
    k->scale_search = ss_search_blocks;
}

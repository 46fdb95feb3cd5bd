/* avx512_kquant_search.c: the search of the K types in lanes of 16. */
#include "formats/kquant_search.inc"
#include "kernels.h"

void llmq_body_avx512_kquant_search(llmq_kernels *);
void llmq_body_avx512_kquant_search(llmq_kernels *k) {
    k->kquant_search = kq_search_groups;
}

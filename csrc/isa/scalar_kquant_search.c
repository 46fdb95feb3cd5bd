/* scalar_kquant_search.c: the search of the K types in portable lanes of 4. */
#include "formats/kquant_search.inc"
#include "kernels.h"

void llmq_body_scalar_kquant_search(llmq_kernels *);
void llmq_body_scalar_kquant_search(llmq_kernels *k) {
    k->kquant_search = kq_search_groups;
}

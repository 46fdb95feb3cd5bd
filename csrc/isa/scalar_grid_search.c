/* scalar_grid_search.c: the search of formats/grid_search.inc, compiled for its instruction set. */
#include "formats/grid_search.inc"
#include "kernels.h"

void llmq_body_scalar_grid_search(llmq_kernels *);
void llmq_body_scalar_grid_search(llmq_kernels *k) {
    k->grid_search = gs_search;
}

/* batch.c: cutting and grouping the tokens of a batch; see batch.h. */
#include "batch.h"

#include <string.h>

llmq_batch llmq_batch_part(const llmq_batch *b, int32_t from, int32_t n, int32_t *outputs, int32_t *first_output) {
    llmq_batch part = {.n = b->n - from < n ? b->n - from : n, .tokens = b->tokens + from, .positions = b->positions + from,
                       .sequences = b->sequences + from, .outputs = outputs,
                       .types = b->types == NULL ? NULL : b->types + from};
    int32_t i = 0;
    while (i < b->n_out && b->outputs[i] < from) i++;
    *first_output = i;
    for (; i < b->n_out && b->outputs[i] < from + part.n; i++) outputs[part.n_out++] = b->outputs[i] - from;
    return part;
}

int32_t llmq_batch_end(const llmq_batch *b, int32_t i) {
    int32_t last = b->n - 1;
    while (b->sequences[last] != b->sequences[i]) last--;
    return b->positions[last] + 1;
}

/* order[n], first[n + 1], then a group id per sequence */
int64_t llmq_group_ints(int32_t n, int32_t n_sequences) { return 2 * (int64_t)n + 1 + n_sequences; }

llmq_groups llmq_batch_groups(const llmq_batch *b, int32_t *memory) {
    int32_t *order = memory, *first = order + b->n, *group_of = first + b->n + 1;
    int32_t groups = 0, sum = 0;
    for (int32_t i = 0; i < b->n; i++) group_of[b->sequences[i]] = -1;
    memset(first, 0, ((size_t)b->n + 1) * sizeof *first);
    for (int32_t i = 0; i < b->n; i++) {
        int32_t *g = &group_of[b->sequences[i]];
        if (*g < 0) *g = groups++;
        first[*g]++;
    }
    for (int32_t g = 0; g <= groups; g++) { /* counts become starts */
        const int32_t count = first[g];
        first[g] = sum;
        sum += count;
    }
    for (int32_t i = 0; i < b->n; i++) order[first[group_of[b->sequences[i]]]++] = i;
    memmove(first + 1, first, (size_t)groups * sizeof *first); /* starts had become ends */
    first[0] = 0;
    return (llmq_groups){groups, order, first, b->positions, b->sequences};
}

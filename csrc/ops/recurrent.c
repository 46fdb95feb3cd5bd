/* recurrent.c: drives the CONV, SCAN and DELTA kernels through the tokens of each sequence.
 *
 * Channels are cut into blocks of up to 16, which never hold two groups of SCAN or two heads of DELTA; a block of a sequence is a work
 * item, and its tokens go through it one after another. So nothing depends on threads, on other sequences, or on how tokens came in
 * batches: a state that passes through memory between two tokens is the same float32 numbers.
 *
 * The state that a run starts from is the sequence's last record in place, or zeros; its own place is the last pending record, which
 * later micro-batches find and go on from. Where the run passes the position of another pending record, that gets a copy. */
#include "ops/recurrent.h"

#include <string.h>

#include "kernels.h"

enum { LANES = LLMQ_CHANNELS };

typedef struct {
    int64_t per_group, n;   /* blocks */
    int64_t group_channels; /* channels of a group */
    int64_t floats;         /* of state in a block */
} blocks;

static blocks blocks_of(const llmq_op *op) {
    int64_t channels = op->i[1], groups = 1, kept = op->i[0] - 1;
    if (op->kind == LLMQ_OP_SCAN) {
        groups = op->i[2];
        channels *= op->i[0] / groups;
        kept = op->i[3];
    } else if (op->kind == LLMQ_OP_DELTA) {
        groups = op->i[0];
        kept = op->i[3];
    }
    const int64_t per_group = (channels + LANES - 1) / LANES;
    return (blocks){per_group, per_group * groups, channels, LANES * kept};
}

int llmq_is_recurrent(const llmq_op *op) { return op->kind == LLMQ_OP_CONV || op->kind == LLMQ_OP_SCAN || op->kind == LLMQ_OP_DELTA; }

int64_t llmq_recurrent_floats(const llmq_op *op) {
    const blocks all = blocks_of(op);
    return all.n * all.floats;
}

/* `tokens` rows of a block, starting from and ending with `state` */
static void run_tokens(const llmq_recurrent *x, const blocks *all, int64_t block, float *state, const int32_t *rows, int64_t tokens) {
    const llmq_op *op = x->op;
    const int64_t group = block / all->per_group, within = block % all->per_group * LANES, first = group * all->group_channels + within;
    const int n = (int)(all->group_channels - within < LANES ? all->group_channels - within : LANES);
    llmq_channels c = {.n = n, .rows = rows, .tokens = tokens, .x = x->a + first, .x_step = x->a_width, .out = x->out + first,
                       .out_step = x->out_width, .state = state};
    if (op->kind == LLMQ_OP_CONV) {
        llmq_kernels_used()->conv(&c, x->w0 + block * op->i[0] * LANES, x->w1 == NULL ? NULL : x->w1 + first, op->i[0]);
        return;
    }
    const int64_t heads = op->i[0], groups = op->i[2], states = op->i[3];
    if (op->kind == LLMQ_OP_DELTA) {
        const int64_t key = op->i[4] ? group % groups : group / (heads / groups); /* group: the head */
        const llmq_delta d = {.states = (int)states, .a = x->w0[group], .scale = op->f[0], .q = x->a + key * states,
                              .k = x->a + (groups + key) * states, .dt = x->b + group, .rate = x->b + heads + group, .dt_step = x->b_width};
        c.x += 2 * groups * states;
        llmq_kernels_used()->delta(&c, &d);
        return;
    }
    llmq_scan s = {.states = (int)states, .shared = op->i[4], .a = op->i[4] ? x->w0 : x->w0 + block * states * LANES, .d = x->w1,
                   .b = x->a + heads * op->i[1] + group * states, .dt = x->b, .dt_step = x->b_width};
    s.c = s.b + groups * states;
    for (int j = 0; j < LANES; j++) s.head[j] = (int32_t)((first + (j < n ? j : n - 1)) / op->i[1]);
    llmq_kernels_used()->scan(&c, &s);
}

static void run_block(const llmq_recurrent *x, const blocks *all, int64_t group, int64_t block) {
    const int32_t *rows = x->groups->order + x->groups->first[group];
    const int32_t n = x->groups->first[group + 1] - x->groups->first[group], start = x->groups->positions[rows[0]];
    const llmq_sequence *s = &x->kv->sequences[x->groups->sequences[rows[0]]];
    llmq_record *const *pending = s->states.records + s->states.n;
    const int64_t at = x->kv->slots[x->op->slot].record + block * all->floats;
    const size_t bytes = (size_t)all->floats * sizeof(float);
    float *state = pending[s->states.pending - 1]->data + at;
    if (start == s->length && start > 0)
        memcpy(state, pending[-1]->data + at, bytes);
    else if (start == 0)
        memset(state, 0, bytes);
    int32_t done = 0;
    for (int32_t i = 0; i < s->states.pending; i++) {
        const int32_t end = pending[i]->position - start < n ? pending[i]->position - start : n;
        if (end <= done) continue;
        run_tokens(x, all, block, state, rows + done, end - done);
        done = end;
        if (i < s->states.pending - 1 && end == pending[i]->position - start) memcpy(pending[i]->data + at, state, bytes);
    }
}

void llmq_recurrent_run(const llmq_recurrent *x, int nth) {
    const blocks all = blocks_of(x->op);
    const int64_t items = all.n * x->groups->n, fair = items / (nth * 8), chunk = fair < 1 ? 1 : fair;
    for (int64_t at; (at = __atomic_fetch_add(x->next, chunk, __ATOMIC_RELAXED)) < items;)
        for (int64_t i = at; i < at + chunk && i < items; i++) run_block(x, &all, i / all.n, i % all.n);
}

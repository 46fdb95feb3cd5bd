/* states.c: records of recurrent states; see states.h. */
#include "states.h"

#include <stdlib.h>

#include "ops/slots.h"

enum { STEP = 8 };

int64_t llmq_record_bytes(const llmq_records *all) { return all->floats > 0 ? (int64_t)sizeof(llmq_record) + all->floats * (int64_t)sizeof(float) : 0; }

int llmq_record_kept(int32_t position, int32_t length) {
    int64_t unit = LLMQ_PAGE;
    if (position <= 0 || position % unit != 0) return 0;
    while (position % (unit * STEP) == 0) unit *= STEP;
    return length < position + 2 * unit;
}

void llmq_records_free(llmq_records *all) {
    while (all->spare != NULL) {
        llmq_record *r = all->spare;
        all->spare = r->next;
        free(r);
    }
    all->n_spare = 0;
}

static llmq_record *take(llmq_records *all, int32_t position) {
    llmq_record *r = all->spare;
    if (r != NULL) {
        all->spare = r->next;
        all->n_spare--;
    } else {
        r = aligned_alloc(64, (size_t)(llmq_record_bytes(all) + 63) / 64 * 64);
        if (r == NULL) return NULL;
    }
    r->next = NULL;
    r->position = position;
    r->owners = 1;
    all->owned++;
    all->taken++;
    return r;
}

static void drop(llmq_records *all, llmq_record *r) {
    if (--r->owners > 0) return;
    all->owned--;
    if (all->owned == 0) llmq_records_free(all);
    if (all->owned == 0 || all->n_spare >= all->taken) {
        free(r);
    } else {
        r->next = all->spare;
        all->spare = r;
        all->n_spare++;
    }
}

static llmq_status room_for(llmq_states *s, int32_t n) {
    if (n <= s->capacity) return LLMQ_OK;
    const int32_t capacity = n + n / 2 + 4;
    llmq_record **more = realloc(s->records, (size_t)capacity * sizeof(*more));
    if (more == NULL) return LLMQ_ERR_NOMEM;
    s->records = more;
    s->capacity = capacity;
    return LLMQ_OK;
}

static int32_t count_before(const llmq_states *s, int32_t length) {
    int32_t n = s->n;
    while (n > 0 && s->records[n - 1]->position > length) n--;
    return n;
}

int32_t llmq_states_before(const llmq_states *s, int32_t length) {
    const int32_t n = count_before(s, length);
    return n > 0 ? s->records[n - 1]->position : 0;
}

llmq_status llmq_states_share(const llmq_states *from, int32_t length, llmq_states *to) {
    const int32_t n = count_before(from, length);
    const llmq_status status = n > 0 ? room_for(to, n) : LLMQ_OK;
    for (int32_t i = 0; i < n && status == LLMQ_OK; i++) {
        to->records[i] = from->records[i];
        to->records[i]->owners++;
        to->n++;
    }
    return status;
}

void llmq_states_cut(llmq_records *all, llmq_states *s, int32_t length) {
    const int32_t n = count_before(s, length);
    while (s->n + s->pending > n) {
        drop(all, s->records[s->n + s->pending - 1]);
        if (s->pending > 0)
            s->pending--;
        else
            s->n--;
    }
}

void llmq_states_free(llmq_records *all, llmq_states *s) {
    llmq_states_cut(all, s, 0);
    free(s->records);
    *s = (llmq_states){0};
}

/* The next position after `at` that a run to `end` keeps a record of. */
static int32_t next_kept(int32_t at, int32_t end) {
    for (int64_t p = ((int64_t)at / LLMQ_PAGE + 1) * LLMQ_PAGE; p < end; p += LLMQ_PAGE)
        if (llmq_record_kept((int32_t)p, end)) return (int32_t)p;
    return end;
}

int32_t llmq_states_growth(const llmq_records *all, int32_t length, int32_t end) {
    int32_t n = 0;
    for (int32_t at = length; all->floats > 0 && at < end; n++) at = next_kept(at, end);
    return n;
}

llmq_status llmq_states_reserve(llmq_records *all, llmq_states *s, int32_t length, int32_t end) {
    const int32_t n = llmq_states_growth(all, length, end);
    if (n == 0) return LLMQ_OK;
    llmq_status status = room_for(s, s->n + n);
    for (int32_t at = length; at < end && status == LLMQ_OK;) {
        at = next_kept(at, end);
        llmq_record *r = take(all, at);
        if (r != NULL)
            s->records[s->n + s->pending++] = r;
        else
            status = LLMQ_ERR_NOMEM;
    }
    if (status != LLMQ_OK) llmq_states_cut(all, s, length);
    return status;
}

void llmq_states_commit(llmq_records *all, llmq_states *s) {
    s->n += s->pending;
    s->pending = 0;
    int32_t kept = 0;
    for (int32_t i = 0; i < s->n; i++) {
        llmq_record *r = s->records[i];
        if (i == s->n - 1 || llmq_record_kept(r->position, s->records[s->n - 1]->position))
            s->records[kept++] = r;
        else
            drop(all, r);
    }
    s->n = kept;
}

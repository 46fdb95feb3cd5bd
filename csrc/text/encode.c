/* encode.c: a text to ids: special tokens are cut out, what lies between goes through the model. */
#include <stdlib.h>

#include "internal.h"

static text_work *work_take(text_vocab *v) {
    pthread_mutex_lock(&v->lock);
    text_work *work = v->idle;
    if (work) v->idle = work->next;
    pthread_mutex_unlock(&v->lock);
    return work ? work : calloc(1, sizeof *work);
}

static void work_give(text_vocab *v, text_work *work) {
    pthread_mutex_lock(&v->lock);
    work->next = v->idle;
    v->idle = work;
    pthread_mutex_unlock(&v->lock);
}

static text_status encode_all(const text_vocab *v, text_work *work, const uint8_t *p, const uint8_t *end, uint32_t hidden, text_ids *out) {
    text_status status = TEXT_OK;
    while (!status && p < end) {
        uint32_t length = 0;
        int32_t id = -1;
        const uint8_t *special = trie_find(&v->specials, p, end, v->types, hidden, &length, &id);
        if (special > p) status = bpe_encode(v, work, p, special, out);
        if (!status && special < end) status = ids_push(out, id);
        p = special + length;
    }
    return status;
}

text_status text_encode(text_vocab *v, const uint8_t *text, size_t n, int special, int32_t **ids, size_t *n_ids) {
    text_ids out = {0};
    *ids = NULL;
    *n_ids = 0;
    if (n > TEXT_MAX) return TEXT_TOO_LONG;
    text_work *work = work_take(v);
    text_status status = work ? ids_grow(&out, n / 3 + 16) : TEXT_NOMEM;
    if (!status) status = encode_all(v, work, text, text + n, special ? 0 : 1u << TOKEN_CONTROL | 1u << TOKEN_UNKNOWN, &out);
    if (work) work_give(v, work);
    if (status) {
        free(out.v);
        return status;
    }
    *ids = out.v;
    *n_ids = out.n;
    return TEXT_OK;
}

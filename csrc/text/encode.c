/* encode.c: a text to ids: special tokens are cut out, what lies between goes through the model. */
#include <stdlib.h>

#include "internal.h"

enum { KEEP = 1 << 20 }; /* bytes of room that an idle workspace may hold on to */

static text_work *work_take(text_vocab *v) {
    pthread_mutex_lock(&v->lock);
    text_work *work = v->idle;
    if (work) v->idle = work->next;
    pthread_mutex_unlock(&v->lock);
    return work ? work : calloc(1, sizeof *work);
}

static void work_give(text_vocab *v, text_work *work) {
    if (work->normal.cap > KEEP) free(work->normal.v), work->normal = (text_buffer){0};
    if (work->points.cap > KEEP / 4) free(work->points.v), work->points = (text_points){0};
    pthread_mutex_lock(&v->lock);
    work->next = v->idle;
    v->idle = work;
    pthread_mutex_unlock(&v->lock);
}

text_status word_append(const text_vocab *v, text_work *work, text_word_model model, const uint8_t *p, size_t n, text_ids *out) {
    text_status status = ids_grow(out, n > CACHE_IDS ? n : CACHE_IDS);
    if (status) return status;
    if (n > CACHE_BYTES) return model(v, p, n, out);
    struct text_word *word = &work->cache[hash_bytes(p, n, v->seed) % CACHE_WORDS];
    if (word->n_bytes != n || memcmp(word->bytes, p, n)) {
        size_t start = out->n;
        status = model(v, p, n, out);
        if (status || out->n - start > CACHE_IDS) return status;
        word->n_bytes = (uint8_t)n;
        word->n_ids = (uint8_t)(out->n - start);
        memcpy(word->bytes, p, n);
        memcpy(word->ids, out->v + start, (out->n - start) * sizeof *out->v);
        return TEXT_OK;
    }
    memcpy(out->v + out->n, word->ids, sizeof word->ids);
    out->n += word->n_ids;
    return TEXT_OK;
}

static text_status encode_fragment(const text_vocab *v, text_work *work, const uint8_t *p, const uint8_t *end, int first,
                                   text_ids *out) {
    switch (v->model) {
    case MODEL_BPE: return bpe_encode(v, work, p, end, out);
    case MODEL_SPM: return spaces_encode(v, work, spm_word, p, end, first, out);
    case MODEL_UNIGRAM: return spaces_encode(v, work, unigram_word, p, end, first, out);
    case MODEL_WORDPIECE: return wordpiece_encode(v, work, p, end, out);
    }
    return TEXT_OK;
}

static text_status encode_all(const text_vocab *v, text_work *work, const uint8_t *p, const uint8_t *end, uint32_t hidden,
                              text_ids *out) {
    text_status status = TEXT_OK;
    for (const uint8_t *text = p; !status && p < end;) {
        text_match match = special_find(v, p, end, hidden);
        if (match.start > p) status = encode_fragment(v, work, p, match.start, p == text, out);
        if (!status && match.start < end) status = ids_push(out, match.id);
        p = match.stop;
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

/* bpe.c: byte-level byte-pair encoding (Radford et al. 2019): cut into words, each word's bytes merged by rank. */
#include <stdlib.h>

#include "internal.h"

text_status bpe_prepare(text_vocab *v) {
    if (!v->ignore_merges) return TEXT_OK;
    text_status status = table_new(&v->by_bytes, v->stands, (size_t)v->n, v->seed);
    for (int64_t i = 0; !status && i < v->n; i++)
        if (v->types[i] == TOKEN_NORMAL && v->stands[i].n) table_insert(&v->by_bytes, (int32_t)i);
    return status;
}

text_status bpe_word(const text_vocab *v, const uint8_t *p, size_t n, text_ids *out) {
    int32_t *ids = out->v + out->n;
    size_t count = 0;
    if (v->ignore_merges) {
        int32_t id = table_find(&v->by_bytes, (text_bytes){p, (uint32_t)n});
        if (id >= 0) {
            out->v[out->n++] = id;
            return TEXT_OK;
        }
    }
    for (size_t i = 0; i < n; i++) {
        int32_t id = v->byte_id[p[i]] >= 0 ? v->byte_id[p[i]] : v->unk;
        if (id >= 0) ids[count++] = id;
    }
    text_status status = merges_apply(&v->merges, ids, &count);
    out->n += count;
    return status;
}

text_status bpe_encode(const text_vocab *v, text_work *work, const uint8_t *p, const uint8_t *end, text_ids *out) {
    if (v->nfc && !unicode_is_nfc(p, end)) {
        text_status status = unicode_nfc(&work->points, p, end, &work->normal);
        if (status) return status;
        p = work->normal.v, end = p + work->normal.n;
    }
    text_cutter cutter = {v->pre, end, {0}};
    text_status status = TEXT_OK;
    for (const uint8_t *next; !status && p < end; p = next) {
        next = text_cut(&cutter, p);
        status = word_append(v, work, bpe_word, p, (size_t)(next - p), out);
    }
    return status;
}

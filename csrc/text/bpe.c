/* bpe.c: byte-level byte-pair encoding (Radford et al. 2019): cut into words, each word's bytes merged by rank. */
#include <stdlib.h>

#include "internal.h"

/* merges[at] = "left right": both parts and what they make are tokens. The first character of a part may be a space (the names of
 * some vocabularies contain spaces), so the cut is at the first space after it. */
static text_status add_merge(text_vocab *v, text_bytes merge, int32_t rank, uint8_t *joined) {
    const uint8_t *space = merge.n > 1 ? memchr(merge.p + 1, ' ', merge.n - 1) : NULL;
    if (!space || space + 1 == merge.p + merge.n) return TEXT_NO_SPLIT;
    text_bytes left = {merge.p, (uint32_t)(space - merge.p)}, right = {space + 1, merge.n - left.n - 1}, both = {joined, merge.n - 1};
    memcpy(joined, left.p, left.n);
    memcpy(joined + left.n, right.p, right.n);
    int32_t left_id = table_find(&v->by_name, left), right_id = table_find(&v->by_name, right), id = table_find(&v->by_name, both);
    if (left_id < 0 || right_id < 0 || id < 0) return TEXT_NO_PART;
    /* plain text must not merge into a control token */
    if (v->types[id] != TOKEN_CONTROL && v->types[id] != TOKEN_UNKNOWN) merges_insert(&v->merges, left_id, right_id, rank, id);
    return TEXT_OK;
}

text_status bpe_prepare(text_vocab *v, const text_spec *spec, text_error *error) {
    uint32_t longest = 0;
    for (int64_t i = 0; i < spec->n_merges; i++)
        if (spec->merges[i].n > longest) longest = spec->merges[i].n;
    uint8_t *joined = malloc((size_t)longest + 1);
    text_status status = joined ? merges_new(&v->merges, (size_t)spec->n_merges, v->seed) : TEXT_NOMEM;
    for (int64_t i = 0; !status && i < spec->n_merges; i++) {
        error->at = i;
        status = add_merge(v, spec->merges[i], (int32_t)i, joined);
    }
    free(joined);
    if (status || !v->pre->ignore_merges) return status;
    status = table_new(&v->by_bytes, v->stands, (size_t)v->n, v->seed);
    for (int64_t i = 0; !status && i < v->n; i++)
        if (v->types[i] == TOKEN_NORMAL && v->stands[i].n) table_insert(&v->by_bytes, (int32_t)i);
    return status;
}

/* appends the tokens of one word; out has room for n more */
static text_status merge_word(const text_vocab *v, const uint8_t *p, size_t n, text_ids *out) {
    int32_t *ids = out->v + out->n;
    size_t count = 0;
    if (v->pre->ignore_merges) {
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

static text_status encode_word(const text_vocab *v, text_work *work, const uint8_t *p, size_t n, text_ids *out) {
    text_status status = ids_grow(out, n > CACHE_IDS ? n : CACHE_IDS);
    if (status) return status;
    if (n > CACHE_BYTES) return merge_word(v, p, n, out);
    struct text_word *word = &work->cache[hash_bytes(p, n, v->seed) % CACHE_WORDS];
    if (word->n_bytes != n || memcmp(word->bytes, p, n)) {
        size_t start = out->n;
        status = merge_word(v, p, n, out);
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

static text_status encode_stage(const text_vocab *v, text_work *work, int stage, const uint8_t *p, const uint8_t *end, text_ids *out) {
    int last = stage == 2 || !v->pre->stage[stage + 1];
    for (const uint8_t *next; p < end; p = next) {
        next = v->pre->stage[stage](p, end);
        text_status status = last ? encode_word(v, work, p, (size_t)(next - p), out) : encode_stage(v, work, stage + 1, p, next, out);
        if (status) return status;
    }
    return TEXT_OK;
}

text_status bpe_encode(const text_vocab *v, text_work *work, const uint8_t *p, const uint8_t *end, text_ids *out) {
    return encode_stage(v, work, 0, p, end, out);
}

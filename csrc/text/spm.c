/* spm.c: SentencePiece BPE (Kudo & Richardson 2018, arXiv:1808.06226): characters are merged to tokens, the token of highest score
 * first; a character that is no token becomes its bytes ("<0xHH>"), or the unknown token where the vocabulary has none.
 *
 * Spaces are written as U+2581. The pairs that can merge are found once, when the vocabulary is read: every way to part a token in
 * two tokens is a merge whose rank is that of the token's score. So encoding is that of any byte-pair vocabulary. */
#include <stdlib.h>

#include "internal.h"
#include "unicode.h"

/* ---- from scores to merges --------------------------------------------------------------------------------------------------- */

typedef struct scored {
    float score;
    int32_t id;
} scored;

static int by_score(const void *a, const void *b) {
    const scored *x = a, *y = b;
    return x->score > y->score ? -1 : x->score < y->score ? 1 : (x->id > y->id) - (x->id < y->id);
}

/* every way to part token `id` in two tokens */
static text_status part(text_vocab *v, int32_t id, int32_t rank) {
    text_bytes whole = v->name[id];
    text_status status = TEXT_OK;
    for (uint32_t cut = (uint32_t)utf8_length(whole.p[0]); !status && cut < whole.n; cut += (uint32_t)utf8_length(whole.p[cut])) {
        int32_t left = table_find(&v->by_name, (text_bytes){whole.p, cut});
        if (left < 0 || !token_is_plain(v, left)) continue;
        int32_t right = table_find(&v->by_name, (text_bytes){whole.p + cut, whole.n - cut});
        if (right < 0 || !token_is_plain(v, right)) continue;
        status = merges_insert(&v->merges, (text_merge){left, right, rank, id});
    }
    return status;
}

static text_status merges_of_scores(text_vocab *v, const text_spec *spec, text_error *error) {
    scored *order = malloc((size_t)v->n * sizeof *order + 1);
    text_status status = order ? merges_new(&v->merges, v->seed) : TEXT_NOMEM;
    int64_t count = 0;
    for (int64_t i = 0; !status && i < v->n; i++)
        if (token_is_plain(v, (int32_t)i) && v->name[i].n) order[count++] = (scored){spec->scores[i], (int32_t)i};
    if (!status) qsort(order, (size_t)count, sizeof *order, by_score);
    int32_t rank = 0; /* equal scores have one rank: of them the leftmost pair comes first */
    for (int64_t i = 0; !status && i < count; i++) {
        error->at = order[i].id;
        rank += i > 0 && order[i].score != order[i - 1].score;
        status = v->name[order[i].id].n > TOKEN_MAX ? TEXT_LONG_TOKEN : part(v, order[i].id, rank);
    }
    free(order);
    return status;
}

text_status spm_prepare(text_vocab *v, const text_spec *spec, text_error *error) {
    text_status status = spec->n_merges ? merges_read(v, spec, error) : merges_of_scores(v, spec, error);
    v->cut_spaces = 1;
    for (int64_t i = 0; i < v->n; i++)
        if (token_is_plain(v, (int32_t)i) && spaces_inside(v->name[i])) v->cut_spaces = 0;
    return status;
}

/* ---- encoding ------------------------------------------------------------------------------------------------------------------- */

/* the bytes of a character that is no token, or the unknown token (one for several in a row) */
static text_status push_bytes(const text_vocab *v, uint32_t cp, int *unknown, text_ids *out) {
    uint8_t bytes[4];
    int n = utf8_encode(cp, bytes);
    text_status status = TEXT_OK;
    if (v->byte_fallback)
        for (int i = 0; !status && i < n; i++) status = ids_push(out, v->byte_id[bytes[i]]);
    else if (!*unknown && v->unk >= 0) status = ids_push(out, v->unk);
    *unknown = 1;
    return status;
}

/* Characters that are no token are -1 - code point while the others merge. */
text_status spm_word(const text_vocab *v, const uint8_t *p, size_t n, text_ids *out) {
    int32_t *ids = malloc(n * sizeof *ids);
    size_t count = 0;
    if (!ids) return TEXT_NOMEM;
    for (const uint8_t *end = p + n; p < end;) {
        int length;
        uint32_t cp = utf8_decode(p, &length);
        int32_t id = table_find(&v->by_name, (text_bytes){p, (uint32_t)length});
        ids[count++] = id >= 0 && token_is_plain(v, id) ? id : -1 - (int32_t)cp;
        p += length;
    }
    text_status status = merges_apply(&v->merges, ids, &count);
    int unknown = 0;
    for (size_t i = 0; !status && i < count; i++) {
        if (ids[i] < 0) {
            status = push_bytes(v, (uint32_t)(-1 - ids[i]), &unknown, out);
        } else {
            status = ids_push(out, ids[i]);
            unknown = 0;
        }
    }
    free(ids);
    return status;
}

text_status spaces_encode(const text_vocab *v, text_work *work, text_word_model model, const uint8_t *p, const uint8_t *end, int first,
                          text_ids *out) {
    text_status status = spaces_escape(&v->charsmap, v->flags, p, end, first, &work->normal);
    p = work->normal.v, end = p + work->normal.n;
    for (const uint8_t *next; !status && p < end; p = next) {
        next = v->cut_spaces ? spaces_word(p, end) : end;
        status = word_append(v, work, model, p, (size_t)(next - p), out);
    }
    return status;
}

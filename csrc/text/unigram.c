/* unigram.c: the unigram model of SentencePiece (Kudo 2018, arXiv:1804.10959): of all ways to part a word in tokens the one with the
 * highest sum of scores, found by dynamic programming over the places between characters (Viterbi).
 *
 * A character that begins no token is unknown, with a score of PENALTY below the lowest; several in a row are one unknown token (or their
 * bytes, where the vocabulary has them). Sums are doubles and the first of equal ways wins, as in Hugging Face `tokenizers`. */
#include <stdlib.h>

#include "internal.h"
#include "unicode.h"

static const double PENALTY = 10.0;

text_status unigram_prepare(text_vocab *v, const text_spec *spec, text_error *error) {
    double lowest = 0;
    text_status status = trie_new(&v->pieces, v->seed);
    v->scores = malloc((size_t)v->n * sizeof *v->scores + 1);
    if (!v->scores) return TEXT_NOMEM;
    memcpy(v->scores, spec->scores, (size_t)v->n * sizeof *v->scores);
    v->cut_spaces = 1;
    for (int64_t i = 0; !status && i < v->n; i++) {
        if (!token_is_plain(v, (int32_t)i)) continue;
        error->at = i;
        if (v->name[i].n > TOKEN_MAX) return TEXT_LONG_TOKEN;
        if (v->scores[i] < lowest) lowest = v->scores[i];
        if (spaces_inside(v->name[i])) v->cut_spaces = 0;
        status = trie_insert(&v->pieces, v->name[i], (int32_t)i);
    }
    v->unknown_score = lowest - PENALTY;
    return status;
}

typedef struct place { /* the best way to a place in the word */
    double score;
    uint32_t start;     /* where its last token begins */
    int32_t id;         /* that token; -1: unknown; -2: no way yet */
} place;

static void offer(place *at, double score, uint32_t start, int32_t id) {
    if (at->id == -2 || score > at->score) *at = (place){score, start, id};
}

/* the ids of the best way, backwards from its end, then turned around; `out` has room for n */
static void trace(const text_vocab *v, const uint8_t *p, size_t n, const place *best, text_ids *out) {
    size_t first = out->n;
    int after_unknown = 0;
    for (size_t at = n; at > 0; at = best[at].start) {
        int32_t id = best[at].id;
        if (id >= 0) {
            out->v[out->n++] = id;
        } else if (v->byte_fallback) {
            for (size_t i = at; i-- > best[at].start;) out->v[out->n++] = v->byte_id[p[i]];
        } else if (!after_unknown && v->unk >= 0) {
            out->v[out->n++] = v->unk;
        }
        after_unknown = id < 0;
    }
    for (size_t i = first, j = out->n; i + 1 < j; i++) {
        int32_t id = out->v[i];
        out->v[i] = out->v[--j];
        out->v[j] = id;
    }
}

text_status unigram_word(const text_vocab *v, const uint8_t *p, size_t n, text_ids *out) {
    place *best = malloc((n + 1) * sizeof *best);
    if (!best) return TEXT_NOMEM;
    for (size_t i = 0; i <= n; i++) best[i].id = -2;
    best[0] = (place){0, 0, -1};
    for (size_t at = 0, length; at < n; at += length) {
        length = (size_t)utf8_length(p[at]);
        int32_t node = 0, single = 0;
        for (size_t stop = at; stop < n;) {
            const struct text_edge *edge = trie_edge(&v->pieces, node, p[stop++]);
            if (!edge->child) break;
            node = edge->child;
            if (edge->token < 0) continue;
            single |= stop - at == length;
            offer(&best[stop], best[at].score + v->scores[edge->token], (uint32_t)at, edge->token);
        }
        if (!single) offer(&best[at + length], best[at].score + v->unknown_score, (uint32_t)at, -1);
    }
    trace(v, p, n, best, out);
    free(best);
    return TEXT_OK;
}

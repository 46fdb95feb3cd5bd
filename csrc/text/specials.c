/* specials.c: finding the tokens that stand in texts as themselves (special and added tokens): a trie over bytes, walked from every
 * place where some token could begin; leftmost match first, of those the longest. Tokens have at most TOKEN_MAX bytes, which
 * bounds the work per byte of text. */
#include <stdlib.h>

#include "internal.h"
#include "unicode.h"

text_status trie_new(text_trie *trie, uint64_t seed) {
    *trie = (text_trie){.edge = calloc(64, sizeof *trie->edge), .mask = 63, .seed = seed, .n_nodes = 1};
    return trie->edge ? TEXT_OK : TEXT_NOMEM;
}

void trie_free(text_trie *trie) { free(trie->edge); }

struct text_edge *trie_edge(const text_trie *trie, int32_t parent, int32_t byte) {
    uint64_t at = hash_u64((uint64_t)parent << 8 | (uint64_t)byte, trie->seed);
    for (;; at++) {
        struct text_edge *edge = &trie->edge[at & trie->mask];
        if (!edge->child || (edge->parent == parent && edge->byte == byte)) return edge;
    }
}

static text_status grow(text_trie *trie) {
    text_trie bigger = *trie;
    bigger.mask = 2 * trie->mask + 1;
    bigger.edge = calloc(bigger.mask + 1, sizeof *bigger.edge);
    if (!bigger.edge) return TEXT_NOMEM;
    for (uint64_t i = 0; i <= trie->mask; i++)
        if (trie->edge[i].child) *trie_edge(&bigger, trie->edge[i].parent, trie->edge[i].byte) = trie->edge[i];
    free(trie->edge);
    *trie = bigger;
    return TEXT_OK;
}

text_status trie_insert(text_trie *trie, text_bytes token, int32_t id) {
    struct text_edge *edge = NULL;
    int32_t node = 0;
    for (uint32_t i = 0; i < token.n; i++) {
        if ((uint64_t)trie->n_nodes * 2 > trie->mask && grow(trie)) return TEXT_NOMEM;
        edge = trie_edge(trie, node, token.p[i]);
        if (!edge->child) *edge = (struct text_edge){node, token.p[i], trie->n_nodes++, -1};
        node = edge->child;
    }
    if (edge) {
        edge->token = id;
        trie->first[token.p[0]] = 1;
    }
    return TEXT_OK;
}

/* the longest token at p whose type is not hidden; its length, 0 for none */
static uint32_t longest_at(const text_vocab *v, const uint8_t *p, const uint8_t *end, uint32_t hidden, int32_t *id) {
    uint32_t found = 0;
    int32_t node = 0;
    for (const uint8_t *q = p; q < end; q++) {
        const struct text_edge *edge = trie_edge(&v->specials, node, *q);
        if (!edge->child) break;
        node = edge->child;
        if (edge->token < 0 || hidden >> v->types[edge->token] & 1) continue;
        *id = edge->token;
        found = (uint32_t)(q + 1 - p);
    }
    return found;
}

static const uint8_t *back(const uint8_t *p) {
    do p--;
    while ((*p & 0xc0) == 0x80);
    return p;
}

/* a letter, mark, digit, connecting mark or joiner at p */
static int is_word_char(const uint8_t *p, const uint8_t *end) {
    int n;
    uint32_t class = class_at(p, end, &n);
    if (class & CLASS_CF) return utf8_decode(p, &n) == 0x200c || utf8_decode(p, &n) == 0x200d;
    return (class & (CLASS_LETTER | CLASS_MARK | CLASS_ND | CLASS_NL | CLASS_PC)) != 0;
}

text_match special_find(const text_vocab *v, const uint8_t *p, const uint8_t *end, uint32_t hidden) {
    int n;
    for (const uint8_t *at = p; at < end; at++) {
        if (!v->specials.first[*at]) continue;
        text_match match = {at, at, -1};
        match.stop += longest_at(v, at, end, hidden, &match.id);
        if (match.stop == at) continue;
        int strips = v->strips ? v->strips[match.id] : 0;
        int joined = (at > p && is_word_char(back(at), end)) || is_word_char(match.stop, end);
        if (strips & WHOLE_WORD && joined) continue;
        if (strips & STRIP_LEFT)
            while (match.start > p && class_at(back(match.start), end, &n) & CLASS_SPACE) match.start = back(match.start);
        if (strips & STRIP_RIGHT)
            while (class_at(match.stop, end, &n) & CLASS_SPACE) match.stop += n;
        return match;
    }
    return (text_match){end, end, -1};
}

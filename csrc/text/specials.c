/* specials.c: finding the tokens that stand in texts as themselves (special and added tokens): a trie over bytes, walked from every
 * place where some token could begin; leftmost match first, of those the longest. Tokens have at most SPECIAL_MAX bytes, which
 * bounds the work per byte of text. */
#include <stdlib.h>

#include "internal.h"

text_status trie_new(text_trie *trie, uint64_t seed) {
    *trie = (text_trie){.edge = calloc(64, sizeof *trie->edge), .mask = 63, .seed = seed, .n_nodes = 1};
    return trie->edge ? TEXT_OK : TEXT_NOMEM;
}

void trie_free(text_trie *trie) { free(trie->edge); }

static inline struct text_edge *edge_of(const text_trie *trie, int32_t parent, int32_t byte) {
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
        if (trie->edge[i].child) *edge_of(&bigger, trie->edge[i].parent, trie->edge[i].byte) = trie->edge[i];
    free(trie->edge);
    *trie = bigger;
    return TEXT_OK;
}

text_status trie_insert(text_trie *trie, text_bytes token, int32_t id) {
    struct text_edge *edge = NULL;
    int32_t node = 0;
    for (uint32_t i = 0; i < token.n; i++) {
        if ((uint64_t)trie->n_nodes * 2 > trie->mask && grow(trie)) return TEXT_NOMEM;
        edge = edge_of(trie, node, token.p[i]);
        if (!edge->child) *edge = (struct text_edge){node, token.p[i], trie->n_nodes++, -1};
        node = edge->child;
    }
    if (edge) {
        edge->token = id;
        trie->first[token.p[0]] = 1;
    }
    return TEXT_OK;
}

const uint8_t *trie_find(const text_trie *trie, const uint8_t *p, const uint8_t *end, const uint8_t *types, uint32_t hidden, uint32_t *n,
                         int32_t *id) {
    for (; p < end; p++) {
        if (!trie->first[*p]) continue;
        *id = -1;
        int32_t node = 0;
        for (const uint8_t *q = p; q < end; q++) {
            const struct text_edge *edge = edge_of(trie, node, *q);
            if (!edge->child) break;
            node = edge->child;
            if (edge->token >= 0 && !(hidden >> types[edge->token] & 1)) {
                *id = edge->token;
                *n = (uint32_t)(q + 1 - p);
            }
        }
        if (*id >= 0) return p;
    }
    return end;
}

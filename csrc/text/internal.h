/* internal.h: what the files of this room share. */
#ifndef LLMQ_TEXT_INTERNAL_H
#define LLMQ_TEXT_INTERNAL_H

#include <pthread.h>
#include <string.h>

#include "normalize.h"
#include "spaces.h"
#include "text.h"

/* ---- hashing (vocab.c) -------------------------------------------------------------------------------------------------- */

static inline uint64_t hash_u64(uint64_t x, uint64_t seed) {
    x = (x ^ seed) * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

static inline uint64_t hash_bytes(const uint8_t *p, size_t n, uint64_t seed) {
    uint64_t h = seed + n, last = 0;
    for (; n > 8; p += 8, n -= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        h = hash_u64(word, h);
    }
    memcpy(&last, p, n);
    return hash_u64(last, h);
}

/* byte strings to ids, open addressing; the strings are rows of an array that outlives the table */
typedef struct text_table {
    struct text_entry { uint32_t tag; int32_t id; } *entry; /* tag: upper half of the hash; id < 0: free */
    const text_bytes *strings;
    uint64_t mask, seed;
} text_table;

text_status table_new(text_table *, const text_bytes *strings, size_t n, uint64_t seed); /* room for n strings */
int32_t table_find(const text_table *, text_bytes);     /* -1: not there */
int32_t table_insert(text_table *, int32_t id);         /* strings[id]; the id that was there before, or -1 */

/* ---- growing arrays -------------------------------------------------------------------------------------------------------- */

typedef struct text_ids {
    int32_t *v;
    size_t n, cap;
} text_ids;

text_status ids_grow(text_ids *, size_t more); /* room for `more` ids after v[n - 1] */

static inline text_status ids_push(text_ids *out, int32_t id) {
    if (out->n == out->cap) {
        text_status status = ids_grow(out, 1);
        if (status) return status;
    }
    out->v[out->n++] = id;
    return TEXT_OK;
}

/* ---- merges (merges.c) ------------------------------------------------------------------------------------------------------ */

/* pair of ids -> (rank, id of what they make), open addressing */
typedef struct text_merge {
    int32_t left, right;    /* left < 0: free */
    int32_t rank, id;
} text_merge;

typedef struct text_merges {
    text_merge *slot;
    uint64_t mask, seed, n;
} text_merges;

text_status merges_new(text_merges *, uint64_t seed);
text_status merges_insert(text_merges *, text_merge); /* of equal pairs the first counts */
void merges_free(text_merges *);

/* Merges ids[0..n) in place until no pair has a rank, always the pair of lowest rank and of those the leftmost; *n becomes what is
 * left. Negative ids never merge. */
text_status merges_apply(const text_merges *, int32_t *ids, size_t *n);

/* ---- tokens that are looked for in texts (specials.c) ------------------------------------------------------------------------ */

typedef struct text_trie {
    struct text_edge { int32_t parent, byte, child, token; } *edge; /* open addressing on (parent, byte); child 0: free; token or -1 */
    uint64_t mask, seed;
    int32_t n_nodes;        /* the root is 0 */
    uint8_t first[256];     /* 1: some token begins with this byte */
} text_trie;

text_status trie_new(text_trie *, uint64_t seed);
text_status trie_insert(text_trie *, text_bytes token, int32_t id);
void trie_free(text_trie *);
struct text_edge *trie_edge(const text_trie *, int32_t parent, int32_t byte); /* child 0: there is none */

/* a special token in a text, with the white space that it takes; none: start == stop == the end of the text */
typedef struct text_match {
    const uint8_t *start, *stop;
    int32_t id;
} text_match;

/* the leftmost and of those the longest in [p, end); tokens whose type's bit is in `hidden` are passed over */
text_match special_find(const text_vocab *, const uint8_t *p, const uint8_t *end, uint32_t hidden);

/* ---- the vocabulary ----------------------------------------------------------------------------------------------------------- */

/* What one encode call works in. Idle ones wait in the vocabulary, so that their caches of words stay warm. */
enum { CACHE_WORDS = 8192, CACHE_BYTES = 22, CACHE_IDS = 10 };
typedef struct text_work {
    struct text_work *next;
    text_buffer normal, word;
    text_points points;
    struct text_word {
        uint8_t n_bytes, n_ids;     /* n_bytes 0: free */
        uint8_t bytes[CACHE_BYTES];
        int32_t ids[CACHE_IDS];
    } cache[CACHE_WORDS];
} text_work;

struct text_vocab {
    text_model model;
    int flags;
    int64_t n;
    uint64_t seed;
    uint8_t *bytes;             /* of all tokens: as in the file, and what they stand for */
    text_bytes *name, *stands;  /* per token: as in the file; what it stands for in a text */
    uint8_t *types, *strips;
    text_table by_name;
    text_table by_bytes;        /* with ignore_merges: the tokens that words can be, by what they stand for */
    text_trie specials;
    text_trie pieces;           /* MODEL_UNIGRAM: the tokens that words are made of */
    float *scores;              /* MODEL_UNIGRAM */
    double unknown_score;
    text_charsmap charsmap;     /* MODEL_SPM, MODEL_UNIGRAM */
    const text_pre *pre;
    int nfc, ignore_merges;
    int cut_spaces;             /* no token has a space behind something else, so words can be encoded one by one */
    int byte_fallback;          /* there is a token for every byte */
    text_merges merges;
    int32_t unk;
    int32_t byte_id[256];       /* token of one byte, or -1 */
    pthread_mutex_t lock;       /* of idle */
    text_work *idle;
};

/* One model: `prepare` indexes what it needs; `encode` appends the ids of a fragment; `word` those of one word (out has room for n
 * more), without a memory: `word_append` asks it for what the cache does not have. first: the fragment begins the text. */
text_status merges_read(text_vocab *, const text_spec *, text_error *); /* spec.merges, whose parts are names of tokens */
text_status bpe_prepare(text_vocab *);
text_status spm_prepare(text_vocab *, const text_spec *, text_error *);
text_status bpe_encode(const text_vocab *, text_work *, const uint8_t *p, const uint8_t *end, text_ids *out);
text_status wordpiece_encode(const text_vocab *, text_work *, const uint8_t *p, const uint8_t *end, text_ids *out);
text_status bpe_word(const text_vocab *, const uint8_t *p, size_t n, text_ids *out);
text_status unigram_prepare(text_vocab *, const text_spec *, text_error *);
text_status unigram_word(const text_vocab *, const uint8_t *p, size_t n, text_ids *out);
text_status spm_word(const text_vocab *, const uint8_t *p, size_t n, text_ids *out);
text_status wordpiece_word(const text_vocab *, const uint8_t *p, size_t n, text_ids *out);

typedef text_status (*text_word_model)(const text_vocab *, const uint8_t *p, size_t n, text_ids *out);
text_status spaces_encode(const text_vocab *, text_work *, text_word_model, const uint8_t *p, const uint8_t *end, int first,
                          text_ids *out);
text_status word_append(const text_vocab *, text_work *, text_word_model, const uint8_t *p, size_t n, text_ids *out);

/* 1: text can be made of the token (it is not special, and not a byte for what has no token) */
static inline int token_is_plain(const text_vocab *v, int32_t id) {
    return v->types[id] == TOKEN_NORMAL || v->types[id] == TOKEN_USER_DEFINED || v->types[id] == TOKEN_UNUSED;
}

#endif

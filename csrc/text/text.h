/* text.h: tokenizers. A vocabulary is checked and indexed once, then only read; one may be used from many threads.
 *
 *     text ──specials──▶ fragments ──normalize──▶ ──cut into words──▶ words ──merge or match──▶ ids
 *
 * Everything here is linear or n log n in the text, whatever the text and whatever the vocabulary. Ids are int32_t. Text is
 * valid UTF-8 of at most TEXT_MAX bytes. Functions return a text_status; nothing is printed, nothing is global. */
#ifndef LLMQ_TEXT_H
#define LLMQ_TEXT_H

#include <stddef.h>
#include <stdint.h>

enum {
    TEXT_MAX = 0x7fffff00,  /* bytes of a text */
    TOKEN_MAX = 1024,       /* bytes of a token that is looked for in texts, or that pieces are merged to by score */
};

typedef enum text_status {
    TEXT_OK = 0,
    TEXT_NOMEM,
    TEXT_TOO_LONG,       /* a text of more than TEXT_MAX bytes */
    TEXT_DUPLICATE,      /* tokens[at] == tokens[other] */
    TEXT_BAD_BYTE,       /* tokens[at] has type BYTE but is not "<0xHH>" */
    TEXT_NO_SPLIT,       /* merges[at] has no space between two parts */
    TEXT_NO_PART,        /* merges[at]: a part, or what the parts make, is not a token */
    TEXT_LONG_TOKEN,     /* tokens[at] is longer than TOKEN_MAX */
    TEXT_BAD_MAP,        /* charsmap has not the layout of one */
} text_status;

/* tokenizer.ggml.token_type */
enum { TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_USER_DEFINED = 4, TOKEN_UNUSED = 5, TOKEN_BYTE = 6 };

typedef enum text_model {
    MODEL_BPE,          /* byte-level byte-pair encoding: merges over bytes written as the printable characters of GPT-2 */
    MODEL_SPM,          /* SentencePiece BPE: merges over characters by score (or by a list), unknown characters as bytes */
    MODEL_UNIGRAM,      /* SentencePiece unigram: the tokens with the highest sum of scores */
    MODEL_WORDPIECE,    /* BERT: longest match from the left, words begin with U+2581 */
} text_model;

enum { /* of text_spec.flags */
    SPACE_PREFIX = 1,   /* MODEL_SPM, MODEL_UNIGRAM: a space before every fragment */
    PREFIX_FIRST = 2,   /* ... only before one that begins the text */
    PREFIX_MISSING = 4, /* ... only where there is none yet */
    COLLAPSE_SPACES = 8, /* ... one space for several, none at the ends of a fragment */
    ANY_SPACE = 64,     /* ... every White_Space character is a space */
    LAST_SPACE = 128,   /* ... with COLLAPSE_SPACES, one space does stay at the end of a fragment */
    LOWER_CASE = 16,    /* MODEL_WORDPIECE: small letters */
    STRIP_ACCENTS = 32, /* ... without accents */
};

enum { STRIP_LEFT = 1, STRIP_RIGHT = 2, WHOLE_WORD = 4 }; /* of text_spec.strips: a special token takes the white space beside it */

typedef struct text_bytes {
    const uint8_t *p;
    uint32_t n;
} text_bytes;

/* How a text is cut into words that merges do not cross: stages, each cutting the pieces of the one before. A stage returns the
 * end of the first piece of [p, end), p < end; it reads nothing beyond end. */
enum { PRE_STAGES = 6 };
typedef const uint8_t *(*text_scanner)(const uint8_t *p, const uint8_t *end);
typedef struct text_pre {
    const char *name;                   /* tokenizer.ggml.pre */
    text_scanner stage[PRE_STAGES];     /* NULL after the last */
    int ignore_merges;                  /* a word that is a token is that token, whatever the merges say */
    int nfc;                            /* the original normalizes texts to NFC */
    int add_bos, add_sep;               /* when the file does not say */
} text_pre;

const text_pre *text_pre_of(const char *name); /* NULL for an unknown name */
const text_pre *text_pre_at(int index);        /* NULL past the last */

/* Cuts [p, text_end) from word to word: `end` all NULL at first, then p = text_cut(&cutter, p) gives the end of each, until text_end. */
typedef struct text_cutter {
    const text_pre *pre;
    const uint8_t *text_end, *end[PRE_STAGES];
} text_cutter;

const uint8_t *text_cut(text_cutter *, const uint8_t *p);

typedef struct text_spec {
    text_model model;
    int flags;
    int64_t n_tokens, n_merges;
    const text_bytes *tokens;   /* as in the file */
    const uint8_t *types;
    const uint8_t *strips;      /* or NULL */
    const float *scores;        /* of MODEL_SPM without merges and MODEL_UNIGRAM: finite; higher is better */
    const uint8_t *charsmap;    /* of MODEL_SPM and MODEL_UNIGRAM: precompiled_charsmap */
    size_t n_charsmap;          /* bytes; 0: none */
    const text_bytes *merges;   /* "left right", the first comes first */
    const text_pre *pre;        /* of MODEL_BPE */
    int nfc, ignore_merges;     /* as in text_pre, which only knows what is usual */
    int32_t unk;                /* for what has no token; -1: dropped */
    uint64_t seed;              /* of the hash tables */
} text_spec;

typedef struct text_error {
    int64_t at, other;
} text_error;

typedef struct text_vocab text_vocab;

text_status text_vocab_new(const text_spec *, text_vocab **, text_error *);
void text_vocab_free(text_vocab *);
int64_t text_vocab_size(const text_vocab *);
text_bytes text_vocab_name(const text_vocab *, int32_t id);     /* the token as in the file */
text_bytes text_vocab_bytes(const text_vocab *, int32_t id);    /* what it stands for in a text */
uint8_t text_vocab_type(const text_vocab *, int32_t id);
int32_t text_vocab_find(const text_vocab *, text_bytes name);   /* -1 when there is no such token */

/* Encodes n bytes; *ids is malloc'd by the call (also for none) and the caller frees it. special: tokens of type CONTROL and
 * UNKNOWN are recognized in the text too, not only those of type USER_DEFINED. */
text_status text_encode(text_vocab *, const uint8_t *text, size_t n, int special, int32_t **ids, size_t *n_ids);

#endif

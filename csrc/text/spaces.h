/* spaces.h: the normalization of SentencePiece: a map of characters, and spaces written as U+2581. */
#ifndef LLMQ_SPACES_H
#define LLMQ_SPACES_H

#include "normalize.h"
#include "text.h"

enum { SPACE_BYTES = 3, REPLACEMENT_MAX = 256 };
extern const char SPACE_MARK[SPACE_BYTES + 1]; /* U+2581 in UTF-8 */

/* precompiled_charsmap: what to write for which characters; a double array (Yata et al., darts-clone) over UTF-8, then the texts */
typedef struct text_charsmap {
    uint8_t *bytes;         /* a copy of the blob; NULL: no map */
    size_t n_units;         /* of the array, which begins at bytes + 4 */
    const char *texts;      /* each ends with a 0 */
    size_t n_texts;         /* bytes */
} text_charsmap;

text_status charsmap_new(text_charsmap *, const uint8_t *blob, size_t n); /* TEXT_BAD_MAP; no map for an empty blob */

/* p, end: a fragment, first: it begins the text; flags: SPACE_PREFIX … of text_spec. out becomes the normalized fragment. */
text_status spaces_escape(const text_charsmap *, int flags, const uint8_t *p, const uint8_t *end, int first, text_buffer *out);

static inline int is_space_mark(const uint8_t *p, const uint8_t *end) {
    return end - p >= SPACE_BYTES && !memcmp(p, SPACE_MARK, SPACE_BYTES);
}

int spaces_inside(text_bytes token);                                    /* 1: a space stands behind something else */
const uint8_t *spaces_word(const uint8_t *p, const uint8_t *end);       /* end of the spaces at p and of the word behind them */

#endif

/* pre.c: pre-tokenizers: how a text is cut into the words that merges do not cross.
 *
 * Each is the hand-written scanner of one published regular expression (quoted above it); no pattern is ever compiled from a file.
 * A scanner looks at the class of each character (Unicode 16.0) once, so a text is cut in linear time: a run of white space may be
 * walked twice. */
#include <stddef.h>

#include "internal.h"
#include "unicode.h"

#define NEWLINE(c) ((c) == '\n' || (c) == '\r')

/* ---- the pieces that the expressions share ----------------------------------------------------------------------------------- */

/* X* for the characters X of a set of classes */
static const uint8_t *run(const uint8_t *p, const uint8_t *end, uint32_t set) {
    int n;
    while (class_at(p, end, &n) & set) p += n;
    return p;
}

static const uint8_t *newlines(const uint8_t *p, const uint8_t *end) {
    while (p < end && NEWLINE(*p)) p++;
    return p;
}

/* 's|'t|'re|'ve|'m|'ll|'d at p; its end, or p. fold: in any case, and the long s (U+017F) is an s */
static const uint8_t *contraction(const uint8_t *p, const uint8_t *end, int fold) {
    if (end - p < 2 || *p != '\'') return p;
    uint8_t a = p[1], b = end - p > 2 ? p[2] : 0;
    if (fold) {
        if (a == 0xc5 && b == 0xbf) return p + 3;
        a = a < 0x80 ? a | 0x20 : a;
        b = b < 0x80 ? b | 0x20 : b;
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return p + 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? p + 3 : p;
}

/* \s+(?!\S)|\s+ at white space: all of it at the end, otherwise all but its last character, or that one */
static const uint8_t *spaces(const uint8_t *p, const uint8_t *end) {
    const uint8_t *last = p, *q = p;
    int n;
    while (class_at(q, end, &n) & CLASS_SPACE) last = q, q += n;
    return q == end || last == p ? q : last;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ at white space */
static const uint8_t *lines_or_spaces(const uint8_t *p, const uint8_t *end) {
    const uint8_t *last = p, *q = p, *line = NULL;
    int n;
    while (class_at(q, end, &n) & CLASS_SPACE) {
        if (NEWLINE(*q)) line = q + 1;
        last = q, q += n;
    }
    if (line) return line;
    return q == end || last == p ? q : last;
}

/* ---- scanners ------------------------------------------------------------------------------------------------------------------
 * */

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static const uint8_t *gpt2(const uint8_t *p, const uint8_t *end) {
    const uint8_t *q = contraction(p, end, 0);
    if (q > p) return q;
    int n;
    q = p + (*p == ' ');
    uint32_t class = class_at(q, end, &n);
    if (class & CLASS_LETTER) return run(q + n, end, CLASS_LETTER);
    if (class & CLASS_NUMBER) return run(q + n, end, CLASS_NUMBER);
    if (class & ~CLASS_SPACE) return run(q + n, end, CLASS_ANY & ~(CLASS_SPACE | CLASS_LETTER | CLASS_NUMBER));
    return spaces(p, end);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
static inline const uint8_t *gpt4(const uint8_t *p, const uint8_t *end, int digits) {
    const uint8_t *q = contraction(p, end, 1);
    if (q > p) return q;
    int n, after;
    uint32_t class = class_at(p, end, &n);
    if (class & CLASS_LETTER) return run(p + n, end, CLASS_LETTER);
    if (class & CLASS_NUMBER) {
        for (q = p + n; --digits > 0 && class_at(q, end, &n) & CLASS_NUMBER;) q += n;
        return q;
    }
    if (!NEWLINE(*p) && class_at(p + n, end, &after) & CLASS_LETTER) return run(p + n + after, end, CLASS_LETTER);
    const uint32_t other = CLASS_ANY & ~(CLASS_SPACE | CLASS_LETTER | CLASS_NUMBER);
    q = p + (*p == ' ');
    if (class_at(q, end, &n) & other) return newlines(run(q + n, end, other), end);
    return lines_or_spaces(p, end);
}

static const uint8_t *llama3(const uint8_t *p, const uint8_t *end) { return gpt4(p, end, 3); }
static const uint8_t *qwen2(const uint8_t *p, const uint8_t *end) { return gpt4(p, end, 1); }

/* ---- names
 * ----------------------------------------------------------------------------------------------------------------------- */

enum { IGNORE_MERGES = 1, NFC = 2, ADD_BOS = 4 };
static const text_pre PRE[] = {
#define PRE(name, flags, ...) {name, {__VA_ARGS__}, !!((flags) & IGNORE_MERGES), !!((flags) & NFC), !!((flags) & ADD_BOS)},
#include "pre.def"
#undef PRE
};

const text_pre *text_pre_at(int index) { return index >= 0 && (size_t)index < sizeof PRE / sizeof *PRE ? &PRE[index] : NULL; }

const text_pre *text_pre_of(const char *name) {
    for (size_t i = 0; i < sizeof PRE / sizeof *PRE; i++)
        if (!strcmp(PRE[i].name, name)) return &PRE[i];
    return NULL;
}

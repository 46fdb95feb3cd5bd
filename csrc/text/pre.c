/* pre.c: pre-tokenizers: how a text is cut into the words that merges do not cross.
 *
 * Each is the hand-written scanner of one published regular expression (quoted above it); no pattern is ever compiled from a file.
 * A scanner looks at the class of each character (Unicode 16.0) a bounded number of times, so cutting is linear in the text.
 *
 * A scanner gives the end of the piece that begins at p. Where an expression does not match everything, the characters up to its
 * next match are a piece too (`isolate`). */
#include "internal.h"
#include "unicode.h"

#define NEWLINE(c) ((c) == '\n' || (c) == '\r')

enum {
    OTHER = CLASS_ANY & ~(CLASS_SPACE | CLASS_LETTER | CLASS_NUMBER),       /* [^\s\p{L}\p{N}] */
    UPPER = CLASS_LU | CLASS_LT | CLASS_LM | CLASS_LO | CLASS_MARK,         /* [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] */
    LOWER = CLASS_LL | CLASS_LM | CLASS_LO | CLASS_MARK,                    /* [\p{Ll}\p{Lm}\p{Lo}\p{M}] */
};

/* ---- the pieces that the expressions share ----------------------------------------------------------------------------------- */

/* X* for the characters X of a set of classes */
static const uint8_t *run(const uint8_t *p, const uint8_t *end, uint32_t set) {
    int n;
    while (class_at(p, end, &n) & set) p += n;
    return p;
}

/* X{0,most} */
static const uint8_t *run_most(const uint8_t *p, const uint8_t *end, uint32_t set, int most) {
    int n;
    while (most-- > 0 && class_at(p, end, &n) & set) p += n;
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

/* \s+(?!\S)|\s+ at white space: all of it at the end, otherwise all but its last character, or that one.
 * lines: \s*[\r\n]+ before that */
static inline const uint8_t *spaces(const uint8_t *p, const uint8_t *end, int lines) {
    const uint8_t *last = p, *q = p, *line = NULL;
    int n;
    while (class_at(q, end, &n) & CLASS_SPACE) {
        if (NEWLINE(*q)) line = q + 1;
        last = q, q += n;
    }
    if (lines && line) return line;
    return q == end || last == p ? q : last;
}

/* ` ?X+[\r\n]*` at p, X of a set without white space; slash: [\r\n/]*. Its end, or p */
static inline const uint8_t *others(const uint8_t *p, const uint8_t *end, uint32_t set, int lines, int slash) {
    const uint8_t *start = p + (*p == ' '), *q = run(start, end, set);
    if (q == start) return p;
    while (q < end && ((lines && NEWLINE(*q)) || (slash && *q == '/'))) q++;
    return q;
}

/* the match at p, or, where there is none, what lies before the next */
static inline const uint8_t *isolate(text_scanner match, const uint8_t *p, const uint8_t *end) {
    const uint8_t *q = match(p, end);
    if (q > p) return q;
    do p += utf8_length(*p);
    while (p < end && match(p, end) == p);
    return p;
}

/* a set of code points as ranges, in order */
static int in_ranges(uint32_t cp, const uint32_t (*ranges)[2], size_t n) {
    size_t low = 0;
    while (low < n) {
        size_t middle = (low + n) / 2;
        if (cp > ranges[middle][1]) low = middle + 1;
        else n = middle;
    }
    return cp >= ranges[low][0];
}

#define RANGES_END {0x110000, 0x110000}
#define IN(cp, ranges) in_ranges(cp, ranges, sizeof(ranges) / sizeof *(ranges) - 1)

/* \s?X+ for a set given as ranges; its end, or p */
static const uint8_t *space_and_ranges(const uint8_t *p, const uint8_t *end, const uint32_t (*ranges)[2], size_t n) {
    int length;
    const uint8_t *start = p, *q;
    if (class_at(p, end, &length) & CLASS_SPACE && !in_ranges(utf8_decode(p, &length), ranges, n)) start += length;
    for (q = start; q < end && in_ranges(utf8_decode(q, &length), ranges, n);) q += length;
    return q > start ? q : p;
}

/* ---- one expression -------------------------------------------------------------------------------------------------------------
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
    if (class & OTHER) return run(q + n, end, OTHER);
    return spaces(p, end, 0);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?W+|\p{N}{1,DIGITS}| ?[^\s\p{N}W]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 * W: \p{L}, or [\p{L}\p{M}]. suffix 0: without the [\r\n]* */
static inline const uint8_t *gpt4(const uint8_t *p, const uint8_t *end, uint32_t word, int digits, int suffix) {
    const uint8_t *q = contraction(p, end, 1);
    if (q > p) return q;
    int n, after;
    uint32_t class = class_at(p, end, &n);
    if (class & CLASS_NUMBER) return run_most(p, end, CLASS_NUMBER, digits);
    if (!(class & CLASS_LETTER) && !NEWLINE(*p) && class_at(p + n, end, &after) & word) return run(p + n, end, word);
    if (class & word) return run(p, end, word);
    q = others(p, end, OTHER & ~word, suffix, 0);
    return q > p ? q : spaces(p, end, 1);
}

static const uint8_t *llama3(const uint8_t *p, const uint8_t *end) { return gpt4(p, end, CLASS_LETTER, 3, 1); }
static const uint8_t *qwen2(const uint8_t *p, const uint8_t *end) { return gpt4(p, end, CLASS_LETTER, 1, 1); }
static const uint8_t *qwen35(const uint8_t *p, const uint8_t *end) { return gpt4(p, end, CLASS_LETTER | CLASS_MARK, 1, 1); }
static const uint8_t *seed_coder(const uint8_t *p, const uint8_t *end) { return gpt4(p, end, CLASS_LETTER, 1, 0); }

/* UPPER*LOWER+ at p; its end, or p. Letters without case and marks are both: where no small letter follows the longest UPPER*, it
 * gives the last of them back to LOWER+. */
static const uint8_t *upper_lower(const uint8_t *p, const uint8_t *end) {
    const uint8_t *both = p, *q = p;
    int n;
    for (uint32_t class; (class = class_at(q, end, &n)) & UPPER;) {
        q += n;
        if (class & LOWER) both = q;
    }
    return class_at(q, end, &n) & LOWER ? run(q, end, LOWER) : both;
}

/* [^\r\n\p{L}\p{N}]?UPPER*LOWER+C?|[^\r\n\p{L}\p{N}]?UPPER+LOWER*C?|\p{N}{1,DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n/]*|
 * \s*[\r\n]+|\s+(?!\S)|\s+        C: (?i:'s|'t|'re|'ve|'m|'ll|'d), or nothing */
static inline const uint8_t *o200k(const uint8_t *p, const uint8_t *end, int digits, int contractions) {
    int n;
    uint32_t class = class_at(p, end, &n);
    const uint8_t *word = class & (CLASS_LETTER | CLASS_NUMBER) || NEWLINE(*p) ? p : p + n, *q = upper_lower(word, end);
    if (q == word) q = upper_lower(word = p, end);
    if (q == word && word == p && !(class & (CLASS_LETTER | CLASS_NUMBER)) && !NEWLINE(*p)) q = run(word = p + n, end, UPPER);
    if (q == word) q = run(word = p, end, UPPER);
    if (q > word) return contractions ? contraction(q, end, 1) : q;
    if (class & CLASS_NUMBER) return run_most(p, end, CLASS_NUMBER, digits);
    q = others(p, end, OTHER, 1, 1);
    return q > p ? q : spaces(p, end, 1);
}

static const uint8_t *gpt4o(const uint8_t *p, const uint8_t *end) { return o200k(p, end, 3, 1); }
static const uint8_t *tekken(const uint8_t *p, const uint8_t *end) { return o200k(p, end, 1, 0); }

/* [!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|
 * \s*[\r\n]+|\s+(?!\S)|\s+ */
static const uint8_t *deepseek3_match(const uint8_t *p, const uint8_t *end) {
    const uint32_t marks = CLASS_PUNCT | CLASS_SYMBOL, word = CLASS_LETTER | CLASS_MARK;
    int n, after;
    uint32_t class = class_at(p, end, &n);
    if (*p < 0x80 && class & marks && end - p > 1 && p[1] < 0x80 && unicode_class_ascii[p[1]] & CLASS_LETTER) {
        for (p++; p < end && *p < 0x80 && unicode_class_ascii[*p] & CLASS_LETTER;) p++;
        return p;
    }
    if (!(class & (CLASS_LETTER | marks)) && !NEWLINE(*p) && class_at(p + n, end, &after) & word) return run(p + n, end, word);
    if (class & word) return run(p, end, word);
    const uint8_t *q = others(p, end, marks, 1, 0);
    if (q > p) return q;
    return class & CLASS_SPACE ? spaces(p, end, 1) : p;
}

static const uint8_t *deepseek3(const uint8_t *p, const uint8_t *end) { return isolate(deepseek3_match, p, end); }

/*  ?[^(\s|.,!?…。，、।۔،)]+ */
static const uint8_t *bloom_match(const uint8_t *p, const uint8_t *end) {
    static const uint32_t out[][2] = {
        {'!', '!'}, {'(', ')'}, {',', ','}, {'.', '.'}, {'?', '?'}, {'|', '|'}, {0x60c, 0x60c}, {0x6d4, 0x6d4}, {0x964, 0x964},
        {0x2026, 0x2026}, {0x3001, 0x3002}, {0xff0c, 0xff0c}, RANGES_END,
    };
    const uint8_t *start = p + (*p == ' '), *q = start;
    for (int n; q < end && !(class_at(q, end, &n) & CLASS_SPACE) && !IN(utf8_decode(q, &n), out);) q += n;
    return q > start ? q : p;
}

static const uint8_t *bloom(const uint8_t *p, const uint8_t *end) { return isolate(bloom_match, p, end); }

/* ---- stages
 * ------------------------------------------------------------------------------------------------------------------------- */

/* \p{N}, each alone */
static const uint8_t *digit(const uint8_t *p, const uint8_t *end) {
    int n;
    return class_at(p, end, &n) & CLASS_NUMBER ? p + n : run(p, end, CLASS_ANY & ~CLASS_NUMBER);
}

/* \p{N}+ */
static const uint8_t *digits(const uint8_t *p, const uint8_t *end) {
    int n;
    return run(p, end, class_at(p, end, &n) & CLASS_NUMBER ? CLASS_NUMBER : CLASS_ANY & ~CLASS_NUMBER);
}

/* \p{N}{1,3} */
static const uint8_t *digits3(const uint8_t *p, const uint8_t *end) {
    int n;
    return class_at(p, end, &n) & CLASS_NUMBER ? run_most(p, end, CLASS_NUMBER, 3) : run(p, end, CLASS_ANY & ~CLASS_NUMBER);
}

/* [0-9][0-9][0-9]; byte by byte, because byte_digits cuts inside characters */
static const uint8_t *three_digits(const uint8_t *p, const uint8_t *end) {
    for (const uint8_t *q = p; q < end; q++) {
        int n = 0;
        while (n < 3 && q + n < end && q[n] >= '0' && q[n] <= '9') n++;
        if (n == 3) return q == p ? p + 3 : q;
    }
    return end;
}

/* Falcon groups digits after the bytes have become characters, so it takes the bytes that are written ², ³, ¹, ¼, ½, ¾ for digits.
 * */
static const uint8_t *byte_digits(const uint8_t *p, const uint8_t *end) {
#define DIGIT(b) (((b) >= '0' && (b) <= '9') || (b) == 0xb2 || (b) == 0xb3 || (b) == 0xb9 || ((b) >= 0xbc && (b) <= 0xbe))
    int digit = DIGIT(*p);
    while (p < end && DIGIT(*p) == digit) p++;
    return p;
#undef DIGIT
}

/* [\p{P}$+<=>^~|`]+, and without the backtick */
static inline const uint8_t *punctuation_run(const uint8_t *p, const uint8_t *end, int backtick) {
    int n, first = -1;
    for (uint32_t class; (class = class_at(p, end, &n)); p += n) {
        int is = class & CLASS_PUNCT || (*p < 0x80 && class & CLASS_SYMBOL && (backtick || *p != '`'));
        if (first >= 0 && is != first) break;
        first = is;
    }
    return p;
}

static const uint8_t *punctuation(const uint8_t *p, const uint8_t *end) { return punctuation_run(p, end, 1); }
static const uint8_t *punctuation_default(const uint8_t *p, const uint8_t *end) { return punctuation_run(p, end, 0); }

/* [\r\n], each alone */
static const uint8_t *newline(const uint8_t *p, const uint8_t *end) {
    if (NEWLINE(*p)) return p + 1;
    while (p < end && !NEWLINE(*p)) p++;
    return p;
}

/* \s?\p{L}+ and \s?\p{P}+ */
static const uint8_t *space_and(const uint8_t *p, const uint8_t *end, uint32_t set) {
    int n;
    const uint8_t *start = class_at(p, end, &n) & CLASS_SPACE ? p + n : p, *q = run(start, end, set);
    return q > start ? q : p;
}

static const uint8_t *letters_match(const uint8_t *p, const uint8_t *end) { return space_and(p, end, CLASS_LETTER); }
static const uint8_t *marks_match(const uint8_t *p, const uint8_t *end) { return space_and(p, end, CLASS_PUNCT); }
static const uint8_t *letters(const uint8_t *p, const uint8_t *end) { return isolate(letters_match, p, end); }
static const uint8_t *marks(const uint8_t *p, const uint8_t *end) { return isolate(marks_match, p, end); }

/* \s?[letters of the cased scripts]+, the list of the DeepSeek LLM tokenizer */
static const uint8_t *cased_match(const uint8_t *p, const uint8_t *end) {
    static const uint32_t cased[][2] = {
#include "cased.inc"
        RANGES_END,
    };
    return space_and_ranges(p, end, cased, sizeof cased / sizeof *cased - 1);
}

static const uint8_t *cased(const uint8_t *p, const uint8_t *end) { return isolate(cased_match, p, end); }

/* \s?[!-/:-~！-／：-～‘-‟　-。]+ */
static const uint8_t *signs_match(const uint8_t *p, const uint8_t *end) {
    static const uint32_t signs[][2] = {
        {'!', '/'}, {':', '~'}, {0x2018, 0x201f}, {0x3000, 0x3002}, {0xff01, 0xff0f}, {0xff1a, 0xff5e}, RANGES_END,
    };
    return space_and_ranges(p, end, signs, sizeof signs / sizeof *signs - 1);
}

static const uint8_t *signs(const uint8_t *p, const uint8_t *end) { return isolate(signs_match, p, end); }

/* \s+$ */
static const uint8_t *last_spaces(const uint8_t *p, const uint8_t *end) {
    const uint8_t *q = p, *start = p; /* start: of the white space before q */
    int n;
    for (uint32_t class; (class = class_at(q, end, &n));) {
        q += n;
        if (!(class & CLASS_SPACE)) start = q;
    }
    return start == p ? end : start;
}

static inline const uint8_t *ideographs_run(const uint8_t *p, const uint8_t *end, const uint32_t (*ranges)[2], size_t count) {
    int n, first = -1;
    for (; p < end; p += n) {
        int is = in_ranges(utf8_decode(p, &n), ranges, count);
        if (first >= 0 && is != first) break;
        first = is;
    }
    return p;
}

/* [一-龥ࠀ-一가-퟿]+ */
static const uint8_t *ideographs(const uint8_t *p, const uint8_t *end) {
    static const uint32_t ranges[][2] = {{0x800, 0x9fa5}, {0xac00, 0xd7ff}, RANGES_END};
    return ideographs_run(p, end, ranges, 2);
}

/* [一-龥぀-ゟ゠-ヿ]+ */
static const uint8_t *ideographs_and_kana(const uint8_t *p, const uint8_t *end) {
    static const uint32_t ranges[][2] = {{0x3040, 0x30ff}, {0x4e00, 0x9fa5}, RANGES_END};
    return ideographs_run(p, end, ranges, 2);
}

/* ---- names
 * ------------------------------------------------------------------------------------------------------------------------- */

enum { IGNORE_MERGES = 1, NFC = 2, ADD_BOS = 4, ADD_SEP = 8 };
static const text_pre PRE[] = {
#define PRE(name, flags, ...) \
    {name, {__VA_ARGS__}, !!((flags) & IGNORE_MERGES), !!((flags) & NFC), !!((flags) & ADD_BOS), !!((flags) & ADD_SEP)},
#include "pre.def"
#undef PRE
};

const text_pre *text_pre_at(int index) { return index >= 0 && (size_t)index < sizeof PRE / sizeof *PRE ? &PRE[index] : NULL; }

const text_pre *text_pre_of(const char *name) {
    for (size_t i = 0; i < sizeof PRE / sizeof *PRE; i++)
        if (!strcmp(PRE[i].name, name)) return &PRE[i];
    return NULL;
}

const uint8_t *text_cut(text_cutter *cutter, const uint8_t *p) {
    const text_scanner *stage = cutter->pre->stage;
    int k = 0;
    while (k < PRE_STAGES && stage[k] && p < cutter->end[k]) k++;   /* the stages whose piece goes on */
    for (; k < PRE_STAGES && stage[k]; k++) cutter->end[k] = stage[k](p, k ? cutter->end[k - 1] : cutter->text_end);
    return cutter->end[k - 1];
}

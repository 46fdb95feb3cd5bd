/* wordpiece.c: the tokenizer of BERT (Devlin et al. 2018; WordPiece of Schuster & Nakajima 2012).
 *
 * clean (control characters go, CJK ideographs stand alone) -> NFD without marks and small letters, where the model wants them ->
 * cut at white space and around punctuation -> each word from the left: the longest token that it begins with. Tokens that begin a
 * word are written with U+2581 in front. A word of more than WORD_MAX characters, or with a rest that no token matches, is unknown. */
#include "internal.h"
#include "unicode.h"

enum { WORD_MAX = 100, WORD_ROOM = SPACE_BYTES + 4 * (WORD_MAX + 2) };

/* blocks of ideographs as BERT has them: not those that Unicode added since */
static int is_cjk(uint32_t cp) {
    return (cp >= 0x4e00 && cp <= 0x9fff) || (cp >= 0x3400 && cp <= 0x4dbf) || (cp >= 0xf900 && cp <= 0xfaff) ||
           (cp >= 0x20000 && cp <= 0x2a6df) || (cp >= 0x2a700 && cp <= 0x2b81f) || (cp >= 0x2b920 && cp <= 0x2ceaf) ||
           (cp >= 0x2f800 && cp <= 0x2fa1f);
}

static int is_removed(uint32_t cp, uint32_t class) {
    if (cp == '\t' || cp == '\n' || cp == '\r') return 0;
    return cp == 0xfffd || class & (CLASS_CC | CLASS_SPACE_CONTROL | CLASS_CF | CLASS_CO);
}

static int is_punctuation(uint32_t cp, uint32_t class) { return class & CLASS_PUNCT || (cp < 128 && class & CLASS_SYMBOL); }

/* p begins with U+2581; a rest of the word is matched without: one that begins with a U+2581 of the text is no token's, where
 * looking it up would find those that begin a word */
text_status wordpiece_word(const text_vocab *v, const uint8_t *p, size_t n, text_ids *out) {
    size_t start = out->n;
    for (const uint8_t *word = p, *end = p + n, *stop; p < end; p = stop) {
        int32_t id = -1;
        int marked = p > word && end - p >= SPACE_BYTES && !memcmp(p, SPACE_MARK, SPACE_BYTES);
        for (stop = marked ? p : end; stop > p; stop--) {
            if (stop < end && (*stop & 0xc0) == 0x80) continue; /* inside a character */
            id = table_find(&v->by_name, (text_bytes){p, (uint32_t)(stop - p)});
            if (id >= 0 && token_is_plain(v, id)) break;
        }
        if (stop == p) { /* no token matches */
            out->n = start;
            if (v->unk >= 0) out->v[out->n++] = v->unk;
            break;
        }
        out->v[out->n++] = id;
    }
    return TEXT_OK;
}

typedef struct words {
    const text_vocab *v;
    text_work *work;
    text_ids *out;
    uint32_t n_chars;   /* of the word in work->word */
} words;

static text_status end_word(words *w) {
    text_buffer *word = &w->work->word;
    text_status status = TEXT_OK;
    if (w->n_chars > WORD_MAX) {
        if (w->v->unk >= 0) status = ids_push(w->out, w->v->unk);
    } else if (w->n_chars) {
        status = word_append(w->v, w->work, wordpiece_word, word->v, word->n, w->out);
    }
    w->n_chars = 0;
    word->n = SPACE_BYTES;
    return status;
}

static text_status add_char(words *w, uint32_t cp) {
    uint32_t class = unicode_class_of(cp);
    if (class & CLASS_SPACE) return end_word(w);
    int alone = is_punctuation(cp, class);
    text_status status = alone ? end_word(w) : TEXT_OK;
    if (status) return status;
    if (w->n_chars++ < WORD_MAX) w->work->word.n += (size_t)utf8_encode(cp, w->work->word.v + w->work->word.n);
    return alone ? end_word(w) : TEXT_OK;
}

/* a character after cleaning: decomposed, without marks, small */
static text_status add_normalized(words *w, uint32_t cp) {
    uint32_t parts[UNICODE_DECOMPOSED] = {cp};
    int n = w->v->flags & STRIP_ACCENTS ? unicode_decompose(cp, parts) : 1;
    text_status status = TEXT_OK;
    for (int i = 0; !status && i < n; i++) {
        if (w->v->flags & STRIP_ACCENTS && unicode_class_of(parts[i]) & CLASS_MN) continue;
        if (w->v->flags & LOWER_CASE && parts[i] == 0x130) { /* the one capital that becomes two characters */
            status = add_char(w, 'i');
            if (!status) status = add_char(w, 0x307);
        } else {
            status = add_char(w, w->v->flags & LOWER_CASE ? unicode_lower_of(parts[i]) : parts[i]);
        }
    }
    return status;
}

text_status wordpiece_encode(const text_vocab *v, text_work *work, const uint8_t *p, const uint8_t *end, text_ids *out) {
    words w = {v, work, out, 0};
    work->word.n = 0;
    text_status status = buffer_room(&work->word, WORD_ROOM);
    if (status) return status;
    memcpy(work->word.v, SPACE_MARK, SPACE_BYTES);
    work->word.n = SPACE_BYTES;
    for (int length; !status && p < end; p += length) {
        uint32_t cp = utf8_decode(p, &length);
        if (is_removed(cp, unicode_class_of(cp))) continue;
        int alone = is_cjk(cp);
        if (alone) status = end_word(&w);
        if (!status) status = add_normalized(&w, cp);
        if (!status && alone) status = end_word(&w);
    }
    return status ? status : end_word(&w);
}

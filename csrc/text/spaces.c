/* spaces.c: the normalization of SentencePiece (Kudo & Richardson 2018): longest match in the map of characters, extra spaces away,
 * a space in front, spaces as U+2581. A map from a file is only looked into within its bounds, and what it writes stays UTF-8. */
#include <stdlib.h>
#include <string.h>

#include "spaces.h"
#include "unicode.h"

const char SPACE_MARK[SPACE_BYTES + 1] = "\xe2\x96\x81";
enum { KEY_MAX = 64 }; /* bytes of the longest character sequence that a map may have */

/* 1: the n bytes are valid UTF-8 */
static int is_utf8(const uint8_t *p, size_t n) {
    for (const uint8_t *end = p + n; p < end;) {
        int length = utf8_length(*p), bad = (*p & 0xc0) == 0x80 || *p >= 0xf5 || end - p < length;
        for (int i = 1; !bad && i < length; i++) bad = (p[i] & 0xc0) != 0x80;
        if (bad) return 0;
        uint32_t cp = utf8_decode(p, &length);
        if ((length == 2 && cp < 0x80) || (length == 3 && cp < 0x800) || (length == 4 && (cp < 0x10000 || cp > 0x10ffff))) return 0;
        if (cp >= 0xd800 && cp < 0xe000) return 0;
        p += length;
    }
    return 1;
}

text_status charsmap_new(text_charsmap *map, const uint8_t *blob, size_t n) {
    uint32_t size;
    *map = (text_charsmap){0};
    if (n == 0) return TEXT_OK;
    if (n < 8) return TEXT_BAD_MAP;
    memcpy(&size, blob, 4);
    if (size < 4 || size % 4 || size >= n - 4 || blob[n - 1] != 0 || !is_utf8(blob + 4 + size, n - 4 - size)) return TEXT_BAD_MAP;
    map->bytes = malloc(n);
    if (!map->bytes) return TEXT_NOMEM;
    memcpy(map->bytes, blob, n);
    map->n_units = size / 4;
    map->texts = (const char *)map->bytes + 4 + size;
    map->n_texts = n - 4 - size;
    return TEXT_OK;
}

/* ---- the double array: unit: bit 31 value, 10..30 offset, 9 the offset is times 256, 8 a value hangs here, 0..7 label ------------ */

static uint32_t unit_at(const text_charsmap *map, uint32_t at) {
    uint32_t unit = 1u << 31; /* the label of no byte */
    if (at < map->n_units) memcpy(&unit, map->bytes + 4 + 4 * (size_t)at, 4);
    return unit;
}

static uint32_t unit_offset(uint32_t unit) { return (unit >> 10) << ((unit & 1u << 9) >> 6); }

/* The longest key at p that ends between characters: its length, 0 for none; *text what to write for it. */
static int charsmap_find(const text_charsmap *map, const uint8_t *p, const uint8_t *end, const char **text, size_t *n_text) {
    uint32_t at = unit_offset(unit_at(map, 0));
    int found = 0;
    for (int i = 0; i < KEY_MAX && p + i < end && p[i]; i++) {
        at ^= p[i];
        uint32_t unit = unit_at(map, at);
        if ((unit & (1u << 31 | 0xff)) != p[i]) break;
        at ^= unit_offset(unit);
        if (!(unit >> 8 & 1) || (p + i + 1 < end && (p[i + 1] & 0xc0) == 0x80)) continue;
        size_t value = unit_at(map, at) & 0x7fffffff;
        if (value >= map->n_texts || (map->texts[value] & 0xc0) == 0x80) continue;
        size_t n = strlen(map->texts + value); /* the texts end with a 0 */
        if (n > REPLACEMENT_MAX) continue;
        *text = map->texts + value;
        *n_text = n;
        found = i + 1;
    }
    return found;
}

/* ---- spaces ------------------------------------------------------------------------------------------------------------------------ */

text_status spaces_escape(const text_charsmap *map, int flags, const uint8_t *p, const uint8_t *end, int first, text_buffer *out) {
    int prefix = flags & SPACE_PREFIX && (first || !(flags & PREFIX_FIRST)), collapse = !!(flags & COLLAPSE_SPACES), after = collapse;
    if (prefix && flags & PREFIX_MISSING && (*p == ' ' || is_space_mark(p, end))) prefix = 0;
    out->n = 0;
    text_status status = buffer_room(out, (size_t)(end - p) + SPACE_BYTES + 16);
    if (!status && prefix) memcpy(out->v, SPACE_MARK, SPACE_BYTES), out->n = SPACE_BYTES;
    for (int length; !status && p < end; p += length) {
        const char *text = (const char *)p;
        size_t n = 1;
        length = map->bytes || flags & ANY_SPACE ? charsmap_find(map, p, end, &text, &n) : 1; /* or by bytes, which is faster */
        if (length == 0) n = (size_t)(length = utf8_length(*p));
        if (flags & ANY_SPACE && text == (const char *)p && unicode_class_of(utf8_decode(p, &length)) & CLASS_SPACE) text = " ", n = 1;
        status = buffer_room(out, SPACE_BYTES * n);
        for (size_t i = 0; !status && i < n; i++) {
            if (text[i] != ' ') out->v[out->n++] = (uint8_t)text[i];
            else if (!after) memcpy(out->v + out->n, SPACE_MARK, SPACE_BYTES), out->n += SPACE_BYTES;
            after = collapse && text[i] == ' ';
        }
    }
    while (!status && collapse && !(flags & LAST_SPACE) && out->n >= SPACE_BYTES && !memcmp(out->v + out->n - SPACE_BYTES, SPACE_MARK, SPACE_BYTES))
        out->n -= SPACE_BYTES;
    return status;
}

int spaces_inside(text_bytes token) {
    int text = 0;
    for (const uint8_t *p = token.p, *end = p + token.n; p < end; p += utf8_length(*p)) {
        if (!is_space_mark(p, end)) text = 1;
        else if (text) return 1;
    }
    return 0;
}

const uint8_t *spaces_word(const uint8_t *p, const uint8_t *end) {
    while (is_space_mark(p, end)) p += SPACE_BYTES;
    while (p < end && !is_space_mark(p, end)) p += utf8_length(*p);
    return p;
}

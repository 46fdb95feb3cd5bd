/* normalize.c: canonical normalization (NFC, Unicode Standard Annex 15) and lower case.
 *
 * decompose every character, sort runs of marks by combining class, compose again. Linear in the text: long runs of marks are sorted
 * by counting. */
#include "normalize.h"

#include <stdlib.h>
#include <string.h>

#include "unicode.h"

#include "normalize.inc"

enum { S_BASE = 0xac00, L_BASE = 0x1100, V_BASE = 0x1161, T_BASE = 0x11a7, L_COUNT = 19, V_COUNT = 21, T_COUNT = 28 }; /* Hangul */
enum { S_COUNT = L_COUNT * V_COUNT * T_COUNT };

#define ROWS(table) (sizeof(table) / sizeof *(table))

static int combining_class(uint32_t cp) {
    if (cp < 0x300) return 0;
    size_t low = 0, high = ROWS(unicode_combining);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (cp > unicode_combining[middle][1]) low = middle + 1;
        else high = middle;
    }
    return low < ROWS(unicode_combining) && cp >= unicode_combining[low][0] ? (int)unicode_combining[low][2] : 0;
}

/* the row of cp in unicode_decomposition, or NULL */
static const uint32_t *decomposition(uint32_t cp) {
    size_t low = 0, high = ROWS(unicode_decomposition);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (cp > unicode_decomposition[middle][0]) low = middle + 1;
        else high = middle;
    }
    return low < ROWS(unicode_decomposition) && unicode_decomposition[low][0] == cp ? unicode_decomposition[low] : NULL;
}

int unicode_decompose(uint32_t cp, uint32_t out[UNICODE_DECOMPOSED]) {
    if (cp < 0xc0) return out[0] = cp, 1;
    if (cp - S_BASE < S_COUNT) {
        uint32_t index = cp - S_BASE;
        out[0] = L_BASE + index / (V_COUNT * T_COUNT);
        out[1] = V_BASE + index % (V_COUNT * T_COUNT) / T_COUNT;
        out[2] = T_BASE + index % T_COUNT;
        return out[2] == T_BASE ? 2 : 3;
    }
    const uint32_t *row = decomposition(cp);
    if (!row) return out[0] = cp, 1;
    int n = unicode_decompose(row[1], out); /* only first parts decompose further */
    if (row[2]) out[n++] = row[2];
    return n;
}

/* what a and b compose to, or 0 */
static uint32_t compose(uint32_t a, uint32_t b) {
    if (a - L_BASE < L_COUNT && b - V_BASE < V_COUNT) return S_BASE + ((a - L_BASE) * V_COUNT + (b - V_BASE)) * T_COUNT;
    if (a - S_BASE < S_COUNT && (a - S_BASE) % T_COUNT == 0 && b > T_BASE && b < T_BASE + T_COUNT) return a + (b - T_BASE);
    size_t low = 0, high = ROWS(unicode_composition);
    while (low < high) {
        size_t middle = (low + high) / 2;
        const uint32_t *row = unicode_decomposition[unicode_composition[middle]];
        if (a > row[1] || (a == row[1] && b > row[2])) low = middle + 1;
        else high = middle;
    }
    if (low == ROWS(unicode_composition)) return 0;
    const uint32_t *row = unicode_decomposition[unicode_composition[low]];
    return row[1] == a && row[2] == b ? row[0] : 0;
}

uint32_t unicode_lower_of(uint32_t cp) {
    if (cp < 128) return cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
    size_t low = 0, high = ROWS(unicode_lower);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if ((int32_t)cp > unicode_lower[middle][1]) low = middle + 1;
        else high = middle;
    }
    if (low == ROWS(unicode_lower)) return cp;
    const int32_t *run = unicode_lower[low];
    return (int32_t)cp >= run[0] && ((int32_t)cp - run[0]) % run[2] == 0 ? (uint32_t)((int32_t)cp + run[3]) : cp;
}

int unicode_is_nfc(const uint8_t *p, const uint8_t *end) {
    for (int n; p < end; p += n) {
        if (*p < 0xcc) { /* below U+0300 */
            n = utf8_length(*p);
            continue;
        }
        uint32_t cp = utf8_decode(p, &n);
        if ((cp >= 0x3400 && cp < 0xa000) || (cp >= S_BASE && cp < S_BASE + S_COUNT)) continue; /* ideographs and Hangul syllables */
        if (combining_class(cp) || (cp >= V_BASE && cp < T_BASE + T_COUNT)) return 0;
        for (size_t i = 0; i < ROWS(unicode_second) && unicode_second[i] <= cp; i++)
            if (unicode_second[i] == cp) return 0;
        const uint32_t *row = decomposition(cp);
        if (row && (!row[2] || compose(row[1], row[2]) != cp)) return 0;
    }
    return 1;
}

/* ---- a text as code points ---------------------------------------------------------------------------------------------------- */

static text_status points_push(text_points *points, uint32_t cp) {
    if (points->n == points->cap) {
        size_t cap = points->cap ? 2 * points->cap : 256;
        uint32_t *v = realloc(points->v, cap * sizeof *v);
        if (!v) return TEXT_NOMEM;
        points->v = v;
        points->cap = cap;
    }
    points->v[points->n++] = cp;
    return TEXT_OK;
}

text_status points_decompose(text_points *points, const uint8_t *p, const uint8_t *end) {
    text_status status = TEXT_OK;
    points->n = 0;
    for (int length; !status && p < end; p += length) {
        uint32_t parts[UNICODE_DECOMPOSED];
        int n = unicode_decompose(utf8_decode(p, &length), parts);
        for (int i = 0; !status && i < n; i++) status = points_push(points, parts[i]);
    }
    return status;
}

/* Sorts a run of n marks by combining class, stably. */
static text_status sort_marks(uint32_t *marks, size_t n) {
    if (n <= 16) {
        for (size_t i = 1; i < n; i++) {
            uint32_t mark = marks[i];
            int class = combining_class(mark);
            size_t at = i;
            for (; at > 0 && combining_class(marks[at - 1]) > class; at--) marks[at] = marks[at - 1];
            marks[at] = mark;
        }
        return TEXT_OK;
    }
    uint32_t *sorted = malloc(n * sizeof *sorted);
    if (!sorted) return TEXT_NOMEM;
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++) start[combining_class(marks[i]) + 1]++;
    for (int i = 0; i < 256; i++) start[i + 1] += start[i];
    for (size_t i = 0; i < n; i++) sorted[start[combining_class(marks[i])]++] = marks[i];
    memcpy(marks, sorted, n * sizeof *sorted);
    free(sorted);
    return TEXT_OK;
}

text_status points_order(text_points *points) {
    text_status status = TEXT_OK;
    for (size_t i = 0; !status && i < points->n;) {
        size_t start = i;
        while (i < points->n && combining_class(points->v[i])) i++;
        if (i - start > 1) status = sort_marks(points->v + start, i - start);
        if (i == start) i++;
    }
    return status;
}

void points_compose(text_points *points) {
    size_t n = 0, starter = SIZE_MAX;
    int last = 0; /* class of the character before, among those kept since the starter; -1: none */
    for (size_t i = 0; i < points->n; i++) {
        uint32_t cp = points->v[i];
        int class = combining_class(cp);
        uint32_t both = starter != SIZE_MAX && last < class ? compose(points->v[starter], cp) : 0;
        if (both) {
            points->v[starter] = both;
            continue;
        }
        if (class == 0) {
            starter = n;
            last = -1;
        } else {
            last = class;
        }
        points->v[n++] = cp;
    }
    points->n = n;
}

text_status points_encode(const text_points *points, text_buffer *out) {
    text_status status = buffer_room(out, 4 * points->n);
    for (size_t i = 0; !status && i < points->n; i++) out->n += (size_t)utf8_encode(points->v[i], out->v + out->n);
    return status;
}

text_status unicode_nfc(text_points *points, const uint8_t *p, const uint8_t *end, text_buffer *out) {
    text_status status = points_decompose(points, p, end);
    if (!status) status = points_order(points);
    if (status) return status;
    points_compose(points);
    out->n = 0;
    return points_encode(points, out);
}

text_status buffer_room(text_buffer *buffer, size_t more) {
    size_t need = buffer->n + more, cap = buffer->cap ? buffer->cap : 256;
    if (need <= buffer->cap) return TEXT_OK;
    while (cap < need) cap *= 2;
    uint8_t *v = realloc(buffer->v, cap);
    if (!v) return TEXT_NOMEM;
    buffer->v = v;
    buffer->cap = cap;
    return TEXT_OK;
}

/* unicode.h: decoding UTF-8 and the class of a code point (general category of Unicode 16.0, and White_Space).
 *
 * Text is valid UTF-8 everywhere in this room (the binding takes it from Python strings), so decoding does not check again. A class
 * is a bit of a uint32_t: `CLASS_LETTER & unicode_class_of(cp)` is a set test. The end of the text has class 0, in no set. */
#ifndef LLMQ_UNICODE_H
#define LLMQ_UNICODE_H

#include <stddef.h>
#include <stdint.h>

enum {
    CLASS_LU = 1 << 0, CLASS_LL = 1 << 1, CLASS_LT = 1 << 2, CLASS_LM = 1 << 3, CLASS_LO = 1 << 4,
    CLASS_MN = 1 << 5, CLASS_MC = 1 << 6, CLASS_ME = 1 << 7,
    CLASS_ND = 1 << 8, CLASS_NL = 1 << 9, CLASS_NO = 1 << 10,
    CLASS_PC = 1 << 11, CLASS_PO = 1 << 17, CLASS_SM = 1 << 18, CLASS_SO = 1 << 21,
    CLASS_ZS = 1 << 22, CLASS_ZL = 1 << 23, CLASS_ZP = 1 << 24,
    CLASS_CC = 1 << 25, CLASS_CF = 1 << 26, CLASS_CS = 1 << 27, CLASS_CO = 1 << 28, CLASS_CN = 1 << 29,
    CLASS_SPACE_CONTROL = 1 << 30, /* \t \n \v \f \r U+0085: category Cc and White_Space */

    CLASS_LETTER = CLASS_LU | CLASS_LL | CLASS_LT | CLASS_LM | CLASS_LO,
    CLASS_MARK = CLASS_MN | CLASS_MC | CLASS_ME,
    CLASS_NUMBER = CLASS_ND | CLASS_NL | CLASS_NO,
    CLASS_PUNCT = 0x7f << 11,      /* Pc Pd Ps Pe Pi Pf Po */
    CLASS_SYMBOL = 0x0f << 18,     /* Sm Sc Sk So */
    CLASS_SPACE = CLASS_ZS | CLASS_ZL | CLASS_ZP | CLASS_SPACE_CONTROL,
    CLASS_ANY = 0x7fffffff,
};

uint32_t unicode_class_wide(uint32_t cp); /* any code point */
extern const uint32_t unicode_class_ascii[128];

static inline uint32_t unicode_class_of(uint32_t cp) { return cp < 128 ? unicode_class_ascii[cp] : unicode_class_wide(cp); }

/* the code point at p < end, of valid UTF-8; *n becomes its length in bytes */
static inline uint32_t utf8_decode(const uint8_t *p, int *n) {
    uint32_t b = p[0];
    if (b < 0x80) return *n = 1, b;
    if (b < 0xe0) return *n = 2, (b & 0x1f) << 6 | (p[1] & 0x3fu);
    if (b < 0xf0) return *n = 3, (b & 0x0f) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    return *n = 4, (b & 0x07) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
}

/* writes cp at p (room for 4 bytes); its length */
static inline int utf8_encode(uint32_t cp, uint8_t *p) {
    if (cp < 0x80) return p[0] = (uint8_t)cp, 1;
    if (cp < 0x800) return p[0] = (uint8_t)(0xc0 | cp >> 6), p[1] = (uint8_t)(0x80 | (cp & 0x3f)), 2;
    if (cp < 0x10000) {
        p[0] = (uint8_t)(0xe0 | cp >> 12), p[1] = (uint8_t)(0x80 | (cp >> 6 & 0x3f)), p[2] = (uint8_t)(0x80 | (cp & 0x3f));
        return 3;
    }
    p[0] = (uint8_t)(0xf0 | cp >> 18), p[1] = (uint8_t)(0x80 | (cp >> 12 & 0x3f));
    p[2] = (uint8_t)(0x80 | (cp >> 6 & 0x3f)), p[3] = (uint8_t)(0x80 | (cp & 0x3f));
    return 4;
}

/* length of the character whose first byte is b */
static inline int utf8_length(uint8_t b) { return b < 0x80 ? 1 : b < 0xe0 ? 2 : b < 0xf0 ? 3 : 4; }

/* class of the character at p, 0 at end; *n its length (0 at end) */
static inline uint32_t class_at(const uint8_t *p, const uint8_t *end, int *n) {
    if (p >= end) return *n = 0, 0;
    if (*p < 0x80) return *n = 1, unicode_class_ascii[*p];
    return unicode_class_wide(utf8_decode(p, n));
}

#endif

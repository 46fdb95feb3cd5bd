/* unicode.c: classes of code points from the generated tables. */
#include "unicode.h"

#include "unicode.inc"

uint32_t unicode_class_wide(uint32_t cp) {
    if (cp < UNICODE_END) return 1u << (unicode_class[unicode_index[cp / UNICODE_BLOCK] * UNICODE_BLOCK + cp % UNICODE_BLOCK] - 'A');
    /* what is assigned above the table: tags, variation selectors, private use */
    if (cp >= 0xf0000) return (cp & 0xffff) >= 0xfffe ? CLASS_CN : CLASS_CO;
    if (cp == 0xe0001 || (cp >= 0xe0020 && cp < 0xe0080)) return CLASS_CF;
    if (cp >= 0xe0100 && cp < 0xe01f0) return CLASS_MN;
    return CLASS_CN;
}

/* normalize.h: canonical normalization and lower case (Unicode 16.0). */
#ifndef LLMQ_NORMALIZE_H
#define LLMQ_NORMALIZE_H

#include "text.h"

enum { UNICODE_DECOMPOSED = 4 }; /* code points that one can decompose into */

typedef struct text_buffer {
    uint8_t *v;
    size_t n, cap;
} text_buffer;

typedef struct text_points {
    uint32_t *v;
    size_t n, cap;
} text_points;

text_status buffer_room(text_buffer *, size_t more); /* room for `more` bytes after v[n - 1] */

int unicode_decompose(uint32_t cp, uint32_t out[UNICODE_DECOMPOSED]);   /* canonically; the number of code points */
uint32_t unicode_lower_of(uint32_t cp);                                 /* U+0130 stays: it becomes two characters */

int unicode_is_nfc(const uint8_t *p, const uint8_t *end);               /* 0: perhaps not */
text_status unicode_nfc(text_points *room, const uint8_t *p, const uint8_t *end, text_buffer *out); /* out becomes the text in NFC */

/* the steps of NFC and NFD */
text_status points_decompose(text_points *, const uint8_t *p, const uint8_t *end);
text_status points_order(text_points *);
void points_compose(text_points *);
text_status points_encode(const text_points *, text_buffer *out);       /* appends */

#endif

/* codecs.c: the table of codecs, one row of types.def each. */
#include "llmq.h"

#define TYPE(name, id, block, bytes) extern const llmq_codec llmq_codec_##name;
#include "types.def"
#undef TYPE

const llmq_codec *llmq_codec_of(int32_t type) {
    switch (type) {
#define TYPE(name, id, block, bytes) case id: return &llmq_codec_##name;
#include "types.def"
#undef TYPE
    default: return NULL;
    }
}

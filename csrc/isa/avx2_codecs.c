/* avx2_codecs.c: the codecs of formats/ in AVX2 instructions. */
#define LLMQ_CODEC_OF(T) llmq_avx2_##T
#include "formats/codecs.inc"
#include "formats/convert.inc"
#include "isa/pack.inc"
#include "kernels.h"

void llmq_body_avx2_codecs(llmq_kernels *);
void llmq_body_avx2_codecs(llmq_kernels *k) {
    k->codec_of = codec_of;
    k->convert = convert_rows;
    k->pack_strip = pack_strip;
    k->refuse = llmq_refuse;
}

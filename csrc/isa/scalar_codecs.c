/* scalar_codecs.c: the codecs as their files have them. */
#include "formats/codecs.inc"
#include "formats/convert.inc"
#include "isa/pack.inc"
#include "kernels.h"

void llmq_body_scalar_codecs(llmq_kernels *);
void llmq_body_scalar_codecs(llmq_kernels *k) {
    k->codec_of = codec_of;
    k->convert = convert_rows;
    k->pack_strip = pack_strip;
    k->refuse = llmq_refuse;
}

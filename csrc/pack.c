/* pack.c: weights as the kernels read them, one layout for every instruction set and for all of GEMV, small GEMM and panel
 * dequantization.
 *
 * A matrix W[n][k] is cut into strips of 16 rows, one strip after another; rows past n are zeros. Rows stand in lanes: four neighbouring
 * columns of one row (a quad) are one 32-bit word, so that one broadcast of four activations meets 16 rows (one 512-bit, two 256-bit,
 * four 128-bit vectors) and no sum ever runs across lanes. Inside a strip the planes follow one another, each at a multiple of 64
 * bytes; kernels walk each of them from its start to its end.
 *
 *     d     [k/block][16]            binary16, or what the codec's enum llmq_scale says
 *     dmin  binary16 [k/block][16]   types with a minimum
 *     sc    int8   [k/group][16]     types whose groups have scales of their own, integers or codes (enum llmq_scale)
 *     m     uint8  [k/group][16]     those with minima
 *     hi    uint32 [k/4 / per][16]   per = 8 / bits quads share a word: quad per*i + t of a row in bits t*bits.. of each byte of word i;
 *                                    of what lo has no room for: 1 bit (3- and 5-bit types) or 2 bits (6-bit types)
 *     lo    the same for the bits below (8 bits: one quad a word; 4 bits: 2, the even quad in the low nibbles; 2 bits: 4)
 *
 * The largest plane is the last, so that one who reads a strip's bytes in order, a little ahead of the kernel, has all of a run in time.
 * 8-bit types are stored signed (q - 128). Codebook types have code_bits of the place in the codebook instead of q; kernels look it up.
 * Float types have one plane: F32 float [k][16]; F16 and BF16 [(k+1)/2][16][2], the order that VDPBF16PS and TDPBF16PS take; an odd k
 * ends with zeros.
 *
 * isa/pack.inc packs through llmq_codec's levels, so that a new type needs no code here. d must be exact as the codec's llmq_scale
 * says, dmin in binary16. */
#include <string.h>

#include "formats/codec.h"
#include "kernels.h"

static int64_t round_up(int64_t x, int64_t to) {
    return (x + to - 1) / to * to;
}

llmq_status llmq_pack_plan(llmq_packed *w, int32_t type, int64_t n, int64_t k, int64_t experts) {
    const llmq_codec *codec = llmq_codec_of(type);
    const int64_t limit = (int64_t)1 << 40; /* columns, rows and experts whose sizes cannot overflow below */
    if (codec == NULL || (codec->bits && llmq_shape_of(codec) < 0)) return LLMQ_ERR_UNSUPPORTED;
    if (n < 1 || k < 1 || experts < 1 || k % codec->block || k > limit / 64 || n > limit / k || experts > limit / k / n) return LLMQ_ERR_ARG;
    *w = (llmq_packed){.type = type, .n = n, .k = k, .experts = experts, .strips = (n + LLMQ_STRIP - 1) / LLMQ_STRIP};
    int64_t bytes[LLMQ_MAX_PLANES] = {0}, at = 0;
    if (codec->bits == 0) {
        bytes[LLMQ_PLANE_LO] = type == LLMQ_F32 ? k * 64 : (k + 1) / 2 * 64;
    } else {
        const int stored = llmq_stored_bits(codec);
        bytes[LLMQ_PLANE_LO] = k * 2 * llmq_lo_bits(stored);
        bytes[LLMQ_PLANE_HI] = k * 2 * llmq_hi_bits(stored);
        bytes[LLMQ_PLANE_SC] = codec->has_scales ? k / codec->group * 16 : 0;
        bytes[LLMQ_PLANE_M] = codec->has_scales && codec->has_min ? k / codec->group * 16 : 0;
        bytes[LLMQ_PLANE_D] = k / codec->block * LLMQ_STRIP * llmq_scale_bytes(codec->scale);
        bytes[LLMQ_PLANE_DMIN] = codec->has_min ? k / codec->block * 32 : 0;
    }
    for (int p = 0; p < LLMQ_MAX_PLANES; p++) {
        w->plane[p] = at;
        at += round_up(bytes[p], 64);
    }
    w->strip_bytes = at;
    return LLMQ_OK;
}

/* ---- quads and words ---------------------------------------------------------------------------------------------------- */

static uint32_t load_u32(const void *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* Quad number `quad` of row r, from a plane of `bits`. */
static uint32_t part(const uint8_t *plane, int64_t quad, int r, int bits) {
    const int per = 8 / bits;
    const uint32_t mask = 0x01010101u * (uint32_t)((1 << bits) - 1);
    return load_u32(plane + (quad / per * LLMQ_STRIP + r) * 4) >> (quad % per * bits) & mask;
}

/* ---- scales ------------------------------------------------------------------------------------------------------------- */

float llmq_plane_scale(const uint8_t *plane, int scale, int64_t i) {
    uint16_t h;
    float d;
    if (scale == LLMQ_SCALE_E4M3) return 1;
    if (scale == LLMQ_SCALE_E8M0) return llmq_e8m0_to_f32(plane[i]);
    if (scale == LLMQ_SCALE_F32) {
        memcpy(&d, plane + 4 * i, 4);
        return d;
    }
    memcpy(&h, plane + 2 * i, 2);
    return llmq_f16_to_f32(h);
}

/* ---- and back ----------------------------------------------------------------------------------------------------------- */

static void float_row(const llmq_packed *w, const uint8_t *strip, int r, float *dst) {
    for (int64_t i = 0; i < w->k; i++) {
        uint16_t h;
        if (w->type == LLMQ_F32) {
            memcpy(dst + i, strip + (i * LLMQ_STRIP + r) * 4, 4);
            continue;
        }
        memcpy(&h, strip + ((i / 2 * LLMQ_STRIP + r) * 2 + i % 2) * 2, 2);
        dst[i] = w->type == LLMQ_F16 ? llmq_f16_to_f32(h) : llmq_bf16_to_f32(h);
    }
}

void llmq_packed_row(const llmq_packed *w, int64_t expert, int64_t row, float *dst) {
    const llmq_codec *codec = llmq_codec_of(w->type);
    const uint8_t *strip = w->data + (expert * w->strips + row / LLMQ_STRIP) * w->strip_bytes;
    const int r = (int)(row % LLMQ_STRIP), stored = llmq_stored_bits(codec), lo = llmq_lo_bits(stored), hi = llmq_hi_bits(stored);
    if (codec->bits == 0) {
        float_row(w, strip, r, dst);
        return;
    }
    for (int64_t i = 0; i < w->k; i++) {
        const int64_t b = i / codec->block, g = i / codec->group, quad = i / 4;
        uint32_t q = part(strip + w->plane[LLMQ_PLANE_LO], quad, r, lo);
        if (hi) q |= part(strip + w->plane[LLMQ_PLANE_HI], quad, r, hi) << lo;
        const int place = (int)(q >> (i % 4 * 8) & 255);
        const int level = codec->codebook ? codec->codebook[place] : codec->bits == 8 ? (int8_t)place : place - codec->off;
        const float d = llmq_plane_scale(strip + w->plane[LLMQ_PLANE_D], codec->scale, b * LLMQ_STRIP + r);
        const int8_t *sc = (const int8_t *)strip + w->plane[LLMQ_PLANE_SC] + g * LLMQ_STRIP + r;
        float value = d * (codec->has_scales ? llmq_group_scale(codec, *sc) : 1) * (float)level;
        if (codec->has_min) {
            const int m = codec->has_scales ? strip[w->plane[LLMQ_PLANE_M] + g * LLMQ_STRIP + r] : 1;
            value -= llmq_plane_scale(strip + w->plane[LLMQ_PLANE_DMIN], LLMQ_SCALE_F16, b * LLMQ_STRIP + r) * (float)m;
        }
        dst[i] = value;
    }
}

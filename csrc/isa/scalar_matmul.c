/* scalar_matmul.c: the matmul kernels in plain C, the check of all others. One body serves every shape: it reads the codec at run
 * time, and takes weights as signed levels (q - off fits int8 for every type), so that no offset is left to undo.
 *
 * Numeric contract: csrc/formats/dot.c for quantized weights, bit for bit; chains of LLMQ_FC columns for float ones (kernels.h). */
#include <math.h>
#include <string.h>

#include "formats/codec.h"
#include "kernels.h"

/* ---- activations -------------------------------------------------------------------------------------------------------- */

static void x8(const float *x, int64_t k, int32_t width, uint8_t *row) {
    int8_t *q = (int8_t *)row;
    float *dx = (float *)(void *)(row + llmq_x8_dx(k));
    int16_t *sum = (int16_t *)(void *)(row + llmq_x8_sum(k)), *half = (int16_t *)(void *)(row + llmq_x8_half(k));
    int16_t *sum32 = (int16_t *)(void *)(row + llmq_x8_sum32(k));
    for (int64_t i = 0; i < k; i += width, x += width, q += width) {
        uint32_t top = 0; /* magnitudes order like their bits; NaN and infinity stand above every number */
        for (int j = 0; j < width; j++) {
            const uint32_t bits = llmq_f32_bits(x[j]) & 0x7fffffffu;
            top = bits > top ? bits : top;
        }
        const float amax = llmq_bits_f32(top);
        const int finite = top < 0x7f800000u;
        const float inverse = finite && amax / 127 >= 0x1p-126f ? 127 / amax : 0;
        dx[i / width] = !finite ? llmq_bits_f32(0x7fc00000u) : inverse > 0 ? 1 / inverse : 0;
        for (int j = 0; j < width; j++) q[j] = finite ? (int8_t)rintf(x[j] * inverse) : 0;
    }
    memset(half, 0, (size_t)k / 4);
    for (int64_t i = 0; i < k; i++) half[i / 16 * 2 + i % 4 / 2] = (int16_t)(half[i / 16 * 2 + i % 4 / 2] + ((int8_t *)row)[i]);
    for (int64_t i = 0; i < k / 16; i++) sum[i] = (int16_t)(half[2 * i] + half[2 * i + 1]);
    for (int64_t i = 0; i < k / 32; i++) sum32[i] = (int16_t)(sum[2 * i] + sum[2 * i + 1]);
}

/* ---- quantized weights -------------------------------------------------------------------------------------------------- */

static inline uint32_t load_u32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* Columns [k0, k0 + kc) of a strip as signed levels, panel[16][KC]. */
static void unpack(const llmq_packed *w, const llmq_codec *codec, const uint8_t *strip, int64_t k0, int64_t kc, int8_t *panel) {
    const int stored = llmq_stored_bits(codec), lo = llmq_lo_bits(stored), hi = llmq_hi_bits(stored);
    const uint8_t *lows = strip + w->plane[LLMQ_PLANE_LO], *highs = strip + w->plane[LLMQ_PLANE_HI];
    const uint32_t lo_mask = 0x01010101u * (uint32_t)((1 << lo) - 1), hi_mask = 0x01010101u * (uint32_t)((1 << hi) - 1);
    for (int64_t quad = k0 / 4; quad < (k0 + kc) / 4; quad++) {
        for (int r = 0; r < LLMQ_STRIP; r++) {
            uint32_t q = load_u32(lows + (quad / (8 / lo) * LLMQ_STRIP + r) * 4) >> (quad % (8 / lo) * lo) & lo_mask;
            if (hi) q |= (load_u32(highs + (quad / (8 / hi) * LLMQ_STRIP + r) * 4) >> (quad % (8 / hi) * hi) & hi_mask) << lo;
            for (int j = 0; j < 4; j++) {
                const int place = (int)(q >> (8 * j) & 255);
                const int level = codec->codebook ? codec->codebook[place] : lo == 8 ? place : place - codec->off;
                panel[r * LLMQ_KC + quad * 4 - k0 + j] = (int8_t)level;
            }
        }
    }
}

/* What `width` columns from `at` on add to row r's total: dx * t of csrc/formats/dot.c. level: of the columns. */
static float run_dot(const llmq_packed *w, const llmq_codec *codec, const uint8_t *strip, int r, int64_t at, int32_t width,
                     const int8_t *level, const uint8_t *x) {
    const int8_t *q = (const int8_t *)x + at;
    const float dx = ((const float *)(const void *)(x + llmq_x8_dx(w->k)))[at / width];
    const int16_t *sum = (const int16_t *)(const void *)(x + llmq_x8_sum(w->k)) + at / 16;
    const int8_t *sc = (const int8_t *)strip + w->plane[LLMQ_PLANE_SC] + at / codec->group * LLMQ_STRIP + r;
    const uint8_t *m = strip + w->plane[LLMQ_PLANE_M] + at / codec->group * LLMQ_STRIP + r;
    const int64_t number = at / codec->block * LLMQ_STRIP + r;
    int32_t whole = 0, least = 0;
    float real = 0;
    for (int i = 0; i < width; i += 16) {
        const int group = i / codec->group * LLMQ_STRIP;
        int32_t products = 0;
        for (int j = i; j < i + 16; j++) products += level[j] * q[j];
        whole += codec->has_scales ? sc[group] * products : products;
        if (codec->scale == LLMQ_SCALE_E4M3) real += llmq_group_scale(codec, sc[group]) * (float)products;
        if (codec->has_min) least += codec->has_scales ? m[group] * sum[i / 16] : sum[i / 16];
    }
    if (codec->scale == LLMQ_SCALE_E4M3) return dx * real;
    const float t = llmq_plane_scale(strip + w->plane[LLMQ_PLANE_D], codec->scale, number) * (float)whole;
    if (!codec->has_min) return dx * t;
    return dx * (t - llmq_plane_scale(strip + w->plane[LLMQ_PLANE_DMIN], LLMQ_SCALE_F16, number) * (float)least);
}

static void mm_quant(const llmq_packed *w, const uint8_t *strips, int64_t count, const uint8_t *ahead, const uint8_t *x, int64_t m,
                     uint8_t *panel, float *out) {
    (void)ahead;
    const llmq_codec *codec = llmq_codec_of(w->type);
    const int32_t width = llmq_x8_width(codec);
    int8_t *levels = (int8_t *)panel;
    memset(out, 0, (size_t)(count * m) * LLMQ_STRIP * sizeof *out);
    for (int64_t s = 0; s < count; s++, strips += w->strip_bytes, out += m * LLMQ_STRIP) {
        for (int64_t k0 = 0; k0 < w->k; k0 += LLMQ_KC) {
            const int64_t kc = w->k - k0 < LLMQ_KC ? w->k - k0 : LLMQ_KC;
            unpack(w, codec, strips, k0, kc, levels);
            for (int64_t i = 0; i < m * LLMQ_STRIP; i++) {
                const uint8_t *row = x + i / LLMQ_STRIP * llmq_x8_stride(w->k);
                const int r = (int)(i % LLMQ_STRIP);
                for (int64_t j = 0; j < kc; j += width)
                    out[i] += run_dot(w, codec, strips, r, k0 + j, width, levels + r * LLMQ_KC + j, row);
            }
        }
    }
}

/* ---- float weights ------------------------------------------------------------------------------------------------------ */

/* Columns [k0, k0 + kc) of a strip as float [kc][16]; k0 is even. */
static const float *widen(const llmq_packed *w, const uint8_t *strip, int64_t k0, int64_t kc, uint8_t *panel) {
    if (w->type == LLMQ_F32) return (const float *)(const void *)strip + k0 * LLMQ_STRIP;
    const uint16_t *half = (const uint16_t *)(const void *)strip;
    float *wide = (float *)(void *)panel;
    for (int64_t i = 0; i < kc; i++) {
        for (int r = 0; r < LLMQ_STRIP; r++) {
            const uint16_t h = half[((k0 + i) / 2 * LLMQ_STRIP + r) * 2 + i % 2];
            wide[i * LLMQ_STRIP + r] = w->type == LLMQ_F16 ? llmq_f16_to_f32(h) : llmq_bf16_to_f32(h);
        }
    }
    return wide;
}

static void mm_float(const llmq_packed *w, const uint8_t *strips, int64_t count, const float *x, int64_t ldx, int64_t m,
                     uint8_t *panel, float *out) {
    memset(out, 0, (size_t)(count * m) * LLMQ_STRIP * sizeof *out);
    for (int64_t s = 0; s < count; s++, strips += w->strip_bytes, out += m * LLMQ_STRIP) {
        for (int64_t k0 = 0; k0 < w->k; k0 += LLMQ_FC) {
            const int64_t kc = w->k - k0 < LLMQ_FC ? w->k - k0 : LLMQ_FC;
            const float *wide = widen(w, strips, k0, kc, panel);
            for (int64_t t = 0; t < m; t++) {
                float chain[LLMQ_STRIP] = {0};
                for (int64_t i = 0; i < kc; i++) {
                    for (int r = 0; r < LLMQ_STRIP; r++) chain[r] += wide[i * LLMQ_STRIP + r] * x[t * ldx + k0 + i];
                }
                for (int r = 0; r < LLMQ_STRIP; r++) out[t * LLMQ_STRIP + r] += chain[r];
            }
        }
    }
}

void llmq_body_scalar_matmul(llmq_kernels *k);
void llmq_body_scalar_matmul(llmq_kernels *k) {
    k->x8 = x8;
    k->mm_f32 = k->mm_f16 = k->mm_bf16 = mm_float;
#define SHAPE(name, ...) k->mm_##name = mm_quant;
#include "shapes.def"
#undef SHAPE
}

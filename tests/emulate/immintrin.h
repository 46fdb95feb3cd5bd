/* immintrin.h: stands in for the compiler's own, so that the AVX-512 and AMX bodies run on any x86-64 with AVX2: SIMDe's portable
 * versions of the intrinsics, and here what SIMDe lacks, written from Intel's description of each instruction. */
#ifndef LLMQ_EMULATE_IMMINTRIN_H
#define LLMQ_EMULATE_IMMINTRIN_H

#include_next <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#include <simde/x86/gfni.h>
#include <string.h>

/* Not inlined: the bodies unroll hundreds of these, and compiling them expanded takes minutes. */
#define EMULATE static __attribute__((noinline, unused))

#define WRAP2(name, type)                                                                                                         \
    EMULATE type emulate_##name(type a, type b) { return simde_mm512_##name(a, b); }
#define WRAP3(name, type, last)                                                                                                   \
    EMULATE type emulate_##name(type a, type b, last c) { return simde_mm512_##name(a, b, c); }
WRAP2(madd_epi16, __m512i)
WRAP2(maddubs_epi16, __m512i)
WRAP2(mullo_epi16, __m512i)
WRAP2(mullo_epi32, __m512i)
WRAP2(shuffle_epi8, __m512i)
WRAP3(dpbusd_epi32, __m512i, __m512i)
WRAP3(dpwssd_epi32, __m512i, __m512i)
WRAP3(fmadd_ps, __m512, __m512)
EMULATE __m512 emulate_permutex2var_ps(__m512 a, __m512i index, __m512 b) { return simde_mm512_permutex2var_ps(a, index, b); }
EMULATE __m512i emulate_abs_epi8(__m512i a) { return simde_mm512_abs_epi8(a); }
EMULATE __m512i emulate_cvtepi8_epi16(__m256i a) { return simde_mm512_cvtepi8_epi16(a); }
EMULATE __mmask64 emulate_movepi8_mask(__m512i a) { return simde_mm512_movepi8_mask(a); }
EMULATE __m512i emulate_mask_sub_epi8(__m512i s, __mmask64 k, __m512i a, __m512i b) { return simde_mm512_mask_sub_epi8(s, k, a, b); }
#undef _mm512_madd_epi16
#undef _mm512_maddubs_epi16
#undef _mm512_mullo_epi16
#undef _mm512_mullo_epi32
#undef _mm512_shuffle_epi8
#undef _mm512_dpbusd_epi32
#undef _mm512_dpwssd_epi32
#undef _mm512_fmadd_ps
#undef _mm512_permutex2var_ps
#undef _mm512_abs_epi8
#undef _mm512_cvtepi8_epi16
#undef _mm512_movepi8_mask
#undef _mm512_mask_sub_epi8
#define _mm512_madd_epi16 emulate_madd_epi16
#define _mm512_maddubs_epi16 emulate_maddubs_epi16
#define _mm512_mullo_epi16 emulate_mullo_epi16
#define _mm512_mullo_epi32 emulate_mullo_epi32
#define _mm512_shuffle_epi8 emulate_shuffle_epi8
#define _mm512_dpbusd_epi32 emulate_dpbusd_epi32
#define _mm512_dpwssd_epi32 emulate_dpwssd_epi32
#define _mm512_fmadd_ps emulate_fmadd_ps
#define _mm512_permutex2var_ps emulate_permutex2var_ps
#define _mm512_abs_epi8 emulate_abs_epi8
#define _mm512_cvtepi8_epi16 emulate_cvtepi8_epi16
#define _mm512_movepi8_mask emulate_movepi8_mask
#define _mm512_mask_sub_epi8 emulate_mask_sub_epi8

/* ---- AVX-512 ---------------------------------------------------------------------------------------------------------------- */

/* dst lane i = (to) source lane i, for a source of n lanes */
#define LANES(name, result, source, to, from, n)                                                                                 \
    EMULATE result name(source a) {                                                                                               \
        from in[n];                                                                                                              \
        to out[n];                                                                                                               \
        result r;                                                                                                                \
        memcpy(in, &a, sizeof in);                                                                                               \
        for (int i = 0; i < (n); i++) out[i] = (to)in[i];                                                                         \
        memcpy(&r, out, sizeof r);                                                                                               \
        return r;                                                                                                                \
    }
LANES(emulate_cvtepi8_epi32, __m512i, __m128i, int32_t, int8_t, 16)
LANES(emulate_cvtepu8_epi32, __m512i, __m128i, int32_t, uint8_t, 16)
LANES(emulate_cvtepu8_epi16, __m512i, __m256i, int16_t, uint8_t, 32)
LANES(emulate_cvtepi32_ps, __m512, __m512i, float, int32_t, 16)
#undef LANES
#define _mm512_cvtepi8_epi32 emulate_cvtepi8_epi32
#define _mm512_cvtepu8_epi32 emulate_cvtepu8_epi32
#define _mm512_cvtepu8_epi16 emulate_cvtepu8_epi16
#define _mm512_cvtepi32_ps emulate_cvtepi32_ps

EMULATE __m512 emulate_cvtph_ps(__m256i a) {
    __m128i half[2];
    __m256 wide[2];
    __m512 r;
    memcpy(half, &a, sizeof half);
    for (int i = 0; i < 2; i++) wide[i] = _mm256_cvtph_ps(half[i]);
    memcpy(&r, wide, sizeof r);
    return r;
}
#define _mm512_cvtph_ps emulate_cvtph_ps

EMULATE __m512 emulate_maskz_loadu_ps(__mmask16 k, const void *p) {
    float lane[16] = {0};
    __m512 r;
    for (int i = 0; i < 16; i++) {
        if (k >> i & 1) memcpy(lane + i, (const float *)p + i, 4);
    }
    memcpy(&r, lane, sizeof r);
    return r;
}
#define _mm512_maskz_loadu_ps emulate_maskz_loadu_ps

/* VPERMB: byte i is byte index[i] % 64 of a, or where its mask is 0 that of s */
EMULATE __m512i emulate_mask_permutexvar_epi8(__m512i s, __mmask64 k, __m512i index, __m512i a) {
    uint8_t in[64], at[64], out[64];
    memcpy(in, &a, 64), memcpy(at, &index, 64), memcpy(out, &s, 64);
    for (int i = 0; i < 64; i++) out[i] = k >> i & 1 ? in[at[i] % 64] : out[i];
    memcpy(&s, out, 64);
    return s;
}
#undef _mm512_mask_permutexvar_epi8
#undef _mm512_maskz_permutexvar_epi8
#define _mm512_mask_permutexvar_epi8 emulate_mask_permutexvar_epi8
#define _mm512_maskz_permutexvar_epi8(k, index, a) emulate_mask_permutexvar_epi8(_mm512_setzero_si512(), k, index, a)

/* VCVTNE2PS2BF16: b to the low half, a to the high one; nearest even, denormals are zeros, NaN made quiet */
EMULATE __m512i emulate_cvtne2ps_pbh(__m512 a, __m512 b) {
    uint32_t in[32];
    uint16_t out[32];
    __m512i r;
    memcpy(in, &b, 64);
    memcpy(in + 16, &a, 64);
    for (int i = 0; i < 32; i++) {
        const uint32_t u = in[i], magnitude = u & 0x7fffffffu;
        if (magnitude > 0x7f800000u) out[i] = (uint16_t)(u >> 16 | 64);
        else if (magnitude < 0x00800000u) out[i] = (uint16_t)(u >> 16 & 0x8000);
        else out[i] = (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
    memcpy(&r, out, sizeof r);
    return r;
}
#define _mm512_cvtne2ps_pbh emulate_cvtne2ps_pbh

/* VDPBF16PS: c[n] += a[2n+1] * b[2n+1], then += a[2n] * b[2n]; denormals are zeros */
EMULATE float emulate_bf16(const uint8_t *p) {
    const uint32_t bits = (uint32_t)(p[0] | p[1] << 8) << 16;
    float x;
    memcpy(&x, &bits, 4);
    return (bits & 0x7f800000u) ? x : 0;
}
EMULATE __m512 emulate_dpbf16_ps(__m512 c, __m512i a, __m512i b) {
    float sum[16];
    uint8_t x[64], y[64];
    memcpy(sum, &c, 64), memcpy(x, &a, 64), memcpy(y, &b, 64);
    for (int n = 0; n < 16; n++) {
        sum[n] += emulate_bf16(x + 4 * n + 2) * emulate_bf16(y + 4 * n + 2);
        sum[n] += emulate_bf16(x + 4 * n) * emulate_bf16(y + 4 * n);
    }
    memcpy(&c, sum, 64);
    return c;
}
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps(c, a, b) emulate_dpbf16_ps(c, (__m512i)(a), (__m512i)(b))

/* ---- AMX: eight tiles of 16 rows of 64 bytes a thread ------------------------------------------------------------------------- */

static _Thread_local struct emulate_tiles {
    uint8_t config[64];
    uint8_t tile[8][16][64];
} emulate_tiles;

EMULATE void emulate_tile_loadconfig(const void *config) {
    memcpy(emulate_tiles.config, config, 64);
    memset(emulate_tiles.tile, 0, sizeof emulate_tiles.tile);
    if (emulate_tiles.config[0] != 1) __builtin_trap();
}
EMULATE void emulate_tile_release(void) {
    memset(&emulate_tiles, 0, sizeof emulate_tiles);
}
/* rows and bytes per row of tile t; a tile that is not configured faults, as the CPU does */
EMULATE int emulate_tile_rows(int t) {
    if (emulate_tiles.config[0] != 1 || emulate_tiles.config[48 + t] == 0) __builtin_trap();
    return emulate_tiles.config[48 + t];
}
EMULATE int emulate_tile_bytes(int t) {
    return emulate_tiles.config[16 + 2 * t] | emulate_tiles.config[17 + 2 * t] << 8;
}
EMULATE void emulate_tile_zero(int t) {
    (void)emulate_tile_rows(t);
    memset(emulate_tiles.tile[t], 0, 1024);
}
EMULATE void emulate_tile_loadd(int t, const void *base, int64_t stride) {
    emulate_tile_zero(t);
    for (int r = 0; r < emulate_tile_rows(t); r++) memcpy(emulate_tiles.tile[t][r], (const char *)base + r * stride, (size_t)emulate_tile_bytes(t));
}
EMULATE void emulate_tile_stored(int t, void *base, int64_t stride) {
    for (int r = 0; r < emulate_tile_rows(t); r++) memcpy((char *)base + r * stride, emulate_tiles.tile[t][r], (size_t)emulate_tile_bytes(t));
}
/* TDPBF16PS: c[m][n] += a[m][2k] * b[k][2n], then += a[m][2k+1] * b[k][2n+1]; denormals are zeros; tiles that do not fit
 * each other fault */
EMULATE void emulate_tile_dpbf16ps(int c, int a, int b) {
    if (emulate_tile_rows(c) != emulate_tile_rows(a) || emulate_tile_bytes(a) != 4 * emulate_tile_rows(b)) __builtin_trap();
    if (emulate_tile_bytes(c) != emulate_tile_bytes(b)) __builtin_trap();
    for (int m = 0; m < emulate_tile_rows(c); m++) {
        float row[16];
        memcpy(row, emulate_tiles.tile[c][m], 64);
        for (int k = 0; k < emulate_tile_bytes(a) / 4; k++) {
            for (int n = 0; n < emulate_tile_bytes(c) / 4; n++) {
                const uint8_t *x = emulate_tiles.tile[a][m] + 4 * k, *y = emulate_tiles.tile[b][k] + 4 * n;
                row[n] += emulate_bf16(x) * emulate_bf16(y);
                row[n] += emulate_bf16(x + 2) * emulate_bf16(y + 2);
            }
        }
        memcpy(emulate_tiles.tile[c][m], row, 64);
    }
}
/* TDPBSSD: c[m][n] += a[m][4k + i] * b[k][4n + i] for i = 0 .. 3, signed bytes */
EMULATE void emulate_tile_dpbssd(int c, int a, int b) {
    if (emulate_tile_rows(c) != emulate_tile_rows(a) || emulate_tile_bytes(a) != 4 * emulate_tile_rows(b)) __builtin_trap();
    if (emulate_tile_bytes(c) != emulate_tile_bytes(b)) __builtin_trap();
    for (int m = 0; m < emulate_tile_rows(c); m++) {
        int32_t row[16];
        memcpy(row, emulate_tiles.tile[c][m], 64);
        for (int k = 0; k < emulate_tile_bytes(a); k++) {
            for (int n = 0; n < emulate_tile_bytes(c) / 4; n++)
                row[n] += (int8_t)emulate_tiles.tile[a][m][k] * (int8_t)emulate_tiles.tile[b][k / 4][4 * n + k % 4];
        }
        memcpy(emulate_tiles.tile[c][m], row, 64);
    }
}
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbssd
#define _tile_loadconfig emulate_tile_loadconfig
#define _tile_release emulate_tile_release
#define _tile_zero emulate_tile_zero
#define _tile_loadd emulate_tile_loadd
#define _tile_stored emulate_tile_stored
#define _tile_dpbf16ps emulate_tile_dpbf16ps
#define _tile_dpbssd emulate_tile_dpbssd

#endif

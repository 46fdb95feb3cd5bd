/* inline.h: what kernels ask of the compiler. Their arrays of vectors become registers only when every function is inlined and every
 * short loop unrolled; GCC and Clang have different words for the latter and each ignores the other's, at a fourth of the speed. */
#ifndef LLMQ_SIMD_INLINE_H
#define LLMQ_SIMD_INLINE_H

#define V_INLINE static inline __attribute__((always_inline))

/* before a loop whose number of rounds is known: n rounds at a time (Clang: all), or one by one */
#define V_PRAGMA(words) _Pragma(#words)
#ifdef __clang__
#define UNROLL(n) V_PRAGMA(clang loop unroll(full))
#define ROLLED V_PRAGMA(clang loop unroll(disable))
#else
#define UNROLL(n) V_PRAGMA(GCC unroll n)
#define ROLLED V_PRAGMA(GCC unroll 1)
#endif

#endif

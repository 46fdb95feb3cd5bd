/* cpuid.c: what the CPU has and what the operating system lets a program use.
 *
 * A feature counts only when both say so: CPUID for the instructions, XCR0 for the registers that the kernel saves (bits 1, 2: xmm, ymm;
 * 5..7: opmask and zmm; 17, 18: AMX tiles). Tiles must also be asked for once per process (arch_prctl, Linux 5.16).
 * Source: Intel SDM vol. 1 ch. 13 and vol. 2 CPUID; Linux Documentation/arch/x86/xstate.rst. */
#define _GNU_SOURCE 1 /* syscall */
#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum {
    AVX2, FMA, F16C, AVX512F, AVX512BW, AVX512VL, AVX512DQ, AVX512_VNNI, AVX512_BF16, AVX512_VBMI, GFNI, AMX_TILE,
    AMX_INT8, AMX_BF16, ASIMDDP, I8MM, FLAGS
};
static const char *const names[FLAGS] = {
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16",
    "avx512_vbmi", "gfni", "amx_tile", "amx_int8", "amx_bf16", "asimddp", "i8mm",
};

#define BIT(feature) (1u << (feature))
static const uint32_t needed[LLMQ_ISA_COUNT] = {
    [LLMQ_ISA_NEON] = BIT(ASIMDDP),
    [LLMQ_ISA_NEONI8MM] = BIT(I8MM),
    [LLMQ_ISA_AVX2] = BIT(AVX2) | BIT(FMA) | BIT(F16C),
    [LLMQ_ISA_AVX512] = BIT(AVX512F) | BIT(AVX512BW) | BIT(AVX512VL) | BIT(AVX512DQ),
    [LLMQ_ISA_AVX512VNNI] = BIT(AVX512_VNNI),
    [LLMQ_ISA_AVX512BF16] = BIT(AVX512_BF16),
    [LLMQ_ISA_AMX] = BIT(AMX_TILE) | BIT(AMX_INT8) | BIT(AMX_BF16) | BIT(AVX512_BF16) | BIT(AVX512_VBMI) | BIT(GFNI),
};

#if defined(__x86_64__)
static int tiles_granted(void) {
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return 0;
#endif
}

uint32_t llmq_cpu_flags(void) {
    unsigned a, b, c, d, a7 = 0, b7 = 0, c7 = 0, d7 = 0, a71 = 0, xcr0 = 0, xcr0_high;
    uint32_t flags = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    if (c >> 27 & 1) __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(xcr0_high) : "c"(0));
    if (__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7) && a7 >= 1) {
        unsigned b71, c71, d71;
        __get_cpuid_count(7, 1, &a71, &b71, &c71, &d71);
    }
    if ((xcr0 & 0x6) == 0x6 && (c >> 28 & 1)) {
        flags |= (b7 >> 5 & 1) << AVX2 | (c >> 12 & 1) << FMA | (c >> 29 & 1) << F16C;
    }
    if ((xcr0 & 0xe6) == 0xe6) {
        flags |= (b7 >> 16 & 1) << AVX512F | (b7 >> 30 & 1) << AVX512BW | (b7 >> 31 & 1) << AVX512VL | (b7 >> 17 & 1) << AVX512DQ;
        flags |= (c7 >> 11 & 1) << AVX512_VNNI | (a71 >> 5 & 1) << AVX512_BF16 | (c7 >> 1 & 1) << AVX512_VBMI;
        flags |= (c7 >> 8 & 1) << GFNI;
    }
    if ((xcr0 & 0x60000) == 0x60000 && (d7 >> 24 & 1) && tiles_granted()) {
        flags |= BIT(AMX_TILE) | (d7 >> 25 & 1) << AMX_INT8 | (d7 >> 22 & 1) << AMX_BF16;
    }
    return flags;
}
#elif defined(__aarch64__) && defined(__linux__)
uint32_t llmq_cpu_flags(void) {
    /* bits of Linux arch/arm64/include/uapi/asm/hwcap.h: HWCAP_ASIMDDP, HWCAP2_I8MM */
    return (uint32_t)(getauxval(AT_HWCAP) >> 20 & 1) << ASIMDDP | (uint32_t)(getauxval(AT_HWCAP2) >> 13 & 1) << I8MM;
}
#elif defined(__aarch64__) && defined(__APPLE__)
static int has(const char *feature) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(feature, &value, &size, NULL, 0) == 0 && value;
}

uint32_t llmq_cpu_flags(void) {
    return (has("hw.optional.arm.FEAT_DotProd") ? BIT(ASIMDDP) : 0) | (has("hw.optional.arm.FEAT_I8MM") ? BIT(I8MM) : 0);
}
#else
uint32_t llmq_cpu_flags(void) {
    return 0;
}
#endif

const char *llmq_cpu_flag_name(int bit) {
    return bit >= 0 && bit < FLAGS ? names[bit] : NULL;
}

int llmq_cpu_can(llmq_isa level) {
    return (llmq_cpu_flags() & needed[level]) == needed[level];
}

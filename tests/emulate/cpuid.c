/* cpuid.c: in place of csrc/cpuid.c in the emulated build: a CPU that has every level of x86-64. */
#include "kernels.h"

uint32_t llmq_cpu_flags(void) {
    return 1;
}

const char *llmq_cpu_flag_name(int bit) {
    return bit == 0 ? "emulated" : NULL;
}

int llmq_cpu_can(llmq_isa level) {
    return level != LLMQ_ISA_NEON && level != LLMQ_ISA_NEONI8MM;
}

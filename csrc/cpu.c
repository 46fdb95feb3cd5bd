/* cpu.c: the kernel table and the ladder of levels it is filled from.
 *
 * Climbing the ladder, each body puts its kernels over those of the level below; the table of a level is what stands there after the
 * climb. One table serves the process; it is filled before any kernel runs and read without locks. */
#include <string.h>

#include "kernels.h"

#define BODY(level, body) void llmq_body_##body(llmq_kernels *);
#include "ladder.def"
#undef BODY

static const struct rung {
    llmq_isa level;
    void (*fill)(llmq_kernels *);
} ladder[] = {
#define BODY(level, body) {LLMQ_ISA_##level, llmq_body_##body},
#include "ladder.def"
#undef BODY
};
enum { RUNGS = sizeof ladder / sizeof *ladder };

typedef void any_fn(void);
typedef union table {
    llmq_kernels kernels;
    any_fn *slot[LLMQ_SLOTS];
} table;
_Static_assert(sizeof(llmq_kernels) == LLMQ_SLOTS * sizeof(any_fn *), "the table holds slots and nothing else");

static table used;
static llmq_isa used_level = LLMQ_ISA_COUNT;
static llmq_isa slot_level[LLMQ_SLOTS];

static const char *const isa_names[LLMQ_ISA_COUNT] = {
    [LLMQ_ISA_SCALAR] = "scalar", [LLMQ_ISA_NEON] = "neon", [LLMQ_ISA_NEONI8MM] = "neoni8mm",
    [LLMQ_ISA_AVX2] = "avx2", [LLMQ_ISA_AVX512] = "avx512", [LLMQ_ISA_AVX512VNNI] = "avx512vnni",
    [LLMQ_ISA_AVX512BF16] = "avx512bf16", [LLMQ_ISA_AMX] = "amx",
};
static const char *const slot_names[LLMQ_SLOTS] = {
#define KERNEL(type, name) #name,
#include "kernels.def"
#undef KERNEL
};

const char *llmq_isa_name(llmq_isa level) {
    return (unsigned)level < LLMQ_ISA_COUNT ? isa_names[level] : NULL;
}

/* A level is offered when the CPU has it, the build has a body for it, and so it is for every body below. */
llmq_isa llmq_isa_found(void) {
    llmq_isa best = LLMQ_ISA_SCALAR;
    for (int i = 0; i < RUNGS && llmq_cpu_can(ladder[i].level); i++) best = ladder[i].level;
    return best;
}

llmq_isa llmq_isa_used(void) {
    return used_level;
}

int llmq_isa_offered(llmq_isa level) {
    for (int i = 0; i < RUNGS; i++) {
        if (ladder[i].level == level) return level <= llmq_isa_found();
    }
    return 0;
}

llmq_status llmq_isa_use(llmq_isa level) {
    if ((unsigned)level >= LLMQ_ISA_COUNT) return LLMQ_ERR_ARG;
    if (!llmq_isa_offered(level)) return LLMQ_ERR_UNSUPPORTED;
    table next, before;
    memset(&next, 0, sizeof next);
    for (int i = 0; i < LLMQ_SLOTS; i++) slot_level[i] = LLMQ_ISA_COUNT;
    for (int i = 0; i < RUNGS && ladder[i].level <= level; i++) {
        before = next;
        ladder[i].fill(&next.kernels);
        for (int s = 0; s < LLMQ_SLOTS; s++) {
            if (next.slot[s] != before.slot[s]) slot_level[s] = ladder[i].level;
        }
    }
    used = next;
    used_level = level;
    return LLMQ_OK;
}

const llmq_kernels *llmq_kernels_used(void) {
    return &used.kernels;
}

const char *llmq_slot_name(int slot) {
    return slot >= 0 && slot < LLMQ_SLOTS ? slot_names[slot] : NULL;
}

llmq_isa llmq_slot_level(int slot) {
    return slot_level[slot];
}

int llmq_shape_of(const llmq_codec *c) {
#define SHAPE(name, bits_, group_, off_, min, scales, code, scale_, block_)                                                      \
    if (c->bits == (bits_) && c->group == (group_) && c->off == (off_) && c->has_min == (min) && c->has_scales == (scales) &&      \
        c->code_bits == (code) && c->scale == LLMQ_SCALE_##scale_ && c->block == (block_))                                       \
        return LLMQ_SHAPE_##name;
#include "shapes.def"
#undef SHAPE
    return -1;
}

llmq_mm_quant_fn *llmq_mm_quant(int32_t type) {
    const llmq_codec *codec = llmq_codec_of(type);
    const int shape = codec && codec->bits ? llmq_shape_of(codec) : -1;
    if (shape < 0) return NULL;
    llmq_mm_quant_fn *const by_shape[LLMQ_SHAPES] = {
#define SHAPE(name, ...) used.kernels.mm_##name,
#include "shapes.def"
#undef SHAPE
    };
    return by_shape[shape];
}

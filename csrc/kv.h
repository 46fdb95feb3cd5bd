/* kv.h: the keys and values of all sequences of an engine, in pages of LLMQ_PAGE positions.
 *
 * A page holds LLMQ_PAGE positions of one sequence for every slot (attention layer). Sequences share pages until one of them writes:
 * pages are counted, and llmq_kv_reserve gives a sequence its own copy of what it is about to write. Growing never copies.
 *
 * One head of one slot in a page, d even-rounded for keys, rounded up to 16 for values:
 *
 *     bfloat16   K [4 blocks of 16 keys][d/2][16 keys][2]    V [32 pairs of keys][d][2]     (a pair is one 32-bit word: the operand
 *     float16    K [4 blocks of 16 keys][d][16 keys]         V [64 keys][d]                  order of bfloat16 dot instructions)
 *     float32    as float16
 *     8 bits     as float16, int8 in -127..127; then a float32 scale for each of the 64 keys (values), its largest magnitude / 127
 *
 * Positions never written are zeros; those past a sequence's length may hold anything once truncated, and no kernel lets them count.
 * float16 saturates at +-65504; an 8-bit head with a number that is not finite becomes NaN. Not for concurrent use, except llmq_kv_put
 * by threads that write different positions.
 *
 * A slot may instead be recurrent: then it has no part in pages, but in the records of states.h, and a sequence can only be cut back to
 * the lengths that it has a record of. */
#ifndef LLMQ_KV_H
#define LLMQ_KV_H

#include "llmq.h"
#include "ops/slots.h"
#include "states.h"

typedef struct llmq_kv_slot {
    int32_t heads, d_k, d_v;      /* as the ops say; 0 when it is recurrent */
    int64_t floats, record;       /* of a recurrent slot: its part of a record, and where that begins */
    int32_t k_cols, v_cols;       /* as stored */
    int64_t k_head, v_head;       /* bytes of one head in a page */
    int64_t k, v;                 /* byte offsets of the first head in a page */
} llmq_kv_slot;

typedef struct llmq_sequence {
    int32_t live, length, n_pages, capacity;
    int32_t source;               /* the sequence that the encoder filled for this one, owned by it; -1: none */
    uint8_t **pages;
    llmq_states states;
} llmq_sequence;

typedef struct llmq_kv {
    int32_t type, unit;           /* LLMQ_F32, LLMQ_F16, LLMQ_BF16 or LLMQ_Q8_0; bytes per element */
    int32_t n_slots, n_sequences;
    int64_t page_bytes;
    int64_t pages;                /* allocated now */
    llmq_records records;
    llmq_kv_slot *slots;
    llmq_sequence *sequences;
} llmq_kv;

/* slots: heads, d_k, d_v and floats are read, the rest is filled in */
llmq_status llmq_kv_init(llmq_kv *, int32_t type, const llmq_kv_slot *slots, int32_t n_slots);
void llmq_kv_free(llmq_kv *);

llmq_status llmq_kv_open(llmq_kv *, int32_t *seq);                              /* a new sequence */
int32_t llmq_kv_kept(const llmq_kv *, int32_t seq, int32_t length);              /* the most that can be kept of `length` <= its own */
llmq_status llmq_kv_fork(llmq_kv *, int32_t from, int32_t length, int32_t *seq); /* what can be kept of length <= that of from */
void llmq_kv_truncate(llmq_kv *, int32_t seq, int32_t length);                   /* the same; drops pages and records past it */
void llmq_kv_close(llmq_kv *, int32_t seq);                                      /* its source too */
void llmq_kv_attach(llmq_kv *, int32_t seq, int32_t source);                     /* in place of the source it has */
int llmq_kv_is_shared(const llmq_sequence *, int32_t page);                      /* 1: reserve would copy it */
/* Makes positions length(seq) .. length-1 writable. On LLMQ_ERR_NOMEM the sequence is as it was. */
llmq_status llmq_kv_reserve(llmq_kv *, int32_t seq, int32_t length);

/* k: heads * d_k, v: heads * d_v numbers of one token */
void llmq_kv_put(const llmq_kv *, int32_t seq, int32_t slot, int32_t position, const float *k, const float *v);

#endif

/* states.h: recurrent states. What KV pages cannot hold: every token overwrites them, so that a sequence can only be cut back to where
 * a copy was kept.
 *
 * A record is the state of all recurrent slots after the first `position` tokens of a sequence, float32, whatever the type of keys and
 * values; at position 0 there is none, and the state is zeros. A sequence has the record of its length and some of earlier positions, its
 * checkpoints. A record that is in place is never written again, so sequences share records, and a run that ends badly has spoiled
 * nothing: it reads the last one and writes new ones, which come into place when the batch is committed.
 *
 * Checkpoints lie at multiples of LLMQ_PAGE. One at a multiple of 64 * 8^k (the largest such k) stays until the sequence is 2 * 64 * 8^k
 * tokens longer: two at most for each k, and cutting off d tokens leaves fewer than 16 d + 128 to compute again. */
#ifndef LLMQ_STATES_H
#define LLMQ_STATES_H

#include "llmq.h"

typedef struct llmq_record {
    struct llmq_record *next;      /* of those that nobody owns */
    int32_t position, owners;
    _Alignas(64) float data[];     /* slot after slot */
} llmq_record;

typedef struct llmq_records { /* of an engine */
    int64_t floats;                /* of one record; 0: the tape has no recurrent slots, and every call below does nothing */
    int64_t owned;
    int64_t taken;                 /* by the batch at hand: the next will take as many, so that many are kept when nobody owns them */
    int64_t n_spare;
    llmq_record *spare;
} llmq_records;

typedef struct llmq_states { /* of a sequence */
    int32_t n, pending, capacity;  /* records in place; records that the run under way writes, behind them */
    llmq_record **records;         /* positions rising */
} llmq_states;

int64_t llmq_record_bytes(const llmq_records *);
int llmq_record_kept(int32_t position, int32_t length);                  /* 1: a sequence of that length keeps a checkpoint there */
int32_t llmq_states_before(const llmq_states *, int32_t length);         /* the last position <= length that has a record, 0 without */
llmq_status llmq_states_share(const llmq_states *from, int32_t length, llmq_states *to); /* its records up to length; `to` is empty */
void llmq_states_cut(llmq_records *, llmq_states *, int32_t length);     /* drops what is past length, and all that is pending */
void llmq_states_free(llmq_records *, llmq_states *);
/* For a run that takes the sequence from `length` to `end`: what llmq_states_reserve will make pending, and making it so; the last is
 * that of `end`. On LLMQ_ERR_NOMEM nothing is pending. */
int32_t llmq_states_growth(const llmq_records *, int32_t length, int32_t end);
llmq_status llmq_states_reserve(llmq_records *, llmq_states *, int32_t length, int32_t end);
void llmq_states_commit(llmq_records *, llmq_states *);                  /* puts the pending ones in place, drops outdated ones */
void llmq_records_free(llmq_records *);                                  /* the spare ones */

#endif

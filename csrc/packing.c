/* packing.c: weights of a file packed by all threads of a pool, each piece of rows checked and packed while it is in the caches. */
#define _DEFAULT_SOURCE 1 /* madvise */
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels.h"

enum { PIECE = 1 << 18, HUGE = 2 << 20 }; /* bytes of strips that a thread takes at a time; of a huge page */

int llmq_pack(const llmq_packed *w, const void *rows, int tid, int nth) {
    const llmq_codec *codec = llmq_codec_of(w->type);
    const int64_t all = w->strips * w->experts, row_bytes = w->k / codec->block * codec->bytes;
    int good = 1;
    for (int64_t i = all * tid / nth; i < all * (tid + 1) / nth; i++) {
        const int64_t expert = i / w->strips, row = i % w->strips * LLMQ_STRIP;
        const int count = (int)(w->n - row < LLMQ_STRIP ? w->n - row : LLMQ_STRIP);
        const uint8_t *from = (const uint8_t *)rows + (expert * w->n + row) * row_bytes;
        good &= llmq_kernels_used()->pack_strip(w, w->data + i * w->strip_bytes, from, count);
    }
    return good;
}

typedef struct {
    const llmq_packed *w;
    const void *rows;
    int pieces;
    atomic_int broken;
} packing;

/* Asks for the pages of a piece at once, so that not each of them is a fault. Where the system cannot, they come one by one. */
static void have_pages(const uint8_t *from, const uint8_t *to) {
#ifdef MADV_POPULATE_WRITE
    const uintptr_t begin = (uintptr_t)from & ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);
    (void)madvise((void *)begin, (uintptr_t)to - begin, MADV_POPULATE_WRITE);
#else
    (void)from, (void)to;
#endif
}

static void work(void *arg, int phase, int64_t *next, int tid, int nth) {
    packing *p = arg;
    const int64_t all = p->w->strips * p->w->experts;
    (void)phase, (void)tid, (void)nth;
    for (int64_t i; (i = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < p->pieces;) {
        have_pages(p->w->data + all * i / p->pieces * p->w->strip_bytes, p->w->data + all * (i + 1) / p->pieces * p->w->strip_bytes);
        if (!llmq_pack(p->w, p->rows, (int)i, p->pieces)) atomic_store(&p->broken, 1);
    }
}

llmq_status llmq_packed_new(llmq_packed *w, int32_t type, int64_t n, int64_t k, int64_t experts, const void *rows, int huge_pages,
                            llmq_pool *pool, llmq_phase *phase) {
    const llmq_status status = llmq_pack_plan(w, type, n, k, experts);
    if (status != LLMQ_OK) return status;
    const int64_t bytes = w->strips * w->strip_bytes * experts, most = w->strips * experts;
    void *data;
    if (posix_memalign(&data, bytes >= HUGE ? HUGE : 64, (size_t)bytes) != 0) return LLMQ_ERR_NOMEM;
#ifdef MADV_HUGEPAGE
    if (huge_pages && bytes >= HUGE) (void)madvise(data, (size_t)bytes, MADV_HUGEPAGE); /* advice: nothing is lost when it is not taken */
#else
    (void)huge_pages;
#endif
    w->data = data;
    const int64_t pieces = bytes / PIECE + 1 < most ? bytes / PIECE + 1 : most;
    packing job = {.w = w, .rows = rows, .pieces = (int)(pieces < 1 << 20 ? pieces : 1 << 20)};
    llmq_pool_run(pool, phase, 1, work, &job);
    if (!job.broken) return LLMQ_OK;
    free(data);
    w->data = NULL;
    return LLMQ_ERR_NONFINITE;
}

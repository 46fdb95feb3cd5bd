/* packing.c: weights of a file packed by all threads of a pool, each piece of rows checked and packed while it is in the caches.
 *
 * Rows that are in a file are read into a buffer that a thread uses again: cheaper than the pages of a mapping, and a file that is
 * shortened meanwhile is an error, where a page of a mapping that is gone ends the process. */
#define _DEFAULT_SOURCE 1 /* madvise */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels.h"

enum { PIECE = 1 << 18, HUGE = 2 << 20 }; /* bytes of strips that a thread takes at a time; of a huge page */

/* ---- pages ----------------------------------------------------------------------------------------------------------------- */

/* Asks for the pages of a piece at once, so that not each of them is a fault, and says how long that took. 0: the system cannot, they
 * come one by one. */
static int64_t have_pages(const uint8_t *from, const uint8_t *to) {
#ifdef MADV_POPULATE_WRITE
    const int64_t start = llmq_now_ns();
    const uintptr_t begin = (uintptr_t)from & ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);
    return madvise((void *)begin, (uintptr_t)to - begin, MADV_POPULATE_WRITE) == 0 ? llmq_now_ns() - start : 0;
#else
    (void)from, (void)to;
    return 0;
#endif
}

static void advise_huge(uint8_t *data, int64_t bytes) {
#ifdef MADV_HUGEPAGE
    (void)madvise(data, (size_t)bytes, MADV_HUGEPAGE); /* nothing is lost when it is not taken */
#else
    (void)data, (void)bytes;
#endif
}

/* Whether memory is to be of huge pages. MEASURED: once it is known what small ones cost, and while huge ones, of which the first is tried
 * alone, cost no more: where a host has taken unused memory back, it is the large runs of it that are gone, and come slowly. */
static int wants_huge(llmq_paging *p, uint8_t *data, int64_t bytes) {
    if (bytes < HUGE || p->huge == LLMQ_HUGE_OFF) return 0;
    if (p->huge == LLMQ_HUGE_ON) return 1;
    if (p->small_cost > 0 && p->huge_cost == 0) {
        advise_huge(data, HUGE);
        p->huge_cost = have_pages(data, data + HUGE);
    }
    return p->small_cost > 0 && p->huge_cost <= p->small_cost;
}

/* ---- packing --------------------------------------------------------------------------------------------------------------- */

static int64_t row_bytes(const llmq_packed *w) {
    const llmq_codec *codec = llmq_codec_of(w->type);
    return w->k / codec->block * codec->bytes;
}

/* The first row of a strip, counted through all experts. */
static int64_t row_of(const llmq_packed *w, int64_t strip) { return strip / w->strips * w->n + strip % w->strips * LLMQ_STRIP; }

/* Strips first .. end - 1, whose rows are at `rows`. */
static int pack_strips(const llmq_packed *w, int64_t first, int64_t end, const uint8_t *rows) {
    int good = 1;
    for (int64_t i = first; i < end; i++) {
        const int64_t row = i % w->strips * LLMQ_STRIP, count = w->n - row < LLMQ_STRIP ? w->n - row : LLMQ_STRIP;
        const uint8_t *from = rows + (row_of(w, i) - row_of(w, first)) * row_bytes(w);
        good &= llmq_kernels_used()->pack_strip(w, w->data + i * w->strip_bytes, from, (int)count);
    }
    return good;
}

int llmq_pack(const llmq_packed *w, const void *rows, int tid, int nth) {
    const int64_t all = w->strips * w->experts, first = all * tid / nth;
    return pack_strips(w, first, all * (tid + 1) / nth, (const uint8_t *)rows + row_of(w, first) * row_bytes(w));
}

typedef struct {
    const llmq_packed *w;
    llmq_rows rows;
    int64_t pieces;
    _Atomic int64_t paging;    /* nanoseconds that pages took, of all threads */
    atomic_int status, error; /* of whatever went wrong last; errno of LLMQ_ERR_READ */
} packing;

static void fail(packing *p, llmq_status status, int error) {
    atomic_store(&p->error, error);
    atomic_store(&p->status, (int)status);
}

/* Bytes of a file; 0 after a failure. */
static int read_all(packing *p, uint8_t *to, int64_t bytes, int64_t offset) {
    while (bytes > 0) {
        const ssize_t done = pread(p->rows.fd, to, (size_t)bytes, (off_t)offset);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) {
            fail(p, LLMQ_ERR_READ, done < 0 ? errno : 0);
            return 0;
        }
        to += done, bytes -= done, offset += done;
    }
    return 1;
}

/* Which piece is the i-th to be taken, or `pieces`: threads that take in turns are in runs of their own, since two in one huge page would
 * both clear it. */
static int64_t piece_at(int64_t pieces, int64_t i, int nth) {
    const int64_t run = i % nth, piece = pieces * run / nth + i / nth;
    return piece < pieces * (run + 1) / nth ? piece : pieces;
}

static void work(void *arg, int phase, int64_t *next, int tid, int nth) {
    packing *p = arg;
    const llmq_packed *w = p->w;
    const int64_t all = w->strips * w->experts, most = (all + p->pieces - 1) / p->pieces * LLMQ_STRIP * row_bytes(w);
    const int64_t turns = (p->pieces + nth - 1) / nth * nth;
    uint8_t *buffer = NULL;
    (void)phase, (void)tid;
    for (int64_t turn; atomic_load(&p->status) == LLMQ_OK && (turn = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < turns;) {
        const int64_t i = piece_at(p->pieces, turn, nth);
        if (i == p->pieces) continue;
        const int64_t first = all * i / p->pieces, end = all * (i + 1) / p->pieces, begin = row_of(w, first) * row_bytes(w);
        const uint8_t *from = buffer;
        if (p->rows.memory != NULL) {
            from = (const uint8_t *)p->rows.memory + begin;
        } else {
            if (buffer == NULL && (buffer = malloc((size_t)most)) == NULL) fail(p, LLMQ_ERR_NOMEM, 0);
            if (buffer == NULL || !read_all(p, buffer, row_of(w, end) * row_bytes(w) - begin, p->rows.offset + begin)) break;
            from = buffer;
        }
        atomic_fetch_add(&p->paging, have_pages(w->data + first * w->strip_bytes, w->data + end * w->strip_bytes));
        if (!pack_strips(w, first, end, from)) fail(p, LLMQ_ERR_NONFINITE, 0);
    }
    free(buffer);
}

llmq_status llmq_packed_new(llmq_packed *w, int32_t type, int64_t n, int64_t k, int64_t experts, llmq_rows rows, llmq_paging *paging,
                            llmq_pool *pool, llmq_phase *phase) {
    const llmq_status status = llmq_pack_plan(w, type, n, k, experts);
    if (status != LLMQ_OK) return status;
    const int64_t bytes = w->strips * w->strip_bytes * experts, most = w->strips * experts;
    void *data;
    if (posix_memalign(&data, bytes >= HUGE ? HUGE : 64, (size_t)bytes) != 0) return LLMQ_ERR_NOMEM;
    w->data = data;
    const int huge = wants_huge(paging, data, bytes);
    if (huge) advise_huge(data, bytes);
    const int64_t pieces = bytes / PIECE + 1 < most ? bytes / PIECE + 1 : most;
    packing job = {.w = w, .rows = rows, .pieces = pieces < 1 << 20 ? pieces : 1 << 20};
    llmq_pool_run(pool, phase, 1, work, &job);
    if (bytes >= HUGE) *(huge ? &paging->huge_cost : &paging->small_cost) = job.paging / (bytes / HUGE);
    if (job.status == LLMQ_OK) return LLMQ_OK;
    free(w->data);
    w->data = NULL;
    errno = job.error;
    return (llmq_status)job.status;
}

/* threads.c: the pool. Own pthreads; a run wakes them, a barrier lets them wait for each other.
 *
 * Waiting is a bounded spin (SPIN_NS, nothing when there are more threads than cores) and then sleep on a condition variable, so
 * that a machine shared with other busy processes is neither stalled nor heated. Who changes a word that others wait for stores it
 * first and looks at `sleepers` afterwards; who goes to sleep counts itself first and looks at the word afterwards. With sequentially
 * consistent order at least one of the two sees the other, so no wake-up is lost.
 *
 * A barrier is one arrival counter and one phase word: the last to arrive resets the counter and advances the phase.
 *
 * After fork() the child has no worker threads; the first run there starts new ones (the process id tells). Workers block every
 * signal, so that signal handlers run in threads of the caller's. Inside a run every thread, the caller too, flushes denormals to
 * zero; the caller's floating-point mode is restored at the end. */
#define _GNU_SOURCE 1 /* sched_getaffinity */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "llmq.h"

enum { SPIN_NS = 40000, SPIN_STEPS = 64 };

struct llmq_pool {
    int n;                   /* threads, the caller included */
    int spin_ns;
    pid_t pid;               /* the process the workers live in */
    llmq_task task;
    void *arg;
    int stop;
    _Alignas(64) atomic_uint epoch;   /* advances when there is a task to run */
    _Alignas(64) atomic_uint arrived; /* at the current barrier */
    _Alignas(64) atomic_uint phase;
    atomic_int sleepers;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t worker[LLMQ_MAX_THREADS];
    struct start { llmq_pool *pool; int tid; } start[LLMQ_MAX_THREADS];
};

/* ---- floating-point mode --------------------------------------------------------------------------------------------- */

#if defined(__x86_64__)
static unsigned long fpu_mode(void) { return __builtin_ia32_stmxcsr(); }
static void fpu_set(unsigned long mode) { __builtin_ia32_ldmxcsr((unsigned)mode); }
enum { FPU_FLUSH = 0x8040 }; /* FTZ and DAZ */
#elif defined(__aarch64__)
static unsigned long fpu_mode(void) {
    unsigned long mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static void fpu_set(unsigned long mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
enum { FPU_FLUSH = 1 << 24 }; /* FZ */
#else
static unsigned long fpu_mode(void) { return 0; }
static void fpu_set(unsigned long mode) { (void)mode; }
enum { FPU_FLUSH = 0 };
#endif

/* ---- waiting --------------------------------------------------------------------------------------------------------- */

static inline void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void wait_while(llmq_pool *p, atomic_uint *word, unsigned old) {
    if (p->spin_ns > 0) {
        const int64_t until = now_ns() + p->spin_ns;
        do {
            for (int i = 0; i < SPIN_STEPS; i++) {
                if (atomic_load_explicit(word, memory_order_acquire) != old) return;
                pause_briefly();
            }
        } while (now_ns() < until);
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(word) == old) pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
}

static void advance(llmq_pool *p, atomic_uint *word) {
    atomic_fetch_add(word, 1);
    if (atomic_load(&p->sleepers) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
}

void llmq_pool_barrier(llmq_pool *p, int tid) {
    (void)tid;
    if (p->n == 1) return;
    const unsigned phase = atomic_load_explicit(&p->phase, memory_order_relaxed);
    if (atomic_fetch_add(&p->arrived, 1) + 1 == (unsigned)p->n) {
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        advance(p, &p->phase);
    } else {
        wait_while(p, &p->phase, phase);
    }
}

/* ---- workers --------------------------------------------------------------------------------------------------------- */

static void *work(void *arg) {
    const struct start *self = arg;
    llmq_pool *p = self->pool;
    unsigned epoch = 0;
    fpu_set(fpu_mode() | FPU_FLUSH);
    for (;;) {
        wait_while(p, &p->epoch, epoch++);
        if (p->stop) return NULL;
        p->task(p->arg, self->tid, p->n);
        llmq_pool_barrier(p, self->tid);
    }
}

static int usable_cores(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* Starts the workers of this process; the pool then has as many threads as could be had. */
static void start_workers(llmq_pool *p) {
    sigset_t all, before;
    const int wanted = p->n;
    p->pid = getpid();
    p->stop = 0;
    p->spin_ns = wanted <= usable_cores() ? SPIN_NS : 0;
    atomic_init(&p->epoch, 0);
    atomic_init(&p->arrived, 0);
    atomic_init(&p->phase, 0);
    atomic_init(&p->sleepers, 0);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int n = 1;
    for (; n < wanted; n++) {
        p->start[n] = (struct start){p, n};
        if (pthread_create(&p->worker[n], NULL, work, &p->start[n]) != 0) break;
    }
    p->n = n; /* the workers read it only after the first epoch */
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void stop_workers(llmq_pool *p) {
    p->stop = 1;
    advance(p, &p->epoch);
    for (int i = 1; i < p->n; i++) pthread_join(p->worker[i], NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
}

llmq_pool *llmq_pool_new(int n_threads) {
    if (n_threads < 1 || n_threads > LLMQ_MAX_THREADS) return NULL;
    llmq_pool *p = aligned_alloc(64, (sizeof *p + 63) / 64 * 64);
    if (p == NULL) return NULL;
    p->n = n_threads;
    start_workers(p);
    if (p->n < n_threads) {
        llmq_pool_free(p);
        return NULL;
    }
    return p;
}

void llmq_pool_free(llmq_pool *p) {
    if (p == NULL) return;
    if (p->pid == getpid()) stop_workers(p); /* the workers of a fork's parent are not ours to join */
    free(p);
}

int llmq_pool_threads(const llmq_pool *p) { return p->n; }

int llmq_pool_ready(llmq_pool *p) {
    if (p->pid != getpid()) start_workers(p);
    return p->n;
}

void llmq_pool_run(llmq_pool *p, llmq_task task, void *arg) {
    llmq_pool_ready(p);
    const unsigned long mode = fpu_mode();
    fpu_set(mode | FPU_FLUSH);
    p->task = task;
    p->arg = arg;
    if (p->n > 1) advance(p, &p->epoch);
    task(arg, 0, p->n);
    llmq_pool_barrier(p, 0);
    fpu_set(mode);
}

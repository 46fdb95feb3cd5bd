/* threads.c: the pool. Own pthreads that help a caller through the phases of a job.
 *
 * A phase's state is one word, [job number : 32][over : 1][closed : 1][threads inside : 30]. A thread enters by adding one, unless the
 * phase is closed, over, or belongs to another job; it leaves by subtracting one. Since it leaves only when no piece is left, the last one
 * inside knows that all work is done: it closes the phase, does the ALONE phases that follow, and marks the phase as over. So a thread
 * that the system does not run is waited for only if it is inside a phase, which makes the pool bearable on machines that other
 * processes keep busy. A worker that comes late finds phases that are over and hurries
 * through them; when the caller has gone on to another job meanwhile, the job number tells.
 *
 * Waiting is a bounded spin (none when there are more threads than cores), then sleep on a condition variable. Who changes a word that
 * others wait for does so first and looks at `sleepers` afterwards; who goes to sleep counts itself first and looks at
 * the word afterwards. In sequentially consistent order at least one of them sees the other, so no wake-up is lost.
 *
 * After fork() the child has no workers; the first job there starts new ones (the process id tells). Workers block every signal, so
 * that handlers run in threads of the caller's. Inside a job every thread, the caller too, flushes denormals to zero; the caller's
 * floating-point mode is restored at the end. */
#define _GNU_SOURCE 1 /* sched_getaffinity */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "llmq.h"

enum {
    PHASE_SPIN_NS = 40000,
    JOB_SPIN_NS = 400000, /* whoever writes tokens comes back within it; sleepers would be late for every one */
    SPIN_STEPS = 64,
};

typedef struct {
    llmq_phase *phases;
    int n_phases;
    llmq_work *work;
    void *arg;
} job;

struct llmq_pool {
    int n;                            /* threads, the caller included */
    int spins;                        /* 0: there are more threads than cores */
    pid_t pid;                        /* the process the workers live in */
    _Alignas(64) uint32_t announced;  /* number of the job; odd while `next_job` is written */
    int stop;
    job next_job;                     /* each member atomic */
    int sleepers;
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

int64_t llmq_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void wake_sleepers(llmq_pool *p) {
    if (__atomic_load_n(&p->sleepers, __ATOMIC_SEQ_CST) == 0) return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

typedef int ready_fn(const void *word, uint32_t job_number);

static void wait_until(llmq_pool *p, int64_t spin_ns, ready_fn *ready, const void *word, uint32_t number) {
    if (ready(word, number)) return;
    if (p->spins) {
        const int64_t until = llmq_now_ns() + spin_ns;
        do {
            for (int i = 0; i < SPIN_STEPS; i++) {
                if (ready(word, number)) return;
                pause_briefly();
            }
        } while (llmq_now_ns() < until);
    }
    pthread_mutex_lock(&p->lock);
    __atomic_add_fetch(&p->sleepers, 1, __ATOMIC_SEQ_CST);
    while (!ready(word, number)) pthread_cond_wait(&p->wake, &p->lock);
    __atomic_sub_fetch(&p->sleepers, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&p->lock);
}

/* ---- phases ---------------------------------------------------------------------------------------------------------- */

static const uint64_t OVER = (uint64_t)1 << 31, CLOSED = (uint64_t)1 << 30;

static uint64_t state_of(uint32_t number) { return (uint64_t)number << 32; }

static int is_past(const void *word, uint32_t number) { /* over, or of another job */
    const uint64_t s = __atomic_load_n((const uint64_t *)word, __ATOMIC_SEQ_CST);
    return s >> 32 != number || (s & OVER) != 0;
}

static int enter(llmq_phase *phase, uint32_t number) {
    uint64_t s = __atomic_load_n(&phase->state, __ATOMIC_ACQUIRE);
    while (s >> 32 == number && (s & (OVER | CLOSED)) == 0)
        if (__atomic_compare_exchange_n(&phase->state, &s, s + 1, 1, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) return 1;
    return 0;
}

/* 1: the caller was the last one inside, and has closed the phase */
static int leave(llmq_phase *phase, uint32_t number) {
    const uint64_t closed = state_of(number) | CLOSED;
    uint64_t s = __atomic_load_n(&phase->state, __ATOMIC_RELAXED);
    for (;;) {
        const int last = s == state_of(number) + 1;
        if (__atomic_compare_exchange_n(&phase->state, &s, last ? closed : s - 1, 1, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) return last;
    }
}

static void go_through(llmq_pool *p, const job *j, uint32_t number, int tid) {
    for (int i = 0; i < j->n_phases; i++) {
        llmq_phase *phase = &j->phases[i];
        if (enter(phase, number)) {
            j->work(j->arg, i, &phase->next, tid, p->n);
            if (leave(phase, number)) {
                for (int next = i + 1; next < j->n_phases && j->phases[next].mode != LLMQ_TOGETHER; next++)
                    if (j->phases[next].mode == LLMQ_ALONE) j->work(j->arg, next, &j->phases[next].next, tid, p->n);
                __atomic_store_n(&phase->state, state_of(number) | OVER, __ATOMIC_SEQ_CST);
                wake_sleepers(p);
            }
        }
        wait_until(p, PHASE_SPIN_NS, is_past, &phase->state, number);
    }
}

/* ---- workers --------------------------------------------------------------------------------------------------------- */

static int is_announced(const void *word, uint32_t seen) { /* a whole announcement that is not the one seen last */
    const uint32_t number = __atomic_load_n((const uint32_t *)word, __ATOMIC_SEQ_CST);
    return number % 2 == 0 && number != seen;
}

static void *work(void *arg) {
    const struct start *self = arg;
    llmq_pool *p = self->pool;
    uint32_t seen = 0;
    fpu_set(fpu_mode() | FPU_FLUSH);
    for (;;) {
        wait_until(p, JOB_SPIN_NS, is_announced, &p->announced, seen);
        const uint32_t number = __atomic_load_n(&p->announced, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&p->stop, __ATOMIC_SEQ_CST)) return NULL; /* set before the last announcement, so looked at after it */
        const job j = {
            __atomic_load_n(&p->next_job.phases, __ATOMIC_SEQ_CST), __atomic_load_n(&p->next_job.n_phases, __ATOMIC_SEQ_CST),
            __atomic_load_n(&p->next_job.work, __ATOMIC_SEQ_CST), __atomic_load_n(&p->next_job.arg, __ATOMIC_SEQ_CST),
        };
        if (number % 2 || __atomic_load_n(&p->announced, __ATOMIC_SEQ_CST) != number) continue; /* it was being changed */
        seen = number;
        go_through(p, &j, number, self->tid);
    }
}

/* Tells the workers of a job; returns its number. */
static uint32_t announce(llmq_pool *p, const job *j) {
    const uint32_t number = p->announced + 2;
    __atomic_store_n(&p->announced, number - 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&p->next_job.phases, j->phases, __ATOMIC_SEQ_CST);
    __atomic_store_n(&p->next_job.n_phases, j->n_phases, __ATOMIC_SEQ_CST);
    __atomic_store_n(&p->next_job.work, j->work, __ATOMIC_SEQ_CST);
    __atomic_store_n(&p->next_job.arg, j->arg, __ATOMIC_SEQ_CST);
    for (int i = 0; i < j->n_phases; i++) {
        __atomic_store_n(&j->phases[i].next, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&j->phases[i].state, state_of(number) | (j->phases[i].mode == LLMQ_TOGETHER ? 0 : OVER), __ATOMIC_RELEASE);
    }
    __atomic_store_n(&p->announced, number, __ATOMIC_SEQ_CST);
    wake_sleepers(p);
    return number;
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
    p->spins = wanted <= usable_cores();
    p->announced = 0;
    p->sleepers = 0;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int n = 1;
    for (; n < wanted; n++) {
        p->start[n] = (struct start){p, n};
        if (pthread_create(&p->worker[n], NULL, work, &p->start[n]) != 0) break;
    }
    p->n = n; /* the workers read it only after the first announcement */
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void stop_workers(llmq_pool *p) {
    const job nothing = {NULL, 0, NULL, NULL};
    __atomic_store_n(&p->stop, 1, __ATOMIC_SEQ_CST);
    announce(p, &nothing);
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

void llmq_pool_run(llmq_pool *p, llmq_phase *phases, int n_phases, llmq_work *work, void *arg) {
    const job j = {phases, n_phases, work, arg};
    llmq_pool_ready(p);
    const unsigned long mode = fpu_mode();
    fpu_set(mode | FPU_FLUSH);
    go_through(p, &j, announce(p, &j), 0);
    fpu_set(mode);
}

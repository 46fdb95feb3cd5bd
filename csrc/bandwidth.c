/* bandwidth.c: reading memory as fast as a core can, to know what decoding could reach. */
#include "llmq.h"

/* The sum of n numbers, read as STREAMS neighbouring runs at a time: one alone leaves the memory waiting between its pages. */
uint64_t llmq_sum(const uint64_t *x, int64_t n) {
    enum { STREAMS = 4, AHEAD = 512 /* numbers: 4 KB */, LINE = 8 };
    const int64_t run = n / STREAMS / LINE * LINE;
    uint64_t sum[LINE] = {0}, all = 0;
    for (int64_t i = 0; i < run; i += LINE) {
        for (int64_t s = 0; s < STREAMS; s++) {
            const uint64_t *line = x + s * run + i;
            __builtin_prefetch(line + AHEAD);
            for (int64_t j = 0; j < LINE; j++) sum[j] += line[j];
        }
    }
    for (int64_t i = STREAMS * run; i < n; i++) all += x[i];
    for (int64_t j = 0; j < LINE; j++) all += sum[j];
    return all;
}

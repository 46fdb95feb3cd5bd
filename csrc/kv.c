/* kv.c: pages of keys and values; see kv.h. */
#include "kv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/half.h"

/* A page is preceded by its header; data is 64-byte aligned inside one zeroed allocation. */
typedef struct {
    void *allocation;
    int32_t owners;
} page_header;

static page_header *header_of(uint8_t *page) { return (page_header *)(void *)(page - 64); }

static uint8_t *page_new(llmq_kv *kv) {
    uint8_t *allocation = calloc(1, (size_t)kv->page_bytes + 128);
    if (allocation == NULL) return NULL;
    uint8_t *page = (uint8_t *)(((uintptr_t)allocation + 127) & ~(uintptr_t)63);
    *header_of(page) = (page_header){allocation, 1};
    kv->pages++;
    return page;
}

static void page_drop(llmq_kv *kv, uint8_t *page) {
    if (--header_of(page)->owners > 0) return;
    kv->pages--;
    free(header_of(page)->allocation);
}

llmq_status llmq_kv_init(llmq_kv *kv, int32_t type, const llmq_kv_slot *slots, int32_t n_slots) {
    const int scaled = type == LLMQ_Q8_0;
    *kv = (llmq_kv){.type = type, .unit = type == LLMQ_F32 ? 4 : scaled ? 1 : 2, .n_slots = n_slots};
    kv->slots = calloc((size_t)n_slots + 1, sizeof *kv->slots);
    if (kv->slots == NULL) return LLMQ_ERR_NOMEM;
    for (int32_t i = 0; i < n_slots; i++) {
        llmq_kv_slot *s = &kv->slots[i];
        *s = slots[i];
        s->k_cols = (s->d_k + 1) / 2 * 2;
        s->v_cols = (s->d_v + 15) / 16 * 16;
        s->k_head = ((int64_t)s->k_cols * kv->unit + (scaled ? (int64_t)sizeof(float) : 0)) * LLMQ_PAGE;
        s->v_head = ((int64_t)s->v_cols * kv->unit + (scaled ? (int64_t)sizeof(float) : 0)) * LLMQ_PAGE;
        s->k = kv->page_bytes;
        s->v = s->k + s->heads * s->k_head;
        kv->page_bytes = s->v + s->heads * s->v_head;
        s->record = kv->records.floats;
        kv->records.floats += s->floats;
    }
    return LLMQ_OK;
}

void llmq_kv_free(llmq_kv *kv) {
    for (int32_t i = 0; i < kv->n_sequences; i++) llmq_kv_close(kv, i);
    llmq_records_free(&kv->records);
    free(kv->sequences);
    free(kv->slots);
    *kv = (llmq_kv){0};
}

llmq_status llmq_kv_open(llmq_kv *kv, int32_t *seq) {
    int32_t i = 0;
    while (i < kv->n_sequences && kv->sequences[i].live) i++;
    if (i == kv->n_sequences) {
        llmq_sequence *more = realloc(kv->sequences, ((size_t)i + 1) * sizeof *more);
        if (more == NULL) return LLMQ_ERR_NOMEM;
        kv->sequences = more;
        kv->n_sequences++;
    }
    kv->sequences[i] = (llmq_sequence){.live = 1, .source = -1};
    *seq = i;
    return LLMQ_OK;
}

static int32_t pages_of(int32_t length) { return (length + LLMQ_PAGE - 1) / LLMQ_PAGE; }

static llmq_status room_for(llmq_sequence *s, int32_t pages) {
    if (pages <= s->capacity) return LLMQ_OK;
    const int32_t capacity = pages + pages / 2 + 4;
    uint8_t **more = realloc(s->pages, (size_t)capacity * sizeof *more);
    if (more == NULL) return LLMQ_ERR_NOMEM;
    s->pages = more;
    s->capacity = capacity;
    return LLMQ_OK;
}

/* The same pages, for a sequence of its own; without its source. */
static llmq_status share(llmq_kv *kv, int32_t from, int32_t length, int32_t *seq) {
    llmq_status status = llmq_kv_open(kv, seq);
    if (status != LLMQ_OK) return status;
    llmq_sequence *a = &kv->sequences[from], *b = &kv->sequences[*seq];
    status = room_for(b, pages_of(length));
    if (status == LLMQ_OK) status = llmq_states_share(&a->states, length, &b->states);
    if (status != LLMQ_OK) {
        llmq_kv_close(kv, *seq);
        return status;
    }
    b->length = length;
    b->n_pages = pages_of(length);
    for (int32_t i = 0; i < b->n_pages; i++) {
        b->pages[i] = a->pages[i];
        header_of(b->pages[i])->owners++;
    }
    return LLMQ_OK;
}

int32_t llmq_kv_kept(const llmq_kv *kv, int32_t seq, int32_t length) {
    return kv->records.floats > 0 ? llmq_states_before(&kv->sequences[seq].states, length) : length;
}

llmq_status llmq_kv_fork(llmq_kv *kv, int32_t from, int32_t length, int32_t *seq) {
    llmq_status status = share(kv, from, llmq_kv_kept(kv, from, length), seq);
    const int32_t source = kv->sequences[from].source;
    if (status != LLMQ_OK || source < 0) return status;
    int32_t copy;
    status = share(kv, source, kv->sequences[source].length, &copy);
    if (status == LLMQ_OK)
        kv->sequences[*seq].source = copy;
    else
        llmq_kv_close(kv, *seq);
    return status;
}

void llmq_kv_truncate(llmq_kv *kv, int32_t seq, int32_t length) {
    llmq_sequence *s = &kv->sequences[seq];
    if (length < s->length) s->length = llmq_kv_kept(kv, seq, length);
    llmq_states_cut(&kv->records, &s->states, s->length);
    while (s->n_pages > pages_of(s->length)) page_drop(kv, s->pages[--s->n_pages]);
}

static void release(llmq_kv *kv, int32_t seq) {
    llmq_sequence *s = &kv->sequences[seq];
    if (!s->live) return;
    llmq_kv_truncate(kv, seq, 0);
    llmq_states_free(&kv->records, &s->states);
    free(s->pages);
    *s = (llmq_sequence){.source = -1};
}

void llmq_kv_close(llmq_kv *kv, int32_t seq) {
    if (kv->sequences[seq].live && kv->sequences[seq].source >= 0) release(kv, kv->sequences[seq].source);
    release(kv, seq);
}

void llmq_kv_attach(llmq_kv *kv, int32_t seq, int32_t source) {
    if (kv->sequences[seq].source >= 0) release(kv, kv->sequences[seq].source);
    kv->sequences[seq].source = source;
}

int llmq_kv_is_shared(const llmq_sequence *s, int32_t page) { return page < s->n_pages && header_of(s->pages[page])->owners > 1; }

llmq_status llmq_kv_reserve(llmq_kv *kv, int32_t seq, int32_t length) {
    llmq_sequence *s = &kv->sequences[seq];
    llmq_status status = room_for(s, pages_of(length));
    for (int32_t i = s->length / LLMQ_PAGE; i < pages_of(length) && status == LLMQ_OK; i++) {
        if (i < s->n_pages && !llmq_kv_is_shared(s, i)) continue;
        uint8_t *page = page_new(kv);
        if (page == NULL) {
            status = LLMQ_ERR_NOMEM;
        } else if (i < s->n_pages) {
            memcpy(page, s->pages[i], (size_t)kv->page_bytes);
            page_drop(kv, s->pages[i]);
            s->pages[i] = page;
        } else {
            s->pages[s->n_pages++] = page;
        }
    }
    if (status != LLMQ_OK) llmq_kv_truncate(kv, seq, s->length);
    return status;
}

/* Where the numbers of one head at one position go: number c is element c * step from `at`; where columns stand in pairs (bfloat16 keys)
 * c / 2 * step + c % 2. */
typedef struct {
    uint8_t *at;
    int64_t step;
    int pairs;
    float *scale;        /* of 8-bit types */
} place;

static void put_f32(place to, const float *x, int32_t n) {
    for (int32_t c = 0; c < n; c++) memcpy(to.at + c * to.step * 4, &x[c], 4);
}

static void put_f16(place to, const float *x, int32_t n) {
    for (int32_t c = 0; c < n; c++) {
        const uint16_t half = llmq_f32_to_f16(x[c] > 65504.0f ? 65504.0f : x[c] < -65504.0f ? -65504.0f : x[c]);
        memcpy(to.at + c * to.step * 2, &half, 2);
    }
}

static void put_bf16(place to, const float *x, int32_t n) {
    for (int32_t c = 0; c < n; c++) {
        const uint16_t half = llmq_f32_to_bf16(x[c]);
        memcpy(to.at + ((c >> to.pairs) * to.step + (c & to.pairs)) * 2, &half, 2);
    }
}

static void put_q8(place to, const float *x, int32_t n) {
    float most = 0.0f, all = 0.0f;
    for (int32_t c = 0; c < n; c++) {
        most = fabsf(x[c]) > most ? fabsf(x[c]) : most;
        all += x[c] - x[c]; /* 0, unless one is not finite */
    }
    const float inverse = most > 0.0f && all == 0.0f ? 127.0f / most : 0.0f;
    *to.scale = all == 0.0f ? most / 127.0f : all;
    for (int32_t c = 0; c < n; c++) {
        const int8_t q = all == 0.0f ? (int8_t)lrintf(fminf(fmaxf(x[c] * inverse, -127.0f), 127.0f)) : 1;
        memcpy(to.at + c * to.step, &q, 1);
    }
}

static void put(const llmq_kv *kv, place to, const float *x, int32_t n) {
    switch (kv->type) {
    case LLMQ_F32: put_f32(to, x, n); return;
    case LLMQ_F16: put_f16(to, x, n); return;
    case LLMQ_Q8_0: put_q8(to, x, n); return;
    default: put_bf16(to, x, n); return;
    }
}

void llmq_kv_put(const llmq_kv *kv, int32_t seq, int32_t slot, int32_t position, const float *k, const float *v) {
    const llmq_kv_slot *s = &kv->slots[slot];
    uint8_t *page = kv->sequences[seq].pages[position / LLMQ_PAGE];
    const int64_t pair = kv->type == LLMQ_BF16 ? 2 : 1, p = position % LLMQ_PAGE;
    const int64_t key = p / 16 * 16 * s->k_cols + p % 16 * pair, value = p / pair * pair * s->v_cols + p % pair;
    for (int32_t h = 0; h < s->heads; h++) {
        uint8_t *keys = page + s->k + h * s->k_head, *values = page + s->v + h * s->v_head;
        float *k_scales = (float *)(void *)(keys + (int64_t)s->k_cols * LLMQ_PAGE);
        float *v_scales = (float *)(void *)(values + (int64_t)s->v_cols * LLMQ_PAGE);
        put(kv, (place){keys + key * kv->unit, 16 * pair, pair == 2, k_scales + p}, k + (int64_t)h * s->d_k, s->d_k);
        put(kv, (place){values + value * kv->unit, pair, 0, v_scales + p}, v + (int64_t)h * s->d_v, s->d_v);
    }
}

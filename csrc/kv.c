/* kv.c: pages of keys and values; see kv.h. */
#include "kv.h"

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
    *kv = (llmq_kv){.type = type, .unit = type == LLMQ_F32 ? 4 : 2, .n_slots = n_slots};
    kv->slots = calloc((size_t)n_slots + 1, sizeof *kv->slots);
    if (kv->slots == NULL) return LLMQ_ERR_NOMEM;
    for (int32_t i = 0; i < n_slots; i++) {
        llmq_kv_slot *s = &kv->slots[i];
        *s = slots[i];
        s->k_cols = (s->d_k + 1) / 2 * 2;
        s->v_cols = (s->d_v + 15) / 16 * 16;
        s->k_head = (int64_t)s->k_cols * LLMQ_PAGE * kv->unit;
        s->v_head = (int64_t)s->v_cols * LLMQ_PAGE * kv->unit;
        s->k = kv->page_bytes;
        s->v = s->k + s->heads * s->k_head;
        kv->page_bytes = s->v + s->heads * s->v_head;
    }
    return LLMQ_OK;
}

void llmq_kv_free(llmq_kv *kv) {
    for (int32_t i = 0; i < kv->n_sequences; i++) llmq_kv_close(kv, i);
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
    kv->sequences[i] = (llmq_sequence){.live = 1};
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

llmq_status llmq_kv_fork(llmq_kv *kv, int32_t from, int32_t length, int32_t *seq) {
    llmq_status status = llmq_kv_open(kv, seq);
    if (status != LLMQ_OK) return status;
    llmq_sequence *a = &kv->sequences[from], *b = &kv->sequences[*seq];
    status = room_for(b, pages_of(length));
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

void llmq_kv_truncate(llmq_kv *kv, int32_t seq, int32_t length) {
    llmq_sequence *s = &kv->sequences[seq];
    if (length < s->length) s->length = length;
    while (s->n_pages > pages_of(s->length)) page_drop(kv, s->pages[--s->n_pages]);
}

void llmq_kv_close(llmq_kv *kv, int32_t seq) {
    llmq_sequence *s = &kv->sequences[seq];
    if (!s->live) return;
    llmq_kv_truncate(kv, seq, 0);
    free(s->pages);
    *s = (llmq_sequence){0};
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

static void put(const llmq_kv *kv, uint8_t *at, float x) {
    if (kv->type == LLMQ_F32) {
        memcpy(at, &x, 4);
        return;
    }
    if (kv->type == LLMQ_F16) x = x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
    const uint16_t half = kv->type == LLMQ_F16 ? llmq_f32_to_f16(x) : llmq_f32_to_bf16(x);
    memcpy(at, &half, 2);
}

/* element (position p, column c) of a head whose columns stand d apart */
static int64_t key_at(int pair, int32_t p, int32_t c, int32_t d) {
    const int64_t block = (int64_t)(p / 16) * 16 * d, key = p % 16;
    return block + (pair ? (c / 2 * 16 + key) * 2 + c % 2 : c * 16 + key);
}

static int64_t value_at(int pair, int32_t p, int32_t c, int32_t d) {
    return pair ? ((int64_t)(p / 2) * d + c) * 2 + p % 2 : (int64_t)p * d + c;
}

void llmq_kv_put(const llmq_kv *kv, int32_t seq, int32_t slot, int32_t position, const float *k, const float *v) {
    const llmq_kv_slot *s = &kv->slots[slot];
    uint8_t *page = kv->sequences[seq].pages[position / LLMQ_PAGE];
    const int pair = kv->type == LLMQ_BF16;
    const int32_t p = position % LLMQ_PAGE;
    for (int32_t h = 0; h < s->heads; h++) {
        uint8_t *keys = page + s->k + h * s->k_head, *values = page + s->v + h * s->v_head;
        for (int32_t c = 0; c < s->d_k; c++) put(kv, keys + key_at(pair, p, c, s->k_cols) * kv->unit, k[h * s->d_k + c]);
        for (int32_t c = 0; c < s->d_v; c++) put(kv, values + value_at(pair, p, c, s->v_cols) * kv->unit, v[h * s->d_v + c]);
    }
}

/* merges.c: byte-pair merging by rank, over ids.
 *
 * The pair of lowest rank is merged first, of equal ranks the leftmost (Sennrich et al. 2016, arXiv:1508.07909). Short words scan
 * their ranks for the smallest, O(n^2) with n <= SHORT; long ones keep a heap of pairs over a linked list, O(n log n), so that a
 * megabyte of one letter takes no longer per byte than prose. */
#include <stdlib.h>

#include "internal.h"

enum { SHORT = 64 };
static const int32_t NO_RANK = INT32_MAX;

void merges_free(text_merges *merges) { free(merges->slot); }

static inline text_merge *find(const text_merges *merges, int32_t left, int32_t right) {
    uint64_t at = hash_u64((uint64_t)(uint32_t)left << 32 | (uint32_t)right, merges->seed);
    for (;; at++) {
        text_merge *slot = &merges->slot[at & merges->mask];
        if (slot->left < 0 || (slot->left == left && slot->right == right)) return slot;
    }
}

static text_status resize(text_merges *merges, size_t slots) {
    text_merges bigger = {malloc(slots * sizeof *bigger.slot), slots - 1, merges->seed, merges->n};
    if (!bigger.slot) return TEXT_NOMEM;
    for (size_t i = 0; i < slots; i++) bigger.slot[i].left = -1;
    for (size_t i = 0; merges->slot && i <= merges->mask; i++)
        if (merges->slot[i].left >= 0) *find(&bigger, merges->slot[i].left, merges->slot[i].right) = merges->slot[i];
    free(merges->slot);
    *merges = bigger;
    return TEXT_OK;
}

text_status merges_new(text_merges *merges, uint64_t seed) {
    *merges = (text_merges){.seed = seed};
    return resize(merges, 1024);
}

text_status merges_insert(text_merges *merges, text_merge merge) {
    if (2 * merges->n > merges->mask && resize(merges, 2 * (merges->mask + 1))) return TEXT_NOMEM;
    text_merge *slot = find(merges, merge.left, merge.right);
    if (slot->left >= 0) return TEXT_OK;
    *slot = merge;
    merges->n++;
    return TEXT_OK;
}

static inline int32_t rank_of(const text_merges *merges, int32_t left, int32_t right) {
    const text_merge *slot = find(merges, left, right);
    return slot->left < 0 ? NO_RANK : slot->rank;
}

static size_t apply_short(const text_merges *merges, int32_t *ids, size_t n) {
    int32_t rank[SHORT]; /* of the pair (i, i + 1) */
    for (size_t i = 0; i + 1 < n; i++) rank[i] = rank_of(merges, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == NO_RANK) break;
        ids[best] = find(merges, ids[best], ids[best + 1])->id;
        n--;
        memmove(ids + best + 1, ids + best + 2, (n - best - 1) * sizeof *ids);
        if (best + 1 < n) {
            memmove(rank + best, rank + best + 1, (n - best - 1) * sizeof *rank);
            rank[best] = rank_of(merges, ids[best], ids[best + 1]);
        }
        if (best > 0) rank[best - 1] = rank_of(merges, ids[best - 1], ids[best]);
    }
    return n;
}

/* ---- long words: a heap of pairs ------------------------------------------------------------------------------------------- */

typedef struct pair {
    int32_t rank, at, left, right; /* at: index of the left symbol; stale when the symbols there are others by now */
} pair;

typedef struct heap {
    pair *v;
    size_t n;
} heap;

static inline int before(const pair *a, const pair *b) { return a->rank < b->rank || (a->rank == b->rank && a->at < b->at); }

static void sift_down(heap *h, size_t i) {
    pair item = h->v[i];
    for (size_t child; (child = 2 * i + 1) < h->n; i = child) {
        if (child + 1 < h->n && before(&h->v[child + 1], &h->v[child])) child++;
        if (!before(&h->v[child], &item)) break;
        h->v[i] = h->v[child];
    }
    h->v[i] = item;
}

static void push(heap *h, pair item) {
    size_t i = h->n++;
    for (; i > 0 && before(&item, &h->v[(i - 1) / 2]); i = (i - 1) / 2) h->v[i] = h->v[(i - 1) / 2];
    h->v[i] = item;
}

static void push_pair(const text_merges *merges, heap *h, const int32_t *ids, int32_t left, int32_t right) {
    int32_t rank = rank_of(merges, ids[left], ids[right]);
    if (rank != NO_RANK) push(h, (pair){rank, left, ids[left], ids[right]});
}

static text_status apply_long(const text_merges *merges, int32_t *ids, size_t *n) {
    /* every merge removes a pair and adds at most two, so there are never more than 2n */
    int32_t count = (int32_t)*n, *links = malloc(2 * *n * sizeof *links), *next = links, *prev = links + *n;
    heap h = {malloc(2 * *n * sizeof *h.v), 0};
    if (!links || !h.v) {
        free(links);
        free(h.v);
        return TEXT_NOMEM;
    }
    for (int32_t i = 0; i < count; i++) next[i] = i + 1, prev[i] = i - 1;
    for (int32_t i = 0; i + 1 < count; i++) push_pair(merges, &h, ids, i, i + 1);
    while (h.n) {
        pair top = h.v[0];
        h.v[0] = h.v[--h.n];
        if (h.n) sift_down(&h, 0);
        int32_t right = ids[top.at] == top.left ? next[top.at] : count;
        if (right >= count || ids[right] != top.right) continue;
        ids[top.at] = find(merges, top.left, top.right)->id;
        ids[right] = -1; /* no pair matches a symbol that is gone */
        next[top.at] = next[right];
        if (next[right] < count) {
            prev[next[right]] = top.at;
            push_pair(merges, &h, ids, top.at, next[right]);
        }
        if (prev[top.at] >= 0) push_pair(merges, &h, ids, prev[top.at], top.at);
    }
    size_t kept = 0;
    for (int32_t i = 0; i < count; i = next[i]) ids[kept++] = ids[i];
    *n = kept;
    free(links);
    free(h.v);
    return TEXT_OK;
}

text_status merges_apply(const text_merges *merges, int32_t *ids, size_t *n) {
    if (*n > SHORT) return apply_long(merges, ids, n);
    *n = apply_short(merges, ids, *n);
    return TEXT_OK;
}

/* ---- the merges of a file -------------------------------------------------------------------------------------------------- */

/* merges[at] = "left right". The first character of a part may be a space (the names of some vocabularies contain spaces), so the
 * cut is at the first space after it. */
static text_status read_merge(text_vocab *v, text_bytes merge, int32_t rank, uint8_t *joined) {
    const uint8_t *space = merge.n > 1 ? memchr(merge.p + 1, ' ', merge.n - 1) : NULL;
    if (!space || space + 1 == merge.p + merge.n) return TEXT_NO_SPLIT;
    text_bytes left = {merge.p, (uint32_t)(space - merge.p)}, right = {space + 1, merge.n - left.n - 1}, both = {joined, merge.n - 1};
    memcpy(joined, left.p, left.n);
    memcpy(joined + left.n, right.p, right.n);
    int32_t left_id = table_find(&v->by_name, left), right_id = table_find(&v->by_name, right), id = table_find(&v->by_name, both);
    if (left_id < 0 || right_id < 0 || id < 0) return TEXT_NO_PART;
    if (!token_is_plain(v, id)) return TEXT_OK; /* plain text must not merge into a control token */
    return merges_insert(&v->merges, (text_merge){left_id, right_id, rank, id});
}

text_status merges_read(text_vocab *v, const text_spec *spec, text_error *error) {
    uint32_t longest = 0;
    for (int64_t i = 0; i < spec->n_merges; i++)
        if (spec->merges[i].n > longest) longest = spec->merges[i].n;
    uint8_t *joined = malloc((size_t)longest + 1);
    text_status status = joined ? merges_new(&v->merges, v->seed) : TEXT_NOMEM;
    for (int64_t i = 0; !status && i < spec->n_merges; i++) {
        error->at = i;
        status = read_merge(v, spec->merges[i], (int32_t)i, joined);
    }
    free(joined);
    return status;
}

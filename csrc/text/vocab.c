/* vocab.c: a vocabulary from what a file says: checked, copied, indexed. */
#include <stdlib.h>

#include "internal.h"
#include "unicode.h"

/* ---- tables ---------------------------------------------------------------------------------------------------------------- */

text_status table_new(text_table *table, const text_bytes *strings, size_t n, uint64_t seed) {
    size_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    table->entry = malloc(slots * sizeof *table->entry);
    if (!table->entry) return TEXT_NOMEM;
    for (size_t i = 0; i < slots; i++) table->entry[i].id = -1;
    table->strings = strings;
    table->mask = slots - 1;
    table->seed = seed;
    return TEXT_OK;
}

static struct text_entry *entry_of(const text_table *table, text_bytes key, uint64_t hash) {
    for (uint64_t at = hash;; at++) {
        struct text_entry *entry = &table->entry[at & table->mask];
        if (entry->id < 0) return entry;
        const text_bytes *have = &table->strings[entry->id];
        if (entry->tag == hash >> 32 && have->n == key.n && !memcmp(have->p, key.p, key.n)) return entry;
    }
}

int32_t table_find(const text_table *table, text_bytes key) {
    return entry_of(table, key, hash_bytes(key.p, key.n, table->seed))->id;
}

int32_t table_insert(text_table *table, int32_t id) {
    uint64_t hash = hash_bytes(table->strings[id].p, table->strings[id].n, table->seed);
    struct text_entry *entry = entry_of(table, table->strings[id], hash);
    if (entry->id >= 0) return entry->id;
    *entry = (struct text_entry){(uint32_t)(hash >> 32), id};
    return -1;
}

text_status ids_grow(text_ids *out, size_t more) {
    size_t need = out->n + more, cap = out->cap ? out->cap : 64;
    if (need <= out->cap) return TEXT_OK;
    while (cap < need) cap *= 2;
    int32_t *v = realloc(out->v, cap * sizeof *v);
    if (!v) return TEXT_NOMEM;
    out->v = v;
    out->cap = cap;
    return TEXT_OK;
}

/* ---- what a token stands for ------------------------------------------------------------------------------------------------- */

/* Byte-level vocabularies write bytes as printable characters (Radford et al. 2019): 33..126, 161..172 and 174..255 as themselves,
 * the other 68, in order, as U+0100 and on. The byte of such a character, or -1. */
static int byte_of_char(uint32_t cp) {
    if ((cp >= 33 && cp <= 126) || (cp >= 161 && cp <= 255 && cp != 173)) return (int)cp;
    if (cp >= 256 && cp < 256 + 33) return (int)cp - 256;
    if (cp >= 256 + 33 && cp < 256 + 67) return (int)cp - 256 - 33 + 127;
    return cp == 256 + 67 ? 173 : -1;
}

/* the bytes that a byte-level token spells, at dst (room for name.n); 0 when some character is no byte */
static uint32_t spell_bytes(text_bytes name, uint8_t *dst) {
    uint32_t n = 0;
    int length;
    for (const uint8_t *p = name.p; p < name.p + name.n; p += length) {
        int byte = byte_of_char(utf8_decode(p, &length));
        if (byte < 0) return 0;
        dst[n++] = (uint8_t)byte;
    }
    return n;
}

/* the text of a token that writes spaces as U+2581 */
static uint32_t spell_spaces(text_bytes name, uint8_t *dst) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < name.n; n++) {
        int space = name.n - i >= 3 && !memcmp(name.p + i, "\xe2\x96\x81", 3);
        dst[n] = space ? ' ' : name.p[i];
        i += space ? 3 : 1;
    }
    return n;
}

static int hex_digit(uint8_t c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

/* the byte that "<0xHH>" names, or -1 */
static int byte_of_name(text_bytes name) {
    if (name.n != 6 || memcmp(name.p, "<0x", 3) || name.p[5] != '>') return -1;
    int high = hex_digit(name.p[3]), low = hex_digit(name.p[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

/* fills stands[id], at dst (room for name.n); the bytes used, or -1 for a bad byte token */
static int64_t spell(text_vocab *v, int64_t id, uint8_t *dst) {
    text_bytes name = v->name[id];
    uint32_t n = 0;
    if (v->types[id] == TOKEN_BYTE) {
        int byte = byte_of_name(name);
        if (byte < 0) return -1;
        dst[0] = (uint8_t)byte;
        n = 1;
    } else if (v->model == MODEL_BPE && (v->types[id] == TOKEN_NORMAL || v->types[id] == TOKEN_UNUSED)) {
        n = spell_bytes(name, dst);
    } else if (v->model != MODEL_BPE && token_is_plain(v, (int32_t)id)) {
        n = spell_spaces(name, dst);
    }
    if (n == 0 && name.n) memcpy(dst, name.p, n = name.n);
    v->stands[id] = (text_bytes){dst, n};
    return n;
}

/* ---- the vocabulary ------------------------------------------------------------------------------------------------------------
 * */

static text_status copy_tokens(text_vocab *v, const text_spec *spec, text_error *error) {
    size_t total = 0;
    for (int64_t i = 0; i < v->n; i++) total += spec->tokens[i].n;
    v->bytes = malloc(2 * total + 1);
    v->name = malloc((size_t)v->n * sizeof *v->name + 1);
    v->stands = malloc((size_t)v->n * sizeof *v->stands + 1);
    v->types = malloc((size_t)v->n + 1);
    v->strips = spec->strips ? malloc((size_t)v->n + 1) : NULL;
    if (!v->bytes || !v->name || !v->stands || !v->types || (spec->strips && !v->strips)) return TEXT_NOMEM;
    if (v->strips) memcpy(v->strips, spec->strips, (size_t)v->n);
    uint8_t *next = v->bytes;
    for (int64_t i = 0; i < v->n; i++) {
        error->at = i;
        memcpy(next, spec->tokens[i].p, spec->tokens[i].n);
        v->name[i] = (text_bytes){next, spec->tokens[i].n};
        v->types[i] = spec->types[i];
        next += spec->tokens[i].n;
        int64_t used = spell(v, i, next);
        if (used < 0) return TEXT_BAD_BYTE;
        next += used;
    }
    return TEXT_OK;
}

static text_status index_tokens(text_vocab *v, text_error *error) {
    text_status status = table_new(&v->by_name, v->name, (size_t)v->n, v->seed);
    if (!status) status = trie_new(&v->specials, v->seed);
    for (int64_t i = 0; !status && i < v->n; i++) {
        if (v->name[i].n == 0) continue; /* some vocabularies have unused ids without a name; nothing finds them */
        error->at = i;
        error->other = table_insert(&v->by_name, (int32_t)i);
        if (error->other >= 0) return TEXT_DUPLICATE;
        if (v->types[i] == TOKEN_CONTROL || v->types[i] == TOKEN_USER_DEFINED || v->types[i] == TOKEN_UNKNOWN) {
            if (v->name[i].n > TOKEN_MAX) return TEXT_LONG_TOKEN;
            status = trie_insert(&v->specials, v->name[i], (int32_t)i);
        }
    }
    return status;
}

static void find_single_bytes(text_vocab *v) {
    for (int i = 0; i < 256; i++) v->byte_id[i] = -1;
    for (int64_t i = v->n; i-- > 0;) { /* the first wins; a token of its own wins over "<0xHH>" */
        if (v->stands[i].n != 1 || (v->types[i] != TOKEN_NORMAL && v->types[i] != TOKEN_BYTE)) continue;
        int32_t *have = &v->byte_id[v->stands[i].p[0]];
        if (v->types[i] == TOKEN_NORMAL || *have < 0 || v->types[*have] == TOKEN_BYTE) *have = (int32_t)i;
    }
    v->byte_fallback = 1;
    for (int i = 0; i < 256; i++)
        if (v->byte_id[i] < 0) v->byte_fallback = 0;
}

static text_status prepare(text_vocab *v, const text_spec *spec, text_error *error) {
    text_status status = TEXT_OK;
    switch (v->model) {
    case MODEL_WORDPIECE: return TEXT_OK;
    case MODEL_BPE:
        status = merges_read(v, spec, error);
        return status ? status : bpe_prepare(v);
    case MODEL_SPM:
    case MODEL_UNIGRAM:
        status = charsmap_new(&v->charsmap, spec->charsmap, spec->n_charsmap);
        if (status) return status;
        return v->model == MODEL_SPM ? spm_prepare(v, spec, error) : unigram_prepare(v, spec, error);
    }
    return status;
}

text_status text_vocab_new(const text_spec *spec, text_vocab **out, text_error *error) {
    text_vocab *v = calloc(1, sizeof *v);
    *out = NULL;
    if (!v) return TEXT_NOMEM;
    pthread_mutex_init(&v->lock, NULL);
    v->model = spec->model;
    v->flags = spec->flags;
    v->nfc = spec->nfc;
    v->ignore_merges = spec->ignore_merges;
    v->n = spec->n_tokens;
    v->seed = spec->seed;
    v->pre = spec->pre;
    v->unk = spec->unk;
    text_status status = copy_tokens(v, spec, error);
    if (!status) status = index_tokens(v, error);
    if (!status) {
        find_single_bytes(v);
        status = prepare(v, spec, error);
    }
    if (status) {
        text_vocab_free(v);
        return status;
    }
    *out = v;
    return TEXT_OK;
}

void text_vocab_free(text_vocab *v) {
    if (!v) return;
    while (v->idle) {
        text_work *work = v->idle;
        v->idle = work->next;
        free(work->normal.v);
        free(work->word.v);
        free(work->points.v);
        free(work);
    }
    free(v->bytes);
    free(v->name);
    free(v->stands);
    free(v->types);
    free(v->strips);
    free(v->by_name.entry);
    free(v->by_bytes.entry);
    trie_free(&v->specials);
    trie_free(&v->pieces);
    free(v->scores);
    free(v->charsmap.bytes);
    merges_free(&v->merges);
    pthread_mutex_destroy(&v->lock);
    free(v);
}

int64_t text_vocab_size(const text_vocab *v) { return v->n; }
text_bytes text_vocab_bytes(const text_vocab *v, int32_t id) { return v->stands[id]; }
text_bytes text_vocab_name(const text_vocab *v, int32_t id) { return v->name[id]; }
uint8_t text_vocab_type(const text_vocab *v, int32_t id) { return v->types[id]; }
int32_t text_vocab_find(const text_vocab *v, text_bytes token) { return table_find(&v->by_name, token); }

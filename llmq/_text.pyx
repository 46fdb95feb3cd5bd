# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True
"""The tokenizers of csrc/text as Python sees them: strings in, a call without the GIL, ids out."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.long cimport PyLong_FromLong
from cpython.ref cimport Py_INCREF
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

import os

cdef extern from "text/text.h" nogil:
    ctypedef enum text_status:
        TEXT_OK, TEXT_NOMEM, TEXT_TOO_LONG, TEXT_DUPLICATE, TEXT_BAD_BYTE, TEXT_NO_SPLIT, TEXT_NO_PART, TEXT_LONG_TOKEN,
        TEXT_BAD_MAP
    ctypedef enum text_model:
        MODEL_BPE, MODEL_SPM, MODEL_UNIGRAM, MODEL_WORDPIECE
    enum: TOKEN_MAX

    ctypedef struct text_bytes:
        const uint8_t *p
        uint32_t n
    ctypedef struct text_pre:
        const char *name
        int ignore_merges, nfc, add_bos, add_sep
    ctypedef struct text_cutter:
        const text_pre *pre
        const uint8_t *text_end
    ctypedef struct text_spec:
        text_model model
        int flags, nfc, ignore_merges
        int64_t n_tokens, n_merges
        const text_bytes *tokens
        const uint8_t *types
        const uint8_t *strips
        const float *scores
        const uint8_t *charsmap
        size_t n_charsmap
        const text_bytes *merges
        const text_pre *pre
        int32_t unk
        uint64_t seed
    ctypedef struct text_error:
        int64_t at, other
    ctypedef struct text_vocab:
        pass

    const text_pre *text_pre_of(const char *name)
    const text_pre *text_pre_at(int index)
    const uint8_t *text_cut(text_cutter *, const uint8_t *p)
    text_status text_vocab_new(const text_spec *, text_vocab **, text_error *)
    void text_vocab_free(text_vocab *)
    int64_t text_vocab_size(const text_vocab *)
    text_bytes text_vocab_bytes(const text_vocab *, int32_t id)
    text_bytes text_vocab_name(const text_vocab *, int32_t id)
    uint8_t text_vocab_type(const text_vocab *, int32_t id)
    int32_t text_vocab_find(const text_vocab *, text_bytes token)
    text_status text_encode(text_vocab *, const uint8_t *text, size_t n, int special, int32_t **ids, size_t *n_ids)


class VocabError(ValueError):
    """A vocabulary that breaks a rule; the message says which and where."""


def pre_tokenizers():
    """The known values of tokenizer.ggml.pre: {name: {"add_bos", "add_sep", "nfc", "ignore_merges"}}, what is usual with them."""
    cdef int i = 0
    known = {}
    cdef const text_pre *pre = text_pre_at(0)
    while pre != NULL:
        known[pre.name.decode()] = {
            "add_bos": bool(pre.add_bos), "add_sep": bool(pre.add_sep), "nfc": bool(pre.nfc), "ignore_merges": bool(pre.ignore_merges)
        }
        i += 1
        pre = text_pre_at(i)
    return known


def cut(str pre not None, str text not None):
    """The words that a pre-tokenizer cuts a text into, as UTF-8 (some cut inside a character)."""
    cdef Py_ssize_t size
    cdef bytes name = pre.encode()
    cdef const uint8_t *p = <const uint8_t *>PyUnicode_AsUTF8AndSize(text, &size)
    cdef const uint8_t *end
    cdef text_cutter cutter
    memset(&cutter, 0, sizeof(cutter))
    cutter.pre = text_pre_of(name)
    cutter.text_end = p + size
    if cutter.pre == NULL:
        raise ValueError(f"unknown pre-tokenizer {pre!r}")
    words = []
    while p < cutter.text_end:
        end = text_cut(&cutter, p)
        words.append(PyBytes_FromStringAndSize(<const char *>p, end - p))
        p = end
    return words


cdef text_bytes *strings_of(list strings, str what) except NULL:
    # The rows point into the str objects, which the caller keeps alive.
    cdef Py_ssize_t i, size, n = len(strings)
    cdef const char *text
    cdef text_bytes *rows = <text_bytes *>malloc((n + 1) * sizeof(text_bytes))
    if rows == NULL:
        raise MemoryError(what)
    for i in range(n):
        try:
            text = PyUnicode_AsUTF8AndSize(strings[i], &size)
        except (TypeError, UnicodeEncodeError) as error:
            free(rows)
            raise VocabError(f"{what}[{i}] is no text: {error}") from None
        if size > 65536:
            free(rows)
            raise VocabError(f"{what}[{i}] has {size} bytes; at most 65536 are allowed")
        rows[i].p = <const uint8_t *>text
        rows[i].n = <uint32_t>size
    return rows


cdef class Vocab:
    """Tokens of one vocabulary, checked and indexed. types: uint8 (n_tokens,), the values of tokenizer.ggml.token_type; strips and
    flags: the bits of csrc/text/text.h; scores: float32 (n_tokens,). VocabError names what is wrong; MemoryError."""

    cdef text_vocab *vocab

    def __cinit__(
        self, str model, list tokens not None, const uint8_t[::1] types not None, *, const uint8_t[::1] strips=None,
        const float[::1] scores=None, bytes charsmap not None=b"", list merges not None=[], str pre="", bint nfc=False, bint ignore_merges=False, int flags=0,
        int32_t unk=-1,
    ):
        cdef text_spec spec
        cdef text_error error
        cdef text_status status
        cdef bytes name = pre.encode()
        cdef text_bytes *token_rows = NULL
        cdef text_bytes *merge_rows = NULL
        cdef bytes seed = os.urandom(8)
        spec.n_tokens = len(tokens)
        cdef Py_ssize_t n_strips = spec.n_tokens if strips is None else strips.shape[0]
        cdef Py_ssize_t n_scores = spec.n_tokens if scores is None else scores.shape[0]
        if not types.shape[0] == n_strips == n_scores == spec.n_tokens:
            raise ValueError(f"{types.shape[0]} types, {n_strips} strips, {n_scores} scores for {spec.n_tokens} tokens")
        spec.pre = text_pre_of(name)
        if model == "gpt2" and spec.pre != NULL:
            spec.model = MODEL_BPE
        elif model == "llama" and (scores is not None or merges):
            spec.model = MODEL_SPM
        elif model == "t5" and scores is not None:
            spec.model = MODEL_UNIGRAM
        elif model == "bert":
            spec.model = MODEL_WORDPIECE
        else:
            raise ValueError(f"no tokenizer {model!r} with pre-tokenizer {pre!r}, or scores and merges are missing")
        spec.charsmap = <const uint8_t *><const char *>charsmap
        spec.n_charsmap = len(charsmap)
        spec.flags = flags
        spec.nfc = nfc
        spec.ignore_merges = ignore_merges
        spec.unk = unk
        spec.n_merges = len(merges)
        memcpy(&spec.seed, <const char *>seed, 8)
        spec.types = &types[0] if spec.n_tokens else NULL
        spec.strips = &strips[0] if strips is not None and spec.n_tokens else NULL
        spec.scores = &scores[0] if scores is not None and spec.n_tokens else NULL
        error.at = error.other = 0
        try:
            token_rows = strings_of(tokens, "tokenizer.ggml.tokens")
            merge_rows = strings_of(merges, "tokenizer.ggml.merges")
            spec.tokens = token_rows
            spec.merges = merge_rows
            with nogil:
                status = text_vocab_new(&spec, &self.vocab, &error)
        finally:
            free(token_rows)
            free(merge_rows)
        if status == TEXT_OK:
            return
        if status == TEXT_NOMEM:
            raise MemoryError("no memory for the vocabulary")
        if status == TEXT_BAD_MAP:
            raise VocabError(f"tokenizer.ggml.precompiled_charsmap: {len(charsmap)} bytes that are no such map")
        rows, key = (merges, "merges") if status in (TEXT_NO_SPLIT, TEXT_NO_PART) else (tokens, "tokens")
        where = f"tokenizer.ggml.{key}[{error.at}] = {rows[error.at]!r:.80}"
        raise VocabError({
            TEXT_DUPLICATE: f"{where} equals token {error.other}; tokens must be unique",
            TEXT_BAD_BYTE: f"{where} has type 6 (byte) but is not <0xHH>",
            TEXT_NO_SPLIT: f"{where} is not two parts with a space between",
            TEXT_NO_PART: f"{where}: both parts and what they make must be tokens",
            TEXT_LONG_TOKEN: f"{where} has more than {TOKEN_MAX} bytes",
        }[status])

    def __dealloc__(self):
        text_vocab_free(self.vocab)

    def __len__(self):
        return text_vocab_size(self.vocab)

    def find(self, str token not None):
        """Id of a token as it is written in the file, or -1."""
        cdef Py_ssize_t size
        cdef text_bytes key
        key.p = <const uint8_t *>PyUnicode_AsUTF8AndSize(token, &size)
        key.n = <uint32_t>min(size, 0xffffffff)
        return text_vocab_find(self.vocab, key)

    def token(self, int64_t id):
        """A token as it is written in the file."""
        cdef text_bytes row
        if not 0 <= id < text_vocab_size(self.vocab):
            raise IndexError(f"token id {id} is not in 0..{text_vocab_size(self.vocab) - 1}")
        row = text_vocab_name(self.vocab, <int32_t>id)
        return PyBytes_FromStringAndSize(<const char *>row.p, row.n).decode()

    def token_bytes(self, int64_t id):
        """The bytes that a token stands for in a text."""
        cdef text_bytes row
        if not 0 <= id < text_vocab_size(self.vocab):
            raise IndexError(f"token id {id} is not in 0..{text_vocab_size(self.vocab) - 1}")
        row = text_vocab_bytes(self.vocab, <int32_t>id)
        return PyBytes_FromStringAndSize(<const char *>row.p, row.n)

    def decode(self, list ids not None, uint32_t hidden=0):
        """The bytes of a sequence; tokens whose type's bit is in `hidden` give none."""
        cdef int64_t id, n_vocab = text_vocab_size(self.vocab)
        cdef size_t total = 0
        cdef text_bytes row
        for item in ids:
            id = item
            if not 0 <= id < n_vocab:
                raise IndexError(f"token id {id} is not in 0..{n_vocab - 1}")
            if not hidden >> text_vocab_type(self.vocab, <int32_t>id) & 1:
                total += text_vocab_bytes(self.vocab, <int32_t>id).n
        cdef bytes result = PyBytes_FromStringAndSize(NULL, total)
        cdef char *next = result
        for item in ids:
            id = item
            if not hidden >> text_vocab_type(self.vocab, <int32_t>id) & 1:
                row = text_vocab_bytes(self.vocab, <int32_t>id)
                memcpy(next, row.p, row.n)
                next += row.n
        return result

    def encode(self, str text not None, bint special=False):
        """Ids of a text; with `special`, control tokens are recognized in it. MemoryError when there is no room."""
        cdef Py_ssize_t size
        cdef const char *utf8 = PyUnicode_AsUTF8AndSize(text, &size)
        cdef int32_t *ids = NULL
        cdef size_t i, n = 0
        cdef text_status status
        with nogil:
            status = text_encode(self.vocab, <const uint8_t *>utf8, <size_t>size, special, &ids, &n)
        if status == TEXT_TOO_LONG:
            raise ValueError(f"a text of {size} bytes is too long; at most 2 GiB are tokenized at once")
        if status != TEXT_OK:
            raise MemoryError(f"no memory to tokenize {size} bytes")
        try:
            result = PyList_New(n)
            for i in range(n):
                item = PyLong_FromLong(ids[i])
                Py_INCREF(item)
                PyList_SET_ITEM(result, i, item)
        finally:
            free(ids)
        return result

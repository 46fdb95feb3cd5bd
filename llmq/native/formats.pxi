# Files: the parts of a header whose length is the vocabulary's, and rows of weights on their way from file to file.

from cpython.unicode cimport PyUnicode_DecodeUTF8

cdef extern from "llmq.h" nogil:
    ctypedef struct llmq_conversion:
        double error, square
        int64_t bad

    llmq_status llmq_convert(const llmq_codec *source, const void *src, const llmq_codec *to, void *dst, int64_t rows, int64_t k,
                             const float *weight, float *scratch, llmq_conversion *out)


def convert_rows(int32_t source, const uint8_t[::1] src, int32_t to, uint8_t[::1] dst, int64_t k, const float[::1] weight=None):
    """Convert whole rows of k weights of type `source` in `src` to type `to` in `dst`; `weight` gives each column's importance (>= 0).
    Returns (sum of squared errors, sum of squares of the weights, -1), or (0, 0, index of the weight) when one is NaN or infinity."""
    cdef const llmq_codec *a = llmq_codec_of(source)
    cdef const llmq_codec *b = llmq_codec_of(to)
    cdef const float *w = NULL
    cdef llmq_conversion out
    cdef llmq_status status
    cdef int64_t rows = 0
    if a != NULL and k > 0 and k % a.block == 0:
        rows = src.shape[0] // (k // a.block * a.bytes)
    if a == NULL or b == NULL or k <= 0 or k % b.block or rows == 0 or src.shape[0] != rows * (k // a.block * a.bytes) \
            or dst.shape[0] != rows * (k // b.block * b.bytes):
        raise ValueError(f"convert_rows: {src.shape[0]} and {dst.shape[0]} bytes are no equal rows of {k} weights of types {source} and {to}")
    if weight is not None:
        if weight.shape[0] != k:
            raise ValueError(f"convert_rows: {weight.shape[0]} importances for rows of {k} weights")
        w = &weight[0]
    cdef float[::1] scratch = np.empty(2 * k, np.float32)
    with nogil:
        status = llmq_convert(a, &src[0], b, &dst[0], rows, k, w, &scratch[0], &out)
    if status == LLMQ_ERR_NONFINITE and out.bad >= 0:
        return 0.0, 0.0, out.bad
    check_status(status, "convert_rows")
    return out.error, out.square, -1


def read_strings(const uint8_t[::1] data, int64_t offset, int64_t n, int64_t limit, list out):
    """Append up to n strings (uint64 length, UTF-8 bytes) that stand in data[offset:] to `out` and return the offset after them.
    Stops early, without an error, at the first that is incomplete, longer than `limit`, or not UTF-8."""
    cdef int64_t size = data.shape[0], i, k, length
    cdef uint64_t announced
    cdef const char *p
    if offset < 0 or offset >= size:
        return offset
    p = <const char *>&data[0]
    for i in range(n):
        if size - offset < 8:
            break
        announced = 0
        for k in range(8):
            announced |= <uint64_t>data[offset + k] << (8 * k)
        if announced > <uint64_t>limit or announced > <uint64_t>(size - offset - 8):
            break
        length = <int64_t>announced
        try:
            out.append(PyUnicode_DecodeUTF8(p + offset + 8, length, NULL))
        except UnicodeDecodeError:
            break
        offset += 8 + length
    return offset

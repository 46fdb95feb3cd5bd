# File headers: the parts whose length is the vocabulary's.

from cpython.unicode cimport PyUnicode_DecodeUTF8


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

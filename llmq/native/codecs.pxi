# Codecs: rows of float32 to and from blocks.

def tensor_types():
    """Every tensor type of this build: a list of (name, id in files, weights per block, bytes per block)."""
    cdef const llmq_codec *codec
    rows = []
    for i in range(256):
        codec = llmq_codec_of(i)
        if codec != NULL:
            rows.append((codec.name.decode(), codec.type, codec.block, codec.bytes))
    return rows


def codec_facts(int32_t type):
    """The integer form of a type: (bits, group, off, has_min) of its levels; bits is 0 for F32, F16 and BF16, which have none."""
    cdef const llmq_codec *codec = llmq_codec_of(type)
    if codec == NULL:
        raise ValueError(f"codec_facts: no type has the id {type}")
    return codec.bits, codec.group, codec.off, bool(codec.has_min)


def dequantize(int32_t type, const uint8_t[::1] src, float[::1] dst):
    """Decode blocks: `src` holds len(dst) weights of `type`. Bit for bit what the gguf package gives."""
    cdef const llmq_codec *codec = llmq_codec_of(type)
    cdef int64_t n = dst.shape[0]
    if codec == NULL or n % codec.block or src.shape[0] != n // codec.block * codec.bytes:
        raise ValueError(f"dequantize: {src.shape[0]} bytes are not {n} weights of type {type}")
    if n:
        with nogil:
            codec.dequantize(&src[0], &dst[0], n)


def quantize(int32_t type, const float[::1] src, uint8_t[::1] dst, const float[::1] weight=None):
    """Encode len(src) weights as blocks of `type`; `weight` gives each weight's importance (>= 0)."""
    cdef const llmq_codec *codec = llmq_codec_of(type)
    cdef int64_t n = src.shape[0]
    cdef const float *w = NULL
    cdef llmq_status status
    if codec == NULL or n % codec.block or dst.shape[0] != n // codec.block * codec.bytes:
        raise ValueError(f"quantize: {n} weights do not fit {dst.shape[0]} bytes of type {type}")
    if weight is not None:
        if weight.shape[0] != n:
            raise ValueError(f"quantize: {weight.shape[0]} importances for {n} weights")
        w = &weight[0] if n else NULL
    if n:
        with nogil:
            status = codec.quantize(&src[0], &dst[0], n, w)
        check_status(status, "quantize")


def check_blocks(int32_t type, const uint8_t[::1] src):
    """True when every scale in the blocks is finite."""
    cdef const llmq_codec *codec = llmq_codec_of(type)
    if codec == NULL or src.shape[0] % codec.bytes:
        raise ValueError(f"check_blocks: {src.shape[0]} bytes are no whole blocks of type {type}")
    return src.shape[0] == 0 or bool(codec.check(&src[0], src.shape[0] // codec.bytes * codec.block))


def levels(int32_t type, const uint8_t[::1] src):
    """The integer form of whole blocks of a quantized type: (q uint8 (n, block), sc int8 (n, block // group), m uint8 of sc's shape,
    d float32 (n,), dmin float32 (n,)); weight i of a block is d * sc[i // group] * (q[i] - off) - dmin * m[i // group]."""
    cdef const llmq_codec *codec = llmq_codec_of(type)
    if codec == NULL or codec.levels == NULL or src.shape[0] % codec.bytes:
        raise ValueError(f"levels: {src.shape[0]} bytes are no whole blocks of a quantized type with id {type}")
    cdef int64_t n = src.shape[0] // codec.bytes, i, j
    cdef int32_t groups = codec.block // codec.group
    cdef uint8_t[:, ::1] q = np.empty((n, codec.block), np.uint8)
    cdef int8_t[:, ::1] sc = np.empty((n, groups), np.int8)
    cdef uint8_t[:, ::1] m = np.empty((n, groups), np.uint8)
    cdef float[::1] d = np.empty(n, np.float32), dmin = np.empty(n, np.float32)
    cdef llmq_levels one
    for i in range(n):
        codec.levels(&src[i * codec.bytes], &one)
        for j in range(codec.block):
            q[i, j] = one.q[j]
        for j in range(groups):
            sc[i, j] = one.sc[j]
            m[i, j] = one.m[j]
        d[i] = one.d
        dmin[i] = one.dmin
    return np.asarray(q), np.asarray(sc), np.asarray(m), np.asarray(d), np.asarray(dmin)


def x8_width(int32_t type):
    """Columns of activations that share a scale when a quantized type is multiplied."""
    cdef const llmq_codec *codec = llmq_codec_of(type)
    if codec == NULL or codec.levels == NULL:
        raise ValueError(f"x8_width: {type} is no quantized type")
    return llmq_x8_width(codec)


def quantize_x8(const float[::1] x, int32_t width):
    """Activations as the quantized dot reads them: (q int8 (k,), dx float32 (k // width,), sum int16 (k // 16,)), k a multiple of
    `width`, which is a multiple of 16."""
    cdef int64_t k = x.shape[0]
    if width < 16 or width % 16 or k % width:
        raise ValueError(f"quantize_x8: {k} columns are not a multiple of {width}, or that not one of 16")
    cdef int8_t[::1] q = np.empty(k, np.int8)
    cdef float[::1] dx = np.empty(k // width, np.float32)
    cdef int16_t[::1] sum = np.empty(k // 16, np.int16)
    if k:
        with nogil:
            llmq_quantize_x8(&x[0], k, width, &q[0], &dx[0], &sum[0])
    return np.asarray(q), np.asarray(dx), np.asarray(sum)


def dot(int32_t type, const uint8_t[::1] rows, const float[::1] x, float[::1] out):
    """out[r] = row r . x for len(out) rows of len(x) weights of `type`, one after another in `rows`; csrc/formats/dot.c defines every
    rounding. x must be finite and, for a quantized type, len(x) a multiple of the type's block."""
    cdef const llmq_codec *codec = llmq_codec_of(type)
    cdef int64_t k = x.shape[0], n = out.shape[0], r, stride
    if codec == NULL or k % codec.block or rows.shape[0] != n * (k // codec.block * codec.bytes):
        raise ValueError(f"dot: {rows.shape[0]} bytes are not {n} rows of {k} weights of type {type}")
    stride = k // codec.block * codec.bytes
    out[:] = 0
    if k == 0 or n == 0:
        return
    if codec.levels == NULL:
        with nogil:
            for r in range(n):
                out[r] = llmq_dot_float(codec, &rows[r * stride], &x[0], k)
        return
    cdef int8_t[::1] q
    cdef float[::1] dx
    cdef int16_t[::1] sum
    q, dx, sum = quantize_x8(x, llmq_x8_width(codec))
    with nogil:
        for r in range(n):
            out[r] = llmq_dot(codec, &rows[r * stride], &q[0], &dx[0], &sum[0], k)

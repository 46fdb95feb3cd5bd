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

# Declarations of csrc/llmq.h that several parts use, and the status check.

cdef extern from "llmq.h" nogil:
    ctypedef enum llmq_status:
        LLMQ_OK, LLMQ_ERR_ARG, LLMQ_ERR_NOMEM, LLMQ_ERR_NONFINITE, LLMQ_ERR_CANCELLED, LLMQ_ERR_UNSUPPORTED, LLMQ_ERR_READ

    enum:
        LLMQ_MAX_BLOCK

    ctypedef struct llmq_levels:
        uint8_t q[LLMQ_MAX_BLOCK]
        int8_t sc[LLMQ_MAX_BLOCK // 16]
        uint8_t m[LLMQ_MAX_BLOCK // 16]
        float d, dmin

    ctypedef struct llmq_codec:
        int32_t type, block, bytes, bits, group, off, has_min, has_scales
        const char *name
        void (*dequantize)(const void *src, float *dst, int64_t n) nogil
        llmq_status (*quantize)(const float *src, void *dst, int64_t n, const float *weight) nogil
        void (*levels)(const void *block, llmq_levels *out) nogil
        int (*check)(const void *src, int64_t n) nogil

    const llmq_codec *llmq_codec_of(int32_t type)
    int32_t llmq_x8_width(const llmq_codec *)
    void llmq_quantize_x8(const float *x, int64_t k, int32_t width, int8_t *q, float *dx, int16_t *sum)
    float llmq_dot(const llmq_codec *codec, const void *row, const int8_t *q, const float *dx, const int16_t *sum, int64_t k)
    float llmq_dot_float(const llmq_codec *codec, const void *row, const float *x, int64_t k)


cdef int check_status(llmq_status status, str what) except -1:
    if status == LLMQ_OK:
        return 0
    if status == LLMQ_ERR_NOMEM:
        raise MemoryError(f"{what}: out of memory")
    if status == LLMQ_ERR_NONFINITE:
        raise ValueError(f"{what}: NaN or infinity where a finite number is needed")
    if status == LLMQ_ERR_CANCELLED:
        raise KeyboardInterrupt(what)
    if status == LLMQ_ERR_UNSUPPORTED:
        raise RuntimeError(f"{what}: not supported on this machine")
    raise ValueError(f"{what}: an argument is out of its range")

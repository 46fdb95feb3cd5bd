# Declarations of csrc/llmq.h that several parts use, and the status check.

cdef extern from "llmq.h" nogil:
    ctypedef enum llmq_status:
        LLMQ_OK, LLMQ_ERR_ARG, LLMQ_ERR_NOMEM, LLMQ_ERR_NONFINITE, LLMQ_ERR_CANCELLED, LLMQ_ERR_UNSUPPORTED

    ctypedef struct llmq_codec:
        int32_t type, block, bytes, bits, group, off, has_min, has_scales
        const char *name
        void (*dequantize)(const void *src, float *dst, int64_t n) nogil
        llmq_status (*quantize)(const float *src, void *dst, int64_t n, const float *weight) nogil
        int (*check)(const void *src, int64_t n) nogil

    const llmq_codec *llmq_codec_of(int32_t type)


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

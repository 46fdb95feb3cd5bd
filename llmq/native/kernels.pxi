# Packed weights, the matmul driver and the kernel table.

from libc.string cimport memset

cdef extern from "ops/matmul.h" nogil:
    enum:
        LLMQ_GATHERED

cdef extern from "kernels.h" nogil:
    ctypedef enum llmq_isa:
        LLMQ_ISA_SCALAR, LLMQ_ISA_COUNT

    ctypedef struct llmq_packed:
        int32_t type
        int64_t n, k, experts, strips, strip_bytes
        uint8_t *data

    ctypedef struct llmq_product:
        const llmq_packed *w
        int64_t expert
        const float *bias
        float *out
        int64_t ldo

    enum:
        LLMQ_MAX_THREADS

    llmq_status llmq_pack_plan(llmq_packed *, int32_t type, int64_t n, int64_t k, int64_t experts)
    int llmq_pack(const llmq_packed *, const void *rows, int tid, int nth)
    void llmq_packed_row(const llmq_packed *, int64_t expert, int64_t row, float *dst)
    int64_t llmq_matmul_scratch(const llmq_packed *, int64_t m, int nth)
    int llmq_matmul_kind(const llmq_packed *, int64_t m)
    void llmq_matmul_prepare(const llmq_packed *, const float *x, int64_t m, int64_t ldx, void *scratch, int tid, int nth)
    void llmq_matmul_run(const llmq_product *, int32_t n, const float *x, int64_t m, int64_t ldx, void *scratch, uint64_t *taken, int tid,
                         int nth)

    ctypedef struct llmq_pool:
        pass

    llmq_pool *llmq_pool_new(int n_threads)
    void llmq_pool_free(llmq_pool *)
    ctypedef struct llmq_phase:
        int64_t next

    void llmq_pool_run(llmq_pool *, llmq_phase *phases, int n_phases,
                       void (*work)(void *arg, int phase, int64_t *next, int tid, int nth) noexcept nogil, void *arg)

    uint64_t llmq_sum(const uint64_t *x, int64_t n)

    const char *llmq_isa_name(llmq_isa)
    llmq_isa llmq_isa_found()
    int llmq_isa_offered(llmq_isa)
    llmq_isa llmq_isa_used()
    llmq_status llmq_isa_use(llmq_isa)
    const char *llmq_slot_name(int slot)
    llmq_isa llmq_slot_level(int slot)
    uint32_t llmq_cpu_flags()
    const char *llmq_cpu_flag_name(int bit)


cdef object aligned(int64_t nbytes):
    """uint8 (nbytes,) whose first byte stands at a multiple of 64."""
    raw = np.empty(nbytes + 63, np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + nbytes]


def packed_bytes(int32_t type, int64_t n, int64_t k, int64_t experts=1):
    """Bytes of a packed matrix."""
    cdef llmq_packed c
    check_status(llmq_pack_plan(&c, type, n, k, experts), f"packing type {type}, {experts} x {n} x {k}")
    return c.strips * c.strip_bytes * experts


GATHERED = LLMQ_GATHERED


def matmul_kind(int32_t type, int64_t n, int64_t k, int64_t m):
    """How a matmul of m rows with a matrix [n][k] prepares its activations: "floats", "x8_32", "x8_256"
    or "tiles" (csrc/ops/matmul.c)."""
    cdef llmq_packed c
    check_status(llmq_pack_plan(&c, type, n, k, 1), f"packing type {type}, {n} x {k}")
    return ("floats", "x8_32", "x8_256", "tiles")[llmq_matmul_kind(&c, m)]


cdef class Packed:
    """A weight matrix [experts][n][k] in the kernels' layout (csrc/pack.c). `data` is uint8 (nbytes,), 64-byte aligned; the caller may
    bring it (`packed_bytes` long)."""

    cdef llmq_packed c
    cdef readonly object data

    def __init__(self, int32_t type, int64_t n, int64_t k, const uint8_t[::1] rows, int64_t experts=1, data=None):
        check_status(llmq_pack_plan(&self.c, type, n, k, experts), f"packing type {type}, {experts} x {n} x {k}")
        cdef const llmq_codec *codec = llmq_codec_of(type)
        if rows.shape[0] != experts * n * (k // codec.block * codec.bytes):
            raise ValueError(f"packing: {rows.shape[0]} bytes are not {experts} x {n} x {k} weights of type {type}")
        self.data = aligned(packed_bytes(type, n, k, experts)) if data is None else data
        cdef uint8_t[::1] view = self.data
        if view.shape[0] != packed_bytes(type, n, k, experts) or <size_t>&view[0] % 64:
            raise ValueError("packing: data has the wrong size or is not 64-byte aligned")
        self.c.data = &view[0]
        cdef int good
        with nogil:
            good = llmq_pack(&self.c, &rows[0], 0, 1)
        if not good:
            raise ValueError("packing: NaN or infinity among the scales")

    @property
    def shape(self):
        """(experts, n, k)"""
        return self.c.experts, self.c.n, self.c.k

    def kind(self, int64_t m):
        """`matmul_kind` of this matrix."""
        return matmul_kind(self.c.type, self.c.n, self.c.k, m)

    def scratch_bytes(self, int64_t m, int n_threads=1):
        return llmq_matmul_scratch(&self.c, m, n_threads)

    def row(self, int64_t row, int64_t expert=0):
        """One row dequantized from the packed form, float32 (k,)."""
        if not (0 <= row < self.c.n and 0 <= expert < self.c.experts):
            raise IndexError(f"row {row} of expert {expert}: there are {self.c.n} rows and {self.c.experts} experts")
        out = np.empty(self.c.k, np.float32)
        cdef float[::1] view = out
        llmq_packed_row(&self.c, expert, row, &view[0])
        return out


cdef struct matmul_call:
    llmq_product product
    int64_t m, ldx
    const float *x
    void *scratch
    uint64_t taken[LLMQ_MAX_THREADS]


cdef extern from *:
    int64_t __atomic_fetch_add(int64_t *p, int64_t by, int order) nogil


cdef void matmul_work(void *arg, int phase, int64_t *next, int tid, int nth) noexcept nogil:
    cdef matmul_call *c = <matmul_call *>arg
    cdef int64_t piece
    if phase == 1:
        llmq_matmul_run(&c.product, 1, c.x, c.m, c.ldx, c.scratch, c.taken, tid, nth)
        return
    while True:
        piece = __atomic_fetch_add(next, 1, 0)
        if piece >= nth:
            return
        llmq_matmul_prepare(c.product.w, c.x, c.m, c.ldx, c.scratch, <int>piece, nth)


def matmul(Packed w, const float[:, :] x, float[:, :] out, const float[::1] bias=None, int64_t expert=0, int n_threads=1, scratch=None):
    """out[m][n] = x[m][k] . W[expert]^T + bias, all float32; x and out may have padded rows (stride), not padded columns. `scratch` is
    uint8, 64-byte aligned, Packed.scratch_bytes(m, n_threads) long."""
    cdef int64_t m = x.shape[0]
    if x.shape[1] != w.c.k or out.shape[0] != m or out.shape[1] != w.c.n:
        raise ValueError(f"matmul: x {x.shape[0]} x {x.shape[1]} and out {out.shape[0]} x {out.shape[1]} do not fit W {w.c.n} x {w.c.k}")
    if x.strides[1] != 4 or out.strides[1] != 4 or x.strides[0] % 4 or out.strides[0] % 4:
        raise ValueError("matmul: the columns of x and out must be contiguous")
    if (bias is not None and bias.shape[0] != w.c.n) or not 0 <= expert < w.c.experts or not 1 <= n_threads <= LLMQ_MAX_THREADS:
        raise ValueError("matmul: bias, expert or n_threads out of range")
    if m == 0:
        return
    cdef uint8_t[::1] work = aligned(w.scratch_bytes(m, n_threads)) if scratch is None else scratch
    if work.shape[0] != w.scratch_bytes(m, n_threads) or <size_t>&work[0] % 64:
        raise ValueError("matmul: scratch has the wrong size or is not 64-byte aligned")
    cdef matmul_call c
    cdef llmq_phase phases[2]
    memset(&c, 0, sizeof(c))
    c.product.w, c.product.expert, c.product.out, c.product.ldo = &w.c, expert, &out[0, 0], out.strides[0] // 4
    c.product.bias = &bias[0] if bias is not None else NULL
    c.m, c.ldx, c.x, c.scratch = m, x.strides[0] // 4, &x[0, 0], &work[0]
    cdef llmq_pool *pool = llmq_pool_new(n_threads)
    if pool == NULL:
        raise MemoryError(f"matmul: no pool of {n_threads} threads")
    with nogil:
        memset(phases, 0, sizeof(phases))
        llmq_pool_run(pool, phases, 2, matmul_work, &c)
        llmq_pool_free(pool)


def isa_levels():
    """Names of the levels of the ladder that can run here, lowest first."""
    return [llmq_isa_name(<llmq_isa>level).decode() for level in range(LLMQ_ISA_COUNT) if llmq_isa_offered(<llmq_isa>level)]


def all_isa_levels():
    """Names of every level that llmq knows, on any machine."""
    return [llmq_isa_name(<llmq_isa>level).decode() for level in range(LLMQ_ISA_COUNT)]


def use_isa(str name):
    """Fill the kernel table for a level of `isa_levels`. No kernel may be running."""
    check_status(llmq_isa_use(<llmq_isa><int>all_isa_levels().index(name)), f"instruction set level {name}")


def isa_used():
    """Name of the level in use."""
    return llmq_isa_name(llmq_isa_used()).decode()


def cpu_flags():
    """Names of the instruction set extensions that the CPU has and the operating system grants."""
    cdef uint32_t flags = llmq_cpu_flags()
    names = []
    bit = 0
    while llmq_cpu_flag_name(bit) != NULL:
        if flags >> bit & 1:
            names.append(llmq_cpu_flag_name(bit).decode())
        bit += 1
    return names


def kernel_slots():
    """{slot of the kernel table: level whose body it holds}; slots that hold none at this level are left out."""
    slots = {}
    slot = 0
    while llmq_slot_name(slot) != NULL:
        if llmq_slot_level(slot) != LLMQ_ISA_COUNT:
            slots[llmq_slot_name(slot).decode()] = llmq_isa_name(llmq_slot_level(slot)).decode()
        slot += 1
    return slots


check_status(llmq_isa_use(llmq_isa_found()), "filling the kernel table")


def sum_words(const uint64_t[::1] x):
    """The sum, modulo 2^64, read as fast as memory gives it to one core."""
    cdef uint64_t sum = 0
    if x.shape[0]:
        with nogil:
            sum = llmq_sum(&x[0], x.shape[0])
    return sum

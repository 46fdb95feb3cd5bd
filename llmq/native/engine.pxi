# The tape's executor: weights, sequences, batches.

cdef extern from "engine.h" nogil:
    ctypedef struct llmq_weight:
        const float *f32
        const void *rows
        int32_t type
        int64_t n, k

    ctypedef struct llmq_sequence:
        int32_t live, length, source

    ctypedef struct llmq_records:
        int64_t floats, owned

    ctypedef struct llmq_kv:
        int32_t n_sequences
        int64_t page_bytes, pages
        llmq_records records
        llmq_sequence *sequences

    ctypedef struct llmq_batch:
        int32_t n, n_out
        const int32_t *tokens
        const int32_t *positions
        const int32_t *sequences
        const int32_t *outputs
        const int32_t *types

    ctypedef struct llmq_engine:
        pass

    int64_t llmq_record_bytes(const llmq_records *)
    int llmq_record_kept(int32_t position, int32_t length)
    int32_t llmq_states_growth(const llmq_records *, int32_t length, int32_t end)
    int32_t llmq_kv_kept(const llmq_kv *, int32_t seq, int32_t length)
    llmq_status llmq_kv_open(llmq_kv *, int32_t *seq)
    llmq_status llmq_kv_fork(llmq_kv *, int32_t origin, int32_t length, int32_t *seq)
    void llmq_kv_truncate(llmq_kv *, int32_t seq, int32_t length)
    void llmq_kv_close(llmq_kv *, int32_t seq)
    void llmq_kv_attach(llmq_kv *, int32_t seq, int32_t source)

    enum:
        LLMQ_HUGE_OFF
        LLMQ_HUGE_ON
        LLMQ_HUGE_MEASURED
    ctypedef struct llmq_rows:
        const void *memory
        int fd
        int64_t offset

    llmq_status llmq_engine_new(llmq_engine **, const llmq_op *ops, int32_t n_ops, const llmq_value *values, int32_t n_values,
                                int32_t n_weights, int32_t result, int32_t kv_type, int32_t n_batch, int n_threads)
    void llmq_engine_free(llmq_engine *)
    llmq_kv *llmq_engine_kv(llmq_engine *)
    llmq_status llmq_engine_pack(llmq_engine *, int32_t i, int32_t type, int64_t n, int64_t k, int64_t experts, llmq_rows rows,
                                 int huge, int passing)
    llmq_weight *llmq_engine_weight(llmq_engine *, int32_t i)
    int64_t llmq_engine_scratch(const llmq_engine *, int32_t n)
    llmq_status llmq_engine_check(llmq_engine *, const llmq_batch *, int32_t n_vocab)
    int64_t llmq_engine_growth(const llmq_engine *, const llmq_batch *)
    llmq_status llmq_engine_prepare(llmq_engine *, const llmq_batch *)
    llmq_status llmq_engine_run(llmq_engine *, const llmq_batch *, uint32_t parts, int32_t value, float *out)
    void llmq_engine_commit(llmq_engine *, const llmq_batch *, int done)
    int32_t llmq_engine_phases(const llmq_engine *)
    void llmq_engine_arm(llmq_engine *)
    void llmq_engine_cancel(llmq_engine *)

    enum:
        LLMQ_PAGE, LLMQ_CHANNELS, LLMQ_MAX_TAPS


MAX_THREADS = LLMQ_MAX_THREADS
PAGE = LLMQ_PAGE
CHANNELS = LLMQ_CHANNELS
MAX_TAPS = LLMQ_MAX_TAPS


def keeps_record(int position, int length):
    """Whether a sequence of `length` tokens keeps its recurrent state at `position` as a checkpoint (csrc/states.h)."""
    return bool(llmq_record_kept(position, length))


cdef class EngineCore:
    """csrc/engine.c for one verified tape. NativeEngine (llmq/engine/native.py) is its keeper: it checks arguments, keeps the lock, and
    turns what the methods return into errors. Sequences are numbered by the C core and their numbers are used again."""

    cdef llmq_engine *engine
    cdef llmq_kv *kv
    cdef int32_t n_weights, n_vocab
    cdef list widths
    cdef dict vectors

    def __cinit__(self, ops, values, int n_weights, int result, int n_vocab, int kv_type, int n_batch, int n_threads):
        cdef const uint8_t[::1] op_bytes = ops.view(np.uint8), value_bytes = values.view(np.uint8)
        cdef llmq_status status = llmq_engine_new(
            &self.engine, <const llmq_op *>&op_bytes[0], len(ops), <const llmq_value *>&value_bytes[0], len(values), n_weights,
            result, kv_type, n_batch, n_threads)
        check_status(status, f"an engine of {n_threads} threads")
        self.kv = llmq_engine_kv(self.engine)
        self.n_weights, self.n_vocab, self.widths = n_weights, n_vocab, values["width"].tolist()
        self.vectors = {}

    def __dealloc__(self):
        llmq_engine_free(self.engine)

    # -- weights

    def pack(self, int i, int type, int64_t n, int64_t k, int64_t experts, const uint8_t[::1] rows, int fd, int64_t offset,
             object huge_pages, bint passing):
        """Check and pack the rows of weight i for MATMUL; False when a scale is NaN or infinite. `rows` is not needed afterwards;
        None: they are in file `fd` from byte `offset` on. huge_pages: None when that is measured. EOFError where the file ends before
        them, OSError from the disk."""
        cdef llmq_status status
        cdef int error
        cdef int huge = LLMQ_HUGE_MEASURED if huge_pages is None else LLMQ_HUGE_ON if huge_pages else LLMQ_HUGE_OFF
        cdef llmq_rows source = llmq_rows(NULL, fd, offset)
        if not 0 <= i < self.n_weights or llmq_codec_of(type) == NULL:
            raise ValueError(f"pack: weight {i} of type {type}")
        if rows is not None:
            if rows.shape[0] != row_bytes(type, k) * n * experts:
                raise ValueError(f"pack: {rows.shape[0]} bytes are not {experts} x {n} x {k} weights of type {type}")
            source.memory = &rows[0]
        with nogil:
            status = llmq_engine_pack(self.engine, i, type, n, k, experts, source, huge, passing)
            error = errno
        if status == LLMQ_ERR_NONFINITE:
            return False
        if status == LLMQ_ERR_READ:
            raise OSError(error, os.strerror(error)) if error else EOFError("pack: the file ends too early")
        check_status(status, f"packing {experts} x {n} x {k} weights of type {type}")
        return True

    def set_vector(self, int i, const float[::1] vector):
        """Weight i as float32, kept by reference."""
        if not 0 <= i < self.n_weights or vector.shape[0] == 0:
            raise ValueError(f"set_vector: no weight {i}, or an empty one")
        self.vectors[i, "f32"] = vector
        llmq_engine_weight(self.engine, i).f32 = &vector[0]

    def set_rows(self, int i, int type, int64_t n, int64_t k, const uint8_t[::1] rows):
        """The rows of weight i for EMBED, kept by reference."""
        cdef llmq_weight *w = llmq_engine_weight(self.engine, i)
        if not 0 <= i < self.n_weights or llmq_codec_of(type) == NULL or rows.shape[0] != row_bytes(type, k) * n:
            raise ValueError(f"set_rows: {rows.shape[0]} bytes are not {n} x {k} weights of type {type}")
        self.vectors[i, "rows"] = rows
        w.rows, w.type, w.n, w.k = &rows[0], type, n, k

    def scratch_bytes(self, int n):
        """Bytes of working memory for batches of n tokens, without pages."""
        return llmq_engine_scratch(self.engine, n)

    @property
    def page_bytes(self):
        """Bytes of one page: the keys and values of 64 positions."""
        return self.kv.page_bytes

    @property
    def pages(self):
        """Pages allocated now."""
        return self.kv.pages

    @property
    def records(self):
        """Records of recurrent state that sequences hold now."""
        return self.kv.records.owned

    def growth_bytes(self, int length, int end):
        """Bytes of records that a run from `length` to `end` tokens of a sequence needs."""
        return llmq_states_growth(&self.kv.records, length, end) * llmq_record_bytes(&self.kv.records)

    # -- sequences

    cdef int32_t known(self, int seq) except -1:
        if not 0 <= seq < self.kv.n_sequences or not self.kv.sequences[seq].live:
            raise ValueError(f"no sequence {seq}")
        return seq

    def open(self):
        cdef int32_t seq = 0
        check_status(llmq_kv_open(self.kv, &seq), "a new sequence")
        return seq

    def kept(self, int seq, int length):
        """How much of the first `length` tokens a fork or a cut can keep."""
        if not 0 <= length <= self.length(seq):
            raise ValueError(f"kept: {length} of {self.length(seq)} tokens")
        return llmq_kv_kept(self.kv, seq, length)

    def fork(self, int seq, int length):
        cdef int32_t new = 0
        if not 0 <= length <= self.length(seq):
            raise ValueError(f"fork: {length} of {self.length(seq)} tokens")
        check_status(llmq_kv_fork(self.kv, seq, length, &new), "a forked sequence")
        return new

    def truncate(self, int seq, int length):
        if not 0 <= length <= self.length(seq):
            raise ValueError(f"truncate: {length} of {self.length(seq)} tokens")
        llmq_kv_truncate(self.kv, seq, length)

    def attach(self, int seq, int source):
        """Sequence `source`, which the encoder filled, is what `seq` attends to, and goes with it from now on."""
        if self.known(seq) == self.known(source) or self.kv.sequences[source].source >= 0:
            raise ValueError(f"attach: {source} to {seq}")
        llmq_kv_attach(self.kv, seq, source)

    def source_length(self, int seq):
        """Tokens of the source of a sequence, 0 without one."""
        cdef int32_t source = self.kv.sequences[self.known(seq)].source
        return self.kv.sequences[source].length if source >= 0 else 0

    def free(self, int seq):
        llmq_kv_close(self.kv, self.known(seq))

    def length(self, int seq):
        return self.kv.sequences[self.known(seq)].length

    # -- batches

    def growth(self, const int32_t[::1] tokens, const int32_t[::1] positions, const int32_t[::1] sequences, const int32_t[::1] outputs):
        """Bytes of pages and records that `run` will allocate, or -1 when the batch breaks a rule."""
        cdef llmq_batch b = batch_of(tokens, positions, sequences, outputs)
        if b.n <= 0 or llmq_engine_check(self.engine, &b, self.n_vocab) != LLMQ_OK:
            return -1
        return llmq_engine_growth(self.engine, &b)

    def run(self, const int32_t[::1] tokens, const int32_t[::1] positions, const int32_t[::1] sequences, const int32_t[::1] outputs,
            unsigned parts, int value, float[:, ::1] rows, const int32_t[::1] types=None):
        """Run the parts whose bits are set on a batch that `growth` accepted; the output rows of `value` (-1: none) go to `rows`. types:
        of the tokens, checked by the caller; None: all 0. False when it was cancelled. Sequences have taken the batch, or are as before."""
        cdef llmq_batch b = batch_of(tokens, positions, sequences, outputs)
        cdef llmq_status status
        cdef float none
        cdef float *out = &rows[0, 0] if b.n_out and value >= 0 else &none
        if b.n <= 0 or not -1 <= value < len(self.widths) or rows.shape[0] != b.n_out or (value >= 0 and rows.shape[1] != self.widths[value]):
            raise ValueError("run: arrays of different lengths")
        if types is not None:
            if types.shape[0] != b.n:
                raise ValueError("run: arrays of different lengths")
            b.types = &types[0]
        check_status(llmq_engine_check(self.engine, &b, self.n_vocab), "run")
        check_status(llmq_engine_prepare(self.engine, &b), f"a batch of {b.n} tokens")
        with nogil:
            status = llmq_engine_run(self.engine, &b, parts, value, out)
        llmq_engine_commit(self.engine, &b, status == LLMQ_OK)
        return status == LLMQ_OK

    @property
    def phases(self):
        """How often the threads of the last run waited for each other."""
        return llmq_engine_phases(self.engine)

    def arm(self):
        """Forget cancellations; before `run`."""
        llmq_engine_arm(self.engine)

    def cancel(self):
        """Make the `run` under way return False soon. From any thread."""
        llmq_engine_cancel(self.engine)


cdef llmq_batch batch_of(const int32_t[::1] tokens, const int32_t[::1] positions, const int32_t[::1] sequences, const int32_t[::1] outputs):
    """n = -1 when the arrays do not fit together."""
    cdef llmq_batch b
    cdef bint fits = tokens.shape[0] == positions.shape[0] == sequences.shape[0] and tokens.shape[0] < 1 << 30
    b.n = tokens.shape[0] if fits else -1
    b.n_out = outputs.shape[0]
    b.types = NULL
    b.tokens = &tokens[0] if tokens.shape[0] else NULL
    b.positions = &positions[0] if positions.shape[0] else NULL
    b.sequences = &sequences[0] if sequences.shape[0] else NULL
    b.outputs = &outputs[0] if outputs.shape[0] else NULL
    return b


cdef int64_t row_bytes(int type, int64_t k):
    cdef const llmq_codec *codec = llmq_codec_of(type)
    return k // codec.block * codec.bytes if k % codec.block == 0 else -1

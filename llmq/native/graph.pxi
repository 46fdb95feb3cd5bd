# The tape as C sees it: the op kinds of csrc/ops.def and the layouts of its two structs.

cdef extern from *:
    """
    #include "llmq.h"
    static const struct { const char *name; int a, b, weights, state; const char *doc; } llmq_op_rows[] = {
    #define OP(name, a, b, w, state, doc) {#name, a, b, w, state, doc},
    #include "ops.def"
    #undef OP
    };
    """
    ctypedef struct llmq_op_row:
        const char *name
        int a, b, weights, state
        const char *doc
    const llmq_op_row llmq_op_rows[]
    enum:
        LLMQ_OP_COUNT

cdef extern from "llmq.h" nogil:
    ctypedef struct llmq_op:
        int32_t kind, out, a, b, w0, w1, slot, part
        int32_t i[8]
        float f[4]

    ctypedef struct llmq_value:
        int32_t width, tail
        int64_t offset


cdef extern from "ops/moe.h" nogil:
    enum:
        LLMQ_MAX_EXPERTS


MAX_EXPERTS = LLMQ_MAX_EXPERTS


def op_kinds():
    """Every op kind, in the order of its number: a list of (name, reads a, reads b, number of weights, has a state slot, meaning)."""
    return [
        (llmq_op_rows[n].name.decode(), bool(llmq_op_rows[n].a), bool(llmq_op_rows[n].b), llmq_op_rows[n].weights,
         bool(llmq_op_rows[n].state), llmq_op_rows[n].doc.decode())
        for n in range(LLMQ_OP_COUNT)
    ]


def tape_dtypes():
    """The NumPy dtypes of struct llmq_op and struct llmq_value."""
    cdef llmq_op op
    cdef llmq_value value
    ids = ("kind", "out", "a", "b", "w0", "w1", "slot", "part")
    return (
        np.dtype({"names": [*ids, "i", "f"], "formats": ["i4"] * 8 + ["(8,)i4", "(4,)f4"], "itemsize": sizeof(op),
                  "offsets": [4 * n for n in range(8)] + [<char *> op.i - <char *> &op, <char *> op.f - <char *> &op]}),
        np.dtype({"names": ["width", "tail", "offset"], "formats": ["i4", "i4", "i8"], "itemsize": sizeof(value),
                  "offsets": [<char *> &value.width - <char *> &value, <char *> &value.tail - <char *> &value,
                              <char *> &value.offset - <char *> &value]}),
    )

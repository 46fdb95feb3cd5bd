# Turn: a lock that is taken without waiting and cannot leak when a signal handler raises.
#
# Python code that does `if lock.acquire(False):` can lose the lock to a KeyboardInterrupt between the call and its try block. A with
# statement over a C method has no such gap, so the attempt is made in __enter__ and its answer is the value of the statement:
#
#     with turn.claim() as mine:
#         if mine: ...

from cpython.pythread cimport PyThread_get_thread_ident


cdef class Turn:
    """At most one claim holds it."""

    cdef object holder

    def claim(self):
        """A context manager that tries to take the turn on entry and gives True when it did."""
        return Claim(self)

    @property
    def taken(self):
        return self.holder is not None

    @property
    def mine(self):
        """Whether the calling thread took it, and so cannot wait for it: further up on its stack, or in an open generator."""
        cdef Claim claim = self.holder
        return claim is not None and claim.thread == PyThread_get_thread_ident()


cdef class Claim:
    cdef Turn turn
    cdef unsigned long thread

    def __cinit__(self, Turn turn not None):
        self.turn = turn

    def __enter__(self):
        if self.turn.holder is None:
            self.thread = PyThread_get_thread_ident()
            self.turn.holder = self
            return True
        return False

    def __exit__(self, kind, error, trace):
        if self.turn.holder is self:
            self.turn.holder = None
        return False

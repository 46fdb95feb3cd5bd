"""A shell's background jobs ignore Ctrl-C, and so would every process started here; the tests of interrupting need it."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)

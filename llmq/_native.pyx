# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True
"""The C core as Python sees it: buffers in, a call without the GIL, an error code turned into an exception.

One part per room of csrc/, in llmq/native/*.pxi.
"""

from libc.errno cimport errno
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

import os

import numpy as np

include "native/core.pxi"
include "native/codecs.pxi"
include "native/kernels.pxi"
include "native/formats.pxi"
include "native/graph.pxi"
include "native/sampling.pxi"
include "native/turn.pxi"
include "native/engine.pxi"

"""The floats of 4 and 8 bits that weights and their scales are stored in: what each code means.

Micikevicius et al. 2022 (FP8 formats for deep learning; E4M3 is torch's float8_e4m3fn, without infinity) and the OCP
Microscaling specification 1.0 (E8M0, E2M1)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["E2M1", "EIGHT_BITS"]

Floats = npt.NDArray[np.float32]


def _table(exponent: int, mantissa: int, special: tuple[float, ...] = ()) -> Floats:
    """Values of the codes of a float of a sign bit and so many bits of exponent and mantissa, with subnormals; the last codes
    of either sign are `special`."""
    codes = np.arange(1 << (exponent + mantissa))
    e, m = codes >> mantissa, codes & ((1 << mantissa) - 1)
    significand = (e > 0) + m / (1 << mantissa)
    half = significand * 2.0 ** (np.maximum(e, 1) - (1 << (exponent - 1)) + 1)
    half[len(half) - len(special) :] = special
    return np.concatenate([half, -half]).astype(np.float32)


E2M1 = _table(2, 1)
EIGHT_BITS: dict[str, Floats] = {  # by the names of safetensors
    "F8_E4M3": _table(4, 3, (np.nan,)),
    "F8_E5M2": _table(5, 2, (np.inf, np.nan, np.nan, np.nan)),
    "F8_E8M0": np.append(2.0 ** np.arange(-127, 128), np.nan).astype(np.float32),
}

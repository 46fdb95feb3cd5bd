"""What quantizing a model came to: per tensor and in total, for people and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from llmq.errors import printable

__all__ = ["QuantReport", "TensorReport"]


@dataclass(frozen=True)
class TensorReport:
    """One tensor: its types before and after, its size, and the root mean square error, absolute and relative to the weights'
    root mean square (None when nothing was computed: a copy, or a dry run). `exact`: whether every value is what it was (None
    when a dry run cannot tell)."""

    name: str
    shape: tuple[int, ...]
    source_type: str
    type: str
    source_bytes: int
    bytes: int
    rmse: float | None = None
    relative_rmse: float | None = None
    exact: bool | None = None

    @property
    def weights(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class QuantReport:
    """`files` are the parts that were written, mostly one; `file_bytes` is their size (that of what would be written, after a
    dry run)."""

    source: str
    files: tuple[str, ...]
    recipe: str
    dry_run: bool
    tensors: tuple[TensorReport, ...]
    file_bytes: int
    seconds: float

    @property
    def destination(self) -> str:
        """The file by which the model is opened."""
        return self.files[0]

    @property
    def weights(self) -> int:
        return sum(t.weights for t in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        return sum(t.bytes for t in self.tensors)

    @property
    def source_bytes(self) -> int:
        return sum(t.source_bytes for t in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.tensor_bytes / max(self.weights, 1)

    @property
    def rmse(self) -> float | None:
        """Over all tensors whose error was measured."""
        known = [(t.rmse, t.weights) for t in self.tensors if t.rmse is not None]
        return math.sqrt(sum(e * e * n for e, n in known) / sum(n for _, n in known)) if known else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        totals = {name: getattr(self, name) for name in ("weights", "source_bytes", "tensor_bytes", "bits_per_weight", "rmse")}
        return asdict(self) | {"destination": self.destination, "totals": totals}

    def table(self) -> str:
        """The table that ends a run: name, shape, types, size, bits per weight, error."""
        head = ("tensor", "shape", "type", "MiB", "bits", "rmse", "relative")
        rows = [
            (
                printable(t.name),
                "x".join(map(str, t.shape)),
                t.type if t.type == t.source_type else f"{t.source_type} > {t.type}",
                f"{t.bytes / 2**20:.2f}",
                f"{8 * t.bytes / t.weights:.2f}",
                "exact" if t.exact else "" if t.rmse is None else f"{t.rmse:.3g}",
                "" if t.exact or t.relative_rmse is None else f"{100 * t.relative_rmse:.3g} %",
            )
            for t in self.tensors
        ]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
            for row in [head, *rows]
        ]
        error = "" if self.rmse is None else f", rmse {self.rmse:.3g}"
        verb = "would be" if self.dry_run else "is"
        parts = "" if len(self.files) == 1 else f" in {len(self.files)} parts"
        lines.append(
            f"{self.recipe}: {self.weights / 1e6:.2f}M weights, "
            f"{self.source_bytes / 2**20:.1f} MiB > {self.tensor_bytes / 2**20:.1f} MiB, "
            f"{self.bits_per_weight:.2f} bits per weight{error}; "
            f"{self.destination} {verb} {self.file_bytes / 2**20:.1f} MiB{parts} ({self.seconds:.1f} s)"
        )
        return "\n".join(line.rstrip() for line in lines)

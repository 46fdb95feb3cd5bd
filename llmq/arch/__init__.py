"""The model families, one file each, found by looking: a file with a `FAMILY` is one."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hparams import MAX_LAYERS
from llmq.errors import FormatError, UnsupportedArchError, quoted
from llmq.formats.checkpoint import Checkpoint
from llmq.graph.builder import Graph
from llmq.graph.passes import freeze
from llmq.graph.tape import Tape

__all__ = ["Family", "build_tape", "families", "family_named", "family_of_config"]


@cache
def _files() -> tuple[str, ...]:
    return tuple(info.name for info in pkgutil.iter_modules(__path__))


def _family_in(file: str) -> Family | None:
    family = getattr(importlib.import_module(f"{__name__}.{file}"), "FAMILY", None)
    return family if isinstance(family, Family) else None


@cache
def families() -> dict[str, Family]:
    """Every family by its `general.architecture`."""
    return {family.name: family for file in _files() if (family := _family_in(file)) is not None}


def family_named(architecture: str, path: str | None = None) -> Family:
    """The family of a GGUF's `general.architecture`; UnsupportedArchError names the nearest."""
    file = architecture.replace("-", "_")  # most are named so, and reading that one is faster than reading all
    found = _family_in(file) if file in _files() else None
    if found is None or found.name != architecture:
        found = families().get(architecture)
    if found is None:
        raise _unknown("general.architecture", architecture, list(families()), path)
    return found


def family_of_config(config: Mapping[str, object], path: str | None = None) -> Family:
    """The family of a config.json's `model_type`; UnsupportedArchError names the nearest."""
    model_type, named = Fields(config, path).text("model_type"), config.get("architectures")
    known = [family for family in families().values() if model_type in family.hf_model_types and family.hf_architectures]
    for family in known:
        if isinstance(named, list) and any(name in family.hf_architectures for name in named):
            return family
    by_type = {name: family for family in families().values() if not family.hf_architectures for name in family.hf_model_types}
    if model_type not in by_type:
        raise _unknown("model_type", model_type, list(by_type), path)
    return families()[by_type[model_type].hf_family(config)]


def build_tape(checkpoint: Checkpoint, *, n_ctx: int | None = None) -> Tape:
    """The verified tape of a model for sequences of up to n_ctx tokens (default: as trained; some models turn positions
    otherwise for long contexts). UnsupportedArchError for an unknown architecture; FormatError for hyper-parameters out of
    range, missing tensors, and shapes or types that do not fit; UnsupportedError for what llmq cannot run."""
    path = str(checkpoint.path)
    family = family_named(Fields(checkpoint.metadata, path).text("general.architecture"), path)
    fields = Fields(checkpoint.metadata, path, f"{family.name}.")
    hp = family.hparams(fields)
    hp = hp if n_ctx is None else replace(hp, n_ctx=n_ctx)
    graph = Graph(checkpoint.tensors, path)
    _check_blocks(checkpoint, f"{family.name}.block_count", hp.n_layer, family.blocks)
    logits = family.build(graph, hp)
    ahead = fields.integer("nextn_predict_layers", low=0, high=MAX_LAYERS, default=0)
    graph.check_all_read(family.ignored, tuple(f"{family.blocks}.{hp.n_layer + i}." for i in range(ahead)))
    return freeze(
        graph, logits, arch=family.name, n_vocab=hp.n_vocab, n_embd=hp.n_embd, n_layer=hp.n_layer, n_ctx_train=hp.n_ctx_train
    )


def _check_blocks(checkpoint: Checkpoint, key: str, n_layer: int, prefix: str) -> None:
    numbers = re.compile(re.escape(prefix) + r"\.(\d{1,9})\.")
    present = {int(found[1]) for name in checkpoint.tensors if (found := numbers.match(name))}
    missing = [i for i in range(n_layer) if i not in present]
    if missing:
        shown = ", ".join(f"{prefix}.{i}" for i in missing[:8]) + (" …" if len(missing) > 8 else "")
        raise FormatError(f"{key} is {n_layer}, but the file has no tensors of {shown}", path=checkpoint.path)


def _unknown(key: str, value: str, known: list[str], path: str | None) -> UnsupportedArchError:
    near = difflib.get_close_matches(value.lower(), known, n=1, cutoff=0.4)
    hint = f"; the nearest is {near[0]}" if near else ""
    return UnsupportedArchError(
        f"{key} {quoted(value)} is not supported{hint}. Supported: {', '.join(sorted(known))}", path=path
    )

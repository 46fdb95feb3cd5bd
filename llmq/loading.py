"""`load`: from a file or a folder to an `LLM`."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llmq.cpu import default_threads
from llmq.model import LLM
from llmq.sampling import accepts_aliases
from llmq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llmq.engine.base import Engine
    from llmq.model import Progress

__all__ = ["load"]

log = logging.getLogger(__name__)


@accepts_aliases
def load(
    src: str | os.PathLike[str],
    *,
    n_ctx: int | None = None,
    n_threads: int | None = None,
    n_batch: int = 512,
    kv_type: str = "bf16",
    chat_template: str | None = None,
    engine: Literal["native", "reference"] = "native",
    progress: Progress | None = None,
) -> LLM:
    """Load a GGUF file or a Hugging Face folder.

    n_ctx: tokens of context, None for what the model was trained with; memory for it is taken as it fills. n_threads: None for
    the cores this process may use (affinity mask and container quota), at most 64. n_batch: most prompt tokens computed at
    once. kv_type: how keys and values are kept, bf16, f16, f32, q8_0. chat_template: in place of the model's own, Jinja source
    or a name such as "chatml". engine: "native" (C) or "reference" (NumPy on float32, slow, the specification; it has neither
    n_threads nor kv_type). progress: called with (stage, done, total); returning False cancels.

    Names of other libraries (num_ctx, threads, …) are understood. Raises ModelFileError for files that cannot be used, OSError,
    OutOfMemoryError, Cancelled; TypeError for an unknown option, ValueError for one out of range."""
    for name, value, low in (("n_ctx", n_ctx, 2), ("n_threads", n_threads, 1), ("n_batch", n_batch, 1)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not low <= value < 2**30):
            raise ValueError(f"{name}: a whole number from {low} expected, found {value!r}")
    if engine not in ("native", "reference"):
        raise ValueError(f'engine: "native" or "reference" expected, found {engine!r}')
    if engine == "reference" and (n_threads is not None or kv_type != "bf16"):
        raise ValueError("n_threads and kv_type are for the native engine; the reference runs NumPy on float32")
    options = {"n_ctx": n_ctx, "n_threads": n_threads, "n_batch": n_batch, "kv_type": kv_type}
    options |= {"chat_template": chat_template, "engine": engine}
    from llmq.arch import build_tape  # noqa: PLC0415 - `import llmq` stays fast
    from llmq.embedding import decoder_start, pooling_of  # noqa: PLC0415
    from llmq.formats import open_checkpoint  # noqa: PLC0415

    path = Path(src)
    checkpoint = open_checkpoint(path)
    try:
        tape = build_tape(checkpoint, n_ctx=n_ctx)
        tokenizer = Tokenizer.from_metadata(checkpoint.metadata, path=path)
        pooling = pooling_of(checkpoint.metadata, tape)
        start = decoder_start(checkpoint.metadata, tape, tokenizer.bos_id, path=str(path))
        context = n_ctx or tape.n_ctx_train
        if context > tape.n_ctx_train:
            log.warning("n_ctx %d is more than the %d tokens the model was trained with", context, tape.n_ctx_train)
        template = None
        if chat_template is not None:
            from llmq.text.template import chat_template_of  # noqa: PLC0415

            template = chat_template_of(tokenizer, chat_template)
        runner: Engine
        threads = n_threads or default_threads() if engine == "native" else 1
        if engine == "reference":
            from llmq.engine.reference import ReferenceEngine  # noqa: PLC0415

            runner = ReferenceEngine(tape, checkpoint.tensors, n_ctx=context)
        else:
            from llmq.engine.native import NativeEngine  # noqa: PLC0415

            runner = NativeEngine(
                tape,
                checkpoint.tensors,
                n_threads=threads,
                n_ctx=context,
                kv_type=kv_type,
                n_batch=n_batch,
                progress=progress,
            )
    except BaseException:
        checkpoint.close()
        raise
    return LLM(
        runner,
        tokenizer,
        tape=tape,
        n_batch=n_batch,
        n_threads=threads,
        template=template,
        name=path.stem if path.suffix == ".gguf" else path.resolve().name,
        on_close=checkpoint.close,
        loaded_as=(os.fspath(src), options),
        pooling=pooling,
        decoder_start=start,
    )

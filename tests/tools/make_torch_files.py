"""Make the checkpoints of tests/data/torch with PyTorch itself:  python tests/tools/make_torch_files.py   (needs torch)"""

from __future__ import annotations

import collections
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from torch_cases import EXPECTED, FOLDER

BITS = {"BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


def tensors() -> dict[str, object]:
    made: dict[str, object] = {}
    for name, (dtype, values) in EXPECTED.items():
        plain = torch.from_numpy(np.ascontiguousarray(values).copy()).reshape(values.shape)
        made[name] = plain.view(BITS[dtype]) if dtype in BITS else plain
    made["transposed"] = torch.arange(6.0).reshape(2, 3).t()
    made["every_second"] = torch.arange(20.0)[3:10:2]
    made["inner"] = torch.arange(24.0).reshape(4, 6)[1:3, 2:5]
    made["parameter"] = torch.nn.Parameter(torch.ones(4))
    made["tied"] = made["f32"]
    return made


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    everything = collections.OrderedDict(tensors())
    torch.save(everything, FOLDER / "zip.pt")
    torch.save(everything, FOLDER / "stream.pt", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "model": everything, "rates": [torch.ones(2)]}, FOLDER / "nested.pt", pickle_protocol=4)
    torch.manual_seed(1)
    linear = torch.nn.Linear(3, 2)
    torch.save(linear.state_dict(), FOLDER / "linear.pt")
    torch.save(linear, FOLDER / "module.pt")
    torch.jit.save(torch.jit.script(linear), FOLDER / "script.pt")


if __name__ == "__main__":
    main()

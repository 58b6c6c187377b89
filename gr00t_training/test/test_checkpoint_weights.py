# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Weight files: what they hold, how they are refused, and how much memory reading them takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file

from gr00t_training.checkpoint import weight_files
from gr00t_training.checkpoint.weight_files import TensorReader, find_weights, read_header, write_weights
from gr00t_training.errors import CheckpointError

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def make_tensors() -> dict[str, torch.Tensor]:
    """One tensor of every type, a single value and an empty one among them."""
    generator = torch.Generator().manual_seed(0)
    floats = {
        f"w.{dtype}".removeprefix("torch."): torch.randn(3, 5, generator=generator).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    }
    whole = {
        f"n.{dtype}": torch.randint(-5, 5, (7,), generator=generator).to(dtype)
        for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    }
    return {**floats, **whole, "scalar": torch.tensor(1.5), "empty": torch.zeros(0, 4)}


def write(folder: Path, tensors: dict[str, torch.Tensor], max_shard_bytes: int = 10**9) -> None:
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_weights(folder, layout, tensors.__getitem__, max_shard_bytes)


def read(folder: Path, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    reader = TensorReader(CPU, dtype)
    return {name: reader.read(stored) for name, stored in find_weights(folder).tensors.items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def test_files_are_those_of_the_formats_own_library(tmp_path: Path):
    tensors = make_tensors()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert_equal(read(tmp_path), tensors)
    ours = tmp_path / "ours"
    ours.mkdir()
    write(ours, tensors)
    assert_equal(load_file(ours / "model.safetensors"), tensors)


def test_tensors_that_are_not_contiguous_are_written_in_order(tmp_path: Path):
    tensors = {"transposed": torch.arange(6.0).view(2, 3).T}
    write(tmp_path, tensors)
    assert_equal(load_file(tmp_path / "model.safetensors"), tensors)


def test_floats_are_converted_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weight_files, "_BUFFER_BYTES", 16)  # 8 values of bfloat16: 15 take two parts
    tensors = make_tensors()
    save_file(tensors, tmp_path / "model.safetensors")
    for dtype in (torch.float32, torch.bfloat16):
        expected = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
        }
        assert_equal(read(tmp_path, dtype), expected)


def test_shards_are_filled_in_order_and_named_in_the_index(tmp_path: Path):
    tensors = {name: torch.full((10,), float(i)) for i, name in enumerate("cab")}  # 40 bytes each
    write(tmp_path, tensors, max_shard_bytes=80)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert index == {"metadata": {"total_size": 120}, "weight_map": {"c": first, "a": first, "b": second}}
    assert_equal(read(tmp_path), tensors)


def test_a_prefix_is_taken_off_where_all_names_have_it(tmp_path: Path):
    tensors = {"_groot_model.a.b": torch.ones(2), "_groot_model.c": torch.zeros(1)}
    write(tmp_path, tensors)
    assert list(find_weights(tmp_path).tensors) == ["a.b", "c"]
    assert find_weights(tmp_path).prefix == "_groot_model."
    write(tmp_path, {**tensors, "d": torch.ones(1)})
    assert list(find_weights(tmp_path).tensors) == ["_groot_model.a.b", "_groot_model.c", "d"]


def header(content: object, data: bytes = b"") -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"damaged or truncated \(0 bytes do not hold a header"),
        (b"\x40" + bytes(7) + b"{", r"damaged or truncated \(9 bytes do not hold a header of 64"),
        (b"\x04" + bytes(7) + b"{{{{", "damaged or truncated"),
        (header([1]), "damaged or truncated"),
        (header({"w": {"dtype": "F32", "shape": [2]}}), "damaged or truncated"),
        (header({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}), "damaged or truncated"),
        (header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234567"), "damaged or truncated"),
        (header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"123456789"), "damaged or truncated"),
        (header({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"12345678"), "w has 8 bytes"),
        (header({"w": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, b"1"), "w has type F8_E4M3"),
    ],
)
def test_damaged_files_are_refused_before_a_tensor_is_read(tmp_path: Path, content: bytes, message: str):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: {message}"):
        read_header(file)


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path):
    write(tmp_path, {"w": torch.ones(100)})
    stored = find_weights(tmp_path).tensors["w"]
    content = stored.file.read_bytes()
    stored.file.write_bytes(content[:-4])
    for dtype in (None, torch.bfloat16):
        with pytest.raises(CheckpointError, match="damaged or truncated"):
            TensorReader(CPU, dtype).read(stored)


def test_a_damaged_index_is_refused(tmp_path: Path):
    for weight_map, message in (
        ('["w"]', r"index\.json: has no weight_map"),
        ('{"w": 1}', r"index\.json: has no weight_map"),
        ("{}", r"index\.json: has no weight_map"),
        ('{"w": "../other/model.safetensors"}', "path '../other/model.safetensors' leaves its folder"),
        ('{"w": "/etc/passwd"}', "path '/etc/passwd' leaves its folder"),
        ('{"w": "model-1.safetensors"}', r"1 of 1 weight files are missing \(model-1\.safetensors\)"),
    ):
        (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {weight_map}}}')
        with pytest.raises(CheckpointError, match=message):
            find_weights(tmp_path)


# Loads a folder and prints the bytes of its weights in memory, and by how much the peak grew meanwhile.
_MEASURE = """
import resource, sys
import torch
torch.set_num_threads(1)
from pathlib import Path
from gr00t_training.checkpoint import load_checkpoint, load_model, save_checkpoint
from gr00t_training.model.gr00t import Gr00tModel

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB

def in_use():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

path, action, dtype = Path(sys.argv[1]), sys.argv[2], getattr(torch, sys.argv[3])
checkpoint = load_checkpoint(path)
model = load_model(checkpoint) if action == "save" else None
with torch.device("meta"):
    Gr00tModel(checkpoint.config)  # what this imports for the first time does not count
ballast = bytearray(max(0, peak() - in_use()))  # memory that importing freed again must not hide what follows
ballast[::4096] = b"x" * len(ballast[::4096])
before = peak()
if model is None:
    model = load_model(checkpoint, dtype=dtype)
else:
    save_checkpoint(Path(sys.argv[4]), checkpoint, model, dtype=dtype)
print(sum(weight.nbytes for weight in model.state_dict().values()), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
@pytest.mark.parametrize(
    ("action", "dtype", "copies"),
    [
        ("load", "float32", 1.0),  # straight from the file
        ("load", "bfloat16", 0.5),  # half as large, and the wide form is never whole in memory
        ("save", "bfloat16", 0.0),  # one tensor at a time
    ],
)
def test_memory_never_holds_the_weights_twice(
    large_checkpoint: Path, tmp_path: Path, action: str, dtype: str, copies: float
):
    size = (large_checkpoint / "model.safetensors").stat().st_size
    arguments = [sys.executable, "-c", _MEASURE, str(large_checkpoint), action, dtype, str(tmp_path / "again")]
    assert size > 100e6
    # code that the kernel takes out of memory and reads again counts as well, so the least of some runs counts
    for _ in range(4):
        result = subprocess.run(arguments, capture_output=True, text=True, check=True)
        in_memory, grown = map(int, result.stdout.split())
        if grown < copies * size + 40e6:
            break
    assert in_memory == pytest.approx(size * (0.5 if (action, dtype) == ("load", "bfloat16") else 1), rel=0.01)
    # the buffer has 17 MB; allocator and code that runs for the first time take the rest
    assert grown < copies * size + 40e6


@pytest.fixture(scope="module")
def large_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with more than 100 MB of weights."""
    import dataclasses

    from test_checkpoint import make_statistics

    from gr00t_test_support.builders import make_embodiment
    from gr00t_training.checkpoint import new_checkpoint, save_checkpoint
    from gr00t_training.model.gr00t import Gr00tModel

    embodiment = make_embodiment()
    checkpoint = new_checkpoint("n1_compact", embodiment, make_statistics(embodiment))
    dit = dataclasses.replace(checkpoint.config.action_head.dit, num_heads=8, head_dim=64, num_layers=7)
    head = dataclasses.replace(checkpoint.config.action_head, dit=dit)
    checkpoint = dataclasses.replace(checkpoint, config=dataclasses.replace(checkpoint.config, action_head=head))
    with torch.device("meta"):
        model = Gr00tModel(checkpoint.config)
    model = model.to_empty(device="cpu").requires_grad_(False)
    for weight in model.parameters():
        weight.fill_(0.5)  # uninitialized memory may hold NaN, which is refused
    return save_checkpoint(tmp_path_factory.mktemp("weights") / "large", checkpoint, model)

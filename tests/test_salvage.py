"""`weights convert`: the tensors of a file that holds more, and nothing of that executed."""

import io
import json
import os
import pickle
import zipfile
from argparse import Namespace
from collections import OrderedDict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._utils import _rebuild_tensor_v2

from ddpmseg.__main__ import main
from ddpmseg.errors import CheckpointError
from ddpmseg.weight_tools.salvage import convert_weights
from ddpmseg.weights.pickled import BYTES, STORAGES, SalvageError, salvage
from ddpmseg.weights.read import read_state_dict

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


class Trap:
    """Creates a folder when a pickle holding it is read carelessly."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def tensors() -> dict[str, Tensor]:
    """Every dtype, and views of all kinds."""
    many = {str(dtype).partition(".")[2]: torch.arange(6).to(dtype) for dtype in DTYPES}
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    return many | {
        "transposed": base.T,
        "slice": base[1:3, ::2],
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "odd": torch.tensor([1, 2, 3], dtype=torch.uint8),
        "channels_last": torch.arange(120.0).view(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return set(found) == set(wanted) and all(
        found[key].dtype == value.dtype and torch.equal(found[key], value)
        for key, value in wanted.items()
    )


def test_every_dtype_and_view_arrives_as_it_was(tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "in.pt")
    told = salvage(tmp_path / "in.pt", tmp_path / "out.safetensors")
    assert same(load_file(tmp_path / "out.safetensors"), tensors())
    assert (told.entry, told.tensors, told.left_out) == (None, len(tensors()), {})
    assert told.parameters == sum(value.numel() for value in tensors().values())


def test_every_dtype_torch_saves_is_known() -> None:
    assert len(STORAGES) == len(DTYPES)
    sizes = sorted(BYTES.get(name, 1) for name in STORAGES.values())
    assert sizes == sorted(dtype.itemsize for dtype in DTYPES)


def test_a_training_state_gives_its_network_and_nothing_is_executed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker, path, output = (
        tmp_path / "marker",
        tmp_path / "in.pth",
        tmp_path / "new" / "x.safetensors",
    )
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    content = {
        "model": network.state_dict(),  # an OrderedDict with an attribute
        "optimizer": torch.optim.AdamW(network.parameters()).state_dict(),
        "args": Namespace(lr=0.1, started=datetime(2022, 3, 9), folder=Path("x")),
        "mean": np.float64(0.5),
        "trap": Trap(marker),
        "parameter": nn.Parameter(torch.ones(2)),
        "epoch": 3,
    }
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="weights convert"):
        read_state_dict(path, "model")
    assert main(["weights", "convert", str(path), str(output)]) == 0
    assert same(load_file(output), dict(network.state_dict()))
    assert not marker.exists()
    first, others, use = capsys.readouterr().out.splitlines()
    assert first == f"{output}: 7 tensors, 129 numbers of 'model' in {path}"
    assert others == (
        "left out: optimizer (dict), args (argparse.Namespace), mean "
        "(numpy._core.multiarray.scalar), trap (posix.mkdir), parameter (tensor), epoch (int)"
    )
    assert use == f"use it with `backbone.checkpoint={output}`"
    # The trap works: a reader that trusts the file springs it.
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_parameters_are_tensors(tmp_path: Path) -> None:
    torch.save(OrderedDict(a=nn.Parameter(torch.ones(2))), tmp_path / "in.pt")
    salvage(tmp_path / "in.pt", tmp_path / "out.safetensors")
    assert same(load_file(tmp_path / "out.safetensors"), {"a": torch.ones(2)})


def test_of_several_networks_one_must_be_named(tmp_path: Path) -> None:
    path, output = tmp_path / "in.pt", tmp_path / "out.safetensors"
    torch.save({"model": {"a": torch.ones(1)}, "ema": {"a": torch.zeros(1)}}, path)
    with pytest.raises(SalvageError, match=r"several: name one with --entry \(model, ema\)"):
        salvage(path, output)
    with pytest.raises(SalvageError, match="has no tensors by name under 'net'; it holds ema, mod"):
        salvage(path, output, "net")
    salvage(path, output, "ema")
    assert same(load_file(output), {"a": torch.zeros(1)})


def test_networks_within_an_entry_are_found(tmp_path: Path) -> None:
    path, output = tmp_path / "in.pt", tmp_path / "out.safetensors"
    networks = {"encoder": {"a": torch.ones(1)}, "decoder": {"a": torch.zeros(1)}, "step": 3}
    torch.save({"models": networks, "auxiliary": {"losses": Namespace(a=1)}}, path)
    several = r"--entry \(models.encoder, models.decoder\)"
    with pytest.raises(SalvageError, match=several):
        salvage(path, output)
    told = salvage(path, output, "models.encoder")
    assert same(load_file(output), {"a": torch.ones(1)})
    assert told.entry == "models.encoder"
    assert told.left_out == {"models.decoder": "dict", "models.step": "int", "auxiliary": "dict"}
    torch.save({"models": {"encoder": {"a": torch.ones(1)}}}, path)
    assert salvage(path, output).entry == "models.encoder"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"epoch": 1}, "holds epoch; of these, mappings of names to tensors are none"),
        ([torch.ones(1)], "holds list; of these"),
        (Namespace(a=1), "holds argparse.Namespace; of these"),
        ({}, "holds dict; of these"),
    ],
)
def test_files_without_a_network(content: object, says: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "in.pt")
    with pytest.raises(SalvageError) as caught:
        salvage(tmp_path / "in.pt", tmp_path / "out.safetensors")
    assert says in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_the_command_writes_nothing_where_it_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "in.pt", tmp_path / "out.safetensors"
    torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    assert main(["weights", "convert", str(path), str(output)]) == 2
    assert capsys.readouterr().err == (
        f"error: checkpoint '{path}' is no archive as torch has written since version 1.6; it is "
        "truncated, no weight file, or older. Nothing was written.\n"
    )
    output.write_text("precious")
    for arguments, says in (
        ([path, output], "exists already. Remove it"),
        ([path, tmp_path / "out.pt"], "must end in .safetensors"),
        ([tmp_path, tmp_path / "new.safetensors"], "is a folder"),
        ([tmp_path / "none.pt", tmp_path / "new.safetensors"], "does not exist"),
        ([path, output / "new.safetensors"], "cannot be written"),
    ):
        assert main(["weights", "convert", *map(str, arguments)]) == 2
        assert says in capsys.readouterr().err
    assert output.read_text() == "precious"
    assert {p.name for p in tmp_path.iterdir()} == {"in.pt", "out.safetensors"}


def test_a_process_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "in.pt")
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(CheckpointError, match=r"could not be read \(exit status 1\)"):
        convert_weights(str(tmp_path / "in.pt"), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def rewritten(
    source: Path, target: Path, changes: dict[str, bytes], compressed: bool = False
) -> Path:
    """A copy of an archive in which some members have another content."""
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, changes.get(name.partition("/")[2], old.read(name)))
    return target


def forged(storage: tuple[Any, ...], offset: int, shape: object, strides: object) -> bytes:
    """A data.pkl with one tensor that is described so."""
    out = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return storage if obj == "here" else None

    class View:
        def __reduce__(self) -> tuple[Any, ...]:
            arguments = ("here", offset, shape, strides, False, OrderedDict())
            return _rebuild_tensor_v2, arguments

    Pickler(out, protocol=2).dump({"a": View()})
    return out.getvalue()


FLOATS = ("storage", torch.FloatStorage, "0", "cpu", 4)


@pytest.mark.parametrize(
    ("storage", "offset", "shape", "strides", "says"),
    [
        (FLOATS, 1, (4,), (1,), "reaches beyond its storage"),
        (FLOATS, 0, (2, 2), (3, 2), "reaches beyond its storage"),
        (FLOATS, -1, (1,), (1,), "reaches beyond its storage"),
        (FLOATS, 3, (2,), (-1,), "reaches beyond its storage"),
        (FLOATS, 0, (1000, 1000), (0, 0), "reaches beyond its storage"),
        (FLOATS, 0, (2,), (1, 1), "damaged"),
        (("storage", torch.FloatStorage, "0", "cpu", 9), 0, (9,), (1,), "is shorter than it"),
        (("storage", torch.FloatStorage, "../x", "cpu", 4), 0, (4,), (1,), "'in/data/../x' cannot"),
        (("module", torch.FloatStorage, "0", "cpu", 4), 0, (4,), (1,), "no storage of numbers"),
        (("storage", "F32"), 0, (4,), (1,), "damaged"),
        (FLOATS, 0, (4,), (1,), None),
    ],
)
def test_forged_tensors_are_refused(
    storage: tuple[Any, ...],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    says: str | None,
    tmp_path: Path,
) -> None:
    torch.save({"a": torch.arange(4.0)}, tmp_path / "in.pt")
    changes = {"data.pkl": forged(storage, offset, shape, strides)}
    path = rewritten(tmp_path / "in.pt", tmp_path / "forged.pt", changes)
    if says is None:
        salvage(path, tmp_path / "out.safetensors")
        assert same(load_file(tmp_path / "out.safetensors"), {"a": torch.arange(4.0)})
        return
    with pytest.raises(SalvageError) as caught:
        salvage(path, tmp_path / "out.safetensors")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "pickled",
    [
        b"cos\nsystem\n(S'touch marker'\ntR.",
        b'c__builtin__\nexec\n(S\'open("marker", "w")\'\ntR.',
        b"(ios\nsystem\nS'touch marker'\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch marker\x85R.",
        # Changes to what a file may call.
        b"ctorch._utils\n_rebuild_tensor_v2\n(S'_function'\nNtb.",
        b"ctorch._utils\n_rebuild_tensor_v2\n}S'x'\nI1\nsb.",
        b"\x82\x01.",
        b"",
        b"not a pickle",
    ],
)
def test_hostile_pickles_do_nothing(
    pickled: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(1)}, tmp_path / "in.pt")
    path = rewritten(tmp_path / "in.pt", tmp_path / "hostile.pt", {"data.pkl": pickled})
    with pytest.raises(SalvageError):
        salvage(path, tmp_path / "out.safetensors")
    assert {p.name for p in tmp_path.iterdir()} == {"in.pt", "hostile.pt"}


def test_other_archives_are_named(tmp_path: Path) -> None:
    path, output = tmp_path / "in.pt", tmp_path / "out.safetensors"
    torch.save({"a": torch.ones(1)}, path)
    big = rewritten(path, tmp_path / "big.pt", {"byteorder": b"big"})
    packed = rewritten(path, tmp_path / "packed.pt", {}, compressed=True)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photos/a.png", b"")
    for source, says in (
        (big, "was written on a big-endian machine"),
        (packed, "holds compressed numbers"),
        (tmp_path / "photos.zip", "holds no data.pkl"),
    ):
        with pytest.raises(SalvageError, match=says):
            salvage(source, output)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_changed_byte_gives_the_tensors_or_a_refusal(
    position: float, value: int, tmp_path: Path
) -> None:
    path = tmp_path / "in.pt"
    torch.save({"model": {"a": torch.ones(3)}, "args": Namespace(x=1)}, path)
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] = value
    path.write_bytes(content)
    output = tmp_path / "out.safetensors"
    try:
        salvage(path, output)
    except SalvageError:
        return
    written = output.read_bytes()
    assert json.loads(written[8 : 8 + int.from_bytes(written[:8], "little")])

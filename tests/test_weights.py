"""Weight files: the same network from every format, and a readable refusal of everything else."""

import hashlib
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_fill import filled
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from ddpmseg.backbones.guided_diffusion.backbone import GuidedDiffusionBackbone
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags, build_unet
from ddpmseg.errors import CheckpointError
from ddpmseg.io.files import file_sha256
from ddpmseg.weights.read import read_state_dict, resolve_checkpoint

TINY = UNetFlags(
    image_size=16, num_channels=32, channel_mult="1,2", num_res_blocks=1, attention_resolutions="8"
)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return filled(build_unet(TINY)[0].state_dict(), 7)


def load(path: Path | str, flags: UNetFlags = TINY) -> GuidedDiffusionBackbone:
    return GuidedDiffusionBackbone("tiny", flags, str(path))


def refusal(path: Path, flags: UNetFlags = TINY) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path, flags)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module."]
)
@pytest.mark.parametrize("format", ["zip.pt", "legacy.pt", "weights.safetensors"])
def test_every_format_loads_the_same(
    format: str, prefix: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / format
    named = {prefix + key: value for key, value in weights.items()}
    if path.suffix == ".safetensors":
        save_file(named, path)
    else:
        torch.save(named, path, _use_new_zipfile_serialization=format.startswith("zip"))
    backbone = load(path)
    loaded = backbone.unet.state_dict()
    assert set(loaded) == set(weights)
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())
    assert backbone.checkpoint_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert file_sha256(path) == backbone.checkpoint_sha256


def test_prefix_stays_unless_all_keys_have_it(tmp_path: Path) -> None:
    path = tmp_path / "mixed.pt"
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, path)
    assert set(read_state_dict(path)) == {"module.a", "b"}


def test_16_bit_files_load_into_the_fp32_network(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "half.safetensors"
    save_file({key: value.half() for key, value in weights.items()}, path)
    loaded = load(path).unet.state_dict()
    assert all(value.dtype == torch.float32 for value in loaded.values())
    assert all(torch.equal(loaded[key], value.half().float()) for key, value in weights.items())


def test_other_flags_show_which_shapes_differ(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "tiny.pt"
    torch.save(weights, path)
    message = refusal(path, replace(TINY, learn_sigma=True))
    total = len(weights)
    assert message == (
        f"checkpoint '{path}' does not fit the network built from `backbone.unet` "
        f"(2 of {total} parameters differ):\n"
        "  out.2.weight is [3, 32, 3, 3] in the file, [6, 32, 3, 3] in the network\n"
        "  out.2.bias is [3] in the file, [6] in the network\n"
        "For images of 16 pixels the file fits with `backbone.unet.learn_sigma=false`."
    )


def test_other_flags_are_answered_with_those_of_the_file(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "tiny.pt"
    torch.save(weights, path)
    other = replace(TINY, num_channels=64, channel_mult="1,2,2", attention_resolutions="16,8")
    assert refusal(path, other).endswith(
        "For images of 16 pixels the file fits with `backbone.unet.num_channels=32 "
        "'backbone.unet.channel_mult=\"1,2\"' 'backbone.unet.attention_resolutions=\"8\"'`."
    )


def test_missing_and_unknown_parameters_are_listed_and_counted(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "changed.pt"
    first = next(iter(build_unet(TINY)[0].state_dict()))
    changed = {key: value for key, value in weights.items() if key != first}
    torch.save(changed | {"ema.decay": torch.ones(2, 3)}, path)
    message = refusal(path)
    assert f"missing {first} {list(weights[first].shape)}\n" in message
    assert "unknown ema.decay [2, 3]\n" in message
    assert "... and" not in message
    assert message.endswith(
        "Set `backbone.unet` to the flags the checkpoint was trained with; they cannot be "
        f"inferred from the file: it has no parameter '{first}'."
    )
    message = refusal(path, replace(TINY, num_res_blocks=2))
    assert message.count("\n  missing") + message.count("\n  unknown") == 8
    assert "\n  ... and " in message


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, 0.999])
def test_truncated_file(
    suffix: str, kept: float, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pt":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept if 0 < kept < 1 else kept)])
    message = refusal(path)
    assert "it is truncated or no weight file" in message or "or it is damaged" in message


class Trap:
    """Creates a file when a pickle holding it is read carelessly."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("format", ["torch", "legacy", "pickle"])
def test_code_in_a_file_is_not_executed(format: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "trap.pt", tmp_path / "marker"
    content = {"weight": torch.ones(2), "trap": Trap(marker)}
    if format == "pickle":
        path.write_bytes(pickle.dumps({"trap": Trap(marker)}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=format == "torch")
    message = refusal(path)
    assert not marker.exists()
    assert "is not a plain state dict: reading it would execute code stored in it" in message
    assert "It was not loaded" in message
    assert f"`ddpmseg weights convert {path} NAME.safetensors`." in message
    # The trap works: a reader that trusts the file springs it.
    if format == "pickle":
        pickle.loads(path.read_bytes())
        assert marker.exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"opt": {"state": {0: torch.ones(1)}}, "step": 3}, "it holds ['opt', 'step']."),
        ([torch.ones(1)], "it holds list."),
        (torch.ones(1), "it holds Tensor."),
        ({0: torch.ones(1)}, "it holds ['0']."),
    ],
)
def test_other_content_is_named(content: object, found: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    message = refusal(path)
    assert "must map parameter names to tensors" in message
    assert message.endswith(found)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".pt", ".safetensors"]))
@example(content=b"0", suffix=".pt")
@example(content=b"u.", suffix=".pt")
@example(content=b"h\x07.", suffix=".pt")
@example(content=b"cos\nsystem\n(S'true'\ntR.", suffix=".pt")
def test_any_bytes_are_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bytes{suffix}"
    path.write_bytes(content)
    refusal(path)


def test_a_zip_that_is_no_weight_file(tmp_path: Path) -> None:
    path = tmp_path / "images.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/a.png", b"a")
    refusal(path)


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.pt"
    assert refusal(path) == (
        f"checkpoint '{path}' does not exist. Set `backbone.checkpoint` to a .pt or .safetensors "
        "file, or to 'random' for an untrained network."
    )


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(CheckpointError, match=r"'x{60}\.\.\.': a name in it has 300 bytes"):
        resolve_checkpoint("x" * 300)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "is a folder. Set `backbone.checkpoint` to the weight file" in refusal(tmp_path)


@pytest.mark.parametrize(
    "start", ["<!DOCTYPE html>", "\n <html lang='en'>", "<?xml version='1.0'?>"]
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_web_page_is_called_one(start: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"page{suffix}"
    path.write_text(start + "<title>Sign in</title>")
    message = refusal(path)
    assert "is a web page, not a weight file: it begins with " in message
    assert start.strip()[:20] in message


def test_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "x.pt").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_checkpoint("~/x.pt") == tmp_path / "x.pt"


def test_unknown_bundled_weights() -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint("bundled:zebras")
    message = str(caught.value)
    assert message.startswith(
        "`backbone.checkpoint=bundled:zebras`: no such bundled weights (there are: "
    )

"""Weight files as training programs leave them: prefixes, wrappers, other names, other networks."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_diffusers import write_model
from torch import Tensor

from ddpmseg.__main__ import main
from ddpmseg.backbones.diffusers import DiffusersBackbone
from ddpmseg.backbones.guided_diffusion import GuidedDiffusionBackbone
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags, build_unet
from ddpmseg.errors import CheckpointError
from ddpmseg.weights.encoder_files import read_pretrained
from ddpmseg.weights.read import read_state_dict
from ddpmseg.weights.wrappers import without_prefixes

TINY = UNetFlags(
    image_size=16, num_channels=32, channel_mult="1,2", num_res_blocks=1, attention_resolutions="8"
)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return dict(build_unet(TINY)[0].state_dict())


def load(path: Path) -> GuidedDiffusionBackbone:
    return GuidedDiffusionBackbone("tiny", TINY, str(path))


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    return str(caught.value)


def test_a_network_compiled_in_parts_loads(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "parts.pt"
    named = {
        re.sub(r"^(input_blocks\.\d+)\.", r"\1._orig_mod.", key): v for key, v in weights.items()
    }
    torch.save({f"module.{key}": value for key, value in named.items()}, path)
    assert set(load(path).unet.state_dict()) == set(weights)


def test_an_averaged_model_loads(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "averaged.pt"
    state = {f"module.{key}": value for key, value in weights.items()}
    torch.save({"n_averaged": torch.tensor(3), **state}, path)
    assert set(load(path).unet.state_dict()) == set(weights)


def test_names_that_would_become_one_stay() -> None:
    state = {"_orig_mod.a": torch.ones(1), "a": torch.zeros(1)}
    assert without_prefixes(state) == state


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt", ""])
def test_safetensors_under_another_name(
    suffix: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"weights{suffix}"
    save_file(weights, path)
    loaded = load(path).unet.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())
    path.write_bytes(path.read_bytes()[:-100])
    message = refusal(path)
    assert "it is truncated or no weight file" in message
    assert "code" not in message


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_called_safetensors(
    zipped: bool, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    assert set(load(path).unet.state_dict()) == set(weights)


def test_a_pickle_is_refused_without_advice_to_trust_it(tmp_path: Path) -> None:
    path = tmp_path / "code.pt"
    torch.save({"a": torch.ones(1), "args": Path("x")}, path)
    message = refusal(path)
    assert "It was not loaded (it names pathlib." in message
    assert "weights_only" not in message


def test_a_wrapper_names_what_can_be_taken_out(
    weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, taken = tmp_path / "wrapped.pt", tmp_path / "ema.safetensors"
    torch.save({"step": 3, "model": weights, "ema": weights, "opt": {"state": {}}}, path)
    message = refusal(path)
    assert "it is the file of a training program" in message
    assert "['ema', 'model', 'opt', 'step'], of which 'model', 'ema' do" in message
    assert f"weights convert {path} NAME.safetensors --entry ema`" in message
    assert "'ema' seems to be the running average" in message
    assert main(["weights", "convert", str(path), str(taken), "--entry", "ema"]) == 0
    assert set(load(taken).unet.state_dict()) == set(weights)


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        (lambda state: {"state_dict": state, "epoch": 3}, "state_dict"),
        (lambda state: {"models": {"generator": state, "x": 1}, "epoch": 3}, "models.generator"),
        (lambda state: {"net": state, "EMA_model": state}, "EMA_model"),
        (lambda state: {"net": state, "other": state}, "net"),
    ],
)
def test_other_wrappers_too(
    content, entry: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path, taken = tmp_path / "wrapped.pt", tmp_path / "taken.safetensors"
    torch.save(content(weights), path)
    assert f"--entry {entry}`" in refusal(path)
    assert main(["weights", "convert", str(path), str(taken), "--entry", entry]) == 0
    assert set(load_file(taken)) == set(weights)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"label_emb.weight": (1000, 128)}, "it is class-conditional"),
        ({"input_blocks.0.0.weight": (32, 6, 3, 3)}, "like an upsampler's"),
        ({"out.2.weight": (4, 32, 3, 3)}, "its output has 4 channels"),
        ({"cond_stage_model.x": (1,)}, "it is conditioned on text"),
        ({"output_blocks": None}, "like a classifier"),
    ],
)
def test_a_network_that_cannot_serve_is_called_so(
    changes: dict, says: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path, state = tmp_path / "other.pt", dict(weights)
    for name, shape in changes.items():
        state = {key: v for key, v in state.items() if not (shape is None and name in key)}
        if shape is not None:
            state[name] = torch.zeros(shape)
    torch.save(state, path)
    message = refusal(path)
    assert "cannot be used as a backbone" in message
    assert says in message
    assert "Needed is an unconditional UNet" in message
    assert "backbone.unet" not in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_no_numbers_are_named_at_load(
    value: float, dtype: torch.dtype, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "diverged.safetensors"
    state = {key: tensor.to(dtype) for key, tensor in weights.items()}
    name = "middle_block.0.in_layers.2.weight"
    state[name] = state[name].clone()
    state[name].view(-1)[-1] = value
    save_file(state, path)
    message = refusal(path)
    assert f"NaN or infinite numbers in 1 of {len(weights)} parameters, the first" in message
    assert name in message
    assert "Take an earlier checkpoint" in message


def test_large_numbers_are_finite(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    save_file({"a": torch.full((8,), 3e38), "b": torch.full((9,), 6e4, dtype=torch.float16)}, path)
    assert set(read_state_dict(path)) == {"a", "b"}


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_the_only_variant_of_a_diffusers_model_is_read(variant: str, tmp_path: Path) -> None:
    model = write_model(tmp_path)
    (weights,) = model.rglob("diffusion_pytorch_model.safetensors")
    whole = DiffusersBackbone("x", str(model)).unet.state_dict()
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[variant]
    save_file({key: value.to(dtype) for key, value in load_file(weights).items()}, weights)
    weights = weights.rename(weights.with_name(f"diffusion_pytorch_model.{variant}.safetensors"))
    read = DiffusersBackbone("x", str(model)).unet.state_dict()
    assert all(torch.equal(read[key], value.to(dtype).float()) for key, value in whole.items())
    weights.with_name("diffusion_pytorch_model.ema.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(CheckpointError, match=r"from_pretrained\(FOLDER, variant='\w+'\)"):
        DiffusersBackbone("x", str(model))


MEASURE = """
import sys
from pathlib import Path
from ddpmseg.weights.encoder_files import read_pretrained
def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssFile")))
before = anonymous()
state = read_pretrained(Path(sys.argv[1]))
print(anonymous() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("name", ["big.safetensors", "big.pt"])
def test_shapes_are_known_without_reading_the_numbers(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    save_file({"a": torch.zeros(50_000_000)}, path)
    assert read_pretrained(path)["a"].shape == (50_000_000,)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 50_000  # kB, of 200,000 in the file
    assert resource.getpagesize() > 0

"""The same results on a GPU as on the CPU; skipped where there is none."""

import csv
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tiny_run import PRETRAIN, SEGMENT, SWEEP, composed, composed_sweep

from ddpmseg.backbones.group_norm import GroupNormFunction, use_native_norms
from ddpmseg.backbones.guided_diffusion.backbone import GuidedDiffusionBackbone
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags
from ddpmseg.composition.estimate import seconds_per_image
from ddpmseg.config import PretrainConfig
from ddpmseg.data.images import PonyImages
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.features.noise import NoiseSource
from ddpmseg.runs.train import train
from ddpmseg.sweeps.sweep import sweep
from ddpmseg.training.pretrain import AveragedWeights, DiffusionPretraining

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
GPU = "trainer.accelerator=gpu"
FLAGS = UNetFlags(
    image_size=16,
    num_channels=64,
    channel_mult="1,2",
    num_res_blocks=1,
    attention_resolutions="8",
    num_head_channels=32,
    resblock_updown=True,
    learn_sigma=True,
)
LIMITS = {"32": 2e-3, "16": 1e-2, "bf16": 3e-2}
"""Largest relative error of a map by precision; here TF32 is left on."""


def maps(precision: str, device: str) -> dict[int, torch.Tensor]:
    backbone = GuidedDiffusionBackbone("tiny", FLAGS, "random", precision)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for weight in backbone.unet.parameters():
            if not weight.any():  # an untrained branch of zeros would hide what it computes
                weight.copy_(0.02 * torch.randn(weight.shape))
        x_t = torch.randn(3, 3, 16, 16)
    found = backbone.to(device).native_maps(
        x_t.to(device), torch.tensor([5, 50, 900], device=device), range(4)
    )
    return {block: one.float().cpu() for block, one in found.items()}


@pytest.mark.parametrize("precision", LIMITS)
def test_maps_equal_those_of_the_cpu(precision: str) -> None:
    expected, found = maps("32", "cpu"), maps(precision, "cuda")
    for block, right in expected.items():
        error = (found[block] - right).norm() / right.norm()
        assert error < LIMITS[precision], f"block {block}"


def test_an_extractor_keeps_all_bits_of_float32() -> None:
    found = []
    for device in ("cpu", "cuda"):
        backbone = GuidedDiffusionBackbone("tiny", FLAGS, "random").to(device)
        extractor = FeatureExtractor(backbone, [0, 1, 2, 3], [5, 50], image_size=16)
        images = torch.arange(2 * 3 * 256, dtype=torch.int32).view(2, 3, 16, 16).to(torch.uint8)
        found.append(extractor(images, ["a", "b"]).materialise().cpu())
    assert (found[1] - found[0]).norm() / found[0].norm() < 1e-5


def rows(path: Path, *names: str) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{name: row[name] for name in names} for row in csv.DictReader(file)]


@pytest.mark.parametrize("protocol", ["fast", "paper"])
def test_segmentation_agrees_with_the_cpu(tmp_path: Path, protocol: str) -> None:
    given = (*SEGMENT, f"head.protocol={protocol}", "head.max_steps=100")
    train(composed(tmp_path / "cpu", *given))
    train(composed(tmp_path / "gpu", *given, GPU))
    names = ("miou", "pixel_accuracy", "uncertainty")
    (cpu,), (gpu,) = (rows(tmp_path / where / "results.csv", *names) for where in ("cpu", "gpu"))
    for name in names:
        assert float(gpu[name]) == pytest.approx(float(cpu[name]), abs=0.02)


def test_sixteen_bits_and_mixed_precision_run(tmp_path: Path) -> None:
    given = ("backbone.precision=auto", "trainer.precision=auto", GPU)
    train(composed(tmp_path / "gpu", *SEGMENT, *given))
    (row,) = rows(tmp_path / "gpu" / "results.csv", "miou")
    assert 0 <= float(row["miou"]) <= 1


def test_sweep_agrees_with_the_cpu(tmp_path: Path) -> None:
    given = (*SWEEP, "sweep.head.max_steps=100")
    sweep(composed_sweep(tmp_path / "cpu", *given))
    sweep(composed_sweep(tmp_path / "gpu", *given, GPU))
    names = ("block", "timestep", "seed", "pixel_accuracy")
    cpu, gpu = (rows(tmp_path / where / "cells.csv", *names) for where in ("cpu", "gpu"))
    assert len(cpu) == len(gpu) == 4
    for right, found in zip(cpu, gpu, strict=True):
        accuracy, expected = float(found.pop("pixel_accuracy")), float(right.pop("pixel_accuracy"))
        assert found == right
        assert accuracy == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_pretraining_runs(tmp_path: Path, precision: str) -> None:
    train(composed(tmp_path, *PRETRAIN, GPU, f"trainer.precision={precision}"))
    assert (tmp_path / "unet.safetensors").is_file()


def test_shared_noise_is_moved_to_the_device_once() -> None:
    device = torch.device("cuda")
    source = NoiseSource("shared", 0, 16)
    first, second = (source.of_pairs([("a", 5), ("b", 50)], device) for _ in range(2))
    assert first.device.type == "cuda"
    assert first.data_ptr() == second.data_ptr()
    assert torch.equal(first[1].cpu(), source("b", 50))


class SlowToFinish(GuidedDiffusionBackbone):
    """Leaves the device about a second of work after the next pass, if `slow`."""

    slow = False

    def native_maps(self, *args: Any, **options: Any) -> dict[int, torch.Tensor]:
        found = super().native_maps(*args, **options)
        if self.slow:
            torch.cuda._sleep(2_000_000_000)  # cycles of the clock, below 2.2 GHz on any card
            self.slow = False
        return found


def test_a_forecast_waits_for_its_warm_up() -> None:
    backbone = SlowToFinish("tiny", FLAGS, "random").to("cuda")
    extractor = FeatureExtractor(backbone, [3], [5], image_size=16, batch_size=1)
    extractor(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), ["first"])  # its maps are looked at
    backbone.slow = True
    assert seconds_per_image(extractor) < 0.4


def test_averaged_weights_stay_on_the_device() -> None:
    module = DiffusionPretraining(FLAGS, PretrainConfig(), PonyImages(4, 16, 0), seed=0)
    trainer = pl.Trainer(logger=False, accelerator="gpu", devices=1)
    averaging = AveragedWeights(0.9)
    averaging.setup(trainer, module, "fit")
    average = averaging._average_model
    assert average is not None
    assert {parameter.device.type for parameter in average.parameters()} == {"cuda"}
    module.to("cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        average.update_parameters(module)
        average.update_parameters(module)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("ratio", [0, 10, 100, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_group_norm_keeps_its_digits(dtype: torch.dtype, ratio: float) -> None:
    generator = torch.Generator().manual_seed(1)
    norm = torch.nn.GroupNorm(32, 64)
    with torch.no_grad():
        norm.weight.normal_(1, 0.3, generator=generator)
        norm.bias.normal_(0, 0.3, generator=generator)
    plain = (torch.randn(2, 64, 32, 32, generator=generator) + ratio).to(dtype)
    parameters = norm.weight.double(), norm.bias.double()
    exact = torch.nn.functional.group_norm(plain.double(), 32, *parameters)

    def error(found: torch.Tensor) -> float:
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
        return ((found.double().cpu() - exact).norm() / exact.norm()).item()

    torchs = torch.nn.functional.group_norm(plain.cuda(), 32, norm.weight.cuda().to(dtype),
                                            norm.bias.cuda().to(dtype))  # fmt: skip
    use_native_norms(norm.cuda())
    x = plain.cuda().contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        without_gradients = norm(x)
    limit = 1.25 * error(torchs.contiguous(memory_format=torch.channels_last)) + 1e-7
    assert error(without_gradients) <= limit
    assert error(norm(x)) <= limit


@pytest.mark.parametrize("autocast", [False, True])
def test_norms_learn_in_fp32_as_on_the_cpu(autocast: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    dtype = torch.bfloat16 if autocast else torch.float32
    given = [torch.randn(shape, generator=generator) for shape in ((2, 16, 8, 8), (16,), (16,))]
    pull = torch.randn(2, 16, 8, 8, generator=generator)
    found = []
    for device in ("cpu", "cuda"):
        x, weight, bias = (value.to(device) for value in given)
        x = x.to(dtype, memory_format=torch.channels_last)
        for value in (x, weight, bias):
            value.requires_grad_()
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            y = GroupNormFunction.apply(x, weight, bias, 4, 1e-5)
        assert isinstance(y, torch.Tensor)
        y.backward(pull.to(device, dtype))
        found.append([y.detach(), x.grad, weight.grad, bias.grad])
    for name, cpu, gpu in zip(("y", "x", "weight", "bias"), *found, strict=True):
        assert cpu is not None
        assert gpu is not None
        assert gpu.dtype == cpu.dtype == (dtype if name in ("y", "x") else torch.float32)
        cpu, gpu = cpu.float(), gpu.float().cpu()
        limit = (1e-2 if name in ("y", "x") else 1e-3) if autocast else 1e-5
        assert (gpu - cpu).norm() / cpu.norm() < limit, name

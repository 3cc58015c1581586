"""What a user can get wrong: one sentence that names it, before it costs time or results."""

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_run import CONF, PRETRAIN, ROOT, SEGMENT, UNET, composed, contents

from ddpmseg.backbones.guided_diffusion.unet import UNetFlags, build_unet
from ddpmseg.backbones.settings import WeightsConfig
from ddpmseg.composition.plan import compose
from ddpmseg.composition.resolve import resolve
from ddpmseg.data.settings import DatasetConfig
from ddpmseg.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    TrainingError,
    UserError,
)
from ddpmseg.features.maps import NativeMaps
from ddpmseg.runs import segment
from ddpmseg.runs.train import train

SIZE = 16
CLASSES = """
name: halves
ignore_label: 255
classes: [{name: dark}, {name: bright}]
"""


def save_pair(folder: Path, stem: str, image: np.ndarray, mask: np.ndarray) -> None:
    Image.fromarray(image).save(folder / f"{stem}.jpg", quality=95)
    np.save(folder / f"{stem}.npy", mask)


def some_pair(seed: int, height: int = SIZE, width: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, (image[..., 0] > 127).astype(np.uint8)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A good set: three training and two test photographs."""
    root = tmp_path / "set"
    for split, count in (("train", 3), ("test", 2)):
        (root / "real" / split).mkdir(parents=True)
        for index in range(count):
            save_pair(root / "real" / split, f"photo_{index}", *some_pair(index))
    (root / "classes.yaml").write_text(CLASSES)
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder of an earlier, finished run."""
    folder = tmp_path / "out"
    (folder / "masks").mkdir(parents=True)
    for name in ("results.csv", "head.safetensors", "config.yaml", "masks/photo_0.npy"):
        (folder / name).write_text(f"earlier {name}")
    return folder


def of(data: Path) -> tuple[str, ...]:
    """Overrides that train on the folder `data`, replacing what an earlier run left."""
    return (
        "dataset=folder",
        f"dataset.root={data}",
        f"dataset.classes={data / 'classes.yaml'}",
        *SEGMENT,
        "dataset.num_labelled=null",
        "dataset.num_test=null",
        "paths.overwrite=true",
    )


def refused(kind: type[UserError], says: list[str], out: Path, *overrides: str) -> str:
    """The message of a run that must fail and leave the files in `out` as they were."""
    before = contents(out)
    with pytest.raises(kind) as caught:
        train(composed(out, *overrides))
    message = str(caught.value)
    for part in says:
        assert part in message
    assert contents(out) == before
    return message


def remove_mask(train: Path) -> None:
    (train / "photo_1.npy").unlink()


def other_shape(train: Path) -> None:
    np.save(train / "photo_1.npy", np.zeros((8, 16), np.uint8))


def unknown_label(train: Path) -> None:
    np.save(train / "photo_1.npy", np.full((SIZE, SIZE), 2, np.uint8))


def truncate_image(train: Path) -> None:
    content = (train / "photo_1.jpg").read_bytes()
    (train / "photo_1.jpg").write_bytes(content[: len(content) // 2])


def not_square(train: Path) -> None:
    save_pair(train, "photo_1", *some_pair(1, height=16, width=24))


def empty_folder(train: Path) -> None:
    for path in train.iterdir():
        path.unlink()


DATA_MISTAKES: list[tuple[Callable[[Path], None], list[str]]] = [
    (remove_mask, ["no mask for image 'photo_1.jpg'", "photo_1.npy", "2 of 3 pairs", "Add the"]),
    (other_shape, ["photo_1.npy' is 16x8", "photo_1.jpg' is 16x16", "one label per pixel"]),
    (unknown_label, ["photo_1.npy' has the label 2", "allows 0..1 and 255 (ignored)", "Correct"]),
    (truncate_image, ["photo_1.jpg' cannot be decoded", "truncated", "Replace"]),
    (not_square, ["photo_1.jpg' is 24x16", "must be square", "dataset.center_crop=true"]),
    (empty_folder, ["no images in", "real/train", ".jpg", "dataset.root"]),
]


@pytest.mark.parametrize(("spoil", "says"), DATA_MISTAKES, ids=lambda v: getattr(v, "__name__", ""))
def test_bad_training_data_is_refused(
    data: Path, out: Path, spoil: Callable[[Path], None], says: list[str]
) -> None:
    spoil(data / "real" / "train")
    refused(DataError, says, out, *of(data))


def test_bad_test_image_shows_before_training(
    data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WeightsConfig, "build", must_not_run)
    truncate_image(data / "real" / "test")
    refused(DataError, ["real/test/photo_1.jpg' cannot be decoded"], out, *of(data))


def test_centre_crop_takes_images_that_are_not_square(data: Path, tmp_path: Path) -> None:
    not_square(data / "real" / "train")
    score = train(composed(tmp_path / "run", *of(data), "dataset.center_crop=true"))
    assert score is not None
    assert (tmp_path / "run" / "results.csv").is_file()


def test_ignore_label_is_allowed(data: Path, tmp_path: Path) -> None:
    mask = some_pair(1)[1]
    mask[0] = 255
    np.save(data / "real" / "train" / "photo_1.npy", mask)
    train(composed(tmp_path / "run", *of(data)))
    assert (tmp_path / "run" / "results.csv").is_file()


def test_no_training_pixel_has_a_label(data: Path, out: Path) -> None:
    for path in (data / "real" / "train").glob("*.npy"):
        np.save(path, np.full((SIZE, SIZE), 255, np.uint8))
    says = ["no training pixel has a label", "ignore label 255"]
    with pytest.raises(DataError) as caught:
        train(composed(out, *of(data)))
    assert all(part in str(caught.value) for part in says)


def test_fewer_images_than_asked_for(data: Path, out: Path) -> None:
    says = ["`dataset.num_labelled` is 9", "only 3 labelled images", "at most 3"]
    refused(DataError, says, out, *of(data), "dataset.num_labelled=9")


def test_dataset_root_does_not_exist(data: Path, out: Path) -> None:
    says = ["dataset.root=/nowhere/at/all", "no such folder", "real/train"]
    refused(ConfigError, says, out, *of(data), "dataset.root=/nowhere/at/all")


IMPOSSIBLE = [
    ("features.blocks=[99]", ["block 99", "blocks 0..3", "features.blocks"]),
    ("features.blocks=[1,4]", ["block 4", "blocks 0..3", "features.blocks"]),
    ("features.blocks=[]", ["features.blocks", "at least one"]),
    ("features.blocks=[1,1]", ["features.blocks", "each once"]),
    ("features.timesteps=[1000]", ["timestep 1000", "0..999", "features.timesteps"]),
    ("features.timesteps=[-1]", ["timestep -1", "0..999", "features.timesteps"]),
    ("features.hook=middle", ["features.hook=middle", "output, input"]),
    ("features.noise=none", ["features.noise=none", "shared, timestep, image, fresh"]),
    ("features.batch_size=0", ["features.batch_size=0", "at least 1"]),
    ("dataset.image_size=0", ["dataset.image_size=0", "at least 8"]),
    ("dataset.image_size=17", ["dataset.image_size` is 17", "divisible by 2"]),
    ("dataset.num_labelled=0", ["dataset.num_labelled=0", "at least 1"]),
    ("dataset.num_test=-3", ["dataset.num_test=-3", "at least 1"]),
    ("dataset.tiny_annotations=drop", ["dataset.tiny_annotations=drop", "scaled, reference, keep"]),
    ("dataset.classes=zebras", ["zebras", "ponies", "dataset.classes"]),
    ("head.members=0", ["head.members=0", "at least 1"]),
    ("head.hidden=[8,0]", ["head.hidden=0", "at least 1"]),
    ("head.vote=loud", ["head.vote=loud", "hard, soft"]),
    ("head.protocol=slow", ["head.protocol=slow", "paper, fast"]),
    ("head.max_steps=0", ["head.max_steps=0", "greater than 0"]),
    ("head.learning_rate=-1", ["head.learning_rate=-1", "greater than 0"]),
    ("backbone.precision=8", ["backbone.precision=8", "auto, 32, bf16, 16"]),
    ("backbone.unet.channel_mult=''", ["backbone.unet", "unsupported image size: 16"]),
    ("backbone.unet.noise_schedule=flat", ["backbone.unet", "flat"]),
    ("trainer.devices=0", ["trainer.devices=0", "at least 1"]),
    ("trainer.accelerator=abacus", ["trainer.accelerator=abacus", "auto, cpu, gpu"]),
    ("trainer.precision=8", ["trainer.precision=8", "auto, 32-true, bf16-mixed"]),
    ("trainer.log_every_n_steps=0", ["trainer.log_every_n_steps=0", "at least 1"]),
    ("task=sing", ["task=sing", "segment, distill, pretrain"]),
    ("features.blok=[3]", ["features.blok", "Key 'blok' not in 'FeaturesConfig'"]),
    ("seed=abc", ["seed=abc", "could not be converted to Integer"]),
    ("seed=null", ["seed", "not Optional"]),
    ("head=forest", ["head/forest", "linear", "mlp"]),
    ("features.blocks=3", ["features.blocks", "3"]),
]


@pytest.mark.parametrize(("override", "says"), IMPOSSIBLE, ids=lambda v: v if "=" in v else "")
def test_impossible_settings_fail_before_any_weight_is_looked_for(
    override: str, says: list[str], tmp_path: Path
) -> None:
    """The checkpoint does not exist either, and is not what the message is about."""
    later = ["backbone.checkpoint=/nowhere/weights.pt", f"paths.output_dir={tmp_path}", override]
    with pytest.raises(ConfigError) as caught:
        resolve(compose(CONF, [*SEGMENT, *later]))
    message = str(caught.value)
    for part in says:
        assert part in message
    assert "weights.pt" not in message
    assert not list(tmp_path.iterdir())


IMPOSSIBLE_PRETRAINING = [
    ("backbone=pixels", ["backbone=pixels", "cannot be pretrained", "guided_diffusion"]),
    ("pretrain.num_steps=0", ["pretrain.num_steps=0", "at least 1"]),
    ("pretrain.num_workers=-1", ["pretrain.num_workers=-1", "at least 0"]),
    ("pretrain.sample_steps=1001", ["pretrain.sample_steps=1001", "2..1000"]),
    ("pretrain.sample_steps=300", ["pretrain.sample_steps=300", "nearest numbers are 250 and 334"]),
    ("pretrain.ema_decay=1.5", ["pretrain.ema_decay=1.5", "0..1"]),
    ("pretrain.learning_rate=0", ["pretrain.learning_rate=0", "above 0"]),
    ("backbone.unet.image_size=17", ["backbone.unet.image_size=17", "divisible by 2"]),
]


@pytest.mark.parametrize(("override", "says"), IMPOSSIBLE_PRETRAINING, ids=lambda v: str(v)[:30])
def test_impossible_pretraining_settings(override: str, says: list[str], tmp_path: Path) -> None:
    unet = [key for key in PRETRAIN if key not in UNET or override != "backbone=pixels"]
    given = [key for key in unet if key != "backbone=random" or override != "backbone=pixels"]
    with pytest.raises(ConfigError) as caught:
        resolve(compose(CONF, [*given, f"paths.output_dir={tmp_path}", override]))
    assert all(part in str(caught.value) for part in says)


def test_value_that_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`dataset\.\w+` has no value yet.*`dataset\.\w+=\.\.\."):
        resolve(
            compose(CONF, ["dataset=folder", "backbone=random", f"paths.output_dir={tmp_path}"])
        )


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("dataset", "subprocess.Popen"),
        ("dataset", "ddpmseg.data.labelled.Ponies"),
        # By way of a module of this package that imports it.
        ("backbone", "ddpmseg.weight_tools.salvage.subprocess.Popen"),
    ],
)
def test_a_target_from_the_command_line_is_refused(
    group: str, target: str, data: Path, out: Path
) -> None:
    says = [f"`{group}._target_={target}`", "no setting changes that", f"docs/add_a_{group}.md"]
    refused(ConfigError, says, out, *of(data), f"{group}._target_={target}")


def must_not_run(*_: object, **__: object) -> NoReturn:
    pytest.fail("this must not be reached")


def test_checkpoint_does_not_exist(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DatasetConfig, "build", must_not_run)
    says = ["/nowhere/weights.pt' does not exist", "backbone.checkpoint", "'random'"]
    given = ("backbone.checkpoint=/nowhere/weights.pt", "paths.overwrite=true")
    refused(CheckpointError, says, out, *SEGMENT, *given)


def test_no_such_bundled_weights(out: Path) -> None:
    says = ["backbone.checkpoint=bundled:zebras", "there are:"]
    given = ("backbone.checkpoint=bundled:zebras", "paths.overwrite=true")
    refused(CheckpointError, says, out, *SEGMENT, *given)


def with_weights(path: Path, out: Path, says: list[str]) -> str:
    given = (f"backbone.checkpoint={path}", "paths.overwrite=true")
    return refused(CheckpointError, [str(path), *says], out, *SEGMENT, *given)


def test_checkpoint_of_other_flags(tmp_path: Path, out: Path) -> None:
    flags = UNetFlags(16, 32, 1, "1,2", attention_resolutions="8", resblock_updown=True)
    unet, _ = build_unet(replace(flags, use_scale_shift_norm=False))
    torch.save(unet.state_dict(), tmp_path / "other.pt")
    says = ["does not fit", "[64] in the file, [128] in the network", "use_scale_shift_norm=false"]
    with_weights(tmp_path / "other.pt", out, says)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_truncated_checkpoint(name: str, tmp_path: Path, out: Path) -> None:
    state = {"time_embed.0.weight": torch.zeros(64, 64)}
    path = tmp_path / name
    torch.save(state, path) if name.endswith("pt") else save_file(state, path)
    path.write_bytes(path.read_bytes()[:5000])
    with_weights(path, out, ["truncated", "5000 bytes", "Fetch it again"])


class _Trap:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("trap_was_sprung",)


@pytest.mark.parametrize("zipped", [True, False], ids=["torch.save", "pickle"])
def test_checkpoint_that_wants_to_execute_code(
    zipped: bool, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pt"
    state = {"time_embed.0.weight": _Trap()}
    if zipped:
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state, protocol=2))
    monkeypatch.chdir(tmp_path)
    with_weights(path, out, ["would execute code", "was not loaded", ".safetensors"])
    assert not Path("trap_was_sprung").exists()


def test_output_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("precious")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(ConfigError, match=r"taken' is not a folder that can be written to"):
            train(composed(folder, *SEGMENT))
    assert (tmp_path / "taken").read_text() == "precious"


def test_output_folder_may_not_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((path, mode)))
    with pytest.raises(ConfigError, match=r"paths\.output_dir=.*Choose another"):
        train(composed(tmp_path / "new", *SEGMENT))
    assert asked == [(tmp_path, os.W_OK)]


def test_head_that_diverges(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        train(composed(tmp_path, *SEGMENT, "head.learning_rate=1e38"))
    message = str(caught.value)
    assert re.search(r"the loss of the head is \[.*\] at step \d", message)
    assert "Lower `head.learning_rate` (1e+38)" in message
    assert set(contents(tmp_path)) <= {"config.yaml", "metrics.jsonl", "record.json", "train.log"}


def test_features_that_are_not_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extract = segment.extract_training_set

    def spoilt(*arguments):
        maps, masks = extract(*arguments)
        broken = {size: torch.full_like(group, torch.nan) for size, group in maps.groups.items()}
        return NativeMaps(maps.layout, broken), masks

    monkeypatch.setattr(segment, "extract_training_set", spoilt)
    with pytest.raises(TrainingError, match=r"look for NaN in the features: `backbone.precision"):
        train(composed(tmp_path, *SEGMENT))
    assert not (tmp_path / "results.csv").exists()
    assert not (tmp_path / "head.safetensors").exists()


def test_pretraining_that_diverges(tmp_path: Path) -> None:
    given = ("pretrain.learning_rate=1e30", "pretrain.warmup_steps=0")
    with pytest.raises(TrainingError) as caught:
        train(composed(tmp_path, *PRETRAIN, *given))
    message = str(caught.value)
    assert "the pretraining loss is" in message
    assert "Lower `pretrain.learning_rate` (1e+30)" in message
    assert not (tmp_path / "unet.safetensors").exists()


def test_pretraining_images_that_do_not_exist(out: Path) -> None:
    given = ("pretrain.images=/nowhere/at/all", "paths.overwrite=true")
    refused(DataError, ["/nowhere/at/all", "neither a folder nor"], out, *PRETRAIN, *given)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "status", "says"),
    [
        ("features.timesteps=[1000]", 2, "error: timestep 1000 does not exist in backbone"),
        ("features.blok=[3]", 2, "Key 'blok' not in 'FeaturesConfig'"),
    ],
)
def test_program_prints_a_sentence_and_fails(
    override: str, status: int, says: str, tmp_path: Path
) -> None:
    command = [sys.executable, "train.py", *SEGMENT, f"paths.output_dir={tmp_path}", override]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "config.yaml").exists()

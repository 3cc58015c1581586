"""`trainer.devices=2` in two processes on the CPU gives what one process gives."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from tiny_run import PRETRAIN, ROOT, SEGMENT, SWEEP, checked, composed, composed_sweep, contents

from ddpmseg import ranks
from ddpmseg.composition.checks import check_shares
from ddpmseg.data.ponies import draw_pony
from ddpmseg.errors import ConfigError
from ddpmseg.randomness import EpochShuffle
from ddpmseg.runs.train import train
from ddpmseg.sweeps.sweep import sweep
from ddpmseg.training.pretrain import DiffusionPretraining

TWO = "trainer.devices=2"
SECONDS = 100
"""Two processes start in about ten; a run that takes longer than this hangs."""


def launched(program: str, folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, program, *overrides, TWO, f"paths.output_dir={folder}"]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=SECONDS
    )


def rows(path: Path) -> list[dict[str, str]]:
    """A table without what differs from run to run: seconds and memory."""
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    timed = ("seconds", "seconds_extract", "seconds_train", "seconds_test", "peak_rss_mb")
    return [{key: value for key, value in row.items() if key not in timed} for row in table]


@pytest.mark.slow
def test_segmentation_equals_that_of_one_process(tmp_path: Path) -> None:
    # Three and five forward passes of one image each, so that both have whole ones, unequally many.
    given = (*SEGMENT, "features.batch_size=2", "dataset.num_test=5")
    train(composed(tmp_path / "one", *given))
    done = launched("train.py", tmp_path / "two", *given)
    assert done.returncode == 0, done.stderr
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert set(one) == set(two)
    assert len([name for name in two if name.startswith("masks")]) == 2 * 5
    differing = {name for name in one if one[name] != two[name]}
    assert differing == {"config.yaml", "results.csv", "train.log"}
    assert rows(tmp_path / "one" / "results.csv") == rows(tmp_path / "two" / "results.csv")
    log = (tmp_path / "two" / "train.log").read_text()
    assert log.count("results in") == 1
    assert done.stderr.count("forward passes: ") == 1
    assert "Warning" not in done.stderr
    assert "sync_dist" not in done.stderr


@pytest.mark.slow
def test_sweep_equals_that_of_one_process(tmp_path: Path) -> None:
    given = ("sweep.batch_size=1", "sweep.num_examples=2")
    sweep(composed_sweep(tmp_path / "one", *given))
    done = launched("sweep.py", tmp_path / "two", *SWEEP, *given)
    assert done.returncode == 0, done.stderr
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert set(one) == set(two)
    records = [name for name in one if name.startswith(("cells/", "controls/"))]
    assert len(records) == 5
    for name in records:
        ours, theirs = json.loads(one[name]), json.loads(two[name])
        assert ours.pop("seconds") > 0
        assert theirs.pop("seconds") > 0
        assert ours == theirs
    for name in ("cells.csv", "controls.csv"):
        assert rows(tmp_path / "one" / name) == rows(tmp_path / "two" / name)
    assert done.stderr.count("control pixels: ") == 1


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    squares = [(one[key] - other[key]).double().square().sum() for key in one]
    return float(torch.stack(squares).sum().sqrt())


class _PowerCutError(Exception):
    pass


@pytest.mark.slow
def test_pretraining_goes_on_with_another_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process up to step 4, two up to 8, one again up to 10."""
    given = (*PRETRAIN, "pretrain.num_steps=10", "pretrain.checkpoint_every=4")
    train(composed(tmp_path / "whole", *given))
    folder = tmp_path / "parts"
    step = DiffusionPretraining.training_step

    def cut(self: DiffusionPretraining, batch, batch_index: int):
        if self.global_step == 5:
            raise _PowerCutError
        return step(self, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionPretraining, "training_step", cut)
        with pytest.raises(_PowerCutError):
            train(composed(folder, *given))
    first_checkpoint = (folder / "last.ckpt").rename(tmp_path / "step4.ckpt")
    shutil.copy(first_checkpoint, folder / "last.ckpt")
    done = launched("train.py", folder, *given)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("resuming from") == 1
    saved = [
        torch.load(path / "last.ckpt", weights_only=True) for path in (tmp_path / "whole", folder)
    ]
    assert saved[0]["global_step"] == saved[1]["global_step"] == 8
    start = torch.load(first_checkpoint, weights_only=True)["current_model_state"]
    for key in ("state_dict", "current_model_state"):
        # Adam turns the rounding of a gradient near zero into a step, so few weights are far off.
        moved, apart = distance(start, saved[0][key]), distance(*(each[key] for each in saved))
        assert apart < 2e-3 * moved

    lines, whole = metrics(folder), metrics(tmp_path / "whole")
    assert [line["step"] for line in lines] == list(range(1, 11))
    for line, other in zip(lines, whole, strict=True):
        assert line["pretrain/loss"] == pytest.approx(other["pretrain/loss"], rel=1e-4)

    (folder / "unet.json").unlink()
    train(composed(folder, *given))
    assert [line["step"] for line in metrics(folder)] == list(range(1, 11))
    weights = [load_file(path / "unet.safetensors") for path in (tmp_path / "whole", folder)]
    torch.testing.assert_close(*weights, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_a_rank_that_fails_ends_all(tmp_path: Path) -> None:
    """One of the eight images is damaged: the last of the first batch, which is that of rank 1."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(8):
        Image.fromarray(draw_pony(index, "train", 0, 16)[0]).save(photos / f"{index}.png")
    damaged = photos / f"{int(EpochShuffle(8, 4, 0).batch(0)[-1])}.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    done = launched("train.py", tmp_path / "out", *PRETRAIN, f"pretrain.images={photos}")
    assert done.returncode != 0
    assert "error: rank 1: " in done.stderr
    assert damaged.name in done.stderr
    assert not (tmp_path / "out" / "unet.json").exists()


@given(st.integers(0, 60), st.integers(1, 12), st.integers(1, 9))
def test_shares_hold_every_image_once_in_order(count: int, unit: int, devices: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "num_ranks", lambda: devices)
        shares = ranks.shares(count, unit)
    assert len(shares) == devices
    assert [index for share in shares for index in share] == list(range(count))
    assert all(shares) == (count >= devices)
    if count > unit * (devices - 1):
        assert all(share.start % unit == 0 for share in shares)
        passes = [-(-len(share) // unit) for share in shares]
        assert max(passes) - min(passes) <= 1
    else:
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_is_the_first_of_one() -> None:
    rows = torch.arange(4)
    ranks.collect_rows(rows, ranks.shares(4))
    ranks.wait_for_all()
    assert (ranks.rank(), ranks.num_ranks(), ranks.is_first()) == (0, 1, True)
    assert (ranks.gathered("x"), ranks.from_first("x")) == (["x"], "x")
    assert torch.equal(rows, torch.arange(4))
    assert rows[ranks.own_rows(4)].tolist() == ranks.total(rows).tolist() == [0, 1, 2, 3]
    assert not ranks.mean(torch.ones((), requires_grad=True)).requires_grad


def test_several_devices_are_refused_in_a_multirun(tmp_path: Path) -> None:
    message = r"trainer\.devices=2`: a job of a multirun.*launcher"
    with pytest.raises(ConfigError, match=message):
        train(composed(tmp_path, *SEGMENT, TWO), in_multirun=True)
    with pytest.raises(ConfigError, match=message):
        sweep(composed_sweep(tmp_path, TWO), in_multirun=True)
    assert not contents(tmp_path)


def test_numbers_of_devices_that_cannot_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.devices=0`: must be at least 1"):
        checked(composed(tmp_path, *SEGMENT, "trainer.devices=0"))
    with pytest.raises(ConfigError, match=r"batch_size=4` is the batch of all.*devices=3`"):
        checked(composed(tmp_path, *PRETRAIN, "trainer.devices=3"))
    config = checked(composed(tmp_path, *SEGMENT, "trainer.devices=3"))
    with pytest.raises(ConfigError, match=r"devices=3`: there are 2 test images.*Use 1\.\.2"):
        check_shares(3, config.dataset.build())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**37, 2**37))
    given = (*SEGMENT, "trainer.accelerator=gpu")
    assert checked(composed(tmp_path, *given, "trainer.devices=4")).trainer.devices == 4
    with pytest.raises(ConfigError, match=r"devices=5`: must lie in 1\.\.4.*accelerator=gpu"):
        checked(composed(tmp_path, *given, "trainer.devices=5"))

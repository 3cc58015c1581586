"""`ddpmseg select` on a tiny sweep."""

import shlex
from pathlib import Path

import pytest
import torch
from tiny_run import SWEEP, composed, resolved_sweep

from ddpmseg.__main__ import main
from ddpmseg.composition.checks import typed_config
from ddpmseg.data.labelled import LabelledSplit
from ddpmseg.errors import ConfigError, DataError
from ddpmseg.finished.open import open_sweep
from ddpmseg.heads import ridge
from ddpmseg.sweeps.select import draw_sample, select
from ddpmseg.sweeps.sweep import sweep


@pytest.fixture(autouse=True)
def few_hidden_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search is the same with a smaller classifier, and a test takes no time."""
    monkeypatch.setattr(ridge, "HIDDEN", 16)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    quick = ("sweep.controls=[]", "sweep.timesteps=[5,50,250]")
    sweep(composed(folder, *SWEEP, *quick, "sweep.blocks=null", root="sweep"), True)
    return folder


def test_the_proposal_is_within_the_budget_and_no_worse_than_the_rule(finished: Path) -> None:
    found = select(finished)
    blocks, timesteps = found.chosen
    assert found.rule == ((1, 2, 3), (50, 250))
    assert set(blocks) <= {0, 1, 2, 3}
    assert set(timesteps) <= {5, 50, 250}
    assert len(timesteps) <= 3
    assert len(timesteps) * sum(found.width[block] for block in blocks) <= 2 * (64 + 32 + 32)
    assert found.score >= found.rule_score


def test_the_command_of_the_proposal_can_be_pasted(finished: Path, tmp_path: Path) -> None:
    found = select(finished)
    program, name, *overrides = shlex.split(found.lines()[-1])
    assert (program, name) == ("ddpmseg", "train")
    run, swept = typed_config(composed(tmp_path, *overrides)), open_sweep(finished).config
    assert (run.dataset, run.backbone, run.seed) == (swept.dataset, swept.backbone, swept.seed)
    assert (run.features.hook, run.features.noise) == (swept.sweep.hook, swept.sweep.noise)
    assert (tuple(run.features.blocks), tuple(run.features.timesteps)) == found.chosen


def test_the_same_folder_gets_the_same_proposal(finished: Path) -> None:
    first, second = select(finished), select(finished)
    assert (first.chosen, first.score) == (second.chosen, second.score)


def test_test_images_are_never_read(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = LabelledSplit.__getitem__

    def recorded(self: LabelledSplit, index: int):
        read.append(self.names[index])
        return original(self, index)

    monkeypatch.setattr(LabelledSplit, "__getitem__", recorded)
    select(finished, passes=1)
    assert read
    assert all(name.startswith("train_") for name in read)


def test_the_command_prints_the_override(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["select", str(finished), "--passes", "1", "--channels", "64"]) == 0
    shown = capsys.readouterr().out
    assert "ddpmseg train dataset=ponies backbone=random" in shown
    assert "paper's rule  blocks [1, 2, 3], t = [50, 250]" in shown


def test_budgets_that_allow_no_cell(finished: Path) -> None:
    with pytest.raises(ConfigError, match="smallest takes 1 pass and 32 channels"):
        select(finished, max_channels=31)
    with pytest.raises(ConfigError, match="a budget of 0 passes"):
        select(finished, passes=0)


def test_no_sweep_and_no_finished_cell(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the folder of a sweep"):
        select(tmp_path)
    for name in ("config.yaml", "sweep.json"):
        (tmp_path / name).write_text((finished / name).read_text())
    with pytest.raises(DataError, match="holds no finished cell"):
        select(tmp_path)


def test_one_labelled_image_cannot_be_cross_validated(tmp_path: Path) -> None:
    quick = ("sweep.controls=[]", "dataset.num_labelled=1")
    sweep(composed(tmp_path, *SWEEP, *quick, root="sweep"), True)
    with pytest.raises(DataError, match="needs at least two"):
        select(tmp_path)


def test_weights_of_the_sample_add_up_to_all_labelled_pixels(finished: Path) -> None:
    dataset = resolved_sweep(composed(finished, *SWEEP, root="sweep")).config.dataset.build()
    sample = draw_sample(dataset, seed=0)
    masks = torch.stack([one.mask for one in dataset.train])
    assert torch.equal(
        masks[sample.images].flatten(1)[torch.arange(len(sample.pixels)), sample.pixels].long(),
        sample.labels,
    )
    for label in sample.labels.unique().tolist():
        weight = sample.weights[sample.labels == label].sum()
        assert float(weight) == pytest.approx(int((masks == label).sum()), rel=1e-4)

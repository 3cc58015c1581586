"""Ensembles in the original code's files: its numbers, there and back, and what can be wrong."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from golden_fill import FACTS, filled, golden, golden_maps, relative_error
from hypothesis import given
from hypothesis import strategies as st
from test_train import outcome, row_of
from tiny_run import CONF, SEGMENT, composed, composed_sweep, contents, resolved_sweep
from torch import Tensor, nn

from ddpmseg.__main__ import main
from ddpmseg.config import run_key
from ddpmseg.errors import CheckpointError, ConfigError, DiskError
from ddpmseg.heads.export import load_head
from ddpmseg.heads.mlp import StackedMLP, paper_hidden
from ddpmseg.heads.official import read_ensemble, write_ensemble
from ddpmseg.heads.segment import segment
from ddpmseg.runs import segment as program
from ddpmseg.runs.train import finished as finished_score
from ddpmseg.runs.train import train
from ddpmseg.training.head import HeadTraining

PAPERS = (*(key for key in SEGMENT if "hidden" not in key), "head.max_steps=3")
"""A tiny run whose head has the paper's widths, 128 and 32."""


class Classifier(nn.Module):
    """The original's: its layers lie in a Sequential of this name."""

    def __init__(self, dim: int, hidden: tuple[int, int], num_classes: int) -> None:
        super().__init__()
        first, second = hidden
        self.layers = nn.Sequential(
            nn.Linear(dim, first),
            nn.ReLU(),
            nn.BatchNorm1d(first),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.BatchNorm1d(second),
            nn.Linear(second, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def save_members(
    folder: Path, seeds: list[int], dim: int, hidden: tuple[int, int], num_classes: int
) -> None:
    """As the original code does: each wrapped for several devices, whose prefix stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        network = Classifier(dim, hidden, num_classes)
        network.load_state_dict(filled(network.state_dict(), seed))
        state = nn.DataParallel(network).state_dict()
        torch.save({"model_state_dict": state}, folder / f"model_{number}.pth")


ROW_20 = torch.arange(20 * 64, 21 * 64)


@pytest.mark.parametrize(
    ("kind", "name"), [("ensemble", "narrow_logits_member0"), ("wide", "wide_logits")]
)
def test_scores_equal_golden(kind: str, name: str, tmp_path: Path) -> None:
    num_classes = FACTS[kind]["num_classes"]
    seed = FACTS[kind].get("fill_seed", FACTS["ensemble"]["fill_seeds"][0])
    hidden = paper_hidden(num_classes)
    save_members(tmp_path, [seed], FACTS["feature_dim"], hidden, num_classes)
    head = read_ensemble(tmp_path, 1)
    assert (head.members, head.hidden, head.num_classes) == (1, hidden, num_classes)
    maps = golden_maps("output")
    with torch.no_grad():
        scores = head(maps.pixel_vectors(torch.zeros_like(ROW_20), ROW_20))
    assert relative_error(scores[0], golden()[f"{name}_image0_row20"]) <= 1e-5


def test_vote_and_uncertainty_equal_golden(tmp_path: Path) -> None:
    facts = FACTS["ensemble"]
    save_members(tmp_path, facts["fill_seeds"], FACTS["feature_dim"], (128, 32), 11)
    maps = golden_maps("output")[:1]
    head = read_ensemble(tmp_path, facts["members"])
    result = segment(head.reader(maps.layout, torch.float32), maps)
    assert torch.equal(result.masks[0], golden()["ensemble_labels_image0"].long())
    assert result.uncertainty[0].item() == pytest.approx(facts["uncertainty_image0"], rel=1e-5)


def some_head(members: int, dim: int, hidden: tuple[int, ...], num_classes: int) -> StackedMLP:
    """Every parameter and statistic of every member differs."""
    head = StackedMLP(dim, num_classes, members, hidden)
    for member in range(members):
        head.load_member(member, filled(head.member_state(member), member))
    return head.eval()


SIDES = st.integers(1, 5)


@given(st.integers(1, 3), SIDES, SIDES, SIDES, SIDES)
def test_written_files_give_the_original_classifier_the_same_scores(
    tmp_path_factory: pytest.TempPathFactory,
    members: int,
    dim: int,
    first: int,
    second: int,
    num_classes: int,
) -> None:
    folder = tmp_path_factory.mktemp("official") / "new" / "ensemble"
    head = some_head(members, dim, (first, second), num_classes)
    vectors = 3 + 2 * torch.randn(40, dim, generator=torch.Generator().manual_seed(dim))
    head.standardise(vectors)
    write_ensemble(head, folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        f"model_{m}.pth" for m in range(members)
    ]
    assert list(folder.parent.iterdir()) == [folder]
    again = read_ensemble(folder, members)
    with torch.no_grad():
        expected, read = head(vectors), again(vectors)
        assert torch.allclose(read, expected, rtol=1e-4, atol=1e-4)
        for member in range(members):
            network = nn.DataParallel(Classifier(dim, (first, second), num_classes))
            file = torch.load(folder / f"model_{member}.pth", weights_only=True)
            network.load_state_dict(file["model_state_dict"])
            assert torch.allclose(network.eval()(vectors), expected[member], rtol=1e-4, atol=1e-4)


def test_a_file_holds_one_member_and_no_more(tmp_path: Path) -> None:
    write_ensemble(some_head(8, 500, (128, 32), 11), tmp_path / "all")
    numbers = 128 * 500 + 32 * 128 + 11 * 32
    assert (tmp_path / "all" / "model_0.pth").stat().st_size < 4 * numbers + 10_000


def test_the_first_members_are_used(tmp_path: Path) -> None:
    head = some_head(12, 4, (3, 2), 2)
    write_ensemble(head, tmp_path / "all")
    # In the order of numbers, not of names.
    few = read_ensemble(tmp_path / "all", 11)
    for member in range(11):
        found = few.member_state(member)
        assert all(torch.equal(found[k], v) for k, v in head.member_state(member).items())


@pytest.mark.parametrize("hidden", [(), (8,), (8, 4, 4)])
def test_a_head_the_original_cannot_have_is_not_written(
    hidden: tuple[int, ...], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"has {len(hidden)} hidden layers .* with two"):
        write_ensemble(some_head(2, 4, hidden, 3), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = some_head(2, 4, (3, 2), 3)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "model_7.pth").write_text("precious")
    (tmp_path / "file").write_text("precious")
    before = contents(tmp_path), sorted(tmp_path.rglob("*"))
    for name in ("used", "file"):
        with pytest.raises(ConfigError, match=rf"{name}' exists and is not an empty folder"):
            write_ensemble(head, tmp_path / name)
    with pytest.raises(DiskError, match=r"below' cannot be written to \(.*\)\. Choose another"):
        write_ensemble(head, tmp_path / "file" / "below")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DiskError, match="No space left on device"):
        write_ensemble(head, tmp_path / "new")
    assert (contents(tmp_path), sorted(tmp_path.rglob("*"))) == before


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and beside it its head in the original format."""
    folder = tmp_path_factory.mktemp("run")
    train(composed(folder, *PAPERS))
    assert main(["export", str(folder), str(folder.parent / "ensemble")]) == 0
    return folder


@pytest.fixture
def ensemble(run: Path, tmp_path: Path) -> Path:
    """A copy of the files, to spoil."""
    return Path(shutil.copytree(run.parent / "ensemble", tmp_path / "ensemble"))


def of(ensemble: Path) -> tuple[str, ...]:
    return (*PAPERS, f"head.checkpoint={ensemble}")


def test_there_and_back_gives_the_same_masks_without_training(
    run: Path, ensemble: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_training(*_: object) -> None:
        pytest.fail("nothing is to be extracted or trained")

    monkeypatch.setattr(program, "extract_training_set", no_training)
    monkeypatch.setattr(HeadTraining, "training_step", no_training)
    train(composed(tmp_path / "out", *of(ensemble)))
    theirs, ours = contents(run), contents(tmp_path / "out")
    assert ours.keys() == theirs.keys()
    for name in ours:
        if name.startswith("masks/") or name in ("per_class.csv", "confusion.csv"):
            assert ours[name] == theirs[name], name
    row = row_of(tmp_path / "out")
    assert len(row["head_sha256"]) == 64
    assert (row["protocol"], row["num_labelled"]) == ("", "")
    same = {"head_sha256": "", "protocol": "fast", "num_labelled": "3"}
    assert outcome(tmp_path / "out") | same == outcome(run)
    assert load_head(tmp_path / "out" / "head.safetensors")[0].members == 2


def test_forecasts_speak_of_test_images_only(
    ensemble: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", "--config-dir", str(CONF), *of(ensemble)]) == 0
    out = capsys.readouterr().out
    assert "forward passes: 4 (2 test images, 2 timesteps each)" in out
    assert "training images" not in out


def test_other_files_in_the_folder_make_another_run(ensemble: Path, tmp_path: Path) -> None:
    given = (*of(ensemble), "head.members=1")

    def digest(folder: Path = ensemble) -> str:
        return composed(tmp_path, *given, f"head.checkpoint={folder}").head.checkpoint_sha256

    def name() -> str:
        return run_key(composed(tmp_path, *given))

    train(composed(tmp_path / "out", *given))
    before = digest(), name()
    assert finished_score(composed(tmp_path / "out", *given)) is not None
    assert digest(Path(shutil.copytree(ensemble, tmp_path / "elsewhere"))) == before[0]
    first, second = ensemble / "model_0.pth", ensemble / "model_1.pth"
    first.rename(tmp_path / "kept")
    shutil.copy(second, first)
    assert digest() != before[0]
    assert name() != before[1]
    with pytest.raises(ConfigError, match=r"of something else: `head.checkpoint_sha256` was"):
        finished_score(composed(tmp_path / "out", *given))


def test_our_checkpoint_is_none_by_default(tmp_path: Path) -> None:
    assert composed(tmp_path, *PAPERS).head.checkpoint_sha256 is None


def refused(ensemble: Path, says: list[str], out: Path, *overrides: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        train(composed(out, *of(ensemble), *overrides))
    for part in says:
        assert part in str(caught.value)
    assert not out.exists()


def change(path: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    state = torch.load(path, weights_only=True)["model_state_dict"]
    edit(state)
    torch.save({"model_state_dict": state}, path)


def drop_one_in_the_middle(folder: Path) -> None:
    shutil.copy(folder / "model_1.pth", folder / "model_2.pth")
    (folder / "model_1.pth").unlink()


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.rename(path.with_suffix(".pt"))


def another_width(folder: Path) -> None:
    write_ensemble(some_head(1, 192, (64, 32), 11), folder / "other")
    (folder / "other" / "model_0.pth").replace(folder / "model_1.pth")


def another_output(folder: Path) -> None:
    write_ensemble(some_head(1, 192, (128, 32), 12), folder / "other")
    (folder / "other" / "model_0.pth").replace(folder / "model_1.pth")


def outputs_of_another_set(folder: Path) -> None:
    shutil.rmtree(folder)
    write_ensemble(some_head(2, 192, (128, 32), 21), folder)


def features_of_another_choice(folder: Path) -> None:
    shutil.rmtree(folder)
    write_ensemble(some_head(2, 8448, (128, 32), 11), folder)


def unknown_key(folder: Path) -> None:
    change(folder / "model_1.pth", lambda state: state.update({"module.attention": torch.ones(1)}))


def missing_key(folder: Path) -> None:
    change(folder / "model_1.pth", lambda state: state.pop("module.layers.5.running_var"))


def odd_shape(folder: Path) -> None:
    change(
        folder / "model_1.pth", lambda s: s.update({"module.layers.3.weight": torch.ones(32, 9)})
    )


def no_axes(folder: Path) -> None:
    change(folder / "model_1.pth", lambda s: s.update({"module.layers.6.weight": torch.ones([])}))


def bare_state(folder: Path) -> None:
    state = torch.load(folder / "model_1.pth", weights_only=True)["model_state_dict"]
    torch.save(state, folder / "model_1.pth")


def truncated(folder: Path) -> None:
    (folder / "model_1.pth").write_bytes((folder / "model_1.pth").read_bytes()[:3000])


class _Trap:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("trap_was_sprung",)


def trap(folder: Path) -> None:
    torch.save({"model_state_dict": {"module.layers.0.weight": _Trap()}}, folder / "model_1.pth")


MISTAKES: list[tuple[Callable[[Path], None], list[str]]] = [
    (shutil.rmtree, ["head.checkpoint=", "ensemble`: no such folder", "model_0.pth"]),
    (empty, ["ensemble`: the folder holds no classifier", "model_0.pth, model_1.pth"]),
    (drop_one_in_the_middle, ["model_1.pth is missing", "2 of the 3 files up to model_2.pth"]),
    (another_width, ["model_1.pth' is 192 -> 64 -> 32 -> 11", "'model_0.pth'", "128 -> 32"]),
    (another_output, ["model_1.pth' is 192 -> 128 -> 32 -> 12", "-> 11", "folder of its own"]),
    (outputs_of_another_set, ["have 21 outputs", "'ponies' has 11 classes", "`dataset`"]),
    (
        features_of_another_choice,
        [
            "D = 8448",
            "`features.*` gives D = 192",
            "blocks [1, 2] at t = [5, 50]",
            "50_150_250_5_6_7",
        ],
    ),
    (unknown_key, ["model_1.pth' is no pixel classifier", "unknown attention"]),
    (missing_key, ["model_1.pth' is no pixel classifier", "missing layers.5.running_var"]),
    (odd_shape, ["model_1.pth' is no", "layers.3.weight is [32, 9]", "ask for [32, 128]"]),
    (no_axes, ["model_1.pth' is no", "layers.6.weight is []", "ask for [1, 32]"]),
    (bare_state, ["model_1.pth' must hold its tensors as 'model_state_dict'", "layers.0.weight"]),
    (truncated, ["model_1.pth' (3000 bytes) cannot be read", "truncated"]),
    (trap, ["model_1.pth' is not a plain state dict", "would execute code", "not loaded"]),
]


@pytest.mark.parametrize(("spoil", "says"), MISTAKES, ids=lambda v: getattr(v, "__name__", ""))
def test_bad_files_are_refused_before_anything_is_written(
    spoil: Callable[[Path], None],
    says: list[str],
    ensemble: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    spoil(ensemble)
    refused(ensemble, says, tmp_path / "out")
    assert not Path("trap_was_sprung").exists()


def test_settings_that_do_not_fit_the_files(ensemble: Path, tmp_path: Path) -> None:
    says = ["holds 2 classifiers", "`head.members=3` asks for more", "1..2"]
    refused(ensemble, says, tmp_path / "out", "head.members=3")
    says = ["hidden widths [128, 32]", "`head.hidden` is [8]", "head.hidden=null"]
    refused(ensemble, says, tmp_path / "out", "head.hidden=[8]")


def test_a_sweep_trains_its_own_probes(ensemble: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.head\.checkpoint=.*are trained"):
        resolved_sweep(composed_sweep(tmp_path, f"sweep.head.checkpoint={ensemble}"))


def test_export_names_what_is_wrong(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tmp_path), str(tmp_path / "new")]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err
    assert main(["export", str(run), str(run)]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err

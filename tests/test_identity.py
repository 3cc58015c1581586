"""Old results are never taken for those of other weights, images, classes or arithmetic."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_run import CONF, HARDWARE, SEGMENT, SWEEP, UNET, composed, contents, multirun

from ddpmseg.__main__ import main
from ddpmseg.composition.checks import typed_config
from ddpmseg.config import run_key, sweep_key
from ddpmseg.data.class_table import load_class_table
from ddpmseg.data.ponies import draw_pony
from ddpmseg.errors import CheckpointError, ConfigError, DataError
from ddpmseg.finished.run_folders import read_runs
from ddpmseg.heads import protocols
from ddpmseg.io import digests
from ddpmseg.io.digests import known_sha256
from ddpmseg.io.files import file_sha256
from ddpmseg.records.identity import Identity
from ddpmseg.records.published import load_published
from ddpmseg.runs import train as train_program
from ddpmseg.runs.predict import predict
from ddpmseg.runs.train import train
from ddpmseg.sweeps import sweep as sweep_program
from ddpmseg.sweeps.select import select
from ddpmseg.sweeps.sweep import sweep


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of the tiny network, drawn with seed 1."""
    config = composed(None, *SEGMENT, "backbone.seed=1")
    network = typed_config(config).backbone.build(torch.device("cpu"))
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    state = network.get_submodule("unet").state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


@pytest.fixture
def given(tmp_path: Path, weights: Path) -> list[str]:
    """Settings of a set in a folder, with a class table and a weight file of its own."""
    root = tmp_path / "set"
    for split, count in (("train", 3), ("test", 2)):
        folder = root / "real" / split
        folder.mkdir(parents=True)
        for scene in range(count):
            image, mask = draw_pony(scene, split, 0, 16)
            Image.fromarray(image).save(folder / f"pony_{scene}.png")
            np.save(folder / f"pony_{scene}.npy", mask)
    table = load_class_table("ponies").record()
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump(table))
    shutil.copyfile(weights, tmp_path / "weights.safetensors")
    return settings_of(tmp_path)


def settings_of(folder: Path) -> list[str]:
    return [
        "dataset=folder",
        "dataset.name=mine",
        f"dataset.root={folder / 'set'}",
        f"dataset.classes={folder / 'classes.yaml'}",
        "backbone=guided_diffusion_64",
        f"backbone.checkpoint={folder / 'weights.safetensors'}",
        "backbone.precision=auto",
    ]


def run_settings(folder: Path, given: list[str]):
    return composed(folder, *(o for o in SEGMENT if "precision='32'" not in o), *given)


def sweep_settings(folder: Path, given: list[str]):
    kept = [o for o in SWEEP if "precision='32'" not in o]
    return composed(folder, *kept, *given, "sweep.clusters.images=0", root="sweep")


def other_weights(folder: Path, patch: pytest.MonkeyPatch) -> None:
    path = folder / "weights.safetensors"
    save_file({key: 2 * value for key, value in load_file(path).items()}, path)


def other_image(folder: Path, patch: pytest.MonkeyPatch) -> None:
    image = draw_pony(7, "train", 0, 16)[0]
    Image.fromarray(image).save(folder / "set" / "real" / "test" / "pony_1.png")


def other_mask(folder: Path, patch: pytest.MonkeyPatch) -> None:
    path = folder / "set" / "real" / "train" / "pony_0.npy"
    mask = np.load(path)
    mask[0, 0] = (mask[0, 0] + 1) % 3
    np.save(path, mask)


def other_classes(folder: Path, patch: pytest.MonkeyPatch) -> None:
    path = folder / "classes.yaml"
    path.write_text(re.sub(r"\btail\b", "queue", path.read_text()))


def other_protocol(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """As if the code were changed: the settings name the protocol only."""
    changed = replace(protocols.PROTOCOLS["fast"], learning_rate=1e-2)
    patch.setitem(protocols.PROTOCOLS, "fast", changed)


def other_precision(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """As on a machine with matrix units for bfloat16."""
    patch.setattr("ddpmseg.backbones.precision.choose_precision", lambda *_: "16")


CHANGES: list[tuple[Callable[[Path, pytest.MonkeyPatch], None], str]] = [
    (other_weights, r"the SHA-256 of the weights was [0-9a-f]{12}, is [0-9a-f]{12}"),
    (other_image, r"the SHA-256 of the images was [0-9a-f]{12}, is [0-9a-f]{12}"),
    (other_mask, r"the SHA-256 of the images was [0-9a-f]{12}, is [0-9a-f]{12}"),
    (other_classes, r"the SHA-256 of the classes was [0-9a-f]{12}, is [0-9a-f]{12}"),
    (other_protocol, r"protocol learning rate was 0\.005, is 0\.01"),
    (other_precision, r"backbone precision was (32|bf16), is 16"),
]


@pytest.mark.parametrize(("change", "says"), CHANGES, ids=lambda v: getattr(v, "__name__", ""))
def test_a_changed_run_is_neither_skipped_nor_continued(
    change: Callable[[Path, pytest.MonkeyPatch], None],
    says: str,
    given: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    score = train(run_settings(folder, given))
    assert train_program.finished(run_settings(folder, given)) == score
    change(tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match=f"finished run of something else: {says}"):
        train_program.finished(run_settings(folder, given))
    (folder / "results.csv").unlink()
    with pytest.raises(ConfigError, match=f"unfinished run of something else: {says}"):
        train(run_settings(folder, given))


@pytest.mark.parametrize(("change", "says"), CHANGES, ids=lambda v: getattr(v, "__name__", ""))
def test_a_changed_sweep_is_neither_finished_nor_continued(
    change: Callable[[Path, pytest.MonkeyPatch], None],
    says: str,
    given: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "sweep"
    cfg = sweep_settings(folder, [*given, "sweep.timesteps=[5]", "sweep.controls=[]"])
    score = sweep(cfg, True)
    assert sweep_program.finished(cfg) == score
    change(tmp_path, monkeypatch)
    larger = sweep_settings(folder, [*given, "sweep.controls=[]"])
    for attempt in (lambda: sweep_program.finished(cfg), lambda: sweep(larger, True)):
        with pytest.raises(ConfigError, match=f"holds the cells of another request: {says}"):
            attempt()


def test_select_refuses_other_images(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sweep"
    sweep(sweep_settings(folder, [*given, "sweep.controls=[]"]), True)
    other_mask(tmp_path, monkeypatch)
    with pytest.raises(DataError, match="are not those of the cells"):
        select(folder)


def test_predict_refuses_other_weights_and_keeps_the_classes(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, photo = tmp_path / "run", tmp_path / "set" / "real" / "test" / "pony_0.png"
    train(run_settings(folder, given))
    (tmp_path / "classes.yaml").unlink()
    predict([photo], folder, tmp_path / "out", "cpu")
    other_weights(tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match="are not those on whose features the head"):
        predict([photo], folder, tmp_path / "out", "cpu")


def other_test_mask(folder: Path, patch: pytest.MonkeyPatch) -> None:
    path = folder / "set" / "real" / "test" / "pony_0.npy"
    mask = np.load(path)
    mask[:4] = (mask[:4] + 1) % 3
    np.save(path, mask)


@pytest.mark.parametrize(
    ("change", "done", "says"),
    [
        (other_image, 0, "images was"),
        (other_test_mask, 0, "images was"),
        (other_mask, 2, "images was"),  # on which nothing is tested
        (other_classes, 2, "classes was"),
        (other_protocol, 0, "protocol learning rate was"),
        (other_precision, 0, "backbone precision was"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_robustness_tests_what_has_changed_anew(
    change: Callable[[Path, pytest.MonkeyPatch], None],
    done: int,
    says: str,
    given: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = robustness_words(tmp_path, given)
    caplog.set_level("INFO")
    assert main(words) == 0
    assert " 0 of 2 tests are done" in caplog.text
    assert "not tested as it was trained" not in caplog.text
    caplog.clear()
    change(tmp_path, monkeypatch)
    assert main(words) == 0
    assert f" {done} of 2 tests are done" in caplog.text
    assert re.search(f"run' is not tested as it was trained: .*{says}", caplog.text)


def test_robustness_refuses_other_weights(
    given: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where every test is done, and nothing has to be computed."""
    words = robustness_words(tmp_path, given)
    assert main(words) == 0
    other_weights(tmp_path, monkeypatch)
    assert main(words) == 2
    assert "are not those on whose features the head" in capsys.readouterr().err


def robustness_words(folder: Path, given: list[str]) -> list[str]:
    """The command for a new run on images of 32 pixels, fewer than which are not corrupted."""
    kept = [o for o in SEGMENT if not o.startswith(("backbone.precision", "dataset.image_size"))]
    train(composed(folder / "run", *kept, *given, "dataset.image_size=32"))
    places = ["--output", str(folder / "out"), "--cache-dir", str(folder / "cache")]
    which = ["--types", "contrast", "--severities", "3", "--accelerator", "cpu"]
    return ["robustness", str(folder / "run"), *which, *places]


def retrained(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """The run that labels is computed again, after a mask was corrected."""
    other_mask(folder, patch)
    train(run_settings(folder / "run", [*settings_of(folder), "paths.overwrite=true"]))


def other_precision_of_labels(folder: Path, patch: pytest.MonkeyPatch) -> None:
    path = folder / "run" / "config.yaml"
    path.write_text(path.read_text().replace("precision: auto", "precision: '16'", 1))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_weights, r"images drawn with other settings \(weights "),
        (other_precision, r"images drawn with other settings \(dtype "),
        (other_precision_of_labels, r"images labelled with other settings \(precision .*16"),
        (retrained, r"images labelled with other settings \(head_sha256 "),
        (other_classes, "this run knows the classes .*, the set in .* has "),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_sampled_images_are_not_labelled_otherwise(
    change: Callable[[Path, pytest.MonkeyPatch], None],
    says: str,
    given: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(run_settings(tmp_path / "run", given))
    network = [o for o in (*UNET, *HARDWARE, *given) if o.startswith(("backbone.", "trainer."))]
    places = ["--output", str(tmp_path / "samples"), "--labels", str(tmp_path / "run")]
    words = ["sample", "guided_diffusion_64", *network, "--steps", "2", "--num", "2", *places]
    words += ["--config-dir", str(CONF)]
    assert main(words) == 0
    before = contents(tmp_path / "samples")
    assert main(words) == 0
    change(tmp_path, monkeypatch)
    capsys.readouterr()
    assert main([*words, "--num", "3"]) == 2
    assert re.search(says, capsys.readouterr().err)
    assert contents(tmp_path / "samples") == before


def test_a_table_leaves_out_runs_of_changed_files(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, change in ((0, None), (1, None), (2, other_mask), (3, other_weights)):
        if change is not None:
            change(tmp_path, monkeypatch)
        train(run_settings(tmp_path / "runs" / str(seed), [*given, f"seed={seed}"]))
    runs, left_out = read_runs([tmp_path / "runs"], load_published())
    assert [Path(run.folder).name for run in runs] == ["0", "1"]
    assert [(folder.name, reason.partition(" of ")[0]) for folder, reason in left_out] == [
        ("2", "its images are not those"),
        ("3", "its weights are not those"),
    ]


def test_a_multirun_keeps_no_report_of_changed_files(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [o for o in SEGMENT if "precision='32'" not in o and "features.blocks" not in o]
    one = ("features.blocks=[1]", "features.timesteps=[5]", "seed=0,1", "hydra.sweep.dir=multi")
    command = ("train.py", *kept, *given, *one)
    assert multirun(tmp_path, *command) == 0
    assert (tmp_path / "multi" / "cells.csv").is_file()
    other_mask(tmp_path, monkeypatch)
    assert multirun(tmp_path, *command) == 1
    names = {path.name for path in (tmp_path / "multi").rglob("*") if path.is_file()}
    assert "jobs.csv" in names
    assert not names & {"cells.csv", "report.html", "findings.txt", "curves.png"}


def test_how_something_is_computed_is_no_part_of_the_key(tmp_path: Path) -> None:
    """Batches, workers and the vote of a single member change no number."""
    plain = run_key(composed(tmp_path, *SEGMENT))
    assert run_key(composed(tmp_path, *SEGMENT, "features.batch_size=2")) == plain
    assert run_key(composed(tmp_path, *SEGMENT, "head.vote=soft")) != plain
    one = (*SEGMENT, "head.members=1")
    assert run_key(composed(tmp_path, *one, "head.vote=soft")) == run_key(composed(tmp_path, *one))
    cells = sweep_key(composed(tmp_path, *SWEEP, root="sweep"))
    for same in ("sweep.head.vote=soft", "sweep.batch_size=2", "sweep.seeds=[1]"):
        assert sweep_key(composed(tmp_path, *SWEEP, same, root="sweep")) == cells
    other = sweep_key(composed(tmp_path, *SWEEP, "sweep.noise=fresh", root="sweep"))
    assert other != cells


def test_a_smaller_batch_continues_an_interrupted_run(tmp_path: Path) -> None:
    """Less memory is what one tries after a run that was killed for it."""
    train(composed(tmp_path, *SEGMENT))
    (tmp_path / "results.csv").unlink()
    train(composed(tmp_path, *SEGMENT, "features.batch_size=1"))
    assert (tmp_path / "results.csv").is_file()


def test_differences_are_named_with_both_values() -> None:
    earlier = Identity({"seed": 0, "a": 1}, {"device": "cpu"}, {"weights": "a" * 64})
    now = Identity({"seed": 1, "b": None}, {"device": "cuda"}, {"weights": ""})
    assert now.differences(earlier) == [
        "`seed` was 0, is 1",
        "`b` was not recorded, is None",
        "`a` was 1, is not recorded",
        "device was cpu, is cuda",
        "the SHA-256 of the weights was aaaaaaaaaaaa, is that of nothing",
    ]
    assert now.differences(now) == []
    assert Identity.read({"identity": now.record()}, "here") == now


def test_precision_is_compared_by_what_it_came_to() -> None:
    auto = Identity({"backbone.precision": "auto"}, {"backbone_precision": "32"})
    given = Identity({"backbone.precision": "32"}, {"backbone_precision": "32"})
    assert auto.differences(given) == []


@pytest.fixture
def large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose digest is remembered, however small and fresh it is."""
    monkeypatch.setenv("DDPMSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "LARGE", 1)
    monkeypatch.setattr(digests, "SETTLED_SECONDS", -1.0)
    path = tmp_path / "weights.pt"
    path.write_bytes(b"a" * 100)
    return path


def test_a_large_file_is_read_once_until_it_changes(
    large_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return file_sha256(path)

    monkeypatch.setattr(digests, "file_sha256", counted)
    first = known_sha256(large_file)
    assert first == file_sha256(large_file) == known_sha256(large_file)
    assert len(read) == 1
    large_file.write_bytes(b"b" * 100)
    assert known_sha256(large_file) == file_sha256(large_file) != first
    assert len(read) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"signature": 3}', '{"sha256": "abc"}'])
def test_a_damaged_digest_is_computed_again(large_file: Path, text: str, tmp_path: Path) -> None:
    known_sha256(large_file)
    (record,) = (tmp_path / "cache" / "digests").iterdir()
    record.write_text(text)
    assert known_sha256(large_file) == file_sha256(large_file)


def test_digests_need_no_writable_cache(
    large_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("DDPMSEG_CACHE", str(tmp_path / "taken"))
    assert known_sha256(large_file) == file_sha256(large_file)

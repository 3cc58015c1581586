"""`ddpmseg sample`: a folder of drawn and labelled images that a run trains on."""

import csv
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import CONF, HARDWARE, SEGMENT, UNET, composed, contents

from ddpmseg.__main__ import INTERRUPTED, main
from ddpmseg.backbones.guided_diffusion.sampler import Sampler
from ddpmseg.data.images import read_mask
from ddpmseg.errors import DataError
from ddpmseg.records.samples import SampleFolder
from ddpmseg.runs.train import train
from ddpmseg.sampling.sample import _num_dropped

NETWORK = ("random", *UNET, "backbone.precision='32'", *HARDWARE)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of three training and two test images of 16 pixels, in a folder."""
    folder = tmp_path_factory.mktemp("set") / "ponies"
    small = ["dataset.image_size=16", "dataset.num_labelled=3", "dataset.num_test=2"]
    output = ["--output", str(folder), "--config-dir", str(CONF)]
    assert main(["data", "write", "ponies", *small, *output]) == 0
    return folder


def of_folder(root: Path) -> tuple[str, ...]:
    """Overrides of a tiny run on the set in `root`, two images of two timesteps a pass."""
    classes = f"dataset.classes={root}/classes.yaml"
    return (*SEGMENT, "dataset=folder", f"dataset.root={root}", classes, "features.batch_size=4")


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    """A finished run on the set."""
    folder = root.parent / "run"
    train(composed(folder, *of_folder(root)))
    return folder


def sample(output: Path, *options: object, num: int = 3, network: tuple[str, ...] = NETWORK) -> int:
    words = ["--num", num, "--steps", 2, "--output", output, *options, "--config-dir", CONF]
    return main(["sample", *network, *map(str, words)])


def drawn(folder: Path) -> dict[str, bytes]:
    """The images of a folder and their labels, and nothing else."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in (".png", ".npy")]
    return {path.name: path.read_bytes() for path in paths}


def uncertainties(folder: Path) -> dict[str, tuple[float, bool]]:
    """Name -> (uncertainty, whether it is used)."""
    with (folder / "uncertainty.csv").open(newline="") as file:
        rows = csv.DictReader(file)
        return {row["image"]: (float(row["uncertainty"]), row["used"] == "1") for row in rows}


def test_images_are_added_and_those_that_are_there_stay(tmp_path: Path) -> None:
    assert sample(tmp_path / "few", num=2) == 0
    few = drawn(tmp_path / "few")
    assert list(few) == ["000000.png", "000001.png"]
    with Image.open(tmp_path / "few" / "000000.png") as image:
        assert (image.mode, image.size) == ("RGB", (16, 16))
    marked = tmp_path / "few" / "000001.png"
    stamp = marked.stat().st_mtime_ns
    assert sample(tmp_path / "few", num=5) == 0
    assert marked.stat().st_mtime_ns == stamp
    assert sample(tmp_path / "many", num=5) == 0
    assert drawn(tmp_path / "few") == drawn(tmp_path / "many")
    assert len(set(drawn(tmp_path / "many").values())) == 5
    assert sample(tmp_path / "other", "--seed", 1) == 0
    assert not set(drawn(tmp_path / "other").values()) & set(few.values())
    assert sample(tmp_path / "pairs", "--batch-size", 2) == 0
    for path in (tmp_path / "pairs").glob("*.png"):
        pixels, others = (
            np.asarray(Image.open(f / path.name)).astype(int)
            for f in (tmp_path / "pairs", tmp_path / "many")
        )
        assert abs(pixels - others).max() <= 1


def test_images_on_a_disk_without_locks(
    tmp_path: Path, disk_without_locks: Callable[[], list[str]]
) -> None:
    for num in (1, 2):
        assert sample(tmp_path / "few", num=num) == 0
    assert list(drawn(tmp_path / "few")) == ["000000.png", "000001.png"]
    assert disk_without_locks() == [str(tmp_path / "few")]


def test_every_pass_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels add in another order for another number of images."""
    drawn_with, original = [], Sampler.__call__

    def spying(self, seed, indices):
        drawn_with.append(list(indices))
        return original(self, seed, indices)

    monkeypatch.setattr(Sampler, "__call__", spying)
    assert sample(tmp_path / "ddpm", "--batch-size", 2) == 0
    assert drawn_with == [[0, 1], [2, 2]]


def test_a_stop_leaves_whole_files_and_the_command_goes_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert sample(whole, "--labels", run, num=4) == 0
    stops = [("write_image", 3), ("add_uncertainties", 1), ("write_mask", 2), ("use", 1)]
    for method, times in stops:
        calls, original = iter(range(1, 100)), getattr(SampleFolder, method)

        def stopping(self, *arguments, times=times, calls=calls, original=original):
            if next(calls) == times:
                raise KeyboardInterrupt
            return original(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(SampleFolder, method, stopping)
            assert sample(stopped, "--labels", run, "--batch-size", 8, num=4) == INTERRUPTED
        there = drawn(stopped)
        assert all(drawn(whole)[name] == content for name, content in there.items())
        assert not list(stopped.rglob("*.tmp"))
    assert sample(stopped, "--labels", run, num=4) == 0
    assert contents(stopped) == contents(whole)


def test_labels_are_those_of_predict(run: Path, tmp_path: Path) -> None:
    assert sample(tmp_path / "ddpm", "--labels", run) == 0
    photos = [str(path) for path in sorted((tmp_path / "ddpm").glob("*.png"))]
    output = ["--output-dir", str(tmp_path / "predicted"), "--accelerator", "cpu"]
    assert main(["predict", *photos, "--run", str(run), *output]) == 0
    for name in ("000000", "000001", "000002"):
        mask = np.load(tmp_path / "ddpm" / f"{name}.npy")
        assert (mask.shape, mask.dtype) == ((16, 16), np.uint8)
        assert (mask == np.load(tmp_path / "predicted" / f"{name}.npy")).all()
        shown = tmp_path / "ddpm" / "masks" / f"{name}.png"
        assert (read_mask(shown, name) == mask).all()
    assert sorted(uncertainties(tmp_path / "ddpm")) == ["000000", "000001", "000002"]
    assert (tmp_path / "ddpm" / "overview" / "overlays.png").is_file()


def test_labels_come_later_too(run: Path, tmp_path: Path) -> None:
    assert sample(tmp_path / "later") == 0
    assert sample(tmp_path / "later", "--labels", run) == 0
    assert sample(tmp_path / "at_once", "--labels", run) == 0
    assert contents(tmp_path / "later") == contents(tmp_path / "at_once")


def test_the_most_certain_are_kept_and_the_others_come_back(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ddpm"
    given = ("--labels", run)
    assert sample(folder, *given, num=6) == 0
    everything = drawn(folder)
    ordered = sorted(uncertainties(folder), key=lambda name: uncertainties(folder)[name][0])
    for dropped in (0, 2):
        options = ("--keep", 3, "--drop-certain", dropped)
        assert sample(folder, *given, *options, num=6) == 0
        kept = {Path(name).stem for name in drawn(folder)}
        assert kept == set(ordered[dropped : dropped + 3])
        assert {name for name, (_, used) in uncertainties(folder).items() if used} == kept
        for name, content in everything.items():
            place = folder if Path(name).stem in kept else folder / "left_out"
            assert (place / name).read_bytes() == content
    assert sample(folder, *given, num=6) == 0
    assert drawn(folder) == everything
    assert not list((folder / "left_out").iterdir())


def test_a_share_is_left_out(run: Path, tmp_path: Path) -> None:
    options = ("--labels", run, "--filter-out", 0.4, "--drop-certain", 1)
    assert sample(tmp_path / "ddpm", *options, num=5) == 0
    known = uncertainties(tmp_path / "ddpm")
    ordered = sorted(known, key=lambda name: known[name][0])
    assert {name for name in known if known[name][1]} == set(ordered[1:4])


def test_a_stop_between_two_moves_is_mended(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ddpm"
    assert sample(folder, "--labels", run) == 0
    everything = drawn(folder)
    (folder / "left_out").mkdir()
    (folder / "000001.png").replace(folder / "left_out" / "000001.png")  # on its way out
    assert sample(folder, "--labels", run) == 0
    assert drawn(folder) == everything
    (folder / "000001.npy").replace(folder / "left_out" / "000001.npy")
    assert sample(folder, "--labels", run) == 0
    assert drawn(folder) == everything


def test_as_many_are_dropped_as_by_the_original(run: Path) -> None:
    assert _num_dropped(50_000, run, 45_000, None) == 30
    assert _num_dropped(50_000, run, 49_990, None) == 10
    assert _num_dropped(200, run, 100, None) == 0


def test_a_run_trains_on_them_and_a_table_compares(
    root: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(root / "ddpm", "--labels", run) == 0
    synthetic = root.parent / "runs" / "synthetic"
    train(composed(synthetic, *of_folder(root), "dataset.train_images=ddpm"))
    train(composed(root.parent / "runs" / "real", *of_folder(root)))
    capsys.readouterr()
    assert main(["table", str(root.parent / "runs"), "--by", "dataset.train_images"]) == 0
    rows = [
        line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if "|" in line
    ]
    assert rows[2:] == ["ddpm", "real/train"]


def test_the_folder_that_is_missing_is_said_how_to_make(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        train(composed(tmp_path / "run", *of_folder(root), "dataset.train_images=new/ddpm"))
    assert f"`ddpmseg sample BACKBONE --num N --output {root}/new/ddpm --labels RUN`." in str(
        error.value
    )


REFUSED = [
    ((), {"num": 0}, "`--num 0`: must be at least 1."),
    (("--batch-size", 0), {}, "`--batch-size 0`: must be at least 1."),
    (("--steps", 300), {}, "the nearest numbers are 250 and 334."),
    (("--keep", 2), {}, "Add `--labels RUN`."),
    (("--drop-certain", 2), {}, "`--drop-certain` goes with `--keep`"),
    (("--filter-out", 0.5), {}, "Add `--labels RUN`."),
    (("--labels", "RUN", "--filter-out", 1), {}, "must be a share, from 0 to below 1."),
    (("--labels", "RUN", "--filter-out", 0.9), {}, "leaves none of 3 images."),
    (("--labels", "RUN", "--filter-out", 0.5, "--keep", 1), {}, "give one of them."),
    (("--labels", "RUN", "--keep", 4), {}, "`--keep 4`: must lie in 1..3"),
    (("--labels", "RUN", "--keep", 2, "--drop-certain", 2), {}, "it must lie in 0..1."),
    (("--labels", "nowhere"), {}, "'nowhere' is not the folder of a run"),
    ((), {"network": ("pixels",)}, "`backbone=pixels` draws no images: it is no diffusion model."),
    ((), {"network": ("backbone.unet.image_siz=8",)}, "image_siz"),
    (("--labels", "RUN"), {"network": (*NETWORK, "backbone.unet.image_size=32")},
     "this run segments images of 16 pixels, the backbone draws 32."),
]  # fmt: skip


@pytest.mark.parametrize(("options", "settings", "says"), REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_written(
    options, settings, says: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [run if option == "RUN" else option for option in options]
    assert sample(tmp_path / "out", *given, **settings) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_of_other_settings_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "ddpm"
    assert sample(folder, "--labels", run) == 0
    before = contents(folder)

    def refusal(*options: object, num: int = 3) -> str:
        assert sample(folder, *options, num=num) == 2
        assert contents(folder) == before
        return capsys.readouterr().err

    assert "drawn with other settings (seed 0, not 1)" in refusal("--seed", 1)
    assert "drawn with other settings (steps 2, not 4)" in refusal("--steps", 4)
    assert "`--num 2`: " in refusal(num=2)
    other = tmp_path / "other"
    shutil.copytree(run, other)
    settings = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(settings.replace("vote: hard", "vote: soft"))
    assert 'labelled with other settings (vote "hard", not "soft")' in refusal("--labels", other)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.png").write_bytes(b"")
    assert sample(tmp_path / "photos") == 2
    assert "holds no images of `sample`" in capsys.readouterr().err


def test_a_run_of_other_classes_is_refused(
    root: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = (root / "classes.yaml").read_text().replace('"mane"', '"wing"')
    (tmp_path / "classes.yaml").write_text(table)
    assert sample(tmp_path / "ddpm", "--labels", run) == 2
    assert (
        f"('{tmp_path / 'classes.yaml'}'). Name a run trained on that set"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "ddpm").exists()
    original = (root / "classes.yaml").read_text()
    (root / "classes.yaml").write_text(table)
    try:
        assert sample(root / "ddpm2", "--labels", run) == 2
    finally:
        (root / "classes.yaml").write_text(original)
    # The run keeps the classes it was trained for, whatever becomes of the table.
    assert "has background, body, leg" in capsys.readouterr().err


def test_a_damaged_record_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "ddpm"
    assert sample(folder, "--labels", run) == 0
    before = drawn(folder)
    (folder / "uncertainty.csv").write_text("image,uncertainty,used\n000000,many,1\n")
    assert sample(folder, "--labels", run) == 2
    assert "uncertainty.csv' is damaged" in capsys.readouterr().err
    (folder / "uncertainty.csv").unlink()
    assert sample(folder, "--labels", run) == 0
    assert drawn(folder) == before
    (folder / "samples.json").write_text(json.dumps({"sampling": 1}))
    assert sample(folder) == 2
    assert "samples.json' is damaged" in capsys.readouterr().err


def test_a_full_disk_loses_no_label(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has room for three of five masks; the two others follow, and no image is read twice."""
    assert sample(tmp_path / "whole", "--labels", run, num=5) == 0
    folder, written = tmp_path / "ddpm", []
    original = SampleFolder.write_mask

    def writing(self, index, *arguments):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(index)
        original(self, index, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SampleFolder, "write_mask", writing)
        assert sample(folder, "--labels", run, num=5) == 2
        # Log lines come as well where an earlier test left a handler.
        *_, line = capsys.readouterr().err.splitlines()
        assert line == (
            f"error: '{folder}' cannot be written to (No space left on device). Make room, and "
            "repeat the command: what is finished is kept."
        )
        written[:] = []
        with (folder / "uncertainty.csv").open("a") as file:
            file.write("000004,0.1")  # as a power cut leaves it
        assert sample(folder, "--labels", run, num=5) == 0
    assert written == [3, 4]
    assert contents(folder) == contents(tmp_path / "whole")

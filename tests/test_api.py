"""The public names of `import ddpmseg`."""

import doctest
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import ROOT, SEGMENT, composed

import ddpmseg
from ddpmseg import api
from ddpmseg.backbones.base import Backbone
from ddpmseg.backbones.pixels import PixelsBackbone
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.errors import CheckpointError, ConfigError, DataError, UserError
from ddpmseg.finished.run_folders import read_runs
from ddpmseg.records.published import load_published
from ddpmseg.runs.predict import predict
from ddpmseg.runs.train import train

UNET = {
    "image_size": 16,
    "num_channels": 32,
    "channel_mult": "1,2",
    "num_res_blocks": 1,
    "attention_resolutions": "8",
}
HEAD: dict[str, Any] = {"hidden": [8], "max_steps": 6, "batch_size": 64, "members": 2}
PONIES_64 = Path(ddpmseg.__file__).parent / "weights" / "bundled" / "ponies64.safetensors"


def tiny_backbone() -> Backbone:
    """That of `tiny_run`."""
    return ddpmseg.load_backbone("random", device="cpu", precision="32", unet=UNET)


def tiny_fit(**given: Any) -> ddpmseg.Segmenter:
    images, masks = ddpmseg.ponies(3, image_size=16)
    settings = HEAD | {"classes": "ponies", "blocks": [1, 2], "timesteps": [5, 50]} | given
    return ddpmseg.fit(tiny_backbone(), images, masks, progress=False, **settings)


def arrays(dataset: LabelledSet, split: str) -> tuple[np.ndarray, np.ndarray]:
    samples = list(getattr(dataset, split))
    images = np.stack([sample.image.permute(1, 2, 0).numpy() for sample in samples])
    return images, np.stack([sample.mask.numpy() for sample in samples])


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, ddpmseg; print(ddpmseg.__version__, *ddpmseg.__all__, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pandas", "hydra"} & set(done.stdout.split())
    assert set(ddpmseg.__all__) <= set(done.stdout.split())
    assert set(ddpmseg.__all__) <= set(dir(ddpmseg))


def test_every_example_in_the_docstrings(subtests: pytest.Subtests) -> None:
    modules = [import_module(f"{api.__name__}.{info.name}") for info in iter_modules(api.__path__)]
    for module in (ddpmseg, *modules):
        with subtests.test(module.__name__):
            assert doctest.testmod(module).failed == 0
    with subtests.test("every public function has one"):
        functions = [name for name in ddpmseg.__all__ if name.islower()]
        for name in functions:
            if name != "open_sweep":
                assert ">>> import ddpmseg" in (getattr(ddpmseg, name).__doc__ or ""), name


@pytest.mark.timeout(300)
def test_every_block_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    first = [line for line in blocks[0].splitlines() if line.strip()]
    assert len(first) <= 15
    assert (tmp_path / "mask.png").is_file()
    assert (names["photo"][0].shape, names["labels"].shape) == ((64, 64, 3), (1, 64, 64))
    assert names["features"].vectors(0, [1], [1]).shape == (1, 320)
    printed = capsys.readouterr().out
    assert "image 0: got an array (64, 64, 3) of float64." in printed
    assert names["segmenter"].scores["miou"] > 0.3


def test_a_segmenter_is_that_of_ddpmseg_train(tmp_path: Path) -> None:
    config = composed(tmp_path / "run", *SEGMENT, "trainer.precision=auto")
    train(config)
    run = ddpmseg.open_run(tmp_path / "run", device="cpu")
    dataset = run.config.dataset.build()
    masks = [np.load(path) for path in sorted((tmp_path / "run" / "masks").glob("*.npy"))]

    segmenter = ddpmseg.fit(
        tiny_backbone(),
        *arrays(dataset, "train"),
        [1, 2],
        [5, 50],
        classes="ponies",
        tiny_annotations="keep",  # the masks of the run have lost theirs
        progress=False,
        **HEAD,
    )

    test_images, truths = arrays(dataset, "test")
    for made in (run, segmenter):
        assert np.array_equal(made(test_images), masks)
        assert made.probabilities(test_images).sum(1) == pytest.approx(1, abs=1e-5)
    recorded = dict(run.scores)
    assert segmenter.score(test_images, truths) == pytest.approx(recorded, abs=1e-6)
    assert segmenter.settings["head"] == run.settings["head"]
    assert segmenter.settings["features"] == run.settings["features"]


def test_a_saved_segmenter_opens_in_python_and_on_the_command_line(tmp_path: Path) -> None:
    segmenter = tiny_fit()
    photos, truths = ddpmseg.ponies(2, "test", image_size=16)
    scores = segmenter.score(photos, truths)
    segmenter.save(tmp_path / "saved")

    again = ddpmseg.open_run(tmp_path / "saved", device="cpu")
    assert again.scores == scores
    assert again.classes.names == segmenter.classes.names
    assert again.settings["backbone"]["unet"]["channel_mult"] == "1,2"
    assert np.array_equal(again(photos), segmenter(photos))

    from PIL import Image

    Image.fromarray(photos[1]).save(tmp_path / "pony.png")
    (written,) = predict([tmp_path / "pony.png"], tmp_path / "saved", tmp_path / "masks", "cpu")
    assert np.array_equal(np.load(written), segmenter(photos[1])[0])
    runs, left_out = read_runs([tmp_path], load_published())
    assert not left_out
    assert runs[0].scores["miou"] == scores["miou"]


def test_a_folder_is_replaced_only_when_asked(tmp_path: Path) -> None:
    tiny_fit().save(tmp_path)
    other = tiny_fit(seed=1)
    with pytest.raises(ConfigError, match="Choose another `folder`, or set `overwrite=True`"):
        other.save(tmp_path)
    other.save(tmp_path, overwrite=True)
    opened = ddpmseg.open_run(tmp_path, device="cpu")
    assert opened.settings["seed"] == 1
    assert opened.scores == {}
    with pytest.raises(ConfigError, match="copy that folder"):
        opened.save(tmp_path / "copy")


def test_an_unscored_segmenter_is_left_out_of_tables(tmp_path: Path) -> None:
    tiny_fit().save(tmp_path)
    runs, left_out = read_runs([tmp_path], load_published())
    assert not runs
    assert "it has no scores yet" in left_out[0][1]


def test_a_network_of_ones_own_class(tmp_path: Path) -> None:
    images, masks = ddpmseg.ponies(2, image_size=16)
    own = PixelsBackbone("colours", 16)
    features = ddpmseg.extract(own, images, progress=False)
    assert features.map(0).shape == (2, 3, 16, 16)
    segmenter = ddpmseg.fit(own, images, masks, head="linear", progress=False, max_steps=2)
    assert segmenter(images).shape == (2, 16, 16)
    with pytest.raises(ConfigError, match=r"'colours' was not made by `ddpmseg\.load_backbone`"):
        segmenter.save(tmp_path / "run")


def test_features_are_native_maps_and_vectors_between_their_cells() -> None:
    images, _ = ddpmseg.ponies(2, image_size=16)
    features = ddpmseg.extract(tiny_backbone(), images, [2, 1], [50, 5], progress=False)
    assert len(features) == 2
    assert (features.blocks, features.timesteps) == ([1, 2], [50, 5])
    assert features.map(1, 50).shape == (2, 64, 16, 16)
    every = features.native.materialise()
    ys, xs = np.array([0, 3, 15]), [0, 7, 15]
    assert torch.allclose(features.vectors(1, ys, xs), every[1, :, ys, xs].T)
    assert "(1, 50): 64x" in repr(features)
    for arguments, says in (
        ((2, ys, xs), "there is no image 2; there are 0..1"),
        ((0, [16], [0]), "`ys` must lie in 0..15"),
        ((0, [1, 2], [0]), "one row and one column per pixel"),
    ):
        with pytest.raises(ConfigError, match=re.escape(says)):
            features.vectors(*arguments)
    with pytest.raises(ConfigError, match=r"no map of block 1 at t = 7.* blocks \[1, 2\]"):
        features.map(1, 7)


def test_a_weight_file_is_recognised() -> None:
    with pytest.raises(ConfigError, match="give them, as in `load_backbone"):
        ddpmseg.load_backbone(PONIES_64)
    given = {"image_size": 64, "num_head_channels": 32, "precision": "32"}
    backbone = ddpmseg.load_backbone(PONIES_64, device="cpu", **given)
    bundled = ddpmseg.load_backbone("ddpm_ponies", device=torch.device("cpu"), precision="32")
    images, _ = ddpmseg.ponies(1)
    maps = [ddpmseg.extract(b, images, [1], [50], progress=False) for b in (backbone, bundled)]
    assert torch.equal(maps[0].map(1), maps[1].map(1))
    assert backbone.name == "ponies64"


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("ddpm_pony", {}, "there is no backbone 'ddpm_pony'. Did you mean one of ddpm_ponies"),
        ("ddpm_ponies", {"precison": "32"}, "backbone 'ddpm_ponies' has no setting `precison`"),
        ("ddpm_ponies", {"precision": "8"}, "`precision=8`: must be one of auto, 32, bf16, 16"),
        ("random", {"unet.num_channels": "many"}, "`unet.num_channels='many'`"),
        ("random", {"device": "tpu"}, "`device=tpu`: must be one of auto, cpu"),
        ("guided_diffusion_64", {}, "`checkpoint` has no value yet"),
        ("nowhere.pt", {}, "there is no weight file 'nowhere.pt'"),
        (__file__, {}, "test_api.py"),
    ],
)
def test_backbones_that_are_not_there(name: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        ddpmseg.load_backbone(name, **given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"blocks": [9]}, "block 9 does not exist .* Change `blocks`."),
        ({"timesteps": [1000]}, "timestep 1000 does not exist .* Change `timesteps`."),
        ({"noise": "loud"}, "`noise=loud`: must be one of shared"),
        ({"hook": "middle"}, "`hook=middle`: must be one of output, input"),
        ({"head": "forest"}, "there is no head 'forest'. Did you mean"),
        ({"members": 0}, "`members=0`: must be at least 1"),
        ({"protocol": "slow"}, "`protocol=slow`: must be one of paper, fast"),
        ({"depth": 3}, "head 'mlp' has no setting `depth`; it has `name`, `members`"),
        ({"classes": 3}, "allows 0..2 and 255"),
        ({"tiny_annotations": "no"}, "`tiny_annotations=no`"),
    ],
)
def test_settings_that_cannot_work(given: dict[str, Any], says: str) -> None:
    with pytest.raises((ConfigError, DataError), match=says):
        tiny_fit(**given)


def test_weights_that_changed_since_the_run(tmp_path: Path) -> None:
    """They are read when the first image is segmented: scores and settings need none."""
    train(composed(tmp_path, *SEGMENT))
    results = tmp_path / "results.csv"
    header, row = results.read_text().splitlines()
    results.write_text(f"{header}\n{row.replace('random,,', 'random,abc,')}\n")
    run = ddpmseg.open_run(tmp_path, device="cpu")
    assert run.scores["miou"] >= 0
    with pytest.raises(CheckpointError, match="SHA-256"):
        run(ddpmseg.ponies(1, image_size=16)[0])


def test_a_sweep_of_the_command_line_opens() -> None:
    opened = ddpmseg.open_sweep(ROOT / "tests" / "legacy" / "sweep")
    cells = opened.cells
    assert list(cells.block) == [1, 1, 2, 2]
    assert cells.miou.max() == pytest.approx(opened.best.miou, abs=1e-6)
    assert (opened.best.block, opened.best.timestep) == (2, 50)
    assert opened.settings["dataset.name"] == "ponies"
    assert len(opened.curves().axes[0].lines) >= 2
    assert "4 cells" in repr(opened)
    with pytest.raises(ConfigError, match="is not the folder of a sweep"):
        ddpmseg.open_sweep(ROOT / "docs")

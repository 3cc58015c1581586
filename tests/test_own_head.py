"""A head of another package: trained, tested, swept, read from disk and refused like our own."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra.core.config_store import ConfigStore
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_run import SEGMENT, SWEEP, composed, extractor_of, resolved_sweep
from torch import Tensor, nn

from ddpmseg.composition.checks import typed_config
from ddpmseg.config import register, run_request
from ddpmseg.errors import CheckpointError, ConfigError, TrainingError
from ddpmseg.features.layout import FeatureLayout, MapSpec
from ddpmseg.features.maps import NativeMaps
from ddpmseg.finished.open import open_run, open_sweep
from ddpmseg.heads.base import FittedHead, PixelReader, TrainedHead
from ddpmseg.heads.contract import breaches
from ddpmseg.heads.export import load_head, save_head
from ddpmseg.heads.mlp import StackedMLP
from ddpmseg.heads.pixels import LabelledPixels
from ddpmseg.heads.probe_set import SeparateProbes
from ddpmseg.heads.protocols import choose_protocol
from ddpmseg.heads.registry import HEADS
from ddpmseg.heads.settings import HeadConfig, MlpConfig
from ddpmseg.records.cells import CellStore
from ddpmseg.runs.export import export
from ddpmseg.runs.predict import predict
from ddpmseg.runs.train import train
from ddpmseg.runtime.logs import quiet_libraries
from ddpmseg.sweeps.grid import Piece
from ddpmseg.sweeps.probe import probe_timestep
from ddpmseg.sweeps.sweep import sweep
from ddpmseg.tracking.wandb_run import plain_config
from ddpmseg.training.head import HeadTraining

SETTINGS = """
from dataclasses import dataclass
from ddpmseg.heads.settings import HeadConfig

@dataclass
class MeansConfig(HeadConfig):
    scale: float = 1.0

    @classmethod
    def head_type(cls):
        from own_means.head import Means
        return Means

    def build(self, dim, num_classes, seed):
        return self.head_type()(dim, num_classes, self.scale)

@dataclass
class FaultyConfig(MeansConfig):
    fault: str = ""

    @classmethod
    def head_type(cls):
        from own_means.faulty import Faulty
        return Faulty

    def build(self, dim, num_classes, seed):
        from own_means.faulty import Untyped
        if self.fault == "16 bits":
            return Untyped(dim, num_classes)
        return self.head_type()(dim, num_classes, self.scale, self.fault)
"""
HEAD = '''
import torch
from ddpmseg.heads.base import FittedHead

class Means(FittedHead):
    """The class whose mean vector is nearest."""

    kind, arguments = "means", ("scale",)

    def __init__(self, dim, num_classes, scale):
        super().__init__(dim, num_classes)
        self.scale = scale
        self.register_buffer("means", torch.zeros(num_classes, dim))

    def fit(self, maps, pixels, seed):
        parts = list(pixels.vectors(maps, 100))
        vectors, labels = (torch.cat(part) for part in zip(*parts))
        for label in labels.unique():
            self.means[label] = vectors[labels == label].mean(0)

    def forward(self, vectors):
        return -self.scale * torch.cdist(vectors, self.means)[None]
'''
FAULTY = """
import torch
from torch import nn
from ddpmseg.heads.base import PixelReader, TrainedHead
from own_means.head import Means

class Faulty(Means):
    kind, arguments = "faulty", ("scale", "fault")

    def __init__(self, dim, num_classes, scale, fault):
        super().__init__(dim, num_classes + (fault == "shape"), scale)
        self.fault = fault
        self.offset = 0.0

    def fit(self, maps, pixels, seed):
        super().fit(maps, pixels, seed)
        if self.fault == "state":
            self.means = torch.cat([self.means, self.means[:1] + 100])
        if self.fault == "repeatable":
            self.means += torch.randn_like(self.means)
        self.offset = 1.0

    def forward(self, vectors):
        if self.fault == "pixel by itself":
            vectors = vectors - vectors.mean(0)
        scores = super().forward(vectors)[..., :self.num_classes]
        if self.fault == "scores":
            scores[:, 0] = torch.nan
        if self.fault == "disk":
            scores = scores + self.offset
        return scores

    def reader(self, layout, dtype):
        reader = PixelReader(self, layout)
        if self.fault == "whole images":
            found = reader.scores
            reader.scores = lambda maps: 2 * found(maps)
        return reader

class Untyped(TrainedHead):
    kind = "faulty"

    def __init__(self, dim, num_classes):
        super().__init__(dim, num_classes)
        self.layer = nn.Linear(dim, num_classes)

    def forward(self, vectors):
        return self.layer(vectors)[None]
"""
TRAIN = tuple(given for given in SEGMENT if not given.startswith("head."))
SWEPT = tuple(given for given in SWEEP if not given.startswith("sweep.head."))
LAYOUT = FeatureLayout((MapSpec(5, 0, 6, 2), MapSpec(5, 1, 4, 8)), 8)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What pip leaves of a package with the heads `means` and `faulty`."""
    site = tmp_path_factory.mktemp("site")
    modules = {"__init__": "", "settings": SETTINGS, "head": HEAD, "faulty": FAULTY}
    (site / "own_means").mkdir()
    for name, text in modules.items():
        (site / "own_means" / f"{name}.py").write_text(text)
    info = site / "own_means-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-means\nVersion: 1.0\n")
    points = "means = own_means.settings:MeansConfig\nfaulty = own_means.settings:FaultyConfig\n"
    (info / "entry_points.txt").write_text(f"[ddpmseg.heads]\n{points}")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        register()
        yield
    for name in ("means", "faulty"):
        for option in (f"{name}.yaml", f"{name}_schema.yaml"):
            ConfigStore.instance().repo["head"].pop(option)


def random_maps(images: int) -> NativeMaps:
    maps = NativeMaps.empty(LAYOUT, images, torch.float32, torch.device("cpu"))
    for group in maps.groups.values():
        group.normal_(generator=torch.Generator().manual_seed(0))
    return maps


def some_pixels(images: int) -> LabelledPixels:
    """Of three classes, a stripe of each; the last rows are not labelled."""
    masks = torch.full((images, 8, 8), 255, dtype=torch.uint8)
    masks[:, :2], masks[:, 2:4], masks[:, 4:6] = 0, 1, 2
    return LabelledPixels(masks, 255)


def confusion_of(folder: Path) -> Tensor:
    with (folder / "confusion.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return torch.tensor([[int(number) for number in row[1:]] for row in rows])


@pytest.mark.usefixtures("package")
def test_a_run_trains_tests_and_is_opened_again(tmp_path: Path) -> None:
    """Its numbers are those of the arithmetic by hand, on all pixels at once."""
    run = tmp_path / "run"
    cfg = composed(run, "head=means", "head.scale=2", *TRAIN)
    train(cfg)
    head, facts = load_head(run / "head.safetensors")
    assert isinstance(head, HEADS["means"].head_type())
    assert (head.kind, head.scale, head.members, head.training) == ("means", 2.0, 1, False)
    assert facts["features"]["blocks"] == [1, 2]
    with (run / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    recorded = (row["head"], row["head_sha256"], row["protocol"], row["members"])
    assert recorded == ("means", "", "", "1")

    config = open_run(run).config
    assert type(config.head) is HEADS["means"]
    dataset = config.dataset.build()
    backbone = config.backbone.build(torch.device("cpu"))
    extractor = extractor_of(config, backbone)
    splits = {name: list(getattr(dataset, name)) for name in ("train", "test")}
    vectors, labels = {}, {}
    for name, samples in splits.items():
        maps = extractor(torch.stack([s.image for s in samples]), [s.name for s in samples])
        vectors[name] = maps.materialise().movedim(1, 3).flatten(0, 2)
        labels[name] = torch.stack([s.mask for s in samples]).flatten().long()
    counts = torch.zeros(head.num_classes + 1, head.num_classes, dtype=torch.long)
    means = torch.zeros(head.num_classes, head.dim)
    for label in set(labels["train"].tolist()) - {255}:
        means[label] = vectors["train"][labels["train"] == label].mean(0)
    predicted = torch.cdist(vectors["test"], means).argmin(dim=1)
    for true, found in zip(labels["test"].tolist(), predicted.tolist(), strict=True):
        counts[min(true, head.num_classes), found] += 1
    torch.testing.assert_close(head.means, means, rtol=1e-4, atol=1e-5)
    assert (confusion_of(run) - counts).abs().sum() <= 4

    photo = splits["test"][0]
    Image.fromarray(photo.image.movedim(0, 2).numpy()).save(tmp_path / "photo.png")
    (mask,) = predict([tmp_path / "photo.png"], run, tmp_path / "masks", "cpu")
    differing = (torch.from_numpy(np.load(mask)).flatten() != predicted[:256]).sum()
    assert differing <= 2

    with pytest.raises(ConfigError, match=r"of the kind 'means'.*head=mlp"):
        export(run, tmp_path / "exported")
    with pytest.raises(ConfigError, match="holds the results of a finished run"):
        train(cfg)


@pytest.mark.usefixtures("package")
def test_a_cell_of_a_sweep_is_the_run_on_its_map(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    given = (*SWEPT, "sweep.seeds=[0,1]", "sweep.controls=[]")
    best = sweep(composed(folder, "head@sweep.head=means", *given, root="sweep"))
    cells = {cell.key: cell for cell in CellStore(folder).read()}
    assert len(cells) == 2 * 2 * 2
    train(composed(tmp_path / "run", "head=means", *TRAIN, "features.blocks=[2]"))
    one = ("features.blocks=[2]", "features.timesteps=[50]")
    train(composed(tmp_path / "one", "head=means", *TRAIN, *one))
    expected = confusion_of(tmp_path / "one")
    for seed in (0, 1):
        assert torch.equal(cells[2, 50, seed].counts, expected)
    assert best is not None
    assert best >= 0
    assert open_sweep(folder).config.sweep.head == HEADS["means"](name="means")
    assert ">means<" in (folder / "report.html").read_text()


@pytest.mark.usefixtures("package")
def test_names_and_keys(tmp_path: Path) -> None:
    cfg = composed(tmp_path, "head=means", *TRAIN)
    request = run_request(cfg)
    assert {k: v for k, v in request.items() if k.startswith("head.")} == {
        "head.name": "means",
        "head.members": 1,
        "head.scale": 1.0,
    }
    mlp = composed(tmp_path, *SEGMENT)
    assert mlp.head.name == "mlp"
    assert "head.name" not in run_request(mlp)
    config = typed_config(cfg)
    assert plain_config(config)["head"]["name"] == "means"
    assert config.head.summary == "means"


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("head.members=2", "`head.members=2`: `head=means` is a single classifier"),
        ("head.vote=loud", "`head.vote=loud`: must be one of hard, soft"),
        ("head.name=mlp", "`head.name=mlp`: these settings build a head of the kind 'means'"),
    ],
)
def test_mistaken_settings(given: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        train(composed(tmp_path / "run", "head=means", given, *TRAIN))
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("package")
def test_a_probe_is_a_single_member(tmp_path: Path) -> None:
    given = ("head@sweep.head=means", "sweep.head.members=2", *SWEPT)
    cfg = composed(tmp_path, *given, root="sweep")
    with pytest.raises(ConfigError, match=r"`sweep\.head\.members=2`: the probe of a cell"):
        resolved_sweep(cfg)


def test_files_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    head = StackedMLP(7, 4, 2, [5])
    save_head(head, path, {"fact": 1})
    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()["ddpmseg"])
    assert card == {"kind": "mlp", "dim": 7, "num_classes": 4, "members": 2, "hidden": [5]} | {
        "fact": 1
    }
    tensors = {key: value.clone() for key, value in head.state_dict().items()}
    del card["kind"]  # as files of earlier versions
    save_file(tensors, path, metadata={"ddpmseg": json.dumps(card)})
    loaded, facts = load_head(path)
    assert (loaded.label, facts) == ("mlp-5", {"fact": 1})
    save_file(tensors, path, metadata={"ddpmseg": json.dumps(card | {"kind": "forest"})})
    with pytest.raises(CheckpointError, match=r"head.safetensors': .*'forest'.*Install the pack"):
        load_head(path)


def test_pixel_by_pixel_as_on_native_maps() -> None:
    """The reader of any head gives what the faster one of the MLP gives."""
    head, maps = StackedMLP(LAYOUT.dim, 3, 2, [5], seed=1), random_maps(2)
    head.standardise(torch.randn(50, LAYOUT.dim, generator=torch.Generator().manual_seed(1)))
    reader = PixelReader(head, LAYOUT)
    reader.chunk = 7  # does not divide an image
    scores = reader.scores(maps)
    expected = head.reader(LAYOUT, torch.float32).scores(maps)
    assert scores.shape == (2, 2, 3, 8, 8)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_fitted_is_said() -> None:
    class Divided(FittedHead):
        kind = "divided"

        def __init__(self, dim: int, num_classes: int) -> None:
            super().__init__(dim, num_classes)
            self.weight = nn.Parameter(torch.zeros(num_classes, dim))

        def fit(self, maps: NativeMaps, pixels: LabelledPixels, seed: int) -> None:
            self.weight /= 0

        def forward(self, vectors: Tensor) -> Tensor:
            return (vectors @ self.weight.T)[None]

    def train_it(*_: object) -> None:
        pytest.fail("a fitted head is not trained")

    with pytest.raises(TrainingError, match="head 'divided': weight is not finite after fitting"):
        Divided(LAYOUT.dim, 3).fit_to(random_maps(2), some_pixels(2), 0, train_it)


class Linear(TrainedHead):
    """The smallest head that learns by gradient descent."""

    kind = "linear_layer"

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__(dim, num_classes)
        self.layer = nn.Linear(dim, num_classes)
        nn.init.zeros_(self.layer.weight)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.layer(vectors.float())[None]


@dataclass
class SeparateConfig(MlpConfig):
    """The MLP, one map after the other."""

    build_probes = HeadConfig.build_probes  # pyright: ignore[reportAssignmentType]


def cells_of(folder: Path, head: type[MlpConfig], *overrides: str) -> dict[object, Tensor]:
    """Counts of the cells at t = 50 with seed 0, the settings of a head exchanged for others."""
    quiet_libraries()
    given = ("sweep.head.max_steps=60", *overrides)
    resolved = resolved_sweep(composed(folder, *SWEEP, *given, root="sweep"))
    config = resolved.config
    config.sweep.head = head(**vars(config.sweep.head))
    done = []
    found = probe_timestep(
        resolved,
        Piece("", config.backbone, config.sweep.features([1, 2], [50]), (0,)),
        config.backbone.build(torch.device("cpu")),
        config.dataset.build(),
        lambda stage, share: done.append((stage, share)),
    )
    assert sum(share for stage, share in done if stage == "train") == pytest.approx(1)
    return {one.cell.key: one.cell.counts for one in found}


def test_separate_probes_are_those_trained_together(tmp_path: Path) -> None:
    together, apart = (cells_of(tmp_path, kind) for kind in (MlpConfig, SeparateConfig))
    assert together.keys() == apart.keys()
    for key, counts in together.items():
        assert (counts - apart[key]).abs().sum() <= 4


@pytest.mark.parametrize("protocol", ["fast", "paper"])
def test_a_head_needs_no_more_than_a_forward_pass(protocol: str) -> None:
    """It learns, and by the protocol of the paper it stops early."""
    quiet_libraries()
    maps, pixels = random_maps(2), some_pixels(2)
    for label, value in enumerate((-9, 0, 9)):
        maps.groups[8][:, 2 * label : 2 * label + 2, :, 0] += value
    recipe = choose_protocol(protocol, 1000, 64, 0.05)
    module = HeadTraining(Linear(LAYOUT.dim, 3), maps, pixels, recipe, seed=0)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=module.num_steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)
    module.finish()
    assert (trainer.global_step == 1000) == (protocol == "fast")
    with torch.no_grad():
        found = [module.head(v)[0].argmax(1) == labels for v, labels in pixels.vectors(maps)]
    assert torch.cat(found).float().mean() > 0.9


def test_separate_probes_by_map_and_seed() -> None:
    """Each sees its own columns of a pixel vector."""
    probes = SeparateProbes(
        LAYOUT, 3, (0, 1), lambda dim, classes, seed: StackedMLP(dim, classes, 1, [], seed)
    )
    maps = random_maps(2)
    labels = probes.label_reader(torch.float32)(maps)
    assert (labels.shape, labels.dtype) == ((4, 2, 8, 8), torch.uint8)
    vectors = maps.materialise().movedim(1, 3)
    for member, (index, seed) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        columns = LAYOUT.slices[index]
        lone = StackedMLP(columns.stop - columns.start, 3, 1, [], seed).eval()
        with torch.no_grad():
            scores = lone(vectors[..., columns].flatten(0, 2))[0]
        agree = scores.argmax(1).view(2, 8, 8) == labels[member]
        assert agree.float().mean() > 0.99


@pytest.mark.parametrize(
    "settings", [MlpConfig(), MlpConfig(members=2, hidden=[]), MlpConfig(members=1, hidden=[5])]
)
def test_heads_of_this_package_keep_the_contract(settings: HeadConfig) -> None:
    assert breaches(settings) == []


@pytest.mark.usefixtures("package")
def test_another_head_keeps_the_contract() -> None:
    assert breaches(HEADS["means"](name="means")) == []
    assert breaches(HEADS["faulty"](name="faulty")) == []


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("shape", "num_classes, members) is (11, 5, 1), asked for were (11, 4, 1)"),
        ("scores", "scores are NaN"),
        ("state", "means is (4, 11) before fitting and (5, 11) after it"),
        ("repeatable", "other scores"),
        ("pixel by itself", "other scores among other pixels"),
        ("whole images", "other scores than `forward`"),
        ("disk", "read from disk it gives other scores"),
        ("16 bits", "takes no vectors of 16 bits"),
    ],
)
def test_a_broken_promise_is_found(fault: str, says: str) -> None:
    settings = HEADS["faulty"](name="faulty", fault=fault)  # pyright: ignore[reportCallIssue]
    found = {breach.rule: breach.what for breach in breaches(settings)}
    assert says in found[fault]

"""Every (block, timestep) of a grid: images in, a probe per cell trained and tested."""

from dataclasses import replace

import torch

from benchmarks import plain
from benchmarks.cases import CASES, Options, PlainExtractor, ours, prepared
from benchmarks.record import FASTER, Recorder
from benchmarks.stages import copy_later, extractor_of, mlp
from benchmarks.timing import Timed, alternate
from ddpmseg.backbones.base import Backbone
from ddpmseg.config import SweepConfig, SweepSettings, TrainConfig
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.heads.probes import ProbeReader
from ddpmseg.metrics.functional import confusion, miou
from ddpmseg.sweeps.grid import Piece
from ddpmseg.sweeps.probe import probe_timestep
from ddpmseg.sweeps.resolve import ResolvedSweep, resolve_sweep

TIMESTEPS = {"tiny": (5, 50), "small": (0, 50, 100, 150, 250, 400, 600, 800)}
"""'small': those of `conf/grid/quick.yaml`."""
MIOU_NOISE = 0.1
"""How far the mean mIoU of the compared cells may lie below that of the straightforward way."""
DISAGREEING = 1e-3

Cell = tuple[int, int]
"""(block, timestep)."""


def run(options: Options) -> None:
    """Rows of 'tiny' or of the ponies; the full size has no grid of its own."""
    size = "tiny" if options.size == "tiny" else "small"
    case = CASES[size]
    record = Recorder(options.results, "grid", case.name, options.device)
    with prepared(case, options, "head.members=1") as config:
        grid = _Grid(config, options.device, TIMESTEPS[size])
        timed = alternate(
            {"ours": grid.all_cells, "plain": grid.one_plain_cell},
            options.repeats,
            options.device,
            warm_up=False,
        )
        _record(grid, timed, record)
        if options.size != "tiny":
            scores = [(grid.ours[cell], value) for cell, value in grid.plain.items()]
            below = sum(right - found for found, right in scores) / len(scores)
            record.check("ours", "mean miou below that of plain", max(0.0, below), MIOU_NOISE)
        differing = grid.labels_that_differ()
        record.check("ours", "pixels labelled otherwise, same probes", differing, DISAGREEING)
    record.save()


def _record(grid: "_Grid", timed: dict[str, Timed], record: Recorder) -> None:
    total = len(grid.cells)
    whole, cell = timed["ours"].seconds, timed["plain"].seconds
    note = f"extrapolated from one of {total} cells a repeat"
    extrapolated = [seconds * total for seconds in cell]
    record.add("ours", "one cell", "s", [seconds / total for seconds in whole])
    record.add("plain", "one cell", "s", cell)
    record.add("ours", f"grid of {total} cells", "s", whole)
    record.add("plain", f"grid of {total} cells", "s", extrapolated, note)
    record.add_ratio("ours", FASTER, extrapolated, whole, note)
    for (block, timestep), score in grid.plain.items():
        quantity = f"miou, block {block}, t = {timestep}"
        record.add("ours", quantity, "share", [grid.ours[block, timestep]])
        record.add("plain", quantity, "share", [score])


class _Grid:
    """Both ways over one grid. `ours` and `plain`: the mIoU of the cells they have been through.

    Networks and images are loaded and drawn beforehand, for either way.
    """

    def __init__(
        self, config: TrainConfig, device: torch.device, timesteps: tuple[int, ...]
    ) -> None:
        self.backbone: Backbone = ours(config, device)
        self.config = _reading(config, list(range(len(self.backbone.blocks))), timesteps[:1])
        self.timesteps, self.device = timesteps, device
        self.extractor = PlainExtractor(config, device)
        self.dataset: LabelledSet = config.dataset.build()
        self.truth = torch.stack([sample.mask for sample in self.dataset.test])
        self.masks = torch.stack([sample.mask for sample in self.dataset.train])
        blocks = self.config.features.blocks
        self.cells = [(block, timestep) for timestep in timesteps for block in blocks]
        self.ours: dict[Cell, float] = {}
        self.plain: dict[Cell, float] = {}

    def all_cells(self) -> None:
        """As `ddpmseg sweep` computes them, without its report."""
        for timestep in self.timesteps:
            sweep = _as_sweep(self.config)
            blocks = self.config.features.blocks
            features = sweep.config.sweep.features(blocks, [timestep])
            piece = Piece("", self.config.backbone, features, (self.config.seed,))
            probed = probe_timestep(
                sweep, piece, self.backbone, self.dataset, lambda stage, share: None
            )
            for one in probed:
                score = miou(one.cell.counts, self.dataset.classes.ignore_label)
                self.ours[one.cell.block, one.cell.timestep] = score.item()

    def one_plain_cell(self) -> None:
        """The next of a round over blocks and timesteps that soon has met many of both."""
        blocks, turn = len(self.config.features.blocks), len(self.plain)
        stride = 5 if blocks % 5 else 3
        cell = (stride * turn + 1) % blocks, self.timesteps[turn % len(self.timesteps)]
        self.plain[cell] = self._plain_miou(*cell)

    def _plain_miou(self, block: int, timestep: int) -> float:
        self.extractor.features = replace(self.config.features, timesteps=[timestep])
        classes, seed = self.dataset.classes, self.config.seed
        images = [self.extractor(sample.image, [block]) for sample in self.dataset.train]
        vectors, labels = plain.training_matrix(images, self.masks, classes.ignore_label)
        hidden = mlp(self.config).widths(classes.num_classes)
        network = plain.build_member(vectors.shape[1], classes.num_classes, hidden, seed, 0)
        network, most = network.to(self.device), mlp(self.config).max_steps
        plain.train_member(network, vectors, labels, seed, 0, most)
        size = self.truth.shape[-1]
        found = [
            plain.predict(
                [network], plain.pixel_vectors(self.extractor(sample.image, [block]), size)
            )
            for sample in self.dataset.test
        ]
        prediction = torch.stack(found).view_as(self.truth).cpu()
        counts = confusion(prediction, self.truth, classes.num_classes, classes.ignore_label)
        return miou(counts, classes.ignore_label).item()

    def labels_that_differ(self) -> float:
        """Share of an image's pixels that the two ways of reading label otherwise, in fp32."""
        backbone, config = ours(self.config, self.device, "32"), self.config
        extractor = extractor_of(config, backbone)
        sample, classes = self.dataset.test[0], self.dataset.classes
        probes = (
            mlp(config).build_probes(extractor.layout, classes.num_classes, [0]).to(self.device)
        )
        maps = extractor(sample.image[None], ["test"])
        found = ProbeReader(probes.eval(), torch.float32)(maps)[:, 0]
        self.extractor.features = config.features
        images = self.extractor(sample.image)
        expected = []
        for member, (key, value) in enumerate(images.items()):
            first = probes.member_views(member)
            network = plain.build_member(
                value.shape[1], classes.num_classes, probes.hidden, config.seed, 0
            ).to(self.device)
            network[0].load_state_dict(
                {"weight": first["first.weight"], "bias": first["first.bias"]}
            )
            copy_later(probes.later, member, network)
            vectors = plain.pixel_vectors({key: value}, len(sample.mask))
            expected.append(plain.predict([network], vectors).view_as(found[member]))
        return (found != torch.stack(expected)).float().mean().item()


def _reading(config: TrainConfig, blocks: list[int], timesteps: tuple[int, ...]) -> TrainConfig:
    features = replace(config.features, blocks=blocks, timesteps=list(timesteps))
    return replace(config, features=features)


def _as_sweep(config: TrainConfig) -> ResolvedSweep:
    """The sweep whose cells have the head and the maps of `config`."""
    features = config.features
    settings = SweepSettings(
        blocks=features.blocks,
        timesteps=features.timesteps,
        head=replace(mlp(config), members=1),
        hook=features.hook,
        noise=features.noise,
        batch_size=features.batch_size,
        num_examples=0,
    )
    sweep = SweepConfig(
        seed=config.seed,
        dataset=config.dataset,
        backbone=config.backbone,
        sweep=settings,
        trainer=config.trainer,
        paths=config.paths,
    )
    return resolve_sweep(sweep, files=False)

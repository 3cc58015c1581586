"""An ensemble on given maps: seconds of training and of testing, and the mIoU that comes of it."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import plain
from benchmarks.cases import CASES, Options, PlainExtractor, composed, ours, prepared
from benchmarks.record import FASTER, Recorder
from benchmarks.stages import (
    as_plain_maps,
    as_plain_members,
    extractor_of,
    mlp,
    synthetic_maps,
    trained_head,
)
from benchmarks.timing import Timed, alternate, clocked
from ddpmseg.composition.resolve import resolve_segmentation
from ddpmseg.config import TrainConfig
from ddpmseg.data.datamodule import LabelledImages
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.features.maps import NativeMaps
from ddpmseg.heads.mlp import StackedMLP
from ddpmseg.heads.segment import segment
from ddpmseg.metrics.functional import confusion, miou
from ddpmseg.training.extraction import extract_training_set

MIOU_NOISE = 0.05
"""How far below that of the straightforward way our mIoU may lie before it is called another."""
DISAGREEING = 1e-3
"""Share of pixels that rounding may move to another label where two labels are all but tied."""
TIMED_STEPS = {"ours, paper": 50, "plain": 100}
"""Of trainings that would take hours."""


def run(options: Options) -> None:
    """Rows of 'tiny' or of the ponies, or of noise in the layout of the paper's network."""
    case = CASES[options.size]
    record = Recorder(options.results, "head", case.name, options.device)
    if options.size == "full":
        _on_synthetic_maps(composed(case, options), record, options)
    else:
        with prepared(case, options) as config:
            _on_images(config, record, options)
    record.save()


def _on_images(config: TrainConfig, record: Recorder, options: Options) -> None:
    """Train all members both ways, then segment the test images with them."""
    device, dataset = options.device, config.dataset.build()
    extractor = extractor_of(config, ours(config, device))
    images = LabelledImages(dataset, extractor.images_per_pass)
    maps, masks = extract_training_set(extractor, images)
    straightforward = PlainExtractor(config, device)
    plain_maps = [straightforward(sample.image) for sample in dataset.train]
    members = _Members(config, plain_maps, masks, dataset, options.repeats)
    slow = _with_protocol(config, "paper")
    trained = alternate(
        {
            "ours, fast": lambda: trained_head(config, maps, masks, dataset),
            "ours, paper": lambda: trained_head(slow, maps, masks, dataset),
            "plain": members.train_some,
        },
        options.repeats,
        device,
        warm_up=False,
    )
    share = members.per_turn / members.count
    trained["plain"].seconds = [
        members.seconds_of_matrix + seconds / share for seconds in trained["plain"].seconds
    ]
    some = f"extrapolated from {members.per_turn} of {members.count} members a repeat"
    _record_training(trained, {"plain": some if share < 1 else ""}, record)

    heads = {name: one.result for name, one in trained.items() if one.result is not None}
    test = [extractor(pictures, names) for pictures, _, names in images.test_dataloader()]
    plain_test = [straightforward(sample.image) for sample in dataset.test]
    size = config.dataset.image_size
    work = {name: partial(_segmented, head, test) for name, head in heads.items()}
    work["plain"] = partial(_predicted, members.trained, plain_test, size)
    tested = alternate(work, options.repeats, device)
    _record_testing(tested, len(dataset.test), record)
    _record_scores(tested, dataset, record, strict=options.size != "tiny")

    exact = extractor_of(config, ours(config, device, "32"))
    sample = dataset.test[0]
    found = _segmented(heads["ours, fast"], [exact(sample.image[None], [f"test/{sample.name}"])])
    alone = as_plain_members(heads["ours, fast"])
    _check_labels(found, _predicted(alone, plain_test[:1], size), record)


def _on_synthetic_maps(config: TrainConfig, record: Recorder, options: Options) -> None:
    """Times only, on maps of noise; those of slow trainings from a share of their steps."""
    device, dataset = options.device, config.dataset.build()
    size, classes = config.dataset.image_size, dataset.classes
    layout, count = resolve_segmentation(config, files=False).layout, config.head.members
    maps = synthetic_maps(layout, len(dataset.train), torch.bfloat16, device)
    masks = torch.stack([sample.mask for sample in dataset.train])
    slow = _with_protocol(config, "paper", TIMED_STEPS["ours, paper"])
    # Of more images the matrix would not fit into memory; an iteration takes the same time.
    two = [as_plain_maps(maps, index) for index in range(2)]
    vectors, labels = plain.training_matrix(two, masks[:2], classes.ignore_label)
    hidden = mlp(config).widths(classes.num_classes)

    def steps_of_one_member() -> None:
        network = plain.build_member(layout.dim, classes.num_classes, hidden, config.seed, 0)
        network = network.to(device)
        plain.train_member(network, vectors, labels, config.seed, 0, TIMED_STEPS["plain"])

    trained = alternate(
        {
            "ours, fast": lambda: trained_head(config, maps, masks, dataset),
            "ours, paper": lambda: trained_head(slow, maps, masks, dataset),
            "plain": steps_of_one_member,
        },
        options.repeats,
        device,
        warm_up=False,
    )
    del vectors, labels
    gc.collect()
    iterations = plain.least_iterations(masks.numel())
    notes = {}
    for name, members in (("ours, paper", 1), ("plain", count)):
        done = TIMED_STEPS[name]
        trained[name].seconds = [s * members * iterations / done for s in trained[name].seconds]
        notes[name] = f"extrapolated from {done} of {iterations} steps"
    notes["plain"] += f" of one of {count} members, on 2 images"
    _record_training(trained, notes, record)

    head = trained["ours, fast"].result
    assert head is not None
    tested = alternate(
        {
            "ours, fast": partial(_segmented, head, [maps[:1]]),
            "plain": partial(_predicted, as_plain_members(head), two[:1], size),
        },
        options.repeats,
        device,
    )
    _record_testing(tested, 1, record)
    exact = NativeMaps(layout, {side: group[:1].float() for side, group in maps.groups.items()})
    _check_labels(_segmented(head, [exact]), tested["plain"].result, record)


def _record_training(
    trained: Mapping[str, Timed], notes: Mapping[str, str], record: Recorder
) -> None:
    """Seconds of all variants; `notes` say from what those of some were extrapolated."""
    for name, one in trained.items():
        record.add(name, "training", "s", one.seconds, notes.get(name, ""))
    for name, one in trained.items():
        if name != "plain":
            note = "; ".join(f"{key}: {notes[key]}" for key in ("plain", name) if notes.get(key))
            seconds = trained["plain"].seconds
            record.add_ratio(name, f"training, {FASTER}", seconds, one.seconds, note)


def _record_testing(tested: Mapping[str, Timed], num_images: int, record: Recorder) -> None:
    for name, one in tested.items():
        record.add(name, "testing, one image", "s", [s / num_images for s in one.seconds])
    for name, one in tested.items():
        if name != "plain":
            seconds = tested["plain"].seconds
            record.add_ratio(name, f"testing, {FASTER}", seconds, one.seconds)


def _record_scores(
    tested: Mapping[str, Timed[Tensor]], dataset: LabelledSet, record: Recorder, strict: bool
) -> None:
    """The mIoU of every variant. `strict`: ours must not lie far below that of plain."""
    truth = torch.stack([sample.mask for sample in dataset.test])
    num_classes, ignore_label = dataset.classes.num_classes, dataset.classes.ignore_label
    scores = {}
    for name, one in tested.items():
        counts = confusion(one.result.cpu(), truth, num_classes, ignore_label)
        scores[name] = miou(counts, ignore_label).item()
        record.add(name, "miou", "share", [scores[name]])
    for name, score in scores.items():
        if strict and name != "plain":
            below = max(0.0, scores["plain"] - score)
            record.check(name, "miou below that of plain", below, MIOU_NOISE)


class _Members:
    """The straightforward ensemble, some members at a time until all are trained."""

    def __init__(
        self,
        config: TrainConfig,
        maps: Sequence[plain.Maps],
        masks: Tensor,
        dataset: LabelledSet,
        turns: int,
    ) -> None:
        self.config, self.classes = config, dataset.classes
        ignore = self.classes.ignore_label
        device = next(iter(maps[0].values())).device
        self.seconds_of_matrix, (self.vectors, self.labels) = clocked(
            lambda: plain.training_matrix(maps, masks, ignore), device
        )
        self.count = config.head.members
        self.per_turn = -(-self.count // turns)
        self.trained: list[nn.Sequential] = []

    def train_some(self) -> None:
        """Train the next members, the first ones again once all are trained."""
        config, seed = self.config, self.config.seed
        dim, num_classes = self.vectors.shape[1], self.classes.num_classes
        hidden = mlp(config).widths(num_classes)
        for _ in range(self.per_turn):
            index = len(self.trained) % self.count
            network = plain.build_member(dim, num_classes, hidden, seed, index)
            network = network.to(self.vectors.device)
            most = mlp(config).max_steps
            plain.train_member(network, self.vectors, self.labels, seed, index, most)
            if len(self.trained) < self.count:
                self.trained.append(network)


def _with_protocol(config: TrainConfig, protocol: str, max_steps: int | None = None) -> TrainConfig:
    steps = max_steps or mlp(config).max_steps
    return replace(config, head=replace(mlp(config), protocol=protocol, max_steps=steps))


def _segmented(head: StackedMLP, maps: Sequence[NativeMaps]) -> Tensor:
    reader = head.reader(maps[0].layout, maps[0].dtype)
    return torch.cat([segment(reader, some).masks for some in maps])


def _predicted(members: Sequence[nn.Sequential], maps: Sequence[plain.Maps], size: int) -> Tensor:
    labels = [plain.predict(members, plain.pixel_vectors(one, size)) for one in maps]
    return torch.stack(labels).view(-1, size, size)


def _check_labels(found: Tensor, expected: Tensor, record: Recorder) -> None:
    differing = (found != expected).float().mean().item()
    record.check("ours, fast", "pixels labelled otherwise, same head", differing, DISAGREEING)

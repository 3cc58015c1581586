"""An ensemble on given maps: seconds of training and of testing, and the mIoU that comes of it."""

import gc
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks import plain
from benchmarks.cases import CASES, Options, PlainExtractor, composed, ours, prepared
from benchmarks.record import Recorder
from benchmarks.stages import as_plain_maps, as_plain_members, synthetic_maps, trained_head
from benchmarks.timing import alternate, clocked
from ddpmseg.apps.build import build_dataset, build_extractor, head_widths
from ddpmseg.apps.checks import planned_layout
from ddpmseg.apps.segment import extract_training_set
from ddpmseg.config import TrainConfig
from ddpmseg.data.datamodule import LabelledImages
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.features.maps import NativeMaps
from ddpmseg.heads.mlp import StackedMLP
from ddpmseg.heads.segment import segment
from ddpmseg.metrics.functional import confusion, miou

MIOU_NOISE = 0.05
"""How far below that of the straightforward way our mIoU may lie before it is called another."""
DISAGREEING = 1e-3
"""Share of pixels that rounding may move to another label where two labels are all but tied."""
TIMED_STEPS = {"paper": 50, "plain": 100}
"""Of a training that would take hours."""


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
    device = options.device
    dataset = build_dataset(config.dataset)
    extractor = build_extractor(config, ours(config, device))
    images = LabelledImages(dataset, extractor.images_per_pass)
    maps, masks = extract_training_set(extractor, images)
    test = [extractor(pictures, names) for pictures, _, names in images.test_dataloader()]
    truth = torch.stack([sample.mask for sample in dataset.test])
    straightforward = PlainExtractor(config, device)
    plain_maps = [straightforward(sample.image) for sample in dataset.train]
    plain_test = [straightforward(sample.image) for sample in dataset.test]

    members = _Members(config, plain_maps, masks, dataset, options.repeats)

    def fast() -> StackedMLP:
        return trained_head(config, maps, masks, dataset)

    trained = alternate({"ours, fast": fast, "plain": members.train_some}, options.repeats, device,
                        warm_up=False)  # fmt: skip
    slow = _with_protocol(config, "paper")
    # Once: it takes minutes.
    trained |= alternate(
        {"ours, paper": lambda: trained_head(slow, maps, masks, dataset)}, 1, device, warm_up=False
    )
    share = members.per_turn / members.count
    trained["plain"].seconds = [
        members.seconds_of_matrix + seconds / share for seconds in trained["plain"].seconds
    ]
    note = f"extrapolated from {members.per_turn} of {members.count} members" * (share < 1)
    for name, one in trained.items():
        record.add(name, "training", "s", one.seconds, note if name == "plain" else "")

    fast_head, paper_head = trained["ours, fast"].result, trained["ours, paper"].result
    assert isinstance(fast_head, StackedMLP)
    assert isinstance(paper_head, StackedMLP)
    tested = alternate(
        {
            "ours, fast": lambda: _segmented(fast_head, test),
            "ours, paper": lambda: _segmented(paper_head, test),
            "plain": lambda: _predicted(members.trained, plain_test, truth.shape[-1]),
        },
        options.repeats,
        device,
    )
    classes = dataset.classes
    scores = {}
    for name, one in tested.items():
        record.add(name, "testing, one image", "s", [s / len(truth) for s in one.seconds])
        counts = confusion(one.result.cpu(), truth, classes.num_classes, classes.ignore_label)
        scores[name] = miou(counts, classes.ignore_label).item()
        record.add(name, "miou", "share", [scores[name]])
    for name in ("ours, fast", "ours, paper"):
        record.add_ratio(name, "training, times as fast as plain", trained["plain"], trained[name])
        record.add_ratio(name, "testing, times as fast as plain", tested["plain"], tested[name])
        if options.size != "tiny":
            lower = max(0.0, scores["plain"] - scores[name])
            record.check(name, "miou below that of plain", lower, MIOU_NOISE)
    _check_same_masks(fast_head, config, dataset, record, options)


def _on_synthetic_maps(config: TrainConfig, record: Recorder, options: Options) -> None:
    """Times only, on maps of noise; those of slow trainings from a share of their steps."""
    device, dataset = options.device, build_dataset(config.dataset)
    size, dtype = config.dataset.image_size, torch.bfloat16
    maps = synthetic_maps(planned_layout(config), len(dataset.train), dtype, device)
    masks = torch.stack([sample.mask for sample in dataset.train])
    slow = _with_protocol(config, "paper", TIMED_STEPS["paper"])
    iterations = plain.least_iterations(masks.numel())
    two, two_masks = [as_plain_maps(maps, index) for index in range(2)], masks[:2]
    ignore, classes = dataset.classes.ignore_label, dataset.classes.num_classes
    layout, count = maps.layout, config.head.members
    hidden = head_widths(config.head, classes)

    vectors, labels = plain.training_matrix(two, two_masks, ignore)

    def one_member() -> nn.Sequential:
        network = plain.build_member(layout.dim, classes, hidden, config.seed, 0).to(device)
        plain.train_member(network, vectors, labels, config.seed, 0, TIMED_STEPS["plain"])
        return network

    trained = alternate(
        {
            "ours, fast": lambda: trained_head(config, maps, masks, dataset),
            "ours, paper": lambda: trained_head(slow, maps, masks, dataset),
            "plain": one_member,
        },
        options.repeats,
        device,
        warm_up=False,
    )
    factors = {"ours, paper": iterations / TIMED_STEPS["paper"]}
    factors["plain"] = count * iterations / TIMED_STEPS["plain"]
    notes = {"ours, paper": f"extrapolated from {TIMED_STEPS['paper']} of {iterations} steps"}
    notes["plain"] = (
        f"extrapolated from {TIMED_STEPS['plain']} of {iterations} iterations of one member of "
        f"{count}, on the matrix of 2 images"
    )
    for name, one in trained.items():
        one.seconds = [seconds * factors.get(name, 1) for seconds in one.seconds]
        record.add(name, "training", "s", one.seconds, notes.get(name, ""))
    del vectors, labels
    gc.collect()

    head = trained["ours, fast"].result
    assert isinstance(head, StackedMLP)
    alone = as_plain_members(head)
    tested = alternate(
        {
            "ours, fast": lambda: _segmented(head, [maps[:1]]),
            "plain": lambda: _predicted(alone, two[:1], size),
        },
        options.repeats,
        device,
    )
    for name, one in tested.items():
        record.add(name, "testing, one image", "s", one.seconds)
    for quantity, timed in (("training", trained), ("testing", tested)):
        for name in set(timed) - {"plain"}:
            ratio = f"{quantity}, times as fast as plain"
            record.add_ratio(name, ratio, timed["plain"], timed[name], notes.get(name, ""))
    exact = NativeMaps(layout, {size: group[:1].float() for size, group in maps.groups.items()})
    _check_labels(_segmented(head, [exact]), tested["plain"].result, record)


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
        hidden = head_widths(config.head, num_classes)
        for _ in range(self.per_turn):
            index = len(self.trained) % self.count
            network = plain.build_member(dim, num_classes, hidden, seed, index)
            network = network.to(self.vectors.device)
            most = config.head.max_steps
            plain.train_member(network, self.vectors, self.labels, seed, index, most)
            if len(self.trained) < self.count:
                self.trained.append(network)


def _with_protocol(config: TrainConfig, protocol: str, max_steps: int | None = None) -> TrainConfig:
    steps = max_steps or config.head.max_steps
    return replace(config, head=replace(config.head, protocol=protocol, max_steps=steps))


def _segmented(head: StackedMLP, maps: Sequence[NativeMaps]) -> Tensor:
    return torch.cat([segment(head, some).masks for some in maps])


def _predicted(members: Sequence[nn.Sequential], maps: Sequence[plain.Maps], size: int) -> Tensor:
    labels = [plain.predict(members, plain.pixel_vectors(one, size)) for one in maps]
    return torch.stack(labels).view(-1, size, size)


def _check_same_masks(
    head: StackedMLP, config: TrainConfig, dataset: LabelledSet, record: Recorder, options: Options
) -> None:
    """The same head on the same image, both ways in fp32."""
    sample, name = dataset.test[0], f"test/{dataset.test.names[0]}"
    extractor = build_extractor(config, ours(config, options.device, "32"))
    found = _segmented(head, [extractor(sample.image[None], [name])])
    maps = PlainExtractor(config, options.device)(sample.image)
    _check_labels(found, _predicted(as_plain_members(head), [maps], len(sample.mask)), record)


def _check_labels(found: Tensor, expected: Tensor, record: Recorder) -> None:
    differing = (found != expected).float().mean().item()
    record.check("ours, fast", "pixels labelled otherwise, same head", differing, DISAGREEING)

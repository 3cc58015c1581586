"""Peak memory of extracting, training and testing, above that of the loaded network."""

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.cases import CASES, Options, PlainExtractor, ours, prepared
from benchmarks.isolated import PeakMemory, in_own_process
from benchmarks.record import SMALLER, Recorder
from benchmarks.stages import extractor_of, mlp, trained_head
from ddpmseg.backbones.base import Backbone, Hook
from ddpmseg.composition.resolve import resolve_segmentation
from ddpmseg.config import TrainConfig
from ddpmseg.data.datamodule import LabelledImages
from ddpmseg.heads.segment import segment
from ddpmseg.training.extraction import extract_training_set

IMAGES = {"tiny": (2, 3), "small": (10, 20, 50), "full": (10, 20, 50)}
FULL_STEPS = 20
"""Of the training at full size; no step needs more memory than the first."""
SHORTENED = f"one forward pass for all images, {FULL_STEPS} steps of training: more need no more"
COMPUTED = "computed: the bytes of its matrix alone, which was not built"
LARGEST = 16e9
"""Bytes of a matrix that is not built but only computed."""
REPEATS = 3
"""At most: memory hardly varies."""
PLAIN_ITERATIONS = 20
CPU = torch.device("cpu")


def run(options: Options) -> None:
    """Rows of ours and plain for growing numbers of labelled images."""
    case = CASES[options.size]
    # Resident memory is the CPU's; that of a GPU is another matter.
    options = replace(options, device=CPU)
    record = Recorder(options.results, "memory", case.name, CPU)
    shortened = options.size == "full"
    more = [f"head.max_steps={FULL_STEPS}"] if shortened else []
    repeats = min(options.repeats, REPEATS)
    with prepared(case, options, *more) as config:
        layout = resolve_segmentation(config, files=False).layout
        for count in IMAGES[options.size]:
            some = replace(config, dataset=replace(config.dataset, num_labelled=count, num_test=1))
            matrix = plain.matrix_bytes(count, layout.image_size, layout.dim)
            quantity = f"{count} images"
            found = {"ours": list[float](), "plain": list[float]()}
            for _ in range(repeats):
                found["ours"].append(in_own_process(our_peak, some, shortened))
                if matrix <= LARGEST:
                    found["plain"].append(in_own_process(plain_peak, some))
            notes = {"ours": SHORTENED if shortened else "", "plain": ""}
            if matrix > LARGEST:
                found["plain"], notes["plain"] = [matrix], COMPUTED
            for name, peaks in found.items():
                record.add(name, quantity, "GB", [peak / 1e9 for peak in peaks], notes[name])
            ratio = f"{quantity}, {SMALLER}"
            record.add_ratio("ours", ratio, found["plain"], found["ours"], notes["plain"])
    record.save()


def our_peak(config: TrainConfig, first_pass_only: bool) -> int:
    """Bytes above the loaded network, all the way or with the maps of its `FirstPass`."""
    dataset = config.dataset.build()
    backbone = ours(config, CPU)
    peak = PeakMemory()
    extractor = extractor_of(config, FirstPass(backbone) if first_pass_only else backbone)
    images = LabelledImages(dataset, extractor.images_per_pass)
    maps, masks = extract_training_set(extractor, images)
    head = trained_head(config, maps, masks, dataset)
    reader = head.reader(extractor.layout, backbone.dtype)
    for pictures, _, names in images.test_dataloader():
        segment(reader, extractor(pictures, names))
    return peak.above()


def plain_peak(config: TrainConfig) -> int:
    """Bytes above the loaded network of the straightforward way, one member trained a little."""
    dataset = config.dataset.build()
    extractor = PlainExtractor(config, CPU)
    peak = PeakMemory()
    maps = [extractor(sample.image) for sample in dataset.train]
    masks = torch.stack([sample.mask for sample in dataset.train])
    classes = dataset.classes
    vectors, labels = plain.training_matrix(maps, masks, classes.ignore_label)
    hidden = mlp(config).widths(classes.num_classes)
    network = plain.build_member(vectors.shape[1], classes.num_classes, hidden, config.seed, 0)
    plain.train_member(network, vectors, labels, config.seed, 0, PLAIN_ITERATIONS)
    for sample in dataset.test:
        plain.predict([network], plain.pixel_vectors(extractor(sample.image), len(sample.mask)))
    return peak.above()


class FirstPass(Backbone):
    """Runs a network for the first batch of every size; later ones are given the same maps.

    All passes over batches of one size need the same memory, and their maps are stored alike.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.name, self.image_size = backbone.name, backbone.image_size
        self.blocks, self.dtype = backbone.blocks, backbone.dtype
        self.num_timesteps = backbone.num_timesteps
        self._maps: dict[int, dict[int, Tensor]] = {}

    def add_noise(self, images: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        return self.backbone.add_noise(images, timesteps, noise)

    def native_maps(
        self,
        images: Tensor,
        timesteps: Tensor,
        blocks: Collection[int],
        hook: Hook = "output",
    ) -> dict[int, Tensor]:
        if len(images) not in self._maps:
            found = self.backbone.native_maps(images, timesteps, blocks, hook)
            self._maps[len(images)] = found
        return self._maps[len(images)]

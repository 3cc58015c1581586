"""Probes side by side: each is the head that would be trained alone, and reads what it would."""

import csv
import gc
from collections.abc import Sequence
from pathlib import Path
from weakref import ref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import SEGMENT, composed, composed_sweep, resolved_sweep
from torch import Tensor

from ddpmseg.config import TrainerConfig
from ddpmseg.errors import DataError
from ddpmseg.features.layout import FeatureLayout, MapSpec
from ddpmseg.features.maps import NativeMaps
from ddpmseg.heads.mlp import StackedMLP
from ddpmseg.heads.pixels import LabelledPixels
from ddpmseg.heads.probes import ProbeReader, StackedProbes
from ddpmseg.heads.protocols import choose_protocol
from ddpmseg.metrics.functional import confusion, member_confusions
from ddpmseg.records.cell_grid import Cell
from ddpmseg.runs.train import train
from ddpmseg.runtime.device import trainer_arguments
from ddpmseg.sweeps.grid import Piece
from ddpmseg.sweeps.probe import Probed, probe_timestep
from ddpmseg.training.head import HeadTraining, gradient_descent

CLASSES = 5
LAYOUT = FeatureLayout((MapSpec(5, 0, 6, 2), MapSpec(5, 1, 4, 4), MapSpec(5, 3, 3, 8)), 8)
"""Three maps, the last as large as the image."""
HIDDEN = ([], [8], [8, 4])
SEEDS = ((0,), (3, 0))


def random_vectors(*shape: int) -> Tensor:
    return torch.randn(*shape, LAYOUT.dim, generator=torch.Generator().manual_seed(1))


def lone_heads(hidden: Sequence[int], seeds: Sequence[int]) -> list[tuple[int, slice, StackedMLP]]:
    """(place of the seed, columns, head) of every member, map-major."""
    return [
        (place, columns, StackedMLP(spec.channels, CLASSES, 1, hidden, seed))
        for spec, columns in zip(LAYOUT.maps, LAYOUT.slices, strict=True)
        for place, seed in enumerate(seeds)
    ]


def matrices(head: StackedProbes | StackedMLP, member: int) -> list[Tensor]:
    """The weights of the linear layers of a member, first layer first."""
    return [value for value in head.member_views(member).values() if value.ndim == 2]


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_a_probe_begins_as_a_lone_member(hidden: list[int], seeds: tuple[int, ...]) -> None:
    probes = StackedProbes(LAYOUT, CLASSES, hidden, seeds)
    assert probes.members == 3 * len(seeds)
    for member, (_, _, lone) in enumerate(lone_heads(hidden, seeds)):
        ours, theirs = matrices(probes, member), matrices(lone, 0)
        assert len(ours) == len(theirs) == len(hidden) + 1
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def descend(head: StackedProbes | StackedMLP, scores: Tensor) -> None:
    """A step of gradient descent that moves every member by itself."""
    (scores - 1).square().sum().backward()
    torch.optim.SGD(head.parameters(), lr=0.01).step()


@pytest.mark.parametrize("own_pixels", [False, True], ids=["same pixels", "pixels by seed"])
@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_scores_and_steps_are_those_of_lone_members(
    hidden: list[int], seeds: tuple[int, ...], own_pixels: bool
) -> None:
    probes = StackedProbes(LAYOUT, CLASSES, hidden, seeds)
    vectors = random_vectors(len(seeds), 20) if own_pixels else random_vectors(20)
    sample = 3 * random_vectors(50) + 1
    probes.standardise(sample)
    scores = probes(vectors)
    assert scores.shape == (probes.members, 20, CLASSES)
    descend(probes, scores)
    later = probes.eval()(vectors)
    for member, (place, columns, lone) in enumerate(lone_heads(hidden, seeds)):
        lone.standardise(sample[:, columns])
        seen = (vectors[place] if own_pixels else vectors)[:, columns]
        expected = lone(seen)
        torch.testing.assert_close(scores[member], expected[0], rtol=1e-5, atol=1e-6)
        descend(lone, expected)
        for ours, theirs in zip(matrices(probes, member), matrices(lone, 0), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
        # By now the batch normalisations have seen one batch.
        torch.testing.assert_close(later[member], lone.eval()(seen)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("maps_dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_small_gradients_survive_maps_of_any_dtype(maps_dtype: torch.dtype) -> None:
    """Float16 ends at 6e-8: gradients of late training through it vanish, or lose their digits."""
    vectors = random_vectors(64).to(maps_dtype)
    gradients = []
    for mixed in (True, False):
        probes = StackedProbes(LAYOUT, CLASSES, [8], (0,))
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            scores = probes(vectors).float()
        (1e-6 * (scores - 1).square().mean()).backward()
        assert all(
            p.grad is not None and p.grad.dtype == torch.float32 for p in probes.parameters()
        )
        assert probes.first_weight.grad is not None
        gradients.append(probes.first_weight.grad)
    mixed, exact = gradients
    assert exact.abs().median() < 6e-8
    assert mixed.count_nonzero() == exact.count_nonzero()
    assert (mixed - exact).norm() / exact.norm() < 0.08


@torch.no_grad()
def filled(hidden: Sequence[int], seeds: Sequence[int], fill_seed: int = 0) -> StackedProbes:
    """Probes in eval mode that look trained: nothing is 0 or 1, scores are of the order of 1."""
    probes = StackedProbes(LAYOUT, CLASSES, hidden, seeds).eval()
    generator = torch.Generator().manual_seed(fill_seed)
    for member in range(probes.members):
        for key, value in probes.member_views(member).items():
            value.normal_(generator=generator)
            if key.endswith("running_var"):
                value.abs_().add_(0.1)
    probes.standardise(3 * random_vectors(50) + 1)
    return probes


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_state_of_a_member_comes_back(hidden: list[int], seeds: tuple[int, ...]) -> None:
    probes, other = filled(hidden, seeds), filled(hidden, seeds, fill_seed=1)
    vectors = random_vectors(10)
    before, wanted = probes(vectors), other(vectors)
    member = probes.members - 2
    probes.load_member(member, other.member_state(member))
    after = probes(vectors)
    torch.testing.assert_close(after[member], wanted[member])
    others = [m for m in range(probes.members) if m != member]
    assert torch.equal(after[others], before[others])
    assert not torch.allclose(before[member], wanted[member])


def test_state_of_a_member_is_a_copy_and_all_there_is() -> None:
    probes = filled([8], (0, 1))
    states = [probes.member_state(member) for member in range(probes.members)]
    size = sum(value.numel() for state in states for value in state.values())
    shared = sum(p.numel() for p in (probes.input_mean, probes.input_scale))
    assert size == sum(value.numel() for value in probes.state_dict().values()) - shared
    for value in states[0].values():
        value.zero_()
    assert all(value.abs().sum() > 0 for value in probes.member_views(0).values())


def random_maps(images: int, seed: int) -> NativeMaps:
    maps = NativeMaps.empty(LAYOUT, images, torch.float32, torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    for group in maps.groups.values():
        group.normal_(1, 3, generator=generator)
    return maps


@given(
    st.sampled_from([[], [8], [8, 4], [3, 3, 2]]),
    st.sampled_from([(0,), (7,), (0, 1, 2)]),
    st.integers(1, 3),
    st.integers(0, 10_000),
)
def test_reading_images_equals_scores_of_every_pixel(
    hidden: list[int], seeds: tuple[int, ...], images: int, draw: int
) -> None:
    """Equal but for pixels on which two classes score the same up to rounding."""
    probes, maps = filled(hidden, seeds, draw), random_maps(images, draw)
    labels = ProbeReader(probes, torch.float32)(maps)
    assert (labels.shape, labels.dtype) == ((probes.members, images, 8, 8), torch.uint8)
    with torch.no_grad():
        scores = probes(maps.materialise().permute(0, 2, 3, 1).reshape(-1, LAYOUT.dim))
    best, chosen = scores.max(dim=-1)
    flat = labels.view(probes.members, -1).long()
    given_up = best - scores.gather(2, flat[..., None])[..., 0]
    assert given_up.max() <= 1e-4 * best.abs().max()
    assert (flat == chosen).float().mean() > 0.99


@pytest.mark.parametrize("protocol", ["fast", "paper"])
def test_a_seed_sees_the_pixels_of_a_lone_member(protocol: str) -> None:
    masks = torch.arange(3 * 64, dtype=torch.uint8).view(3, 8, 8) % CLASSES
    parts = (random_maps(3, 0), LabelledPixels(masks, 255), choose_protocol(protocol, 9, 16))
    together = HeadTraining(StackedProbes(LAYOUT, CLASSES, [], (3, 0)), *parts, 0)
    positions, labels = together.batch(7)
    assert positions.shape == labels.shape == (2, 16)
    for row, seed in enumerate((3, 0)):
        lone = HeadTraining(StackedMLP(LAYOUT.dim, CLASSES, 1, [], seed), *parts, seed)
        expected = [part.flatten() for part in lone.batch(7)]
        assert torch.equal(positions[row], expected[0])
        assert torch.equal(labels[row], expected[1])
    assert not torch.equal(positions[0], positions[1])


def test_a_training_leaves_no_orders_of_pixels_behind() -> None:
    """Ten members on 30 images of 256 pixels keep 157 MB of them while they train."""
    masks = torch.arange(3 * 64, dtype=torch.uint8).view(3, 8, 8) % CLASSES
    pixels, maps = LabelledPixels(masks, 255), random_maps(3, 0)
    head = StackedMLP(LAYOUT.dim, CLASSES, 2, [])
    arguments = trainer_arguments(TrainerConfig(accelerator="cpu"), "32-true", None)
    descend_to_the_end = gradient_descent(choose_protocol("paper", 4, 16), arguments)
    alive = ref(pixels)
    gc.collect()
    gc.disable()  # what is freed is freed because nobody refers to it
    try:
        head.fit_to(maps, pixels, 0, descend_to_the_end)
        del pixels
        assert alive() is None
    finally:
        gc.enable()


PAPER = ("head.protocol=paper", "head.learning_rate=0.02", "head.max_steps=160")
"""Long enough that members stop early, at a rate at which they have learnt something by then."""


def probed(
    folder: Path, seeds: Sequence[int], blocks: list[int], *overrides: str, examples: int = 1
) -> list[Probed]:
    """The cells of t = 50 at tiny size, trained for 40 steps."""
    given_ = ("sweep.head.max_steps=40", *overrides)
    given_ += (f"sweep.num_examples={examples}",)
    resolved = resolved_sweep(composed_sweep(folder, *given_))
    config = resolved.config
    backbone = config.backbone.build(torch.device("cpu"))
    piece = Piece("", config.backbone, config.sweep.features(blocks, [50]), tuple(seeds))
    return probe_timestep(resolved, piece, backbone, config.dataset.build(), lambda *_: None)


def by_key(found: Sequence[Probed]) -> dict[tuple[int, int, int], Cell]:
    return {one.cell.key: one.cell for one in found}


@pytest.mark.parametrize(
    "head",
    [
        (),
        pytest.param(PAPER, marks=pytest.mark.slow),
        ("head.hidden=[]",),
        ("head.hidden=[8,4]",),
    ],
    ids=lambda v: v[0] if v else "",
)
def test_a_cell_is_what_train_finds_for_it(head: tuple[str, ...], tmp_path: Path) -> None:
    cells = by_key(probed(tmp_path / "sweep", [0], [1, 2], *(f"sweep.{o}" for o in head)))
    lone = ("features.timesteps=[50]", "head.members=1", "head.max_steps=40", *head)
    for block in (1, 2):
        folder = tmp_path / str(block)
        train(composed(folder, *SEGMENT, *lone, f"features.blocks=[{block}]"))
        with (folder / "confusion.csv").open(newline="") as file:
            rows = list(csv.reader(file))[1:]
        expected = torch.tensor([[int(number) for number in row[1:]] for row in rows])
        counts = cells[block, 50, 0].counts
        assert counts.sum() == 2 * 16**2
        assert (counts - expected).abs().sum() <= 4
        assert (counts.sum(0) > 0).sum() > 1


@pytest.mark.parametrize("head", [(), PAPER], ids=["fast", "paper"])
def test_a_seed_does_not_depend_on_the_others(head: tuple[str, ...], tmp_path: Path) -> None:
    given_ = tuple(f"sweep.{override}" for override in head)
    together = by_key(probed(tmp_path, [0, 1, 2], [1, 2], *given_))
    assert list(together) == [(block, 50, seed) for block in (1, 2) for seed in (0, 1, 2)]
    for seed, blocks in ((1, [1, 2]), (0, [2])):
        for key, cell in by_key(probed(tmp_path, [seed], blocks, *given_)).items():
            assert (cell.counts - together[key].counts).abs().sum() <= 4
    differing = (together[1, 50, 0].counts - together[1, 50, 1].counts).abs().sum()
    assert differing > 4


@pytest.mark.parametrize(("wanted", "kept"), [(0, 0), (1, 1), (9, 2)])
def test_masks_of_the_first_test_images(wanted: int, kept: int, tmp_path: Path) -> None:
    """One image at a time, so that what is wanted may span batches."""
    found = probed(tmp_path, [0, 1], [1, 2], "sweep.batch_size=1", examples=wanted)
    config = resolved_sweep(composed_sweep(tmp_path)).config
    truths = torch.stack([sample.mask for sample in config.dataset.build().test])
    for one in found:
        assert one.masks.shape == (kept, 16, 16)
        assert one.cell.seconds > 0
        if kept == len(truths):
            counts = confusion(torch.from_numpy(one.masks), truths, one.cell.counts.shape[1], 255)
            assert torch.equal(counts, one.cell.counts)


@st.composite
def predictions(draw: st.DrawFn) -> tuple[Tensor, Tensor, int, int]:
    """Predictions (m, 2, n), truth (2, n), number of classes, ignore label in or out of them."""
    num_classes = draw(st.integers(2, 5))
    ignore_label = draw(st.sampled_from([255, num_classes, *range(num_classes)]))
    members, count = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    label = st.integers(0, num_classes - 1)
    size = members * 2 * count
    predicted = draw(st.lists(label, min_size=size, max_size=size))
    truth = draw(st.lists(label | st.just(ignore_label), min_size=2 * count, max_size=2 * count))
    shape = (2, count)
    return (
        torch.tensor(predicted, dtype=torch.uint8).view(members, *shape),
        torch.tensor(truth, dtype=torch.uint8).view(shape),
        num_classes,
        ignore_label,
    )


@given(predictions())
def test_counts_together_are_counts_one_by_one(case: tuple[Tensor, Tensor, int, int]) -> None:
    predicted, truth, *rest = case
    counts = member_confusions(predicted, truth, *rest)
    assert counts.dtype == torch.int64
    expected = torch.stack([confusion(one, truth, *rest) for one in predicted])
    assert torch.equal(counts, expected)


def test_labels_that_are_no_classes_are_refused() -> None:
    masks = torch.zeros(2, 1, 3, dtype=torch.uint8)
    with pytest.raises(DataError, match=r"predictions hold labels 0\.\.4, .* \(0\.\.3\)"):
        member_confusions(masks + torch.tensor([0, 0, 4]).byte(), masks[0], 4, 255)
    with pytest.raises(DataError, match=r"the true mask holds label 4, .*0\.\.3 and 255"):
        member_confusions(masks, masks[0] + 4, 4, 255)

"""Sentences from numbers: grids made by hand, and rank correlations done a second time."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from ddpmseg.data.class_table import ClassTable
from ddpmseg.numbering import Numbering
from ddpmseg.records.cell_grid import Cell, CellGrid
from ddpmseg.report.findings import findings
from ddpmseg.report.preferences import class_preferences
from ddpmseg.report.study import Study

Value = float | Sequence[float]
Levels = Mapping[tuple[int, int], Value]


def cell(block: int, timestep: int, seed: int, iou: Value, num_classes: int) -> Cell:
    """Class i of 1..num_classes covers 10000 i pixels; those missed go to class 0, the ignored."""
    values = np.broadcast_to(np.array(iou), num_classes).tolist()
    counts = torch.zeros(num_classes + 2, num_classes + 1, dtype=torch.int64)
    for label, value in enumerate(values, start=1):
        counts[label, label] = round(10_000 * label * value)
        counts[label, 0] = 10_000 * label - counts[label, label]
    return Cell(block, timestep, seed, counts)


def grid(
    levels: Levels,
    num_classes: int = 3,
    offsets: Sequence[float] = (0.0,),
    timeless: bool = False,
) -> CellGrid:
    """IoU of every class by (block, t), or one for all; `offsets` are added, one per seed."""
    cells = [
        cell(b, t, seed, tuple(np.broadcast_to(level, num_classes) + offset), num_classes)
        for (b, t), level in levels.items()
        for seed, offset in enumerate(offsets)
    ]
    return CellGrid(cells, ignore_label=0, numbering=Numbering(timeless=timeless))


def study(of: CellGrid, **controls: CellGrid) -> Study:
    num_classes = len(of.true_pixels)
    names = tuple(f"class {label}" for label in range(num_classes))
    classes = ClassTable("made", names, np.zeros((num_classes, 3), np.uint8), 0, None, None)
    return Study("made", "made", classes, of, "made", controls=controls)


def starting(sentences: Sequence[str], start: str) -> str:
    """The one sentence that starts so; empty where there is none."""
    found = [sentence for sentence in sentences if sentence.startswith(start)]
    assert len(found) < 2
    return found[0] if found else ""


def curve(*values: float, block: int = 0, step: int = 100) -> dict[tuple[int, int], Value]:
    return {(block, step * i): value for i, value in enumerate(values)}


def test_all_sentences_of_a_small_grid() -> None:
    # Rows: blocks 4 to 7; columns: t = 0, 100, 200; six classes, the first the smallest.
    even = {
        (4, 0): 0.40, (4, 100): 0.46, (4, 200): 0.10,
        (5, 0): 0.48, (5, 100): 0.50, (5, 200): 0.20,
        (6, 0): 0.44, (6, 100): 0.43, (6, 200): 0.05,
        (7, 0): 0.30, (7, 100): 0.20, (7, 200): 0.02,
    }  # fmt: skip
    levels = {key: [value] * 6 for key, value in even.items()}
    levels[7, 0][:2] = [0.60, 0.62]
    found = findings(
        study(
            grid(levels, 6, offsets=(-0.004, 0, 0.004)),
            random=grid({(4, 0): 0.13, (5, 0): 0.12}, 6),
            pixels=grid({(0, 0): 0.056}, 6, timeless=True),
        )
    )
    # Block 7 at t = 0 has (0.60 + 0.62 + 4 x 0.30) / 6 = 40.3 %.
    # Areas 1..6 against blocks 7 7 5 5 5 5: rho = -0.828; against t = 0 0 100 ...: +0.828.
    assert found == [
        "Best cell: block 5 at t = 100 with 50.0 % mIoU (± 0.4 over 3 seeds).",
        "Blocks 4 and 5 come within a tenth of it at their best t; the best of the others is "
        "block 6 with 44.0 %.",
        "The curve of block 5 falls to half of its maximum between t = 100 and 200 (about 183 by "
        "linear interpolation).",
        "At t = 200, the largest of the grid, the best block (5) has 20.0 % mIoU, 40.0 % of the "
        "best cell's value; that is above the control pixels (5.6 %).",
        "The mean IoU of small classes is highest at block 7, t = 0 (61.0 %), of large ones at "
        "block 5, t = 100 (50.0 %): small ones at a shallower block (agrees with the paper) and "
        "a smaller t (agrees with the paper).",
        "Over 6 classes, area and preferred block have a rank correlation of -0.83 (Spearman, "
        "p = 0.042): smaller classes prefer shallower blocks, which agrees with the paper.",
        "Over 6 classes, area and preferred t have a rank correlation of +0.83 (Spearman, "
        "p = 0.042): smaller classes prefer smaller t, which agrees with the paper.",
        "Area and the t at which a class's IoU falls to half of its best (in its preferred block) "
        "have a rank correlation of +0.78 (p = 0.069): no clear relation (p > 0.05).",
        "The control random reaches 13.0 % mIoU (block 4, t = 0), the trained network 48.0 % at "
        "this t (block 5); the control pixels reaches 5.6 % mIoU.",
    ]


def test_one_cell_says_its_value_alone() -> None:
    assert findings(study(grid({(3, 50): 0.5}))) == [
        "Best cell: block 3 at t = 50 with 50.0 % mIoU (one seed)."
    ]


def test_cells_within_the_spread_are_counted() -> None:
    levels = curve(0.5, 0.497, 0.495)
    found = findings(study(grid(levels, offsets=(-0.004, 0, 0.004))))
    assert found[0].endswith("(± 0.4 over 3 seeds). 1 other cell lies within that spread.")


def test_the_spread_needs_two_seeds() -> None:
    for offsets, spread in (((0.0, 0.0), "± 0.0 over 2 seeds"), ((0.0,), "one seed")):
        assert findings(study(grid(curve(0.5, 0.4), offsets=offsets)))[0] == (
            f"Best cell: block 0 at t = 0 with 50.0 % mIoU ({spread})."
        )


@pytest.mark.parametrize(
    ("bests", "expected"),
    [
        (
            {2: 0.5, 4: 0.46, 5: 0.49, 6: 0.45, 7: 0.4499, 9: 0.47},
            "Blocks 2, 4 to 6 and 9 come within a tenth of it at their best t; the best of the "
            "others is block 7 with 45.0 %.",
        ),
        (
            {0: 0.5, 1: 0.2, 2: 0.3},
            "No other block comes within a tenth of it at any t; the next is block 2 with 30.0 %.",
        ),
        (
            {0: 0.5, 1: 0.47, 2: 0.49},
            "All 3 blocks come within a tenth of it at their best t; the lowest is block 1 with "
            "47.0 %.",
        ),
        ({0: 0.5}, ""),
    ],
)
def test_best_blocks(bests: Mapping[int, float], expected: str) -> None:
    levels = {(b, t): value * (1 if t == 10 * b else 0.3) for b, value in bests.items()
              for t in (0, 10 * b)}  # fmt: skip
    found = findings(study(grid(levels)))
    assert (expected and expected in found) or not any("tenth of it" in s for s in found)


@pytest.mark.parametrize(
    ("values", "end"),
    [
        ((0.4, 0.6, 0.4, 0.25, 0.5), "falls to half of its maximum between t = 200 and 300 "
         "(about 267 by linear interpolation)."),
        ((0.2, 0.6, 0.3), "falls to half of its maximum between t = 100 and 200 (about 200 by "
         "linear interpolation)."),
        ((0.2, 0.6, math.nan, 0.5, 0.1), "falls to half of its maximum between t = 300 and 400 "
         "(about 350 by linear interpolation)."),
        ((0.5, 0.4, 0.3), "stays above half of its maximum up to t = 200 (30.0 %)."),
        ((0.1, 0.2, 0.3), "has its maximum at t = 200, its largest t."),
    ],
)  # fmt: skip
def test_half_of_the_maximum(values: Sequence[float], end: str) -> None:
    levels = {key: value for key, value in curve(*values).items() if not np.isnan(value)}
    sentence = starting(findings(study(grid(levels))), "The curve")
    assert sentence == f"The curve of block 0 {end}"


@pytest.mark.parametrize(
    ("last", "offsets", "verdict"),
    [
        (0.20, (0.0,), "above"),
        (0.11, (0.0,), "below"),
        (0.135, (0.0,), "level with"),
        (0.145, (-0.01, 0.0, 0.01), "above"),
        (0.145, (-0.02, 0.0, 0.02), "level with"),
    ],
)
def test_the_largest_timestep_is_compared_with_the_best_control(
    last: float, offsets: Sequence[float], verdict: str
) -> None:
    """Of an untrained network only at the same t: noise alone would make a difference."""
    trained = grid(curve(0.4, last), offsets=offsets)
    pixels, there = grid({(0, 0): 0.05}, timeless=True), grid({(0, 100): 0.13})
    found = findings(study(trained, pixels=pixels, random=there))
    assert starting(found, "At t = 100").endswith(
        f"; that is {verdict} the control random (t = 100) (13.0 %)."
    )
    elsewhere = findings(study(trained, pixels=pixels, random=grid({(0, 0): 0.13})))
    assert starting(elsewhere, "At t = 100").endswith("above the control pixels (5.0 %).")


def test_groups_that_do_not_do_as_the_paper_says() -> None:
    levels = {(0, 0): (0.1, 0.2, 0.6), (0, 100): (0.5, 0.3, 0.2), (1, 0): (0.2, 0.2, 0.8)}
    assert starting(findings(study(grid(levels))), "The mean IoU").endswith(
        "small ones at a deeper block (does not agree with the paper) and a larger t (does not "
        "agree with the paper)."
    )
    levels = {(0, 0): (0.5, 0.3, 0.2), (0, 100): (0.1, 0.2, 0.6)}
    assert starting(findings(study(grid(levels))), "The mean IoU").endswith(
        "(60.0 %): small ones at a smaller t (agrees with the paper)."
    )
    levels = {(0, 0): (0.005, 0.3, 0.2), (0, 100): (0.001, 0.2, 0.6)}
    assert starting(findings(study(grid(levels))), "The mean IoU").endswith(
        "(60.0 %); small classes are hardly segmented, so their place says little."
    )


def made_preferences(preferred: Sequence[tuple[int, int]], best: Sequence[float]) -> CellGrid:
    """Blocks 0..3 and t = 0, 10, 20, where class i + 1 is best in the i-th cell."""
    levels = {
        (b, t): [
            value if wanted == (b, t) else value / 2
            for wanted, value in zip(preferred, best, strict=True)
        ]
        for b in range(4)
        for t in (0, 10, 20)
    }
    return grid(levels, len(preferred))


def test_all_classes_prefer_the_same() -> None:
    found = findings(study(made_preferences([(2, 10)] * 5, [0.5] * 5)))
    assert "All 5 classes prefer block 2, whatever their area." in found
    assert "All 5 classes prefer t = 10, whatever their area." in found


def test_no_clear_relation_and_classes_never_segmented() -> None:
    preferred = [(0, 0), (3, 20), (0, 10), (3, 0), (1, 20), (1, 20), (2, 0)]
    best = [0.5, 0.6, 0.7, 0.8, 0.9, 0.009, 0.5]
    found = findings(study(made_preferences(preferred, best)))
    assert starting(found, "Over 6 classes, area and preferred block").endswith(
        ": no clear relation (p > 0.05)."
    )
    assert starting(found, "Over 6 classes, area and preferred t").endswith(
        ": no clear relation (p > 0.05)."
    )
    assert starting(found, "Area and the t").endswith(
        " Left out: 1 class that stays below 1.0 % IoU in every cell."
    )


def test_large_classes_that_last_to_larger_t_agree_with_the_paper() -> None:
    falls_at = [100, 200, 300, 400, 500, 999]
    levels = {
        (2, t): [0.8 if t < end else 0.1 for end in falls_at] for t in (0, 150, 250, 350, 450, 600)
    }
    found = class_preferences(study(grid(levels, len(falls_at))))
    assert found is not None
    # From 0.8 to 0.1 within a step of the grid: half of 0.8 lies 4/7 along it.
    steps = zip((0, 150, 250, 350, 450), (150, 250, 350, 450, 600), strict=True)
    expected = [left + (right - left) * 4 / 7 for left, right in steps]
    assert list(found.half) == pytest.approx([*expected, math.inf])
    assert found.rho_half == pytest.approx(1)
    sentence = starting(findings(study(grid(levels, len(falls_at)))), "Area and the t")
    assert "1 class never falls so far" in sentence
    assert sentence.endswith("large classes are known at larger t, which agrees with the paper.")


def test_opposite_relations_do_not_agree_with_the_paper() -> None:
    preferred = [(0, 20), (0, 20), (1, 20), (1, 10), (2, 10), (2, 0), (3, 0), (3, 0)]
    found = findings(study(made_preferences(preferred, [0.5] * 8)))
    for what, reading in (("block", "deeper blocks"), ("t", "larger t")):
        assert starting(found, f"Over 8 classes, area and preferred {what} ").endswith(
            f"(Spearman, p < 0.001): smaller classes prefer {reading}, which does not agree with "
            "the paper."
        )


def test_preferences_of_fewer_than_four_segmented_classes_are_left_out() -> None:
    preferred = [(0, 0), (1, 10), (2, 20), (3, 0), (3, 0)]
    assert (
        class_preferences(study(made_preferences(preferred, [0.5, 0.5, 0.5, 0.009, 0.0]))) is None
    )
    kept = class_preferences(study(made_preferences(preferred, [0.5, 0.5, 0.5, 0.011, 0.0])))
    assert kept is not None
    assert (kept.labels, kept.left_out) == ((1, 2, 3, 4), 1)


def ranks(values: Sequence[float]) -> list[float]:
    """From 1; equal values share the mean of their places."""
    return [sum(v < own for v in values) + (values.count(own) + 1) / 2 for own in values]


def correlation(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Pearson's r of the ranks, and its two-sided p by Student's t."""
    a, b = (np.array(r) - np.mean(r) for r in (ranks(list(one)), ranks(list(other))))
    if not a.any() or not b.any():
        return math.nan, math.nan
    rho = float(a @ b / math.sqrt((a @ a) * (b @ b)))
    if abs(rho) > 1 - 1e-12:
        return rho, 0.0
    freedom = len(a) - 2
    p = 2 * student.sf(abs(rho) * math.sqrt(freedom / (1 - rho**2)), freedom)
    return rho, float(p)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from((0, 10, 20))), min_size=4, max_size=9))
def test_preferences_equal_a_second_count(preferred: Sequence[tuple[int, int]]) -> None:
    found = class_preferences(study(made_preferences(preferred, [0.6] * len(preferred))))
    assert found is not None
    blocks, timesteps = zip(*preferred, strict=True)
    assert (found.block, found.timestep) == (blocks, timesteps)
    np.testing.assert_allclose(found.iou, 0.6, atol=1e-6)
    sizes = range(1, len(preferred) + 1)
    np.testing.assert_allclose(found.area, np.array(sizes) / sum(sizes))
    np.testing.assert_allclose(
        [found.rho_block, found.p_block, found.rho_timestep, found.p_timestep],
        [*correlation(sizes, blocks), *correlation(sizes, timesteps)],
        atol=1e-7,
    )


@pytest.mark.parametrize(
    "keep",
    [
        lambda b, t, seed: (b, t) != (5, 100),
        lambda b, t, seed: (b, t, seed) != (5, 100, 1),
        lambda b, t, seed: b != 5 or seed == 0,
        lambda b, t, seed: (b + t // 100 + seed) % 2 == 0,
        lambda b, t, seed: t == 100 * (b - 4),
        lambda b, t, seed: (b, t, seed) == (6, 200, 1),
    ],
)
def test_missing_cells_change_no_others_and_are_counted(
    keep: Callable[[int, int, int], bool],
) -> None:
    levels = {
        (b, t): tuple(0.6 - 0.05 * abs(b - 5) - t / 1000 + 0.01 * k for k in range(5))
        for b in (4, 5, 6, 7)
        for t in (0, 100, 200)
    }
    whole = grid(levels, 5, offsets=(0, 0.002))
    kept = CellGrid([c for c in whole.cells if keep(*c.key)], 0)
    found = findings(study(kept, random=kept))
    assert not any("nan" in sentence for sentence in found)
    means = {}
    for b, t, _ in kept.by_key:
        seeds = [s for s in (0, 1) if (b, t, s) in kept.by_key]
        means[b, t] = sum(np.mean(levels[b, t]) + 0.002 * s for s in seeds) / len(seeds)
    block, timestep = max(means, key=lambda key: means[key])
    expected = f"block {block} at t = {timestep} with {100 * means[block, timestep]:.1f} % mIoU ("
    assert found[0].startswith(f"Best cell: {expected}")
    total = len(kept.blocks) * len(kept.timesteps) * len(kept.seeds)
    missing = total - len(kept.cells)
    sentence = f"{missing} of {total} cells {'is' if missing == 1 else 'are'} missing."
    assert (sentence in found) == (missing > 0)

"""Figures show what a second, plain computation finds, fit on the paper and are reproducible."""

import math
import statistics
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from ddpmseg.data.class_table import ClassTable, load_class_table
from ddpmseg.records.cell_grid import Cell, CellGrid
from ddpmseg.report.canvas import DPI, class_labels, fitted, house_style, text_width
from ddpmseg.report.charts import spread_out
from ddpmseg.report.colours import cluster_colours
from ddpmseg.report.figures import (
    class_size,
    figures,
    miou_heatmap,
    miou_over_timesteps,
    per_class,
    save_figures,
)
from ddpmseg.report.notable import notable_cells
from ddpmseg.report.panels import cluster_panels, component_panels, mask_panels
from ddpmseg.report.study import ClusterMaps, Examples, Study

STEMS = ["miou_over_timesteps", "miou_heatmap", "class_size", "per_class"]
PICTURES = ["clusters", "components", "masks"]
BLOCKS, TIMES, SEEDS = (2, 5, 8), (0, 50, 400, 999), (0, 1, 7)
MISSING = frozenset({(5, 50), (8, 999)})
Key = tuple[int, int]


def random_cell(key: tuple[int, int, int], areas: np.ndarray) -> Cell:
    """Counts with `areas` pixels of every class, right in a share that depends on the key."""
    rng = np.random.default_rng(key)
    counts = np.zeros((len(areas) + 1, len(areas)), int)
    for label, area in enumerate(areas):
        right = int(area * rng.uniform(0.1, 0.9))
        counts[label] = rng.multinomial(area - right, np.full(len(areas), 1 / len(areas)))
        counts[label, label] += right
    return Cell(*key, torch.tensor(counts))


def make_study(
    blocks: tuple[int, ...] = BLOCKS,
    timesteps: tuple[int, ...] = TIMES,
    seeds: tuple[int, ...] = SEEDS,
    missing: frozenset[Key] = MISSING,
    table: str = "ponies",
    size: int = 8,
) -> Study:
    """A study with examples, clusters and two controls; the areas of its classes are mixed up."""
    classes = load_class_table(table)
    rng = np.random.default_rng(3)
    areas = rng.permutation(np.arange(classes.num_classes) * 40 + 30)
    cells = [
        random_cell((block, t, seed), areas)
        for block in blocks
        for t in timesteps
        if (block, t) not in missing
        for seed in seeds
    ]
    controls = {
        name: CellGrid(
            [random_cell((n, t, s), areas // 2) for t in (0, 9) for s in seeds],
            classes.ignore_label,
        )
        for n, name in enumerate(("pixels", "random"))
    }

    def picture(*shape: int, high: int = 256) -> np.ndarray:
        return rng.integers(0, high, shape, dtype=np.uint8)

    labels = classes.num_classes
    masks = {(c.block, c.timestep): picture(2, size, size, high=labels) for c in cells}
    images = picture(2, size, size, 3)
    truths = picture(2, size, size, high=labels)
    truths[0, 0, 0] = classes.ignore_label
    clusters = ClusterMaps(
        (4, 6), (50, 200, 800), 9, images, picture(2, 3, size, size, 3),
        picture(2, 2, 3, size, size, high=9), picture(2, 2, 3, size, size, 3),
    )  # fmt: skip
    return Study(
        "ponies",
        "ddpm",
        classes,
        CellGrid(cells, classes.ignore_label),
        "ddpmseg sweep",
        controls=controls,
        examples=Examples(images, truths, masks),
        clusters=clusters,
    )


GRIDS = {
    "usual": make_study,
    "one cell": lambda: make_study((5,), (50,), (0,), frozenset()),
    "paper": lambda: make_study(
        tuple(range(18)), (*range(0, 951, 50), 999), (0,), MISSING, "ffhq_34"
    ),
    "ignore label 0": lambda: make_study((3, 4), (0, 1, 999), (0,), MISSING, "bedroom_28"),
}


@pytest.fixture(scope="module")
def study() -> Study:
    return make_study()


def plain_iou(cell: Cell, label: int) -> float:
    counts = cell.counts.tolist()
    union = sum(row[label] for row in counts) + sum(counts[label]) - counts[label][label]
    return counts[label][label] / union if union else 0.0


def plain(grid: CellGrid, labels: tuple[int, ...]) -> dict[Key, list[float]]:
    """Mean IoU (%) over some classes, a value per seed, by (block, t)."""
    values: dict[Key, list[float]] = {}
    for cell in grid.cells:
        mean = statistics.fmean(plain_iou(cell, label) for label in labels)
        values.setdefault((cell.block, cell.timestep), []).append(100 * mean)
    return values


def plain_best(values: dict[Key, list[float]]) -> Key:
    return max(values, key=lambda key: statistics.fmean(values[key]))


def check_curves(axes: Axes, study: Study, labels: tuple[int, ...]) -> None:
    values = plain(study.grid, labels)
    lines = {line.get_label(): line for line in axes.lines}
    for block in study.grid.blocks:
        xs, ys = (np.asarray(data) for data in lines[f"block {block}"].get_data())
        assert tuple(xs) == study.grid.timesteps
        expected = [statistics.fmean(values.get((block, t), [math.nan])) for t in xs]
        np.testing.assert_allclose(ys, expected)
    block, timestep = plain_best(values)
    ring = np.concatenate(lines["best"].get_data())
    np.testing.assert_allclose(ring, [timestep, statistics.fmean(values[block, timestep])])


def check_heatmap(axes: Axes, grid: CellGrid, values: dict[Key, list[float]]) -> None:
    array = axes.images[0].get_array()
    assert isinstance(array, np.ma.MaskedArray)
    for row, block in enumerate(grid.blocks):
        for column, timestep in enumerate(grid.timesteps):
            assert np.ma.getmaskarray(array)[row, column] == ((block, timestep) not in values)
            if (block, timestep) in values:
                expected = statistics.fmean(values[block, timestep])
                assert array[row, column] == pytest.approx(expected)
    (frame,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    block, timestep = plain_best(values)
    centre = grid.timesteps.index(timestep), grid.blocks.index(block)
    assert frame.get_center() == pytest.approx(centre)
    assert axes.patch.get_hatch()
    # The lower edge of row 0 is the lower end of the axes: the deepest block is at the bottom.
    assert axes.get_ylim()[0] == -0.5


def heatmaps(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.images]


def texts_of(figure: Figure) -> Iterator[Text]:
    """Every text that is drawn. Ticks beyond the ends of an axis are not."""
    yield from figure.texts
    for legend in figure.legends:
        yield from legend.get_texts()
    for axes in figure.axes:
        if not axes.axison:
            continue
        yield from axes.texts
        for axis in (axes.xaxis, axes.yaxis):
            yield axis.label
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if low <= tick.get_loc() <= high:
                    yield from (tick.label1, tick.label2)


@pytest.mark.parametrize("name", GRIDS)
def test_no_text_overlaps_another_or_leaves_the_paper(name: str) -> None:
    study = GRIDS[name]()
    if name != "usual":
        study = replace(study, clusters=None)
    for stem, figure in figures(study).items():
        with house_style():
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
        boxes = [
            (text.get_text(), text.get_window_extent(canvas.get_renderer()))
            for text in texts_of(figure)
            if text.get_visible() and text.get_text()
        ]
        assert len(boxes) > 3
        width, height = canvas.get_width_height()
        for text, box in boxes:
            inside = min(box.x0, box.y0) >= 0 and box.x1 <= width and box.y1 <= height
            assert inside, f"{stem}: '{text}' is cut off"
        low, high = (np.array([getattr(box, end) for _, box in boxes]) for end in ("min", "max"))
        common = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
        # The boxes of lines include the height of letters they may not have.
        over = np.argwhere(np.triu((common > (1, 4)).all(-1), 1))
        assert not over.size, f"{stem}: {[[boxes[i][0] for i in pair] for pair in over]} overlap"


def test_curves_are_the_means_over_seeds(study: Study) -> None:
    axes = miou_over_timesteps(study).axes[0]
    check_curves(axes, study, study.classes.averaged)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("timestep t", "mIoU (%)")


def test_error_bars_are_sample_standard_deviations_of_two_and_more_seeds(study: Study) -> None:
    kept = [c for c in study.grid.cells if c.seed == 0 or c.block != 8]
    partly = replace(study, grid=CellGrid(kept, study.grid.ignore_label))
    values = plain(partly.grid, study.classes.averaged)
    bars = [
        segment
        for collection in miou_over_timesteps(partly).axes[0].collections
        for segment in collection.get_segments()  # pyright: ignore[reportAttributeAccessIssue]
    ]
    expected = [
        [[t, statistics.fmean(seen) + sign * statistics.stdev(seen)] for sign in (-1, 1)]
        for (_, t), seen in sorted(values.items())
        if len(seen) > 1
    ]
    assert len(expected) == 7
    np.testing.assert_allclose(bars, expected)


def test_one_seed_has_no_error_bars(study: Study) -> None:
    axes = miou_over_timesteps(make_study(seeds=(4,))).axes[0]
    assert not axes.collections
    assert "one seed" in miou_over_timesteps(make_study(seeds=(4,))).texts[1].get_text()


def test_controls_are_dashed_lines_at_their_best_cell(study: Study) -> None:
    axes = miou_over_timesteps(study).axes[0]
    dashed = [line for line in axes.lines if line.is_dashed()]
    names = [text.get_text() for text in axes.texts]
    for (name, grid), line, label in zip(study.controls.items(), dashed, names, strict=True):
        values = plain(grid, study.classes.averaged)
        best = max(statistics.fmean(seen) for seen in values.values())
        assert np.asarray(line.get_ydata()).tolist() == pytest.approx([best, best])
        assert label == f"{name} {best:.1f}"


def test_the_legend_stands_clear_of_the_labels_of_controls(study: Study) -> None:
    figure = miou_over_timesteps(study)
    with house_style():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    ends = [text.get_window_extent(canvas.get_renderer()).x1 for text in figure.axes[0].texts]
    assert max(ends) < figure.legends[0].get_window_extent(canvas.get_renderer()).x0


def test_heatmap_shows_the_means_frames_the_best_and_masks_the_missing(study: Study) -> None:
    axes = miou_heatmap(study).axes[0]
    values = plain(study.grid, study.classes.averaged)
    check_heatmap(axes, study.grid, values)
    assert axes.get_ylabel() == "block (0 = deepest)"
    numbers = {
        (study.grid.blocks[int(y)], study.grid.timesteps[int(x)]): text.get_text()
        for text in axes.texts
        for x, y in [text.get_position()]
    }
    assert numbers == {key: f"{statistics.fmean(seen):.1f}" for key, seen in values.items()}


def test_small_cells_have_no_numbers() -> None:
    assert not miou_heatmap(make_study(timesteps=tuple(range(0, 1000, 20)))).axes[0].texts


def test_a_grid_without_any_right_pixel_has_no_frame() -> None:
    counts = torch.zeros(12, 11, dtype=torch.int64)
    counts[:2, 2] = 5
    empty = replace(make_study(), grid=CellGrid([Cell(0, t, 0, counts) for t in (0, 9)], 255))
    assert not miou_heatmap(empty).axes[0].patches
    assert "0 in every cell" in [text.get_text() for text in per_class(empty).texts]


def test_class_size_shows_both_groups(study: Study) -> None:
    figure = class_size(study)
    curves = [axes for axes in figure.axes if axes.lines]
    maps = heatmaps(figure)
    groups = (study.groups.small, study.groups.large)
    for axes, heatmap, labels in zip(curves, maps, groups, strict=True):
        check_curves(axes, study, labels)
        check_heatmap(heatmap, study.grid, plain(study.grid, labels))
    shown = [text.get_text() for text in figure.texts]
    assert {"Smallest 3 classes by area", "Largest 3 classes by area"} <= set(shown)
    assert len(figure.legends) == 1


def test_every_class_has_a_heatmap_from_the_smallest_area_up(study: Study) -> None:
    figure = per_class(study)
    texts = [text.get_text() for text in figure.texts]
    pixels = study.grid.cells[0].counts.sum(1).tolist()
    ranked = sorted(range(11), key=lambda label: pixels[label])
    names = [study.classes.names[label] for label in ranked]
    assert [text for text in texts if text in names] == names
    for axes, label in zip(heatmaps(figure), ranked, strict=True):
        values = plain(study.grid, (label,))
        check_heatmap(axes, study.grid, values)
        block, timestep = plain_best(values)
        best = statistics.fmean(values[block, timestep])
        name = texts.index(study.classes.names[label])
        assert texts[name + 1] == f"b{block}, t{timestep}: {best:.1f}"
        assert axes.images[0].get_clim() == pytest.approx((0, best))


def test_all_classes_have_the_same_ticks() -> None:
    figure = per_class(make_study(tuple(range(18)), (0,), (0,), frozenset(), "ffhq_34"))
    assert len({tuple(axes.get_yticks()) for axes in heatmaps(figure)}) == 1


def shown_pictures(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for image in figure.axes[0].images]


def test_panels_of_maps_go_by_image_timestep_and_block(study: Study) -> None:
    maps = study.clusters
    assert maps is not None
    colours = cluster_colours(9)
    assert len({tuple(colour) for colour in colours.tolist()}) == 9
    for draw, panels in (
        (cluster_panels, colours[maps.labels]),
        (component_panels, maps.components),
    ):
        expected = []
        for image in range(2):
            expected.append(maps.images[image])
            for t in range(3):
                expected += [maps.noised[image, t], panels[image, 0, t], panels[image, 1, t]]
        figure = draw(study)
        np.testing.assert_array_equal(shown_pictures(figure), expected)
        titles = [text.get_text() for text in figure.texts[2:]]
        assert titles == 2 * ["image", "t = 50", "t = 200", "t = 800", "block 4", "block 6"]


def test_masks_of_the_best_the_median_and_the_worst_cell(study: Study) -> None:
    examples = study.examples
    assert examples is not None
    values = plain(study.grid, study.classes.averaged)
    ranked = sorted(values, key=lambda key: statistics.fmean(values[key]))
    cells = {"best": ranked[-1], "median": ranked[(len(ranked) - 1) // 2], "worst": ranked[0]}
    figure = mask_panels(study)
    stacks = [examples.truths, *(examples.masks[cell] for cell in cells.values())]
    expected = list(examples.images)
    for stack in stacks:
        expected += [study.classes.colourise(mask) for mask in stack]
    np.testing.assert_array_equal(shown_pictures(figure), expected)
    captions = [text.get_text().replace("\n", " ") for text in figure.texts[4:]]
    assert captions == [
        f"{name}: block {block}, t = {t} ({statistics.fmean(values[block, t]):.1f})"
        for name, (block, t) in cells.items()
    ]


def test_legend_of_masks_lists_what_is_shown(study: Study) -> None:
    examples = study.examples
    assert examples is not None
    truths = np.full_like(examples.truths, 4)
    masks = {cell: np.full_like(truths, 2) for cell in examples.masks}

    def legend(truths: np.ndarray) -> dict[str, tuple[int, ...]]:
        shown = replace(study, examples=Examples(examples.images, truths, masks))
        box = mask_panels(shown).legends[0]
        colours = [np.array(patch.get_facecolor()) for patch in box.get_patches()]
        names = [text.get_text() for text in box.get_texts()]
        rgb = [tuple((colour[:3] * 255).round().astype(int).tolist()) for colour in colours]
        return dict(zip(names, rgb, strict=True))

    palette = study.classes.palette.tolist()
    known = {"leg": tuple(palette[2]), "head": tuple(palette[4])}
    assert legend(truths) == known
    assert legend(np.where(np.eye(8, dtype=bool), np.uint8(255), truths)) == {
        **known,
        "no class": (128, 128, 128),
    }


@pytest.mark.parametrize(("times", "names"), [((9,), ["best"]), ((9, 10), ["best", "worst"])])
def test_one_cell_is_not_shown_twice(times: tuple[int, ...], names: list[str]) -> None:
    figure = mask_panels(make_study((3,), times, (0,), frozenset()))
    captions = [text.get_text() for text in figure.texts[4:]]
    assert [caption.split(":")[0] for caption in captions] == names


@pytest.mark.parametrize("size", [8, 64, 150, 256])
def test_a_png_holds_every_pixel_of_a_picture(size: int) -> None:
    study = make_study((3,), (9,), (0,), frozenset(), size=size)
    for figure in (mask_panels(study), component_panels(study)):
        file = BytesIO()
        with house_style():
            figure.savefig(file, format="png", dpi=DPI)
        page = np.asarray(Image.open(file).convert("RGB"))
        for image in figure.axes[0].images:
            box = image.get_window_extent()
            left, right, low, high = (round(value) for value in (box.x0, box.x1, box.y0, box.y1))
            factor, rest = divmod(right - left, size)
            assert rest == 0
            shown = page[len(page) - high : len(page) - low, left:right]
            picture = np.asarray(image.get_array())
            np.testing.assert_array_equal(shown, picture.repeat(factor, 0).repeat(factor, 1))


def test_figures_whose_data_are_absent_are_left_out() -> None:
    study = make_study((2,), (0, 9), (0,))
    assert list(figures(study)) == STEMS + PICTURES
    assert list(figures(replace(study, clusters=None))) == [*STEMS, "masks"]
    assert list(figures(replace(study, examples=None, clusters=None))) == STEMS
    assert study.examples
    no_masks = replace(study.examples, masks={})
    assert "masks" not in figures(replace(study, examples=no_masks))

    counts = torch.zeros(12, 11, dtype=torch.int64)
    counts[3, 3] = 7
    one_class = replace(study, grid=CellGrid([Cell(0, 0, 0, counts)], 255))
    assert "class_size" not in figures(one_class)
    assert "per_class" in figures(one_class)
    no_class = replace(study, grid=CellGrid([Cell(0, 0, 0, torch.zeros_like(counts))], 255))
    assert list(figures(replace(no_class, examples=None, clusters=None))) == STEMS[:2]


def test_a_figure_without_its_data_is_refused(study: Study) -> None:
    counts = torch.zeros(12, 11, dtype=torch.int64)
    bare = replace(study, grid=CellGrid([Cell(0, 0, 0, counts)], 255), examples=None, clusters=None)
    for draw in (class_size, per_class, cluster_panels, component_panels, mask_panels):
        with pytest.raises(ValueError, match=r"class|the study holds no"):
            draw(bare)


def test_files_are_the_same_bytes_whatever_the_users_settings(tmp_path: Path) -> None:
    stems = save_figures(make_study((2, 5), (0, 50), (0, 1)), tmp_path / "new" / "one")
    with matplotlib.rc_context({"font.size": 19, "svg.fonttype": "path", "axes.grid": True}):
        before = dict(matplotlib.rcParams)
        assert (
            save_figures(make_study((2, 5), (0, 50), (0, 1)), tmp_path / "two")
            == stems
            == STEMS + PICTURES
        )
        assert dict(matplotlib.rcParams) == before
    names = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert names == sorted(f"{stem}.{ending}" for stem in stems for ending in ("png", "svg"))
    for name in names:
        content = (tmp_path / "new" / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes(), name
        if name.endswith("svg"):
            assert b"<text" in content
            assert b"<dc:date>" not in content


def test_names_with_dollars_are_no_formulae(study: Study) -> None:
    names = ("a$b_$c^", *study.classes.names[1:])
    table = ClassTable("money", names, study.classes.palette, 255, None, None)
    rich = replace(
        make_study((2,), (0, 9), (0,)),
        dataset="$x^$",
        classes=table,
        controls={"$\\no$": study.grid},
    )
    for figure in figures(rich).values():
        with house_style():
            figure.savefig(BytesIO(), format="svg")


@given(st.lists(st.floats(0, 4), max_size=6), st.floats(0.01, 1))
def test_labels_are_spread_no_more_than_needed(places: list[float], apart: float) -> None:
    moved = spread_out(places, apart)
    order = np.argsort(places, kind="stable")
    for lower, upper in pairwise(order):
        assert moved[upper] >= moved[lower] + apart
        assert moved[upper] in (places[upper], moved[lower] + apart)
    if places:
        assert min(moved) == min(places)


@given(st.text(st.characters(categories=["L", "N"], max_codepoint=255), max_size=30))
def test_a_fitted_text_fits(text: str) -> None:
    shown = fitted(text, 8, 0.6)
    assert text_width(shown, 8) <= 0.6
    assert shown == text or (shown.endswith("…") and text.startswith(shown[:-1]))


def test_class_labels_drop_the_path_where_that_is_unambiguous() -> None:
    assert class_labels(load_class_table("ffhq_34"))[6] == "lobule"
    names = ("lid", "eye***lid", "eye***iris")
    table = ClassTable("t", names, np.zeros((3, 3), np.uint8), 255, None, None)
    assert class_labels(table) == ("lid", "eye / lid", "iris")


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
def test_notable_cells_are_those_of_a_plain_sort(rights: list[int], data: st.DataObject) -> None:
    keys = [(n % 3, n // 3) for n in range(len(rights))]
    cells = []
    for (block, t), right in zip(keys, rights, strict=True):
        counts = torch.zeros(12, 11, dtype=torch.int64)
        counts[0, 0], counts[0, 1] = right, 3 - right
        cells.append(Cell(block, t, 0, counts))
    with_masks = data.draw(st.sets(st.sampled_from([*keys, (9, 9)])))
    masks = {key: np.zeros((2, 8, 8), np.uint8) for key in with_masks}
    study = make_study((0,), (0,), (0,), frozenset())
    assert study.examples
    study = replace(study, grid=CellGrid(cells, 255), examples=replace(study.examples, masks=masks))
    shown = [n for n, key in enumerate(keys) if key in with_masks] or list(range(len(keys)))
    best_first = [keys[n] for n in sorted(shown, key=lambda n: (-rights[n], keys[n]))]
    found = notable_cells(study)
    assert found["best"] == best_first[0]
    assert found["worst"] == best_first[-1]
    below = len(shown) - 1 - best_first.index(found["median"])
    assert below == (len(shown) - 1) // 2

"""The interactive page: what is in the file, and what a browser makes of it."""

import base64
import html
import json
import re
import shutil
import statistics
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpmseg.data.class_table import ClassTable
from ddpmseg.records.cell_grid import Cell, CellGrid
from ddpmseg.report.page import COLUMNS, render_report, write_report
from ddpmseg.report.study import ClusterMaps, Examples, Study

BLOCKS, TIMESTEPS, SEEDS = (2, 5, 6), (0, 50, 400, 999), (0, 3)
MISSING = (5, 400)
HOSTILE = "</script><img src=x onerror=\"document.title='harmed'\">"
NAMES = ("ground", HOSTILE, "ear & eye", "nowhere", "hoof")
TITLE = "What ddpm_things knows about things, by decoder block and timestep"
FINDINGS = ["Block 5 is best.", f"Even for {HOSTILE}."]
FIGURES = ["curves", "heatmap", "masks", "sizes", "classes", "clusters", "cells"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)


def some_grid(blocks: tuple[int, ...], timesteps: tuple[int, ...], seeds: tuple[int, ...]):
    """Random counts of five classes, 'nowhere' in no mask; ignored pixels too."""
    rng = np.random.default_rng(1)
    cells = []
    for key in np.ndindex(len(blocks), len(timesteps), len(seeds)):
        counts = rng.integers(0, 9, (6, 5))
        counts[range(5), range(5)] += rng.integers(5, 40, 5)
        # Rows sum to the true pixels of a class, the same for every cell.
        counts[:5, 0] += np.array([900, 500, 200, 0, 300]) - counts[:5].sum(1)
        counts[3] = 0
        block, timestep, seed = blocks[key[0]], timesteps[key[1]], seeds[key[2]]
        if (block, timestep) != MISSING:
            cells.append(Cell(block, timestep, seed, torch.from_numpy(counts), 1.25))
    return CellGrid(cells, ignore_label=255)


def some_study(
    blocks: tuple[int, ...] = BLOCKS,
    timesteps: tuple[int, ...] = TIMESTEPS,
    seeds: tuple[int, ...] = SEEDS,
) -> Study:
    rng = np.random.default_rng(0)
    grid = some_grid(blocks, timesteps, seeds)
    images = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    truths = np.where(rng.random((3, 8, 8)) < 0.1, 255, 1).astype(np.uint8)
    masks = {(c.block, c.timestep): rng.integers(0, 5, (3, 8, 8), np.uint8) for c in grid.cells}
    return Study(
        dataset="things",
        backbone="ddpm_things",
        classes=ClassTable(
            "things", NAMES, rng.integers(0, 256, (5, 3), np.uint8), 255, None, None
        ),
        grid=grid,
        command=f"ddpmseg sweep name='{HOSTILE}'",
        settings={"labelled images": "20", HOSTILE: HOSTILE},
        controls={"random": some_grid((0, 1), (0,), (0,)), HOSTILE: some_grid((0,), (0,), (0,))},
        examples=Examples(images, truths, masks),
        clusters=ClusterMaps(
            blocks=(5, 6),
            timesteps=(0, 50, 400),
            k=9,
            images=images[:2],
            noised=rng.integers(0, 256, (2, 3, 8, 8, 3), np.uint8),
            labels=rng.integers(0, 9, (2, 2, 3, 8, 8), np.uint8),
            components=rng.integers(0, 256, (2, 2, 3, 8, 8, 3), np.uint8),
        ),
    )


class Page(HTMLParser):
    """Tags with their attributes by figure, visible text, and the content of every script."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.figure, self.inside = "", ""
        self.tags: list[tuple[str, str, dict[str, str]]] = []
        self.text: list[str] = []
        self.raw: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag == "figure":
            self.figure = attributes["id"]
        self.inside = tag
        self.tags.append((self.figure, tag, attributes))

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""
        if tag == "figure":
            self.figure = ""

    def handle_data(self, data: str) -> None:
        (self.raw if self.inside in ("script", "style") else self.text).append(data)

    @property
    def figures(self) -> list[str]:
        return [attributes["id"] for _, tag, attributes in self.tags if tag == "figure"]

    @property
    def data(self) -> dict:
        return json.loads(self.raw[1])

    def count(self, figure: str, tag: str, kind: str = "") -> int:
        """Elements of a figure, of one class where `kind` is given."""
        return sum(
            (at, name) == (figure, tag)
            and (not kind or kind in attributes.get("class", "").split())
            for at, name, attributes in self.tags
        )


@pytest.fixture(scope="module")
def study() -> Study:
    return some_study()


@pytest.fixture(scope="module")
def page(study: Study) -> Page:
    return Page(render_report(study, FINDINGS))


def pixels(uri: str) -> Image.Image:
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(BytesIO(base64.b64decode(content)))


def iou(cell: Cell, label: int) -> float:
    counts = cell.counts.tolist()
    union = sum(row[label] for row in counts) + sum(counts[label]) - counts[label][label]
    return counts[label][label] / union if union else 0


def test_every_figure_is_there_with_a_caption_and_the_texts_of_the_study(page: Page) -> None:
    assert page.figures == FIGURES
    assert all(page.count(figure, "figcaption") == 1 for figure in FIGURES)
    text = "".join(page.text)
    assert text.count(TITLE) == 2
    for expected in (*FINDINGS, "labelled images", "20", "3 blocks × 4 timesteps × 2 seeds"):  # noqa: RUF001
        assert expected in text
    assert "2 missing" in text
    assert "Small: ear & eye. Large: ground." in text
    assert "In no test mask, and not shown: nowhere." in re.sub(r"\s+", " ", text)


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    for _, tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        for name in attributes.keys() & {"src", "href", "srcset", "action", "data"}:
            assert attributes[name].startswith(("data:", "#")), (tag, attributes)
    for link in re.findall(r"url\(([^)]*)\)", page.source):
        assert link.startswith("#")
    assert "@import" not in page.source
    # The name of the SVG namespace is an address, but never asked for.
    assert set(re.findall(r"\w+://[^\s\"'<]*", page.source)) == {"http://www.w3.org/2000/svg"}
    policies = [a["content"] for _, _, a in page.tags if "Security" in a.get("http-equiv", "")]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'; img-src data: blob:; style-src")


def test_values_are_the_means_over_seeds(page: Page, study: Study) -> None:
    data = page.data
    metrics = {metric["id"]: metric for metric in data["metrics"]}
    assert list(metrics) == [
        *("miou", "miou_present", "pixel_accuracy", "miou_small", "miou_large"),
        *("class-2", "class-4", "class-1", "class-0"),
    ]
    groups = {"miou": range(5), "miou_small": [2], "miou_large": [0], "class-1": [1]}
    for name, labels in groups.items():
        for row, block in enumerate(BLOCKS):
            for column, timestep in enumerate(TIMESTEPS):
                mean = metrics[name]["mean"][row][column]
                spread = metrics[name]["spread"][row][column]
                if (block, timestep) == MISSING:
                    assert mean is None
                    assert spread is None
                    continue
                cells = [study.grid.by_key[block, timestep, seed] for seed in SEEDS]
                values = [statistics.mean(iou(cell, label) for label in labels) for cell in cells]
                assert mean == pytest.approx(statistics.mean(values), abs=1e-6)
                assert spread == pytest.approx(statistics.stdev(values), abs=1e-6)
        flat = {
            (row, column): value
            for row, means in enumerate(metrics[name]["mean"])
            for column, value in enumerate(means)
            if value is not None
        }
        assert tuple(metrics[name]["best"]) == max(flat, key=lambda cell: flat[cell])


def test_a_control_is_its_best_cell(page: Page, study: Study) -> None:
    control = page.data["metrics"][0]["controls"][0]
    values = {
        (cell.block, cell.timestep): statistics.mean(iou(cell, label) for label in range(5))
        for cell in study.controls["random"].cells
    }
    assert control["name"] == "random (t = 0)"
    assert control["value"] == pytest.approx(max(values.values()), abs=1e-6)
    assert values[control["block"], control["timestep"]] == max(values.values())


def test_the_table_has_one_row_per_cell(page: Page, study: Study) -> None:
    data = page.data
    assert tuple(data["columns"]) == COLUMNS
    assert [tuple(row[:3]) for row in data["rows"]] == [cell.key for cell in study.grid.cells]
    for row, cell in zip(data["rows"], study.grid.cells, strict=True):
        known = cell.counts[:-1]
        accuracy = known.diagonal().sum().item() / known.sum().item()
        expected = {
            "miou": statistics.mean(iou(cell, label) for label in range(5)),
            "pixel_accuracy": accuracy,
            "miou_small": iou(cell, 2),
            "miou_large": iou(cell, 0),
            "seconds": 1.25,
        }
        shown: dict[str, float] = dict(zip(COLUMNS, row, strict=True))
        for name, value in expected.items():
            assert shown[name] == pytest.approx(value, abs=1e-6), name


def test_mosaics_hold_the_labels(page: Page, study: Study) -> None:
    assert study.examples
    examples = page.data["examples"]
    assert len(examples["masks"]) == len(study.examples.masks)
    for (block, timestep), masks in study.examples.masks.items():
        mosaic = np.array(pixels(examples["masks"][f"{block},{timestep}"]))
        assert np.array_equal(mosaic, np.concatenate([*masks], 1))
    images = np.array(pixels(examples["images"]))
    assert np.array_equal(images, np.concatenate([*study.examples.images], 1))
    truths = np.array(pixels(examples["truths"]).convert("RGB"))
    for index, truth in enumerate(study.examples.truths):
        expected = study.classes.colourise(truth)
        assert np.array_equal(truths[:, 8 * index : 8 * index + 8], expected)


def test_cluster_pictures_are_in_their_places(page: Page, study: Study) -> None:
    assert study.clusters
    shown = page.data["clusters"]
    for image, row, column in np.ndindex(2, 2, 3):
        labels = pixels(shown["labels"][image][row][column])
        assert np.array_equal(np.array(labels), study.clusters.labels[image, row, column])
        assert len(labels.convert("RGB").getcolors() or []) == len(np.unique(np.array(labels)))
        components = pixels(shown["components"][image][row][column])
        expected = study.clusters.components[image, row, column]
        assert np.array_equal(np.array(components), expected)
        noised = np.array(pixels(shown["noised"][image][column]))
        assert np.array_equal(noised, study.clusters.noised[image, column])


def test_hostile_texts_stay_texts(page: Page) -> None:
    tags = Counter(tag for _, tag, _ in page.tags)
    assert tags["script"] == 2
    assert tags["img"] == 0
    assert [entry["name"] for entry in page.data["classes"]] == list(NAMES)
    assert page.data["metrics"][0]["controls"][1]["name"] == f"{HOSTILE} (t = 0)"
    assert "</" not in page.raw[1]
    # Once in a finding, twice in the settings, once in the command.
    assert page.source.count(html.escape(HOSTILE)) == 4


@pytest.mark.parametrize(
    ("changed", "absent"),
    [
        (replace(some_study(), examples=None), {"masks"}),
        (replace(some_study(), clusters=None), {"clusters"}),
        (some_study(blocks=(4,)), set()),
        (some_study(timesteps=(50,)), {"curves", "sizes"}),
        (some_study(blocks=(4,), timesteps=(50,)), {"curves", "sizes", "heatmap"}),
    ],
)
def test_sections_without_data_are_left_out(changed: Study, absent: set[str]) -> None:
    page = Page(render_report(changed, FINDINGS))
    assert page.figures == [figure for figure in FIGURES if figure not in absent]
    assert "<!-- " not in page.source


def test_one_class_alone_makes_no_groups() -> None:
    counts = torch.tensor([[30, 0], [0, 0], [0, 0]])
    grid = CellGrid([Cell(1, t, 0, counts) for t in (0, 50)], ignore_label=255)
    classes = ClassTable("one", ("thing", "other"), np.eye(2, 3, dtype=np.uint8), 255, None, None)
    page = Page(render_report(Study("one", "ddpm", classes, grid, ""), []))
    assert page.figures == ["curves", "heatmap", "classes", "cells"]
    assert page.data["metrics"][0]["spread"] is None
    assert page.data["rows"][0] == [1, 0, 0, 0.5, 1.0, 1.0, None, None, 0.0]
    tags = {tag for _, tag, _ in page.tags}
    assert not tags & {"ul", "pre"}
    assert "seeds" not in "".join(page.text)


def test_large_pictures_are_thinned_to_a_small_page() -> None:
    rng = np.random.default_rng(0)
    study = some_study()
    noise = rng.integers(0, 256, (2, 320, 320, 3), np.uint8)
    masks = {(2, 0): rng.integers(0, 5, (2, 320, 320), np.uint8)}
    truths = masks[2, 0]
    examples = Examples(noise, truths, masks)
    page = Page(render_report(replace(study, examples=examples, clusters=None), []))
    assert len(page.source) < 600_000
    shown = page.data["examples"]
    assert shown["step"] == 1
    assert np.array(pixels(shown["masks"]["2,0"])).shape == (320, 640)
    # Noise does not compress: at full size it would take 800 kB, at half 200 kB.
    assert np.array(pixels(shown["images"])).shape == (160, 320, 3)
    corner = noise[0, :2, :2].mean((0, 1)).round()
    assert np.array_equal(np.array(pixels(shown["images"]))[0, 0], corner)


def test_the_file_holds_the_page(study: Study, page: Page, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", study, FINDINGS)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page.source
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def browsed(source: str, folder: Path, script: str) -> tuple[Page, dict[str, str]]:
    """The page after a browser has run it and then `script`; the attributes of <html>.

    Fails for every message on the browser's console and for every request.
    """
    record = (
        "document.documentElement.dataset.requests = performance.getEntriesByType('resource')"
        ".map((entry) => entry.name).filter((name) => !/^(data|blob):/.test(name)).join(' ');"
    )
    driver = f"<script>addEventListener('load', () => {{ {script}; {record} }});</script></body>"
    path = folder / "copy.html"
    path.write_text(source.replace("</body>", driver), encoding="utf-8")
    assert CHROMIUM
    command = [
        *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"),
        *(f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"),
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    page = Page(done.stdout)
    root = next(attributes for _, tag, attributes in page.tags if tag == "html")
    assert root["data-drawn"] == "true"
    assert root["data-requests"] == ""
    return page, root


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH")


@needs_browser
def test_a_browser_draws_every_figure(page: Page, tmp_path: Path) -> None:
    drawn, root = browsed(page.source, tmp_path, "")
    assert root["lang"] == "en"
    assert drawn.count("curves", "path", "line") == len(BLOCKS)
    assert drawn.count("curves", "circle") == 11 + 1
    assert drawn.count("curves", "path", "whiskers") == len(BLOCKS)
    assert drawn.count("curves", "line", "control") == 2
    assert drawn.count("heatmap", "rect", "cell") == 12
    assert drawn.count("heatmap", "rect", "missing") == 2  # one is in the key
    assert drawn.count("sizes", "path", "line") == 2 * len(BLOCKS)
    assert drawn.count("classes", "svg") == 4
    assert drawn.count("classes", "rect", "cell") == 4 * 12
    # Image, truth, best, median and worst of three examples; nothing is chosen yet.
    assert drawn.count("masks", "canvas") == 3 * 5
    assert drawn.count("clusters", "img") == 2 + 3 + 2 * 3
    text = "".join(drawn.text)
    best = page.data["metrics"][0]
    row, column = best["best"]
    value = f"{100 * best['mean'][row][column]:.1f}"
    assert f"best: block {BLOCKS[row]}, t = {TIMESTEPS[column]}: {value}" in text
    assert HOSTILE in text
    assert next(text for text in drawn.text if text.strip()) == TITLE
    assert not [a for _, tag, a in drawn.tags if tag == "img" and not a["src"].startswith("data:")]


@needs_browser
def test_a_browser_follows_what_is_pressed(page: Page, tmp_path: Path) -> None:
    drawn, root = browsed(
        page.source,
        tmp_path,
        """
        const press = (selector) => document.querySelector(selector).click();
        const metric = document.querySelector("#metric");
        metric.value = "class-4";
        metric.dispatchEvent(new Event("change"));
        press("#blocks button");
        const heat = document.querySelector("#heatmap svg");
        const key = (name) => heat.dispatchEvent(new KeyboardEvent("keydown", { key: name }));
        key("ArrowRight");
        for (const name of Array(4).fill("ArrowUp").concat(Array(4).fill("ArrowLeft"))) key(name);
        key("Enter");
        press("[data-kind=components]");
        for (const details of document.querySelectorAll("details")) details.open = true;
        press("#class-table th:nth-child(5) button");
        press("#class-legend button");
        press("#over");
        const { dataset } = document.documentElement;
        dataset.tip = document.querySelector("#tip").textContent;
        dataset.worst = document.querySelector("#class-table tbody td").textContent;
        dataset.picture = document.querySelector(".maps > img").src;
        """,
    )
    shown = next(metric for metric in page.data["metrics"] if metric["id"] == "class-4")
    mean, spread = (100 * shown[name][0][0] for name in ("mean", "spread"))
    assert root["data-tip"] == f"block 2, t = 0{mean:.1f} ± {spread:.1f} %IoU of hoof"
    assert drawn.count("curves", "path", "line") == len(BLOCKS) - 1
    assert "IoU of hoof of every cell" in "".join(drawn.text)
    assert drawn.count("heatmap", "rect", "chosen") == 2 + 1  # the ring, its rim, and in the key
    assert drawn.count("masks", "canvas") == 3 * 6
    assert root["data-picture"] == page.data["clusters"]["components"][0][0][0]
    singles = [metric for metric in page.data["metrics"] if metric["id"].startswith("class")]
    worst = min(singles, key=lambda m: m["mean"][m["best"][0]][m["best"][1]])
    assert f"IoU of {root['data-worst']}" == worst["label"]


@needs_browser
def test_a_browser_draws_a_study_of_one_cell(tmp_path: Path) -> None:
    bare = replace(some_study((4,), (50,), (0,)), examples=None, clusters=None, controls={})
    drawn, _ = browsed(render_report(bare, []), tmp_path, "document.querySelector('summary')")
    assert drawn.figures == ["classes", "cells"]
    assert drawn.count("classes", "td") == 4 * 5

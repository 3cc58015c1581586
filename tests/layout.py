"""The rooms of the package and who imports whom, read from the source; draws docs/architecture.svg.

python tests/layout.py
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "ddpmseg"
PICTURE = ROOT / "docs" / "architecture.svg"
BOX, GAP, ROW = (112, 30), (14, 46), 6
"""Sides of a box, distances between boxes, and boxes in a line, in pixels."""


@cache
def modules() -> dict[str, Path]:
    """Every module by its dotted name below the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> dict[str, set[str]]:
    """For every module the modules of the package that it imports, wherever the import stands."""
    return {name: set(_imported(path)) - {name} for name, path in modules().items()}


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ddpmseg":
            base = (node.module or "").removeprefix("ddpmseg").removeprefix(".")
            for alias in node.names:
                module = f"{base}.{alias.name}".strip(".")
                yield module if module in modules() else base
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "ddpmseg":
                    yield alias.name.removeprefix("ddpmseg").removeprefix(".")


@cache
def rooms() -> dict[str, set[str]]:
    """For every folder, and every module that lies in none, the others that it imports.

    Left out are the two faces `__init__` and `__main__`, which only name what lies below.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for name, imported in imports().items():
        room = name.split(".")[0]
        if room and room != "__main__":
            found[room] |= {other.split(".")[0] for other in imported} - {room, ""}
    return dict(found)


def levels(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """How far each room is from those that import nothing; graphlib.CycleError for a circle."""
    height: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        height[room] = 1 + max((height[other] for other in graph.get(room, ())), default=-1)
    return height


def direct(graph: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that no longer way replaces."""

    @cache
    def below(room: str) -> frozenset[str]:
        return frozenset(graph.get(room, ())).union(*map(below, graph.get(room, ())))

    return [
        (room, other)
        for room in sorted(graph)
        for other in sorted(graph[room])
        if not any(other in below(between) for between in graph[room])
    ]


def drawn() -> str:
    """The picture as SVG: each room above all that it imports."""
    graph = rooms()
    height = levels(graph)
    by_level: dict[int, list[str]] = defaultdict(list)
    for room in sorted(graph):
        by_level[height[room]].append(room)
    lines = [
        some[start : start + ROW]
        for level in sorted(by_level, reverse=True)
        for some in [by_level[level]]
        for start in range(0, len(some), ROW)
    ]
    width = ROW * (BOX[0] + GAP[0]) + GAP[0]
    place = {}
    for row, line in enumerate(lines):
        left = (width - len(line) * (BOX[0] + GAP[0]) + GAP[0]) / 2
        for column, room in enumerate(line):
            place[room] = (left + column * (BOX[0] + GAP[0]), 12 + row * (BOX[1] + GAP[1]))
    total = 12 + len(lines) * (BOX[1] + GAP[1]) - GAP[1] + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{total}" fill="#ffffff"/>',
        '<g fill="none" stroke="#8a97a8" stroke-opacity="0.55">',
    ]
    for room, other in direct(graph):
        (x1, y1), (x2, y2) = place[room], place[other]
        x1, y1, x2 = x1 + BOX[0] / 2, y1 + BOX[1], x2 + BOX[0] / 2
        bend = (y2 - y1) / 2
        parts.append(
            f'<path d="M{x1:.0f} {y1:.0f} C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} '
            f'{x2:.0f} {y2:.0f}"/>'
        )
    parts.append("</g>")
    for room, (x, y) in sorted(place.items()):
        parts.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX[0]}" height="{BOX[1]}" rx="5" '
            'fill="#eaf1fb" stroke="#3f6fb0"/>'
            f'<text x="{x + BOX[0] / 2:.0f}" y="{y + 20:.0f}" text-anchor="middle">{room}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """A chain of imports that ends where it began; empty where there is none."""
    seen: set[str] = set()

    def walk(room: str, path: list[str]) -> list[str]:
        if room in path:
            return [*path[path.index(room) :], room]
        if room in seen:
            return []
        for other in sorted(graph.get(room, ())):
            if found := walk(other, [*path, room]):
                return found
        seen.add(room)
        return []

    return next((found for room in sorted(graph) if (found := walk(room, []))), [])


def chain(found: list[str]) -> str:
    return ", ".join(f"{one} imports {other}" for one, other in pairwise(found))


if __name__ == "__main__":
    PICTURE.write_text(drawn(), encoding="utf-8")

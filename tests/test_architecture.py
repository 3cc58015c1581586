"""docs/architecture.md against the tree: every room is described, imports run one way."""

import re

import layout


def test_rooms_import_each_other_in_one_direction() -> None:
    assert layout.chain(layout.circle(layout.rooms())) == ""


def test_modules_import_each_other_in_one_direction() -> None:
    assert layout.chain(layout.circle(layout.imports())) == ""


def test_every_room_is_described_and_no_other() -> None:
    page = layout.PICTURE.with_suffix(".md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert sorted(described) == sorted(layout.rooms())


def test_the_picture_is_that_of_the_tree() -> None:
    """`python tests/layout.py` draws it anew."""
    assert layout.PICTURE.read_text(encoding="utf-8") == layout.drawn()


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}
    assert layout.chain(layout.circle(graph)) == "b imports c, c imports b"

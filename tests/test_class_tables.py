"""Class tables: those that ship, those a user writes, and what each mistake is answered with."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml

from ddpmseg.data.class_table import (
    generated_colour,
    load_class_table,
    shipped_class_tables,
)
from ddpmseg.errors import ConfigError, DataError

# Outputs, ignore label, averaged classes, training and test images: Baranchuk et al. 2022.
PAPER = {
    "bedroom_28": (29, 0, 28, 40, 20),
    "ffhq_34": (34, 255, 34, 20, 20),
    "cat_15": (15, 255, 15, 30, 20),
    "horse_21": (21, 255, 21, 30, 30),
    "celeba_19": (19, 255, 19, 20, 500),
    "ade_bedroom_30": (30, 255, 30, 50, 650),
}
TWO_CLASSES = """
name: mine
ignore_label: 255
classes:
  - {name: sky, rgb: "#0080ff"}
  - {name: ground}
"""


def write_table(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def refusal(folder: Path, text: str) -> str:
    """The message a table is refused with, without the names of files."""
    with pytest.raises(ConfigError) as error:
        load_class_table(write_table(folder, text))
    message = str(error.value)
    assert "mine.yaml" in message
    return message.split(": ", 1)[1].split(". The tables in", 1)[0]


def test_the_six_sets_of_the_paper_and_the_ponies_ship() -> None:
    assert set(shipped_class_tables()) == {*PAPER, "ponies"}


@pytest.mark.parametrize("name", PAPER)
def test_shipped_tables_have_the_numbers_of_the_paper(name: str) -> None:
    table = load_class_table(name)
    assert table.name == name
    assert (
        table.num_classes,
        table.ignore_label,
        len(table.averaged),
        table.num_labelled,
        table.num_test,
    ) == PAPER[name]
    assert table.palette.shape == (table.num_classes, 3)
    assert len(np.unique(table.palette, axis=0)) == table.num_classes


@pytest.mark.parametrize("name", PAPER)
def test_areas_of_shipped_tables_add_up(name: str) -> None:
    path = Path(__file__).parents[1] / "src/ddpmseg/data/classes" / f"{name}.yaml"
    areas = np.array([entry["area"] for entry in yaml.safe_load(path.read_text())["classes"]])
    # What is unlabelled in ADE-Bedroom-30 is no class.
    total = [100 - 3.792, 100 - 2.983] if name == "ade_bedroom_30" else [100, 100]
    assert areas.sum(axis=0) == pytest.approx(total, abs=0.0005 * len(areas))


def test_cat_15_has_nose_and_tail_the_right_way_round() -> None:
    names = load_class_table("cat_15").names
    assert (names[11], names[12]) == ("tail", "nose")


def test_bedroom_28_has_a_class_that_is_ignored() -> None:
    table = load_class_table("bedroom_28")
    assert table.names[0] == "background"
    assert table.averaged == tuple(range(1, 29))
    table.check_mask(np.array([[0, 28]]), "a.npy")
    assert table.colourise(np.array([[0]]))[0, 0].tolist() == [255, 255, 255]


def test_own_table_from_a_file(tmp_path: Path) -> None:
    table = load_class_table(write_table(tmp_path, TWO_CLASSES))
    assert (table.name, table.names, table.ignore_label) == ("mine", ("sky", "ground"), 255)
    assert (table.num_labelled, table.num_test) == (None, None)
    assert table.palette.tolist() == [[0, 128, 255], list(generated_colour(1))]


def test_generated_colours_differ_from_each_other_and_from_grey() -> None:
    colours = np.array([generated_colour(label) for label in range(256)])
    assert len(np.unique(colours, axis=0)) == 256
    first = [*colours[:30].tolist(), [128, 128, 128]]
    assert min(np.abs(np.subtract(a, b)).sum() for a, b in combinations(first, 2)) > 25


def test_colourise_paints_classes_and_leaves_the_rest_grey() -> None:
    table = load_class_table("ponies")
    mask = np.array([[0, 1], [255, 10]], np.uint8)
    painted = table.colourise(mask)
    assert painted.dtype == np.uint8
    assert painted.tolist() == [[[235, 235, 240], [214, 40, 57]], [[128, 128, 128], [0, 0, 0]]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint32, np.int64])
def test_check_mask_passes_classes_and_the_ignore_label(dtype: type) -> None:
    load_class_table("horse_21").check_mask(np.array([[0, 20], [255, 7]], dtype), "a.npy")


def test_check_mask_names_labels_and_the_way_out() -> None:
    with pytest.raises(DataError) as error:
        load_class_table("horse_21").check_mask(np.array([[256, 21], [-1, 3]]), "real/a.npy")
    assert str(error.value) == (
        "mask 'real/a.npy' has the labels -1, 21, 256; class table 'horse_21' allows 0..20 and 255 "
        "(ignored). Correct the mask, or set `dataset.classes` to a table of all its classes."
    )


def test_check_mask_shortens_long_lists() -> None:
    with pytest.raises(
        DataError, match=r"labels 29, 30, 31, 32, 33, 34, 35, 36, \.\.\.; .* 0\.\.28\."
    ):
        load_class_table("bedroom_28").check_mask(np.arange(40).reshape(8, 5), "a.npy")


def test_check_mask_in_singular() -> None:
    with pytest.raises(DataError, match="has the label 255; "):
        load_class_table("bedroom_28").check_mask(np.array([[255]]), "a.npy")


def test_unknown_name_lists_the_tables() -> None:
    with pytest.raises(ConfigError) as error:
        load_class_table("horse21")
    assert str(error.value) == (
        "`dataset.classes=horse21`: no class table of this name ships with ddpmseg (there are: "
        "ade_bedroom_30, bedroom_28, cat_15, celeba_19, ffhq_34, horse_21, ponies), and there is "
        "no such file. Give one of these names or the path of a YAML file like theirs."
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: mine\n", "", "the file lacks `name`"),
        ("ignore_label: 255\n", "", "the file lacks `ignore_label`"),
        ("255", "256", "`ignore_label` must be a whole number in 0..255, found 256"),
        ("255", "yes", "`ignore_label` must be a whole number in 0..255, found True"),
        (
            "ignore_label: 255",
            "ignore_label: 255\nnum_train: 5",
            "the file has the unknown key `num_train` "
            "(allowed: name, ignore_label, classes, num_labelled, num_test)",
        ),
        (
            "ignore_label: 255",
            "ignore_label: 255\nnum_labelled: 0",
            "`num_labelled` must be a whole number in 1..1000000000, found 0",
        ),
        (
            "{name: ground}",
            "ground",
            "class 1 must be a mapping with name, found 'ground'",
        ),
        ("{name: ground}", "{rgb: '#000000'}", "class 1 lacks `name`"),
        (
            "{name: ground}",
            "{name: ground, color: red}",
            "class 1 has the unknown key `color` (allowed: name, rgb, area)",
        ),
        (
            "{name: ground}",
            "{name: off}",
            "`name` of class 1 must be text, found False (put numbers and yes/no in quotes)",
        ),
        ("{name: ground}", "{name: sky}", "class 'sky' is listed more than once"),
        (
            '"#0080ff"',
            "[0, 128, 255]",
            '`rgb` of class 0 must look like "#3CB45A", found [0, 128, 255]',
        ),
        ('"#0080ff"', '"#08f"', "`rgb` of class 0 must look like \"#3CB45A\", found '#08f'"),
    ],
)
def test_malformed_tables_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TWO_CLASSES
    assert refusal(tmp_path, TWO_CLASSES.replace(old, new)) == message


@pytest.mark.parametrize("classes", ["", "classes: {}", "classes: []", "classes: sky"])
def test_classes_must_be_a_list(tmp_path: Path, classes: str) -> None:
    message = refusal(tmp_path, f"name: mine\nignore_label: 255\n{classes}\n")
    assert message in (
        "the file lacks `classes`",
        "`classes` must be a list of 1 to 256 classes in label order",
    )


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, "sky\n") == (
        "the file must be a mapping with name, ignore_label, classes, found 'sky'"
    )
    with pytest.raises(ConfigError, match=r"mine\.yaml' is not valid YAML: .*\n.*line 1"):
        load_class_table(write_table(tmp_path, "classes: [sky\n"))
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"mine\.yaml' is damaged: it begins as UTF-16"):
        load_class_table(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_a_table(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nignore_label: 255\nclasses: [{name: 马}]\n", encoding=encoding)
    assert load_class_table(str(path)).names == ("马",)


def test_a_table_in_the_encoding_of_a_system_is_told_from_damage(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes("name: mine\nignore_label: 255\nclasses: [{name: 马}]\n".encode("gb18030"))
    with pytest.raises(ConfigError, match=r"mine\.yaml' is not in UTF-8 .*`iconv -f gb18030"):
        load_class_table(str(path))


def test_classes_that_read_alike_are_one_too_many(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nignore_label: 255\nclasses: [{name: é}, {name: e\u0301}]\n")
    with pytest.raises(ConfigError, match="class 'é' is listed more than once"):
        load_class_table(str(path))

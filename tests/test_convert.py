"""Annotations of COCO and labelme become the folder that `dataset=folder` reads, or an error."""

import base64
import json
import shlex
import sys
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from functools import reduce
from operator import getitem
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from tiny_annotations import SIZE, coco, labelme, save_coco, save_labelme, save_photo, square
from tiny_run import contents

from ddpmseg.__main__ import main
from ddpmseg.data.class_table import GREY, load_class_table
from ddpmseg.data.convert.coco import CocoShape, _area
from ddpmseg.data.images import read_mask
from ddpmseg.data.labelled import LabelledFolder
from ddpmseg.data.split import split_names
from ddpmseg.data_tools.convert import _read, convert
from ddpmseg.errors import ConfigError, DataError

BODY = np.zeros((SIZE, SIZE), bool)
BODY[4:12, 4:12] = True


def masks(folder: Path) -> dict[str, np.ndarray]:
    """Labels of every image, by name."""
    paths = sorted(folder.rglob("*_masks/*.png"))
    return {path.stem: read_mask(path, str(path)) for path in paths}


def refusal(kind: type[Exception], tmp_path: Path, source: Path, **options: Any) -> str:
    output = tmp_path / "out"
    with pytest.raises(kind) as error:
        convert(source, output, **options)
    assert not output.exists()
    assert not list(tmp_path.glob(".out*"))
    return str(error.value).replace(str(tmp_path), "TMP")


def loaded(folder: Path, **settings: Any) -> LabelledFolder:
    given: dict[str, Any] = {
        "train_masks": "real/train_masks",
        "test_masks": "real/test_masks",
    }
    classes = str(folder / "classes.yaml")
    return LabelledFolder("mine", classes, str(folder), image_size=SIZE, **(given | settings))


@pytest.mark.parametrize(
    ("save", "classes"),
    [
        (save_coco, ("background", "body", "eye")),  # by category id
        (save_labelme, ("background", "body", "eye")),  # by name
    ],
)
def test_what_is_written_is_what_was_drawn(
    save: Callable[[Path], Path], classes: tuple[str, ...], tmp_path: Path
) -> None:
    lines = convert(save(tmp_path / "in"), tmp_path / "out")
    found = masks(tmp_path / "out")
    assert sorted(found) == [f"photo_{index}" for index in range(4)]
    for mask in found.values():
        assert np.array_equal(mask > 0, BODY)
        # The smaller shape shows, though it was drawn first.
        assert 4 <= (mask == 2).sum() <= 9
        assert mask[6, 6] == 2
    dataset = loaded(tmp_path / "out")
    assert (len(dataset.train), len(dataset.test)) == (2, 2)
    assert dataset.classes.names == classes
    assert dataset.classes.ignore_label == 255
    for sample in (*dataset.train, *dataset.test):
        assert np.array_equal(sample.mask.numpy(), found[sample.name])
        original = (tmp_path / "in" / f"{sample.name}.png").read_bytes()
        (copied,) = (tmp_path / "out").glob(f"real/t*[nt]/{sample.name}.png")
        assert copied.read_bytes() == original
    assert "images: 2 for training, 2 for testing" in lines
    assert (tmp_path / "out" / "summary.txt").read_text().splitlines() == lines[:-2]


def test_areas_are_counted(tmp_path: Path) -> None:
    lines = convert(save_coco(tmp_path / "in"), tmp_path / "out", train="1", unlabelled="ignore")
    table = yaml.safe_load((tmp_path / "out" / "classes.yaml").read_text())
    eye = 100 * 4 / SIZE**2
    body = 100 * BODY.sum() / SIZE**2 - eye
    assert [entry["name"] for entry in table["classes"]] == ["body", "eye"]
    assert table["classes"][0]["area"] == [round(body, 3)] * 2
    assert lines[2].split() == ["0", "body", f"{body:.3f}", f"{body:.3f}", "1", "3"]
    assert lines[4].split()[:3] == ["255", "ignored", f"{100 - body - eye:.3f}"]


def test_unlabelled_pixels_can_be_ignored(tmp_path: Path) -> None:
    convert(save_coco(tmp_path / "in"), tmp_path / "out", unlabelled="ignore")
    for mask in masks(tmp_path / "out").values():
        assert np.array_equal(mask == 255, ~BODY)
        assert mask[6, 6] == 1
    assert load_class_table(str(tmp_path / "out" / "classes.yaml")).names == ("body", "eye")


def test_masks_can_be_looked_at(tmp_path: Path) -> None:
    convert(save_coco(tmp_path / "in"), tmp_path / "out", unlabelled="ignore")
    table = load_class_table(str(tmp_path / "out" / "classes.yaml"))
    (path, *_) = (tmp_path / "out").glob("real/*_masks/photo_1.png")
    with Image.open(path) as picture:
        assert picture.mode == "P"
        seen = np.asarray(picture.convert("RGB"))
    assert tuple(seen[0, 0]) == GREY
    assert tuple(seen[10, 10]) == tuple(table.palette[0])


@pytest.mark.parametrize(("on_top", "label"), [("smaller", 2), ("later", 1)])
def test_which_shape_is_on_top(on_top: Any, label: int, tmp_path: Path) -> None:
    convert(save_coco(tmp_path / "in"), tmp_path / "out", on_top=on_top)
    assert {int(mask[6, 6]) for mask in masks(tmp_path / "out").values()} == {label}


def packed_runs(mask: np.ndarray) -> str:
    encoded: Any = pycocotools.mask.encode(np.asfortranarray(mask, np.uint8))
    return encoded["counts"].decode()


def test_several_polygons_and_compressed_run_lengths(tmp_path: Path) -> None:
    content = coco()
    first, second = content["annotations"][1], content["annotations"][3]
    first["segmentation"] = [square(4, 4, 12, 8), square(4, 8, 12, 12)]
    second["segmentation"] = {"size": [SIZE, SIZE], "counts": packed_runs(BODY)}
    convert(save_coco(tmp_path / "in", content), tmp_path / "out")
    for mask in masks(tmp_path / "out").values():
        assert np.array_equal(mask > 0, BODY)


@given(mask=arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), packed=st.booleans())
def test_run_lengths_are_those_of_pycocotools(mask: np.ndarray, packed: bool) -> None:
    height, width = mask.shape
    if packed:
        counts = packed_runs(mask)
    else:
        edges = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False))
        counts = np.diff(np.array([0, *edges, mask.size])).tolist()
    area = {"size": [height, width], "counts": counts}
    shape = CocoShape("body", _area({"segmentation": area}, "it"), "it")
    assert np.array_equal(shape.covers(width, height), mask)


def test_run_lengths_with_empty_runs() -> None:
    area = {"size": [2, 3], "counts": [0, 0, 1, 0, 0, 2, 3, 0]}
    shape = CocoShape("body", _area({"segmentation": area}, "it"), "it")
    assert shape.covers(3, 2).tolist() == [[False, True, False], [True, False, False]]


def test_a_class_of_that_name_is_the_background(tmp_path: Path) -> None:
    content = coco()
    content["categories"].append({"id": 9, "name": "Background"})
    content["annotations"][0]["category_id"] = 9
    convert(save_coco(tmp_path / "in", content), tmp_path / "out")
    table = load_class_table(str(tmp_path / "out" / "classes.yaml"))
    assert table.names == ("Background", "body", "eye")
    assert masks(tmp_path / "out")["photo_0"][6, 6] == 0


def test_labelmes_own_names(tmp_path: Path) -> None:
    folder = save_labelme(tmp_path / "in")
    shapes = labelme("photo_0.png")["shapes"]
    shapes[0]["label"] = "__ignore__"
    whole = {"label": "_background_", "points": [[0, 0], [15, 0], [15, 15], [0, 15]]}
    content = labelme("photo_0.png", shapes=[whole, *shapes])
    (folder / "photo_0.json").write_text(json.dumps(content))
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\neye\nbody\n")
    convert(folder, tmp_path / "out", classes=tmp_path / "labels.txt")
    mask = masks(tmp_path / "out")["photo_0"]
    assert (mask[6, 6], mask[10, 10], mask[0, 0]) == (255, 2, 0)


def test_embedded_photographs_of_windows(tmp_path: Path) -> None:
    save_photo(tmp_path / "photo.png")
    data = base64.b64encode((tmp_path / "photo.png").read_bytes()).decode()
    for name in ("a", "b"):
        content = labelme(f"..\\photos\\{name}.bmp", imageData=data)
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    convert(tmp_path, tmp_path / "out")
    dataset = loaded(tmp_path / "out")
    assert sorted((*dataset.train.names, *dataset.test.names)) == ["a", "b"]
    with Image.open(tmp_path / "photo.png") as photo:
        assert np.array_equal(dataset.train[0].image.permute(1, 2, 0).numpy(), np.asarray(photo))


@pytest.mark.parametrize("annotated", ["upright", "as stored"])
def test_photographs_a_camera_stored_turned(annotated: str, tmp_path: Path) -> None:
    """A telephone held upright stores 20x16 pixels and a note to turn them; tools show 16x20."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.fromarray(np.zeros((SIZE, 20, 3), np.uint8)) as photo:
        photo.putpixel((0, 0), (255, 255, 255))
        photo.save(tmp_path / "in.jpg", exif=exif, quality=100)
        photo.save(tmp_path / "other.jpg", exif=exif, quality=100)
    size = (SIZE, 20) if annotated == "upright" else (20, SIZE)
    for name in ("in", "other"):
        content = labelme(f"{name}.jpg", imageWidth=size[0], imageHeight=size[1])
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    lines = convert(tmp_path, tmp_path / "out")
    sample = loaded(tmp_path / "out", center_crop=True).train[0]
    assert sample.mask.shape == (SIZE, SIZE)
    assert "dataset.center_crop=true" in lines[-1]
    (mask, *_) = masks(tmp_path / "out").values()
    assert mask.shape == size[::-1]
    (written, *_) = (tmp_path / "out").glob("real/train/*")
    with Image.open(written) as image:
        assert image.size == size
        bright = np.unravel_index(np.asarray(image.convert("L")).argmax(), size[::-1])
    assert bright == ((0, SIZE - 1) if annotated == "upright" else (0, 0))


def test_masks_of_photographs_stored_turned_fit_where_they_are_read(tmp_path: Path) -> None:
    """Annotated as stored, by a tool that knows nothing of EXIF; the photographs are not square."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for grey, name in enumerate(("a", "b")):
        Image.new("L", (20, SIZE), grey).save(tmp_path / f"{name}.jpg", exif=exif)
        content = labelme(f"{name}.jpg", imageWidth=20, imageHeight=SIZE)
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    convert(tmp_path, tmp_path / "out")
    given = ["data", "check", "folder", f"dataset.root={tmp_path / 'out'}"]
    given += [f"dataset.classes={tmp_path / 'out' / 'classes.yaml'}", "dataset.center_crop=true"]
    given += ["dataset.train_masks=real/train_masks", "dataset.test_masks=real/test_masks"]
    assert main(given) == 0
    assert loaded(tmp_path / "out", center_crop=True).train[0].mask.any()


def coco_below(folder: Path, named: Callable[[str], str]) -> Path:
    """COCO whose photographs lie in 'images', under names as another system writes them."""
    content = coco()
    path = save_coco(folder / "images", content)
    for image in content["images"]:
        image["file_name"] = named(image["file_name"])
    path.unlink()
    (folder / "a.json").write_text(json.dumps(content))
    return folder / "a.json"


@pytest.mark.parametrize(
    "named",
    [
        "images/{}".format,
        "images\\{}".format,
        ".\\images\\{}".format,
    ],
)
def test_photographs_named_on_another_system_are_found(
    named: Callable[[str], str], tmp_path: Path
) -> None:
    convert(coco_below(tmp_path / "in", named), tmp_path / "out")
    assert sorted(masks(tmp_path / "out")) == [f"photo_{index}" for index in range(4)]


@pytest.mark.parametrize(
    "named", ["images\\{}".format, "C:\\work\\all\\{}".format, "/home/other/{}".format]
)
def test_naming_the_folder_of_the_photographs_helps(
    named: Callable[[str], str], tmp_path: Path
) -> None:
    source = coco_below(tmp_path / "in", named)
    convert(source, tmp_path / "out", images=tmp_path / "in" / "images")
    assert sorted(masks(tmp_path / "out")) == [f"photo_{index}" for index in range(4)]


def test_naming_the_folder_helps_labelme_too(tmp_path: Path) -> None:
    save_labelme(tmp_path / "photos")
    (tmp_path / "in").mkdir()
    for path in (tmp_path / "photos").glob("*.json"):
        content = json.loads(path.read_text())
        content["imagePath"] = f"D:\\horses\\{content['imagePath']}"
        (tmp_path / "in" / path.name).write_text(json.dumps(content))
        path.unlink()
    assert ".png' is missing. Put it there" in refusal(DataError, tmp_path, tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "out", images=tmp_path / "photos")
    assert sorted(masks(tmp_path / "out")) == [f"photo_{index}" for index in range(4)]


COMPOSED = "Kühe/é"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


@pytest.mark.parametrize(("on_disk", "named"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_photographs_are_found_whatever_the_unicode_form(
    on_disk: str, named: str, tmp_path: Path
) -> None:
    content = coco()
    for image in content["images"]:
        image["file_name"] = f"{on_disk}{image['file_name']}"
    path = save_coco(tmp_path / "in", content)
    for image in content["images"]:
        image["file_name"] = image["file_name"].replace(on_disk, named)
    path.write_text(json.dumps(content))
    (tmp_path / "train.txt").write_text(f"{on_disk[5:]}photo_1.png\n")
    convert(path, tmp_path / "out", train=str(tmp_path / "train.txt"))
    assert len(masks(tmp_path / "out")) == 4
    assert len(list((tmp_path / "out" / "real" / "train").iterdir())) == 1


def test_classes_that_read_alike_are_one(tmp_path: Path) -> None:
    folder = save_labelme(tmp_path / "in", 2)
    for path, name in zip(sorted(folder.glob("*.json")), ("é", "e\u0301"), strict=True):
        content = json.loads(path.read_text())
        content["shapes"][0]["label"] = name
        path.write_text(json.dumps(content))
    (tmp_path / "classes.txt").write_text("body\ne\u0301\n")
    for index, listed in enumerate((None, tmp_path / "classes.txt")):
        out = tmp_path / f"out{index}"
        convert(folder, out, classes=listed)
        assert set(load_class_table(str(out / "classes.yaml")).names) == {"background", "body", "é"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_and_annotations_may_begin_with_a_byte_order_mark(
    encoding: str, tmp_path: Path
) -> None:
    folder = save_labelme(tmp_path / "in")
    for path in folder.glob("*.json"):
        path.write_text(path.read_text(), encoding=encoding)
    (tmp_path / "classes.txt").write_text("eye\r\nbody\r\n", encoding=encoding)
    (tmp_path / "train.txt").write_text("photo_0\r\nphoto_3.png\r\n", encoding=encoding)
    train, classes = tmp_path / "train.txt", tmp_path / "classes.txt"
    convert(folder, tmp_path / "out", train=str(train), classes=classes)
    assert load_class_table(str(tmp_path / "out" / "classes.yaml")).names[1:] == ("eye", "body")
    assert loaded(tmp_path / "out").train.names == ("photo_0", "photo_3")


@pytest.mark.parametrize("encoding", ["gb18030", "cp932"])
def test_files_in_the_encoding_of_a_system_are_told_from_damage(
    encoding: str, tmp_path: Path
) -> None:
    folder = save_labelme(tmp_path / "in")
    text = (folder / "photo_0.json").read_text().replace("eye", "馬")
    (folder / "photo_0.json").write_bytes(text.encode(encoding))
    says = "is not in UTF-8 ("
    message = refusal(DataError, tmp_path, folder)
    assert message.startswith(f"annotation file 'TMP/in/photo_0.json' {says}")
    assert "`iconv -f gb18030 -t utf-8 TMP/in/photo_0.json > NEW`" in message
    (folder / "photo_0.json").write_text(text)
    (tmp_path / "list.txt").write_bytes("馬\n".encode(encoding))
    for options in ({"train": str(tmp_path / "list.txt")}, {"classes": tmp_path / "list.txt"}):
        assert says in refusal(ConfigError, tmp_path, folder, **options)


CORNERS = [[4, 4], [11, 4], [11, 11], [4, 11]]


@pytest.mark.parametrize("kind", ["rectangle", "rotation", "quadrilateral"])
@pytest.mark.parametrize("first", range(4))
def test_rectangles_of_four_corners(kind: str, first: int, tmp_path: Path) -> None:
    """As X-AnyLabeling writes them."""
    folder = save_labelme(tmp_path / "in", 2)
    for path in folder.glob("*.json"):
        content = json.loads(path.read_text())
        corners = CORNERS[first:] + CORNERS[:first]
        content["shapes"][1] |= {"shape_type": kind, "points": corners}
        path.write_text(json.dumps(content))
    convert(folder, tmp_path / "out")
    for mask in masks(tmp_path / "out").values():
        assert np.array_equal(mask > 0, BODY)


def test_a_turned_rectangle_is_not_its_box(tmp_path: Path) -> None:
    folder = save_labelme(tmp_path / "in", 2)
    for path in folder.glob("*.json"):
        content = json.loads(path.read_text())
        content["shapes"] = [
            {
                "label": "body",
                "shape_type": "rectangle",
                "points": [[8, 2], [14, 8], [8, 14], [2, 8]],
            }
        ]
        path.write_text(json.dumps(content))
    convert(folder, tmp_path / "out")
    for mask in masks(tmp_path / "out").values():
        assert (mask[8, 3], mask[3, 3]) == (1, 0)


def test_photographs_in_a_format_that_is_not_read_become_png(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("L", (SIZE, SIZE), 90).save(tmp_path / f"{name}.gif")
        (tmp_path / f"{name}.json").write_text(json.dumps(labelme(f"{name}.gif")))
    convert(tmp_path, tmp_path / "out")
    assert (loaded(tmp_path / "out").train[0].image == 90).all()


def test_written_settings_are_a_dataset(tmp_path: Path) -> None:
    config = tmp_path / "conf" / "dataset" / "my_photos.yaml"
    lines = convert(save_coco(tmp_path / "in"), tmp_path / "out", config=config)
    assert lines[-1] == f"wrote {config}: or with `dataset=my_photos`"
    written = yaml.safe_load(config.read_text())
    overrides = dict(part.split("=", 1) for part in shlex.split(lines[-2])[1:])
    assert overrides == {
        f"dataset.{key}": written[key] for key in ("root", "classes", "train_masks", "test_masks")
    }
    assert written["center_crop"] is False
    assert written["name"] == "my_photos"
    with pytest.raises(ConfigError) as error:
        convert(tmp_path / "in/annotations.json", tmp_path / "other", config=config)
    message = str(error.value)
    assert not (tmp_path / "other").exists()
    assert "my_photos.yaml' exists already" in message


# Whatever is wrong is told before anything is there.


def changed_coco(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    path = save_coco(tmp_path / "in")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def annotation(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["annotations"][3].update(values)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (annotation(category_id=4), "annotation 3 of 'F' has category_id 4; the file lists 3, 7."),
        (annotation(image_id=4), "annotation 3 of 'F' has image_id 4; the file lists 10, 11"),
        (annotation(segmentation=[]), "(image 'photo_1.png', class 'body') has no `segmentation`"),
        (annotation(segmentation=[[1, 2, 3, 4]]), "class 'body') has 2 points, and needs at least"),
        (annotation(segmentation=[[1, 2, 3]]), "has a polygon that is no list x, y, x, y"),
        (annotation(segmentation=[[1, 2, 3, "4", 5, 6]]), "has the point (3, '4')"),
        (annotation(segmentation=[[1, 2, 3, 1e9, 5, 6]]), "within 100000"),
        (annotation(segmentation={"counts": [256]}), "is encoded without its `size`"),
        (
            annotation(segmentation={"size": [16, 16], "counts": [9]}),
            "do not add up to the 16 x 16",
        ),
        (annotation(segmentation={"size": [16, 0], "counts": []}), "is encoded without its `size`"),
        *(
            (
                annotation(segmentation={"size": [16, 16], "counts": counts}),
                "has damaged run lengths",
            )
            for counts in ("zz", "00", "", "`8`", "\N{PILCROW SIGN}", [], [300], [-1, 257], [2**40])
        ),
        (
            annotation(segmentation={"size": [8, 32], "counts": [256]}),
            "is encoded for 32x8 pixels",
        ),
        (lambda c: c["images"][2].update(width=17), "photo_2.png' is 16x16, but was annotated at"),
        (lambda c: c["images"][2].update(width="a"), "states the size 'a' x 16"),
        (lambda c: c["images"][2].update(id=10), "`images` of 'F' has the id 10 twice"),
        (lambda c: c["images"][2].pop("file_name"), "image 12 of 'F' has no `file_name`"),
        (
            lambda c: c["images"][2].update(file_name="old/photo_1.jpg"),
            "images 'TMP/in/photo_1.png' and 'TMP/in/old/photo_1.jpg' are both named",
        ),
        (lambda c: c["images"][2].update(file_name="x.png"), "image 'TMP/in/x.png' is missing."),
        (lambda c: c.update(images=[]), "'F' lists no images"),
        (lambda c: c.update(categories=3), "'F' has no list of objects `categories`"),
        (lambda c: c["categories"][0].update(name=""), "category 7 of 'F' has the class name ''"),
        (lambda c: c["categories"][0].update(name="body"), "has 2 categories named 'body'"),
        (
            lambda c: c["categories"].extend({"id": n, "name": str(n)} for n in range(10, 263)),
            "the masks would have 256 classes; there can be 255",
        ),
    ],
)
def test_coco_that_cannot_be_used(
    change: Callable[[dict[str, Any]], object], says: str, tmp_path: Path
) -> None:
    message = refusal(DataError, tmp_path, changed_coco(tmp_path, change))
    assert says.replace("'F'", "'TMP/in/annotations.json'") in message


def shape(**values: Any) -> dict[str, Any]:
    shapes = labelme("photo_1.png")["shapes"]
    shapes[1].update(values)
    return {"shapes": shapes}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            shape(shape_type="point", points=[[1, 1]]),
            "shape 2 of 'F' ('body') is a point; only pol",
        ),
        (shape(shape_type="linestrip"), "('body') is a linestrip; only polygon, rectangle, circle"),
        (shape(shape_type="polygon"), "('body') has 2 points, and needs at least 3"),
        (shape(shape_type="circle", points=[[1, 1]]), "('body') has 1 point, and needs at least 2"),
        (
            shape(points=[[1, 1], [2, 2], [3, 3]]),
            "is a rectangle with 3 points; it has two opposite corners, or all",
        ),
        (shape(points=[[1, 1], [2, float("nan")]]), "('body') has the point [2, nan]"),
        (shape(points=None), "shape 2 of 'F' is no object with `label` and `points`"),
        (shape(label=5), "shape 2 of 'F' has the class name 5; it must be text"),
        ({"shapes": None}, "'F' has no list of `shapes`"),
        ({"shapes": None, "annotations": []}, "it looks like COCO: name the file itself"),
        ({"imagePath": None}, "'F' has no `imagePath`"),
        ({"imagePath": "photo_0.png"}, "are both named 'photo_0' without folder and suffix"),
        ({"imagePath": "gone.png"}, "image 'TMP/in/gone.png' is missing"),
        ({"imageData": "%%"}, "`imageData` in 'F' is damaged"),
        ({"imageData": "AAAA"}, "image 'TMP/in/photo_1.json: imageData' cannot be decoded"),
        ({"imageWidth": 15}, "photo_1.png' is 16x16, but was annotated at 15x16"),
    ],
)
def test_labelme_that_cannot_be_used(values: dict[str, Any], says: str, tmp_path: Path) -> None:
    folder = save_labelme(tmp_path / "in")
    content = labelme("photo_1.png") | values
    (folder / "photo_1.json").write_text(json.dumps(content))
    message = refusal(DataError, tmp_path, folder)
    assert says.replace("'F'", "'TMP/in/photo_1.json'") in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "annotation file 'TMP/a.json' is not JSON: Expecting property name"),
        ("\xff", "is not in UTF-8 (invalid start byte at byte 0). Convert it: `iconv -f gb18030"),
        ("[1]", "holds a list; files of COCO and labelme hold an object"),
        ('{"licence": 1, "a": 2}', "is in no format that can be converted: it holds a, licence;"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_files_that_are_no_annotations(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    assert says in refusal(DataError, tmp_path, tmp_path / "a.json")


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place within `content` that a value can be put."""
    found = []
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += places(value, (*path, key))
    return found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@pytest.mark.parametrize("content", [coco(2), labelme("photo_0.png")], ids=["coco", "labelme"])
@given(data=st.data())
def test_any_value_is_used_or_refused(content: dict[str, Any], data: st.DataObject) -> None:
    changed = json.loads(json.dumps(content))
    *way, last = data.draw(st.sampled_from(places(content)))
    parent = reduce(getitem, way, changed)
    parent[last] = data.draw(JSON)
    with TemporaryDirectory() as folder:
        (Path(folder) / "a.json").write_text(json.dumps(changed))
        with suppress(DataError):
            for image in _read(Path(folder) / "a.json", None).images:
                for shape in image.shapes:
                    assert shape.covers(SIZE, SIZE).shape == (SIZE, SIZE)


def test_nothing_at_the_source(tmp_path: Path) -> None:
    assert "does not exist" in refusal(DataError, tmp_path, tmp_path / "none.json")
    assert "there is no .json file in 'TMP'" in refusal(DataError, tmp_path, tmp_path)
    source = save_coco(tmp_path / "in")
    message = refusal(DataError, tmp_path, source, images=tmp_path / "none")
    assert message == "`--images TMP/none`: there is no such folder."


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    source = save_coco(tmp_path / "in")
    message = refusal(DataError, tmp_path, source / "x")
    assert "annotations.json/x' cannot be read (Not a directory). Name a file." in message
    assert "there is no such file" in refusal(ConfigError, tmp_path, source, train="x" * 300)


def test_classes_that_are_not_listed(tmp_path: Path) -> None:
    source = save_coco(tmp_path / "in")
    (tmp_path / "classes.txt").write_text("body\n")
    message = refusal(DataError, tmp_path, source, classes=tmp_path / "classes.txt")
    assert message.startswith("shape 1 of image 'TMP/in/photo_0.png' has the class 'eye', which")
    (tmp_path / "classes.txt").write_text("eye\neye\n")
    message = refusal(ConfigError, tmp_path, source, classes=tmp_path / "classes.txt")
    assert "give every class once" in message
    message = refusal(ConfigError, tmp_path, source, classes=tmp_path / "none.txt")
    assert "there is no such file" in message


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    source = save_coco(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("x")
    before = contents(tmp_path / "out")
    with pytest.raises(DataError, match="is not an empty folder; it is never overwritten"):
        convert(source, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    (tmp_path / "out" / "precious.txt").unlink()
    convert(source, tmp_path / "out")
    assert (tmp_path / "out" / "classes.yaml").is_file()


def test_a_folder_that_fills_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_coco(tmp_path / "in")
    monkeypatch.setattr("ddpmseg.data_tools.convert.check_output", lambda folder: None)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("x")
    with pytest.raises(DataError, match="out' cannot be written to"):
        convert(source, tmp_path / "out")
    assert list(contents(tmp_path / "out")) == ["precious.txt"]


def test_without_pycocotools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    message = refusal(ConfigError, tmp_path, save_coco(tmp_path / "in"))
    assert "reading COCO needs pycocotools, which is not installed." in message
    convert(save_labelme(tmp_path / "labelme"), tmp_path / "out")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = str(save_coco(tmp_path / "in")), str(tmp_path / "out")
    options = ["--train", "3", "--unlabelled", "ignore", "--on-top", "later"]
    assert main(["data", "convert", source, out, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "images: 3 for training, 1 for testing"
    assert lines[-1].startswith(f"  dataset=folder dataset.root={out} ")
    assert main(["data", "convert", source, out]) == 2
    assert capsys.readouterr().err.startswith(f"error: '{out}' exists and is not an empty folder")


# Which images are for what.

NAMES = [f"photo_{index}" for index in range(10)]


@given(
    train=st.sampled_from([None, "0.3", "4", "1"]),
    test=st.sampled_from([None, "0.5", "2"]),
    seed=st.integers(0, 99),
)
def test_a_split_shares_nothing(train: str | None, test: str | None, seed: int) -> None:
    parts = split_names(NAMES, train, test, seed)
    assert not set(parts[0]) & set(parts[1])
    assert all(part == sorted(part) for part in parts)
    if train is None or test is None:
        assert sorted(parts[0] + parts[1]) == NAMES
    for part, asked in zip(parts, (train, test), strict=True):
        if asked:
            assert len(part) == {"0.3": 3, "0.5": 5}.get(asked) or int(float(asked))
    assert split_names(NAMES, train, test, seed) == parts


def test_more_training_images_hold_fewer() -> None:
    few, more = (set(split_names(NAMES, count, "4", seed=3)[0]) for count in ("2", "5"))
    assert few < more
    assert split_names(NAMES, None, None, 0)[0] != split_names(NAMES, None, None, 1)[0]


def test_lists_of_images(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("photo_3.jpg\n\nphoto_1\n")
    train, test = split_names(NAMES, None, str(tmp_path / "test.txt"), 0)
    assert test == ["photo_1", "photo_3"]
    assert len(train) == 8
    train, _ = split_names(NAMES, "0.8", str(tmp_path / "test.txt"), 0)
    assert len(train) == 8


@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        ("0", None, "`--train 0`: a share lies between 0 and 1, a number"),
        ("2.5", None, "`--train 2.5`: a share"),
        ("nan", None, "`--train nan`: a share"),
        (None, "11", "`--test 11` asks for 11 of 10 images, but only 10 are left"),
        ("0.9", "0.9", "`--test 0.9` asks for 9 of 10 images, but only 1 are left"),
        ("10", None, "`--test (the rest)` asks for 1 of 10 images, but only 0 are left"),
        ("none.txt", None, "`--train none.txt`: give a share such as 0.5"),
        ("LIST", "LIST", "image 'photo_1' is listed in both"),
        ("UNKNOWN", None, "lists 'photo_77', which is no image of the annotations"),
        ("EMPTY", None, "lists no image"),
    ],
)
def test_splits_that_are_not_possible(
    train: str | None, test: str | None, says: str, tmp_path: Path
) -> None:
    lists = {"LIST": "photo_1\n", "UNKNOWN": "photo_77\n", "EMPTY": "\n"}
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    train, test = (str(tmp_path / v) if v in lists else v for v in (train, test))
    with pytest.raises((ConfigError, DataError)) as error:
        split_names(NAMES, train, test, 0)
    assert says in str(error.value)

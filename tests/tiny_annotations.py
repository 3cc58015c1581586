"""Photographs of a few pixels, annotated in the formats of COCO and labelme."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 16


def save_photo(path: Path, seed: int = 0, width: int = SIZE, height: int = SIZE) -> None:
    """Noise in the colours of a body and of what is around it."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    pixels[4:12, 4:12] += np.uint8(150)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def square(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def coco(count: int = 4) -> dict[str, Any]:
    """A body in every image, drawn as polygon or as run lengths, and an eye on it, drawn before."""
    inside = np.zeros((SIZE, SIZE), bool)
    inside[4:12, 4:12] = True
    flat = inside.T.ravel()  # COCO counts down the columns
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.array([0, *edges, flat.size])).tolist()
    bodies = ([square(4, 4, 12, 12)], {"size": [SIZE, SIZE], "counts": runs})
    annotations = []
    for image in range(count):
        eye = [square(5, 5, 7, 7)]
        annotations.append({"image_id": image + 10, "category_id": 7, "segmentation": eye})
        annotations.append(
            {
                "image_id": image + 10,
                "category_id": 3,
                "segmentation": bodies[image % 2],
                "iscrowd": image % 2,
            }
        )
    return {
        "images": [
            {"id": i + 10, "file_name": f"photo_{i}.png", "width": SIZE, "height": SIZE}
            for i in range(count)
        ],
        "categories": [{"id": 7, "name": "eye"}, {"id": 3, "name": "body"}],
        "annotations": [{"id": i, **annotation} for i, annotation in enumerate(annotations)],
    }


def save_coco(folder: Path, content: dict[str, Any] | None = None) -> Path:
    """Its photographs and 'annotations.json' in `folder`; returns the latter."""
    content = coco() if content is None else content
    for index, image in enumerate(content["images"]):
        save_photo(folder / image["file_name"], index)
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def labelme(image: str, **more: Any) -> dict[str, Any]:
    """A body, and an eye on it, drawn before."""
    shapes = [
        {"label": "eye", "shape_type": "circle", "points": [[6, 6], [7, 6]]},
        {"label": "body", "shape_type": "rectangle", "points": [[11, 11], [4, 4]]},
    ]
    size = {"imageWidth": SIZE, "imageHeight": SIZE}
    return {"shapes": shapes, "imagePath": image, "imageData": None} | size | more


def save_labelme(folder: Path, count: int = 4) -> Path:
    """Photographs, each with its annotation file; returns the folder."""
    for index in range(count):
        save_photo(folder / f"photo_{index}.png", index)
        content = labelme(f"photo_{index}.png")
        (folder / f"photo_{index}.json").write_text(json.dumps(content))
    return folder

"""The procedural set: the same bytes everywhere, and the properties experiments rely on."""

import hashlib

import numpy as np
import pytest

from ddpmseg.data.labelled import PONY_SCENES, LabelledSet, Ponies
from ddpmseg.data.ponies import CLASS_NAMES, LABEL, draw_pony
from ddpmseg.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("split", "sha256"),
    [
        ("train", "60d7c3a1dfa0c05d9179cc87d318633115e11ac5c227b32b2f689f7ff2bb1d6c"),
        ("test", "178caae1e185e7699f070cf2cf16174c90a108a472a38b9e65bec784ce703307"),
        ("pretrain", "2787390bd8729783f0ed311003b0dcf6aca24bc6e759aff4cfde757e4382fabd"),
    ],
)
def test_scenes_are_the_same_bytes_on_every_machine(split: str, sha256: str) -> None:
    digest = hashlib.sha256()
    for index in range(4):
        for array in draw_pony(index, split):
            digest.update(array.tobytes())
    assert digest.hexdigest() == sha256


def test_areas_span_nearly_three_orders_of_magnitude() -> None:
    masks = np.stack([draw_pony(index, "test")[1] for index in range(60)])
    areas = np.bincount(masks.ravel(), minlength=len(CLASS_NAMES)) / masks.size
    assert (areas > 0).all()
    assert areas.argmax() == LABEL["background"]
    assert areas.argmin() == LABEL["eye"]
    assert areas.max() / areas.min() > 500


def test_every_animal_is_complete_but_for_the_saddle() -> None:
    optional = {LABEL["saddle"]}
    for index in range(20):
        labels = set(np.unique(draw_pony(index, "train")[1]).tolist())
        assert set(LABEL.values()) - labels <= optional


def test_splits_indices_and_seeds_are_different_scenes() -> None:
    keys = [(0, "train", 0), (0, "test", 0), (0, "pretrain", 0), (1, "train", 0), (0, "train", 1)]
    scenes = {draw_pony(index, split, seed)[0].tobytes() for index, split, seed in keys}
    assert len(scenes) == len(keys)


@pytest.mark.parametrize("size", [16, 32, 96])
def test_other_image_sizes_show_the_same_scene(size: int) -> None:
    image, mask = draw_pony(3, "train", image_size=size)
    assert image.shape == (size, size, 3)
    assert mask.shape == (size, size)
    assert image.dtype == mask.dtype == np.uint8
    _, usual = draw_pony(3, "train")
    assert abs((mask > 0).mean() - (usual > 0).mean()) < 0.05


def test_set_has_the_numbers_of_its_class_table() -> None:
    ponies: LabelledSet = Ponies("ponies", "ponies")
    assert ponies.classes.names == CLASS_NAMES
    assert (len(ponies.train), len(ponies.test)) == (20, 200)
    assert ponies.train.names[7] == "train_00007"
    assert ponies.test.names[199] == "test_00199"


def test_samples_are_the_drawn_scenes_and_kept() -> None:
    ponies = Ponies("ponies", "ponies", image_size=32, seed=5, tiny_annotations="keep")
    for split, kind in ((ponies.train, "train"), (ponies.test, "test")):
        sample = split[2]
        image, mask = draw_pony(2, kind, seed=5, image_size=32)
        assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), image)
        assert np.array_equal(sample.mask.numpy(), mask)
        assert sample.name == f"{kind}_00002"
        assert split[2] is sample
        assert split[2 - len(split)] is sample


def test_small_parts_are_ignored_in_training_only() -> None:
    ponies = Ponies("ponies", "ponies", num_labelled=4, num_test=4, tiny_annotations="reference")
    eye = LABEL["eye"]
    assert not any((sample.mask == eye).any() for sample in ponies.train)
    assert all((sample.mask == 255).any() for sample in ponies.train)
    assert all((sample.mask == eye).any() for sample in ponies.test)


def test_smaller_training_sets_lie_inside_larger_ones() -> None:
    five, ten = (
        Ponies("ponies", "ponies", num_labelled=count, subset_seed=3).train for count in (5, 10)
    )
    assert ten.names[:5] == five.names
    assert five.names != tuple(f"train_{index:05d}" for index in range(5))
    image, _ = draw_pony(int(five.names[1].removeprefix("train_")), "train")
    assert np.array_equal(five[1].image.permute(1, 2, 0).numpy(), image)


def test_class_table_of_another_set_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        Ponies("ponies", "horse_21")
    assert str(error.value) == (
        "`dataset.classes=horse_21` has 21 classes, the ponies have 11. "
        "Set `dataset.classes=ponies`."
    )


def test_more_scenes_than_the_pool_are_refused() -> None:
    with pytest.raises(DataError, match=f"`dataset.num_test` is {PONY_SCENES + 1}, but"):
        Ponies("ponies", "ponies", num_test=PONY_SCENES + 1)

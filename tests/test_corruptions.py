"""Corruptions: what they make of an image depends on their key alone, and is what ImageNet-C is."""

import random
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ddpmseg.data import corruptions
from ddpmseg.data.corruptions import (
    FAMILIES,
    SEVERITIES,
    TYPES,
    Corruption,
    check_size,
    choose,
    corrupt,
    libraries,
)
from ddpmseg.data.ponies import draw_pony
from ddpmseg.errors import ConfigError

OWN = ("impulse_noise", "glass_blur")


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return draw_pony(3, "test", 0, 64)[0]


def plain(size: int, value: int) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


def test_all_types_of_the_package() -> None:
    from imagecorruptions import get_corruption_names

    assert len(TYPES) == 19
    assert sorted(TYPES) == sorted(get_corruption_names("all"))


@pytest.mark.parametrize("type", TYPES)
def test_pixels_do_not_depend_on_what_was_drawn_before(type: str, scene: np.ndarray) -> None:
    import cv2

    before = scene.copy()
    first = {step: corrupt(scene, Corruption(type, step), 0, "test/a") for step in SEVERITIES}
    np.random.seed(7)
    random.seed(7)
    cv2.setRNGSeed(7)
    np.random.random(3)
    for step in reversed(SEVERITIES):
        corrupt(scene[::-1].copy(), Corruption(type, step), 5, "test/b")
        again = corrupt(scene, Corruption(type, step), 0, "test/a")
        assert again.dtype == np.uint8
        assert again.shape == scene.shape
        np.testing.assert_array_equal(again, first[step])
        assert (again != scene).any()
    np.testing.assert_array_equal(scene, before)


DRAWN = [
    type
    for type in TYPES
    if type
    not in (
        "defocus_blur", "zoom_blur", "gaussian_blur", "brightness", "contrast", "pixelate",
        "jpeg_compression", "saturate",
    )
]  # fmt: skip


@pytest.mark.parametrize("type", DRAWN)
def test_every_part_of_the_key_counts(type: str, scene: np.ndarray) -> None:
    one = Corruption(type, 3)
    keys = [(0, "test/a"), (1, "test/a"), (0, "test/b"), (0, "train/a")]
    pictures = [corrupt(scene, one, *key) for key in keys]
    for index, picture in enumerate(pictures):
        for other in pictures[:index]:
            assert (picture != other).any()


@pytest.mark.parametrize("type", sorted(set(TYPES) - set(OWN)))
def test_as_the_package_draws_from_the_same_state(type: str, scene: np.ndarray) -> None:
    from imagecorruptions import corrupt as original

    one = Corruption(type, 3)
    found = corrupt(scene, one, 0, "test/a")
    state = np.random.get_state()
    np.random.seed(corruptions._seed(0, "test/a", one))
    expected = original(scene, severity=3, corruption_name=type)
    np.random.set_state(state)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("type", ["gaussian_noise", "frost", "glass_blur"])
def test_numpys_generator_is_left_as_it_was(
    type: str, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def state() -> tuple:
        _, words, place, has_gauss, gauss = np.random.get_state()
        return words.tolist(), place, has_gauss, gauss  # pyright: ignore

    np.random.normal()
    before = state()
    corrupt(scene, Corruption(type, 1), 0, "test/a")
    assert state() == before

    def fails(*_: object) -> None:
        np.random.random()
        raise MemoryError

    monkeypatch.setattr(corruptions, "_package", lambda: {"gaussian_noise": fails})
    with pytest.raises(MemoryError):
        corrupt(scene, Corruption("gaussian_noise", 1), 0, "test/a")
    assert state() == before


@given(st.integers(0, 2**31), st.sampled_from(SEVERITIES))
@settings(max_examples=20)
def test_impulse_noise_hits_its_share_and_nothing_else(seed: int, severity: int) -> None:
    """Paper's parameters: 6.5. Values are hit one by one: a bound of five deviations."""
    share = {1: 0.03, 2: 0.06, 3: 0.09, 4: 0.17, 5: 0.27}[severity]
    image = plain(64, 100)
    found = corrupt(image, Corruption("impulse_noise", severity), seed, "x")
    hit = found != 100
    assert set(np.unique(found[hit])) == {0, 255}
    count, total = hit.sum(), image.size
    assert abs(count - share * total) < 5 * np.sqrt(total * share * (1 - share))
    assert abs((found == 255).sum() - count / 2) < 5 * np.sqrt(count) / 2
    # Each colour by itself.
    assert (hit.any(axis=2) & ~hit.all(axis=2)).any()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_glass_blur_is_that_of_the_package_with_our_draws(
    severity: int, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loops, not compiled, get what our generator draws, one pair for every pixel."""
    from imagecorruptions import corrupt as original
    from imagecorruptions import corruptions as package

    reach, rounds = ((1, 2), (2, 1), (2, 3), (3, 2), (4, 2))[severity - 1]
    one = Corruption("glass_blur", severity)
    count = len(range(64 - reach, reach, -1))
    generator = np.random.default_rng(corruptions._seed(0, "x", one))
    down, across = generator.integers(-reach, reach, (2, rounds, count, count))
    pairs = iter(zip(across.ravel(), down.ravel(), strict=True))

    def next_pair(low: int, high: int, size: tuple[int]) -> tuple[int, int]:
        assert (low, high, size) == (-reach, reach, (2,))
        return next(pairs)

    loops = package._shuffle_pixels_njit_glass_blur
    monkeypatch.setattr(package, "_shuffle_pixels_njit_glass_blur", loops.py_func)
    monkeypatch.setattr(np.random, "seed", lambda *_: None)
    monkeypatch.setattr(np.random, "randint", next_pair)
    expected = original(scene, severity=severity, corruption_name="glass_blur")
    monkeypatch.undo()
    assert next(pairs, None) is None
    found = corrupt(scene, one, 0, "x")
    # Gaussian filters of two libraries may round to neighbouring values.
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found == expected).mean() > 0.99


@pytest.mark.parametrize("size", [32, 41, 64, 100, 256])
def test_all_sizes(size: int) -> None:
    """Numbers that are none would warn, and warnings are errors here."""
    image = draw_pony(1, "test", 0, size)[0]
    for one in choose(["noise", "blur", "weather", "digital"], [1, 5]):
        if size >= one.smallest:
            assert corrupt(image, one, 0, "x").shape == image.shape


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_images(value: int) -> None:
    image = plain(64, value)
    for one in choose(TYPES, [1, 5]):
        corrupt(image, one, 0, "x")


def test_an_image_on_which_no_drop_falls_stays_as_it_is() -> None:
    image = draw_pony(1, "test", 0, 32)[0]
    one = Corruption("spatter", 1)
    pictures = (corrupt(image, one, 0, str(index)) for index in range(2000))
    assert any((picture == image).all() for picture in pictures)


def test_motion_blur_keeps_the_brightness_from_its_smallest_size_on() -> None:
    one = Corruption("motion_blur", 5)
    for name in "abcdefgh":
        assert corrupt(plain(one.smallest, 200), one, 0, name).min() >= 199
    with pytest.raises(ConfigError, match="40 pixels are too small for motion_blur at severity 5"):
        corrupt(plain(40, 200), one, 0, "a")
    assert Corruption("motion_blur", 4).smallest == 32


def test_images_that_are_too_small() -> None:
    with pytest.raises(ConfigError, match=r"31 pixels are too small for fog at .* which needs 32"):
        check_size([Corruption("fog", 1)], 31)
    check_size([Corruption("fog", 1)], 32)


def test_choice_in_the_order_of_families() -> None:
    assert len(choose(list(FAMILIES), [5, 1, 3])) == 57
    chosen = choose(["fog", "noise", "fog"], [3, 1, 3])
    assert [(one.type, one.severity) for one in chosen][-2:] == [("fog", 1), ("fog", 3)]
    assert len(chosen) == 10
    assert [str(one) for one in choose(["fog"], [1, 2, 3, 5])] == [
        "fog, weak", "fog, severity 2", "fog, medium", "fog, strong",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("types", "severities", "says"),
    [
        (["mist"], [1], "there is no corruption 'mist'. There are gaussian_noise, "),
        (["gausian_noise"], [1], "Did you mean gaussian_noise"),
        (["fog"], [0], "severity 0 does not exist: severities are 1..5"),
        (["fog"], [6], "severity 6"),
        ([], [1], "name at least one of each"),
        (["fog"], [], "name at least one of each"),
    ],
)
def test_what_does_not_exist(types: list[str], severities: list[int], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose(types, severities)
    assert says in str(caught.value)


def test_the_missing_extra_is_named(scene: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    for use in (libraries, lambda: corrupt(scene, Corruption("fog", 1), 0, "x")):
        with pytest.raises(ConfigError, match=r"pip install -e '\.\[corruptions\]'"):
            use()


def test_the_package_of_the_same_module_is_no_substitute(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> str:
        raise corruptions.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(corruptions.metadata, "version", gone)
    with pytest.raises(ConfigError, match="needs imagecorruptions-imaug, which is not installed"):
        libraries()


def test_a_grey_image_survives_every_type() -> None:
    grey = np.array(Image.linear_gradient("L").resize((64, 64)).convert("RGB"))
    for one in choose(TYPES, [3]):
        assert corrupt(grey, one, 0, "x").any()

"""Native maps kept on disk: what is found again, what is not, and what can go wrong with files."""

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from golden_fill import filled, relative_error
from safetensors.torch import save_file
from test_train import outcome, same, weights
from tiny_run import SEGMENT, checked, composed, composed_sweep, contents, resolved_sweep
from torch import Tensor
from waiting import wait_until

from ddpmseg.backbones.guided_diffusion.backbone import GuidedDiffusionBackbone
from ddpmseg.backbones.guided_diffusion.settings import GuidedDiffusionConfig
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags
from ddpmseg.backbones.pixels.backbone import PixelsBackbone
from ddpmseg.composition.build import build_cache
from ddpmseg.errors import ConfigError
from ddpmseg.features.bounded import BoundedFolder
from ddpmseg.features.cache import NAMES, MapCache
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.features.maps import NativeMaps
from ddpmseg.features.noise import NoiseKind
from ddpmseg.finished.open import open_run
from ddpmseg.runs.train import train

TINY = UNetFlags(
    image_size=16, num_channels=32, channel_mult="1,2", num_res_blocks=1, attention_resolutions="8"
)
IMAGES = torch.randint(
    256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
)
NAMED = ["a", "b", "c"]
GIGABYTE = 1e9
MAP = torch.arange(8 * 8 * 64.0).view(8, 8, 64)
"""A map as a file holds it, 16 kB."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files of weights for one network."""
    folder = tmp_path_factory.mktemp("weights")
    state = GuidedDiffusionBackbone("tiny", TINY, "random").unet.state_dict()
    paths = [folder / "a.safetensors", folder / "b.safetensors"]
    for seed, path in enumerate(paths):
        save_file(filled(state, seed), path)
    return paths


@pytest.fixture(scope="module")
def network(checkpoints: list[Path]) -> GuidedDiffusionBackbone:
    return GuidedDiffusionBackbone("tiny", TINY, str(checkpoints[0]))


@pytest.fixture
def cache(tmp_path: Path) -> MapCache:
    return MapCache(tmp_path / "maps", GIGABYTE)


def extractor(
    network: GuidedDiffusionBackbone, cache: MapCache | None = None, **changes: Any
) -> FeatureExtractor:
    given: dict[str, Any] = {
        "blocks": [1, 2],
        "timesteps": [5, 50],
        "image_size": 16,
        "batch_size": 4,
    }
    return FeatureExtractor(network, **(given | changes), cache=cache)


def again(cache: MapCache) -> MapCache:
    """What another run would open."""
    return MapCache(cache.folder, cache.max_bytes)


def files(cache: MapCache) -> list[Path]:
    return sorted(cache.folder.glob("*.safetensors"))


def assert_equal(one: NativeMaps, other: NativeMaps) -> None:
    assert one.groups.keys() == other.groups.keys()
    for size, group in one.groups.items():
        assert group.dtype == other.groups[size].dtype
        assert torch.equal(group, other.groups[size])


def assert_close(one: NativeMaps, other: NativeMaps) -> None:
    for size, group in one.groups.items():
        # Another batch is summed in another order; other maps are off by far more.
        assert relative_error(group, other.groups[size]) <= 1e-4


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_second_run_reads_what_the_first_computed(
    checkpoints: list[Path], cache: MapCache, precision: str
) -> None:
    network = GuidedDiffusionBackbone("tiny", TINY, str(checkpoints[0]), precision)
    expected = extractor(network)(IMAGES, NAMED)
    first = extractor(network, cache)
    assert first.num_missing(IMAGES, NAMED) == 6
    assert_equal(first(IMAGES, NAMED), expected)
    assert (first.num_passes, cache.read_pairs, cache.computed_pairs) == (2, 0, 6)
    assert len(files(cache)) == 6

    cache = again(cache)
    second = extractor(network, cache)
    assert second.num_missing(IMAGES, NAMED) == 0
    assert_equal(second(IMAGES, NAMED), expected)
    batches = [(IMAGES[:2], NAMED[:2]), (IMAGES[2:], NAMED[2:])]
    assert_equal(second.extract_all(batches, 3), expected)
    assert (second.num_passes, cache.read_pairs, cache.computed_pairs) == (0, 12, 0)
    assert str(cache) == f"12 of 12 (image, t) pairs read from '{cache.folder}', 0 computed"


def test_blocks_kept_for_others_cost_them_no_pass(
    network: GuidedDiffusionBackbone, cache: MapCache
) -> None:
    shallow = extractor(network, cache, blocks=[1], kept_blocks=[3, 0, 99])
    assert_equal(shallow(IMAGES, NAMED), extractor(network, blocks=[1])(IMAGES, NAMED))
    assert (shallow.num_passes, shallow.computed_pairs, shallow.read_pairs) == (2, 6, 0)
    others = extractor(network, again(cache), blocks=[0, 3])
    assert_equal(others(IMAGES, NAMED), extractor(network, blocks=[0, 3])(IMAGES, NAMED))
    assert (others.num_passes, others.computed_pairs, others.read_pairs) == (0, 0, 6)
    # Nobody asked for block 2, and without a cache nobody gains by more blocks.
    assert extractor(network, again(cache), blocks=[2]).num_missing(IMAGES, NAMED) == 6
    assert_equal(
        extractor(network, blocks=[1], kept_blocks=[3])(IMAGES, NAMED),
        extractor(network, blocks=[1])(IMAGES, NAMED),
    )


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"timesteps": [6, 51]}, {"hook": "input"}]
    + [{"noise": kind} for kind in get_args(NoiseKind) if kind != "shared"],
    ids=str,
)
def test_other_maps_are_not_mistaken_for_those_kept(
    network: GuidedDiffusionBackbone, cache: MapCache, changes: dict[str, Any]
) -> None:
    extractor(network, cache)(IMAGES, NAMED)
    other = extractor(network, cache, **changes)
    assert other.num_missing(IMAGES, NAMED) == 6
    assert_equal(other(IMAGES, NAMED), extractor(network, **changes)(IMAGES, NAMED))
    assert other.num_passes == 2


def test_maps_of_other_networks_are_not_mistaken_for_those_kept(
    checkpoints: list[Path], cache: MapCache
) -> None:
    first, second = map(str, checkpoints)
    attention = replace(TINY, use_new_attention_order=True)
    settings: list[dict[str, Any]] = [
        {"unet": TINY, "checkpoint": first},
        {"unet": TINY, "checkpoint": second},
        {"unet": TINY, "checkpoint": first, "precision": "bf16"},
        {"unet": attention, "checkpoint": first},
        {"unet": TINY, "checkpoint": "random"},
        {"unet": TINY, "checkpoint": "random", "seed": 1},
    ]
    for count, given in enumerate(settings):
        some = extractor(GuidedDiffusionBackbone("tiny", **given), cache)
        assert some.num_missing(IMAGES[:1], ["a"]) == 2, given
        some(IMAGES[:1], ["a"])
        assert len(files(cache)) == 2 * (count + 1)


def test_a_copy_of_the_weights_under_another_name_is_the_same_network(
    checkpoints: list[Path], network: GuidedDiffusionBackbone, cache: MapCache, tmp_path: Path
) -> None:
    extractor(network, cache)(IMAGES, NAMED)
    shutil.copy(checkpoints[0], tmp_path / "copy.safetensors")
    copy = GuidedDiffusionBackbone("copy", TINY, str(tmp_path / "copy.safetensors"), seed=7)
    assert extractor(copy, cache).num_missing(IMAGES, NAMED) == 0


@pytest.mark.parametrize("noise", get_args(NoiseKind))
def test_an_image_counts_by_its_pixels_and_by_its_name_only_where_the_noise_does(
    network: GuidedDiffusionBackbone, cache: MapCache, noise: NoiseKind
) -> None:
    some = extractor(network, cache, noise=noise)
    some(IMAGES, NAMED)
    order = [2, 0]
    assert some.num_missing(IMAGES[order], ["c", "a"]) == 0
    renamed = 4 if noise in ("image", "fresh") else 0
    assert some.num_missing(IMAGES[order], ["x", "y"]) == renamed
    changed = IMAGES.clone()
    changed[1, 0, 3, 3] ^= 1
    assert some.num_missing(changed, NAMED) == 2
    assert_close(
        some(changed[order], ["x", "y"]),
        extractor(network, noise=noise)(changed[order], ["x", "y"]),
    )


def test_a_subset_of_blocks_and_timesteps_is_read(
    network: GuidedDiffusionBackbone, cache: MapCache
) -> None:
    extractor(network, cache, blocks=[0, 1, 3], timesteps=[5, 50, 400])(IMAGES, NAMED)
    changes: dict[str, Any] = {"blocks": [3, 0], "timesteps": [400, 5]}
    part = extractor(network, cache, **changes)
    assert_close(part(IMAGES, NAMED), extractor(network, **changes)(IMAGES, NAMED))
    assert part.num_passes == 0


def test_a_missing_block_is_computed_and_kept_beside_the_others(
    network: GuidedDiffusionBackbone, cache: MapCache
) -> None:
    extractor(network, cache, blocks=[0, 1])(IMAGES, NAMED)
    more = extractor(network, cache, blocks=[1, 3])
    assert more.num_missing(IMAGES, NAMED) == 6
    assert_equal(more(IMAGES, NAMED), extractor(network, blocks=[1, 3])(IMAGES, NAMED))
    assert more.num_passes == 2
    every = extractor(network, cache, blocks=[0, 1, 3])
    assert_equal(every(IMAGES, NAMED), extractor(network, blocks=[0, 1, 3])(IMAGES, NAMED))
    assert every.num_passes == 0
    assert len(files(cache)) == 6


def test_what_is_missing_goes_through_the_network_in_full_batches(
    network: GuidedDiffusionBackbone, cache: MapCache
) -> None:
    images, names = torch.cat([IMAGES, IMAGES + 1, IMAGES + 2]), list("abcdefghi")
    extractor(network, cache)(images[[1, 4, 6]], ["b", "e", "g"])
    extractor(network, cache, timesteps=[50])(images[[0, 8]], ["a", "i"])
    some = extractor(network, cache)
    found = some(images, names)
    # 18 pairs without the eight that are there.
    assert some.num_passes == 3
    assert_close(found, extractor(network)(images, names))


def test_colours_are_not_kept(cache: MapCache) -> None:
    some = FeatureExtractor(PixelsBackbone("pixels", 16), [0], [50], image_size=16, cache=cache)
    some(IMAGES, NAMED)
    assert some.cache is None
    assert not cache.folder.exists()


def name(number: int) -> str:
    return f"{number:032x}_t0050"


def keep(cache: MapCache, number: int) -> None:
    with cache.hold([name(number)]):
        cache.write(name(number), {1: MAP})


def kept_bytes(cache: MapCache) -> int:
    return sum(path.stat().st_size for path in files(cache))


def bounded(tmp_path: Path, entries: float) -> MapCache:
    """A cache with room for that many files of `keep`."""
    probe = MapCache(tmp_path / "probe", GIGABYTE)
    keep(probe, 0)
    return MapCache(tmp_path / "maps", entries * kept_bytes(probe))


def test_least_recently_used_files_go_first(tmp_path: Path) -> None:
    cache = bounded(tmp_path, 4.5)
    for number in (3, 1, 2, 0):
        keep(cache, number)
    assert cache.read(name(3), [1]) is not None
    other = again(cache)
    keep(other, 4)
    assert [number for number in range(5) if other.holds(name(number), [1])] == [0, 2, 3, 4]
    keep(other, 5)
    assert [number for number in range(6) if other.holds(name(number), [1])] == [0, 3, 4, 5]


def test_files_never_take_more_than_the_bound(tmp_path: Path) -> None:
    cache = bounded(tmp_path, 6.5)
    for number in range(30):
        keep(cache, number)
        assert kept_bytes(cache) <= cache.max_bytes
        assert cache.holds(name(number), [1])
    assert len(files(cache)) >= 5
    # A smaller bound holds from the first file on.
    smaller = MapCache(cache.folder, cache.max_bytes / 2)
    keep(smaller, 30)
    assert kept_bytes(smaller) <= smaller.max_bytes
    assert smaller.holds(name(30), [1])


def test_what_other_processes_wrote_counts(tmp_path: Path) -> None:
    one = bounded(tmp_path, 6.5)
    other = again(one)
    for number in range(20):
        keep(other if number % 2 else one, number)
        # Beyond the bound by what each may write between two looks, which is a file here.
        assert kept_bytes(one) <= one.max_bytes + 2 * kept_bytes(one) / len(files(one))


def test_only_files_of_the_cache_are_counted_and_removed(tmp_path: Path) -> None:
    cache = bounded(tmp_path, 2.5)
    cache.folder.mkdir()
    others = [cache.folder / "notes.txt", cache.folder / "model.safetensors"]
    for path in others:
        path.write_bytes(bytes(10**6))
    left_by_a_kill = cache.folder / f".{name(99)}.safetensors.01ab.tmp"
    left_by_a_kill.write_bytes(bytes(20_000))
    vanished = cache.folder / f"{name(98)}.safetensors"
    vanished.symlink_to(tmp_path / "nowhere")
    for number in range(4):
        keep(cache, number)
    assert all(path.stat().st_size == 10**6 for path in others)
    assert not left_by_a_kill.exists()
    assert cache.holds(name(3), [1])


def test_a_file_that_cannot_be_removed_leaves_no_room(tmp_path: Path) -> None:
    stuck = tmp_path / f"{name(0)}.safetensors"
    stuck.mkdir()
    size = stuck.stat().st_size
    folder = BoundedFolder(tmp_path, NAMES, size + 10)
    assert not folder.make_room(11)
    assert folder.make_room(10)


def test_maps_too_large_for_the_bound_are_not_kept(
    network: GuidedDiffusionBackbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = MapCache(tmp_path / "maps", 1000)
    assert_equal(extractor(network, cache)(IMAGES, NAMED), extractor(network)(IMAGES, NAMED))
    assert not files(cache)
    assert [record.getMessage().partition("(")[0] for record in caplog.records] == [
        "maps of a single image "
    ]
    assert "Raise `features.cache_gb`" in caplog.text


DAMAGE = {
    "empty": lambda content: b"",
    "cut in the header": lambda content: content[:20],
    "cut in the maps": lambda content: content[:-1],
    "another format": lambda content: b"PK" + content[2:],
    "zeros": lambda content: bytes(len(content)),
    "one bit of a map": lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_computed_again(
    network: GuidedDiffusionBackbone,
    cache: MapCache,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = extractor(network, cache)(IMAGES[:1], ["a"])
    path = files(cache)[0]
    content = path.read_bytes()
    path.write_bytes(DAMAGE[damage](content))
    cache = again(cache)
    some = extractor(network, cache)
    assert_close(some(IMAGES[:1], ["a"]), expected)
    assert (some.num_passes, cache.read_pairs, cache.computed_pairs) == (1, 1, 1)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"'{path}' is damaged" in record.getMessage()
    assert extractor(network, again(cache)).num_missing(IMAGES[:1], ["a"]) == 0
    assert len(path.read_bytes()) == len(content)


def test_files_that_vanish_are_computed_again(
    network: GuidedDiffusionBackbone, cache: MapCache
) -> None:
    some = extractor(network, cache)
    expected = some(IMAGES, NAMED)
    assert some.num_missing(IMAGES, NAMED) == 0
    files(cache)[0].unlink()
    assert_close(some(IMAGES, NAMED), expected)
    assert cache.computed_pairs == 7
    with cache.hold([name(0)]):
        shutil.rmtree(cache.folder)
        cache.write(name(0), {1: MAP})
    assert_close(some(IMAGES, NAMED), expected)
    assert len(files(cache)) == 6


def test_maps_stay_readable_when_their_file_is_replaced_or_removed(cache: MapCache) -> None:
    keep(cache, 0)
    found = cache.read(name(0), [1])
    assert found is not None
    with cache.hold([name(0)]):
        cache.write(name(0), {1: MAP + 1})
    shutil.rmtree(cache.folder)
    assert torch.equal(found[1], MAP)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
def test_a_full_disk_is_told_once_and_ends_nothing(
    network: GuidedDiffusionBackbone,
    cache: MapCache,
    full_disk: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = extractor(network, cache)(IMAGES, NAMED)
    for path in files(cache):
        path.unlink()
        full_disk(path)
    cache = again(cache)
    some = extractor(network, cache)
    assert_equal(some(IMAGES, NAMED), expected)
    assert_equal(some(IMAGES, NAMED), expected)
    (record,) = caplog.records
    assert "cannot be written to (No space left on device)" in record.getMessage()
    assert not files(cache)
    assert cache.computed_pairs == 12


def test_a_folder_that_cannot_be_made_is_told_once_and_ends_nothing(
    network: GuidedDiffusionBackbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    cache = MapCache(tmp_path / "file" / "maps", GIGABYTE)
    assert_equal(extractor(network, cache)(IMAGES, NAMED), extractor(network)(IMAGES, NAMED))
    (record,) = caplog.records
    assert "cannot be written to" in record.getMessage()


EXTRACT = """
import sys, time
from pathlib import Path
import torch
from ddpmseg.backbones.guided_diffusion.backbone import GuidedDiffusionBackbone
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags
from ddpmseg.features.cache import MapCache
from ddpmseg.features.extract import FeatureExtractor

class Slow(GuidedDiffusionBackbone):
    def native_maps(self, *given):
        time.sleep(0.05)
        return super().native_maps(*given)

folder, number, checkpoint, size = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
flags = UNetFlags(
    image_size=16, num_channels=32, channel_mult="1,2", num_res_blocks=1, attention_resolutions="8"
)
cache = MapCache(folder / "maps", 1e9)
extractor = FeatureExtractor(
    Slow("tiny", flags, checkpoint), [1, 2], [5, 50], image_size=16, batch_size=size, cache=cache
)
images = torch.arange(8 * 3 * 16 * 16).view(8, 3, 16, 16).to(torch.uint8)
images += torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1)
(folder / f"ready{number}").touch()
while not (folder / "go").exists():
    time.sleep(0.005)
maps = extractor(images, list("abcdefgh"))
torch.save(maps.groups, folder / f"maps{number}.pt")
print(cache.read_pairs, cache.computed_pairs)
"""


@pytest.mark.slow
def test_two_processes_at_once_compute_each_pair_once(
    checkpoints: list[Path], network: GuidedDiffusionBackbone, tmp_path: Path
) -> None:
    """In batches of different sizes, so that their locks overlap in every way."""
    command = [sys.executable, "-c", EXTRACT, str(tmp_path)]
    with ExitStack() as until_done:
        both = []
        for number, size in enumerate((4, 6)):
            given = [*command, str(number), str(checkpoints[0]), str(size)]
            process = subprocess.Popen(given, stdout=subprocess.PIPE, text=True)
            both.append(until_done.enter_context(process))
            until_done.callback(process.kill)
        for number in range(2):
            wait_until((tmp_path / f"ready{number}").exists)
        (tmp_path / "go").touch()
        told = [process.communicate(timeout=60)[0].split() for process in both]
    read, computed = zip(*((int(a), int(b)) for a, b in told), strict=True)
    assert sum(computed) == 16
    assert [a + b for a, b in zip(read, computed, strict=True)] == [16, 16]
    one, other = (torch.load(tmp_path / f"maps{n}.pt", weights_only=True) for n in range(2))
    for size in one:
        assert torch.equal(one[size], other[size])


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of pairs of every forward pass from now on."""
    passes: list[int] = []
    native_maps = GuidedDiffusionBackbone.native_maps

    def counted(self: GuidedDiffusionBackbone, images: Tensor, *given: Any) -> dict[int, Tensor]:
        passes.append(len(images))
        return native_maps(self, images, *given)

    monkeypatch.setattr(GuidedDiffusionBackbone, "native_maps", counted)
    return passes


def test_heads_are_tuned_on_one_extraction(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="ddpmseg")
    passes = count_passes(monkeypatch)
    backbone = checked(composed(tmp_path, *SEGMENT)).backbone
    assert isinstance(backbone, GuidedDiffusionConfig)
    untrained = GuidedDiffusionBackbone("untrained", backbone.unet, "random").unet.state_dict()
    save_file(filled(untrained, 0), tmp_path / "unet.safetensors")
    run = (*SEGMENT, f"backbone.checkpoint={tmp_path}/unet.safetensors")
    cached = (*run, "features.cache_gb=0.1", f"paths.cache_dir={tmp_path / 'cache'}")
    train(composed(tmp_path / "first", *cached))
    assert passes
    assert "0 of 10 (image, t) pairs are in" in caplog.text
    assert "0 of 10 (image, t) pairs read from" in caplog.text
    kept = [path for path in contents(tmp_path / "cache" / "maps") if ".locks" not in path]
    assert len(kept) == 10

    passes.clear()
    caplog.clear()
    train(composed(tmp_path / "second", *cached, "head.members=3"))
    assert not passes
    assert "time: about 0 s of forward passes" in caplog.text
    assert "10 of 10 (image, t) pairs read from" in caplog.text
    train(composed(tmp_path / "plain", *run, "head.members=3"))
    assert passes
    assert outcome(tmp_path / "second") == outcome(tmp_path / "plain")
    assert same(weights(tmp_path / "second"), weights(tmp_path / "plain"))
    for written in ("config.yaml", "head.safetensors", "per_class.csv"):
        paths = [tmp_path / folder / written for folder in ("second", "plain")]
        one, other = (path.read_bytes().replace(b"second", b"plain") for path in paths)
        assert one == other


def test_a_cache_that_is_too_small_for_the_run_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = ("features.cache_gb=0.0001", f"paths.cache_dir={tmp_path / 'cache'}")
    train(composed(tmp_path / "run", *SEGMENT, *small))
    # 10 pairs of (64 + 32) * 16 * 16 numbers of 4 bytes.
    assert "the maps of this run take 0.000983 GB, `features.cache_gb` is 0.0001" in caplog.text


def test_the_cache_is_no_part_of_what_identifies_a_run(tmp_path: Path) -> None:
    def key(*overrides: str) -> str:
        default = "outputs/${task}/${dataset.name}_${backbone.name}_${run_key:}"
        return composed(Path(default), *SEGMENT, *overrides).paths.output_dir

    cached = ("features.cache_gb=5", f"paths.cache_dir={tmp_path}")
    assert key(*cached) == key()
    assert key("features.noise=fresh") != key()
    train(composed(tmp_path / "run", *SEGMENT))
    with pytest.raises(ConfigError, match="finished run"):
        train(composed(tmp_path / "run", *SEGMENT, *cached))
    (tmp_path / "run" / "results.csv").unlink()
    train(composed(tmp_path / "run", *SEGMENT, *cached))
    assert open_run(tmp_path / "run").config.features.cache_gb == 0


def test_where_and_whether_maps_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def built(*overrides: str) -> MapCache | None:
        config = checked(composed(tmp_path, *SEGMENT, *overrides))
        return build_cache(config.features, config.paths)

    monkeypatch.delenv("DDPMSEG_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert built() is None
    for override, folder in (
        ("features.cache_gb=2.5", tmp_path / ".cache" / "ddpmseg"),
        (f"paths.cache_dir={tmp_path}/other", tmp_path / "other"),
    ):
        cache = built("features.cache_gb=2.5", override)
        assert cache is not None
        assert (cache.folder, cache.max_bytes) == (folder / "maps", 2.5e9)
    monkeypatch.setenv("DDPMSEG_CACHE", "~/elsewhere")
    cache = built("features.cache_gb=2.5")
    assert cache is not None
    assert cache.folder == tmp_path / "elsewhere" / "maps"
    config = resolved_sweep(composed_sweep(tmp_path)).config
    assert build_cache(config.sweep.features([1], [5]), config.paths) is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("features.cache_gb=-1", r"`features\.cache_gb=-1.0`: must be at least 0"),
        ("features.cache_gb=nan", r"`features\.cache_gb=nan`: must be a finite"),
        ("paths.cache_dir=pyproject.toml", r"`paths\.cache_dir=.*' is not a folder that can be"),
    ],
)
def test_impossible_caches_are_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(composed(tmp_path, *SEGMENT, "features.cache_gb=1", override))

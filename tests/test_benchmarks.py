"""The benchmarks at toy size: rows, checks, tables, figures, and what they measure with."""

import logging
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import torch
from golden_fill import filled
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks import memory, plain
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.cases import CASES, HORSE, Case, ours, unet_config
from benchmarks.floor import forward_flops, product_rates
from benchmarks.isolated import PeakMemory, in_own_process
from benchmarks.record import (
    FASTER,
    ROOT,
    SMALLER,
    DisagreementError,
    Recorder,
    Row,
    newest,
    read,
    shown,
)
from benchmarks.timing import alternate, ratios
from ddpmseg.backbones.guided_diffusion.backbone import GuidedDiffusionBackbone
from ddpmseg.backbones.guided_diffusion.unet import (
    UNetFlags,
    UNetModel,
    build_unet,
    timestep_embedding,
)
from ddpmseg.config import TrainConfig

CPU = torch.device("cpu")
FLAGS = UNetFlags(image_size=16, num_channels=32, channel_mult="1,2", num_res_blocks=1)
ROW = Row(
    date="2026-01-02T03:04:05+00:00",
    commit="abc",
    machine="Some CPU, 2 cores",
    torch="2.0",
    benchmark="grid",
    case="tiny",
    variant="ours",
    quantity=FASTER,
    unit="x",
    median=3.0,
    low=2.0,
    high=4.0,
    repeats=3,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of all benchmarks leaves."""
    path = tmp_path_factory.mktemp("benchmarks") / "results.csv"
    # Twice only what is quick.
    for names, repeats in (
        (["extraction", "head"], "2"),
        (["memory", "grid", "scaling", "shares"], "1"),
    ):
        arguments = ["--tiny", "--repeats", repeats, "--results", str(path)]
        assert main(["run", *names, *arguments]) == 0
    return path


@pytest.mark.slow
def test_rows_are_well_formed(results: Path) -> None:
    rows = read(results)
    assert {row.benchmark for row in rows} == set(BENCHMARKS)
    for row in rows:
        assert math.isfinite(row.median), row
        assert row.low <= row.median <= row.high, row
        assert 1 <= row.repeats <= 2, row
        assert datetime.fromisoformat(row.date).tzinfo is not None
        assert (row.case, row.torch) == ("tiny", torch.__version__)
        assert "cores" in row.machine
        assert row.unit in ("s", "GB", "x", "%", "share", "error", "log/log", "GFLOP", "GFLOP/s")
        assert row.unit == "log/log" or row.median >= 0
        scaled = row.benchmark == "shares" and row.unit in ("s", "%", "x")
        assert (row.note == "scaled from 2 labelled and 1 test images") == scaled


@pytest.mark.slow
def test_ours_is_compared_with_plain(results: Path) -> None:
    rows = read(results)
    for benchmark, end in {
        "extraction": FASTER, "head": FASTER, "memory": SMALLER, "grid": FASTER
    }.items():  # fmt: skip
        some = [row for row in rows if row.benchmark == benchmark]
        variants = {row.variant for row in some}
        assert "plain" in variants
        compared = {row.variant for row in some if row.quantity.endswith(end)}
        assert compared == variants - {"plain"}
    checked = [row for row in rows if row.unit == "error"]
    assert {row.benchmark for row in checked} == {"extraction", "head", "grid"}
    for row in checked:
        assert row.median <= float(row.note.removeprefix("must be at most "))


def test_what_only_the_full_size_does_on_a_small_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CASES, "full", CASES["tiny"])
    monkeypatch.setitem(memory.IMAGES, "full", (2,))
    monkeypatch.setattr(memory, "LARGEST", 0)
    path = tmp_path / "results.csv"
    assert main(["run", "head", "memory", "--full", "--repeats", "1", "--results", str(path)]) == 0
    rows = {(row.benchmark, row.variant, row.quantity): row for row in read(path)}
    # 3 images of 16 x 16 pixels in batches of 64.
    iterations = 4 * 12 + 51
    training = rows["head", "plain", "training"]
    assert (
        training.note
        == f"extrapolated from 100 of {iterations} steps of one of 2 members, on 2 images"
    )
    assert rows["head", "ours, fast", "pixels labelled otherwise, same head"].median <= 1e-3
    matrix = rows["memory", "plain", "2 images"]
    assert matrix.note.startswith("computed")
    assert matrix.median == pytest.approx(2 * 16 * 16 * (64 + 32) * 2 * 4 / 1e9)


@pytest.mark.slow
def test_tables_and_figures_are_drawn(results: Path, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    shutil.copy(ROOT / "docs" / "performance.md", page)
    before = page.read_text()
    command = ["draw", "--results", str(results), "--docs", str(tmp_path)]
    assert main(command) == 0
    text = page.read_text()
    assert outside_markers(text) == outside_markers(before)
    for benchmark in BENCHMARKS:
        picture = tmp_path / f"performance_{benchmark}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
        content = between_markers(text, benchmark)
        assert f"]({picture.name})" in content
        assert "**tiny** on " in content
    (row,) = [r for r in read(results) if (r.benchmark, r.quantity) == ("grid", FASTER)]
    line = f"| grid | tiny | ours | faster | {shown(row.median)} x |"
    assert line in between_markers(text, "summary")
    extraction = between_markers(text, "extraction")
    assert "| | plain | ours, 32 bits | ours, 16 bits |" in extraction
    assert between_markers(text, "scaling").count("slope of") == 4
    assert not list(tmp_path.glob(".*"))
    assert main(command) == 0
    assert page.read_text() == text


def between_markers(text: str, name: str) -> str:
    return text.partition(f"<!-- {name} -->")[2].partition(f"<!-- end {name} -->")[0]


def outside_markers(text: str) -> str:
    for name in ("summary", *BENCHMARKS):
        text = text.replace(between_markers(text, name), "")
    return text


@pytest.mark.parametrize("lacking", ["summary", "grid"])
def test_a_page_without_markers_is_left_alone(
    lacking: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results, page = tmp_path / "results.csv", tmp_path / "performance.md"
    save([ROW], results)
    names = [name for name in ("summary", "grid") if name != lacking]
    page.write_text("".join(f"<!-- {name} -->\n<!-- end {name} -->\n" for name in names))
    before = page.read_text()
    assert main(["draw", "--results", str(results), "--docs", str(tmp_path)]) == 2
    assert f"lacks the lines '<!-- {lacking} -->'" in caplog.text
    assert page.read_text() == before
    assert not list(tmp_path.glob("*.png"))


def test_nothing_to_draw(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["draw", "--results", str(tmp_path / "no.csv"), "--docs", str(tmp_path)]) == 2
    assert "Run `make bench` first" in caplog.text
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert main(["draw", "--results", str(tmp_path / "other.csv")]) == 2
    assert "has the columns ['a', 'b']" in caplog.text
    save([ROW], tmp_path / "results.csv")
    command = ["draw", "--results", str(tmp_path / "results.csv"), "--docs", str(tmp_path)]
    assert main(command) == 2
    assert f"there is no '{tmp_path / 'performance.md'}'" in caplog.text


@pytest.mark.parametrize("benchmark", ["extraction", "head", "grid"])
def test_another_result_is_an_error(
    benchmark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(
        config: TrainConfig, device: torch.device, precision: str = "auto"
    ) -> GuidedDiffusionBackbone:
        backbone = ours(config, device, precision)
        layers = backbone.unet.middle_block.modules()
        next(layer for layer in layers if isinstance(layer, nn.Conv2d)).weight.mul_(3)
        return backbone

    def without_compiling(
        config: TrainConfig, device: torch.device, precision: str = "auto", compiled: bool = False
    ) -> GuidedDiffusionBackbone:
        return damaged(config, device, precision)

    monkeypatch.setattr(f"benchmarks.{benchmark}.ours", without_compiling)
    path = tmp_path / "results.csv"
    with pytest.raises(DisagreementError, match="more than"):
        main(["run", benchmark, "--tiny", "--repeats", "1", "--results", str(path)])
    assert not path.exists()


def save(rows: list[Row], path: Path) -> None:
    record = Recorder(path, "any", "any", CPU)
    record.rows = rows
    record.save()


def test_rows_are_appended_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.csv"
    noted = replace(ROW, quantity="a, b", note="extrapolated", median=1 / 3)
    save([ROW], path)
    save([noted], path)
    assert read(path) == [ROW, replace(noted, median=0.333333)]


def test_an_error_of_not_a_number_is_an_error(tmp_path: Path) -> None:
    record = Recorder(tmp_path / "results.csv", "any", "any", CPU)
    record.check("ours", "error", 1e-5, 1e-5)
    with pytest.raises(DisagreementError, match="any, any: error of 'ours' is nan"):
        record.check("ours", "error", math.nan, 1e-5)


def test_newest_rows_are_those_of_the_last_run_of_a_case_on_a_machine() -> None:
    later = "2026-01-03T00:00:00+00:00"
    old, gone = ROW, replace(ROW, quantity="no longer measured")
    elsewhere = replace(ROW, machine="Other CPU")
    another = replace(ROW, case="ponies")
    new = replace(ROW, date=later, median=5.0, high=6.0)
    again = replace(new, quantity="one more")
    assert newest([old, gone, elsewhere, another, new, again]) == [elsewhere, another, new, again]
    assert newest([new, again, old]) == [new, again]


def test_variants_take_turns() -> None:
    calls: list[str] = []

    def work(name: str) -> Callable[[], int]:
        return lambda: calls.append(name) or len(calls)

    timed = alternate({"a": work("a"), "b": work("b")}, 3, CPU)
    assert calls == ["a", "b"] * 4
    assert [timed[name].result for name in "ab"] == [1, 2]
    assert [len(timed[name].seconds) for name in "ab"] == [3, 3]
    calls.clear()
    cold = alternate({"a": work("a"), "b": work("b")}, 2, CPU, warm_up=False)
    assert calls == ["a", "b"] * 2
    assert cold["a"].first == cold["a"].seconds[0]
    with pytest.raises(ValueError, match="0 repeats"):
        alternate({"a": work("a")}, 0, CPU)


def test_ratios_are_of_medians_and_of_turns() -> None:
    assert ratios([4.0, 6.0, 8.0], [2.0, 1.0, 4.0]) == (3.0, 2.0, 6.0)
    assert ratios([8.0], [2.0, 1.0, 4.0]) == (4.0, 2.0, 8.0)


def test_numbers_are_shown_with_three_digits() -> None:
    numbers = (0, 0.00001234, 0.0123456, 1.0, 12.345, 2976.4, math.nan)
    expected = ["0", "1.2e-05", "0.0123", "1.00", "12.3", "2976", "nan"]
    assert [shown(number) for number in numbers] == expected


def test_peak_memory_sees_what_has_been_given_back() -> None:
    # In a process that nothing else has used: there the memory is new to it.
    assert 95e6 < in_own_process(hundred_megabytes) < 140e6


def hundred_megabytes() -> float:
    peak = PeakMemory()
    held = bytearray(100_000_000)
    del held
    return peak.above()


def lightning_level() -> int:
    return logging.getLogger("pytorch_lightning.utilities.rank_zero").getEffectiveLevel()


def fail() -> None:
    raise DisagreementError("told by the child")


def test_other_processes_are_quiet_and_their_errors_heard() -> None:
    assert in_own_process(lightning_level) == logging.WARNING
    with pytest.raises(DisagreementError, match="told by the child"):
        in_own_process(fail)


def test_plain_maps_are_those_of_the_packages_network(tmp_path: Path) -> None:
    whole, _ = build_unet(FLAGS)
    save_file(filled(whole.state_dict(), seed=0), tmp_path / "weights.safetensors")
    path = str(tmp_path / "weights.safetensors")
    network, diffusion = plain.build_network(FLAGS, path, CPU)
    generator = torch.Generator().manual_seed(0)
    image, noise = torch.randn(2, 1, 3, 16, 16, generator=generator)
    maps = plain.extract(network, diffusion, image, noise, [3, 1], [7, 500])
    assert list(maps) == [(7, 1), (7, 3), (500, 1), (500, 3)]
    assert not any(module._forward_hooks for module in network.modules())
    for timestep in (7, 500):
        t = torch.tensor([timestep])
        alpha = torch.tensor(diffusion.alphas_cumprod[timestep])
        x_t = (alpha.sqrt() * image + (1 - alpha).sqrt() * noise).float()
        expected = decoder_outputs(network, x_t, t)
        for block in (1, 3):
            torch.testing.assert_close(maps[timestep, block], expected[block])


@torch.no_grad()
def decoder_outputs(network: UNetModel, x_t: Tensor, t: Tensor) -> list[Tensor]:
    """As in the `forward` of guided_diffusion's `UNetModel`."""
    embedding = network.time_embed(timestep_embedding(t, network.model_channels))
    h, skips, outputs = x_t, [], []
    for block in network.input_blocks:
        h = block(h, embedding)
        skips.append(h)
    h = network.middle_block(h, embedding)
    for block in network.output_blocks:
        h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        outputs.append(h)
    return outputs


def test_plain_vectors_leave_out_pixels_without_a_label() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [{(5, 0): torch.randn(1, 2, 4, 4, generator=generator)} for _ in range(2)]
    masks = torch.zeros(2, 4, 4, dtype=torch.uint8)
    masks[0, 1, 2], masks[1, 3, 0] = 7, 255
    vectors, labels = plain.training_matrix(maps, masks, 255)
    assert vectors.shape == (31, 2)
    assert torch.equal(vectors[6], maps[0][5, 0][0, :, 1, 2])
    assert torch.equal(vectors[-1], maps[1][5, 0][0, :, 3, 3])
    assert labels[6] == 7
    assert labels.sum() == 7


def test_plain_training_stops_after_four_epochs_and_fifty_more_batches() -> None:
    # A loss that never falls again: nothing can be learned from zeros with one class.
    vectors, labels = torch.zeros(130, 3), torch.zeros(130, dtype=torch.long)
    member = plain.build_member(3, 1, [4], seed=0, member=0)
    assert plain.train_member(member, vectors, labels, 0, 0) == 4 * 2 + 1 + 51
    assert plain.least_iterations(130) == 4 * 2 + 51
    assert plain.train_member(member, vectors, labels, 0, 0, max_iterations=3) == 3


def test_operations_equal_a_sum_by_hand() -> None:
    network, _ = build_unet(FLAGS)
    counted = {"operations": 0}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            counted["operations"] += 2 * module.in_features * module.out_features
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            kernel = math.prod(module.kernel_size)
            counted["operations"] += 2 * module.in_channels * kernel * output.numel()
        elif type(module).__name__.startswith("QKVAttention"):
            # Queries by keys, then weights by values, over all pairs of places.
            counted["operations"] += 2 * 2 * output.shape[1] * output.shape[2] ** 2

    for name, module in network.named_modules():
        if not name.startswith("out."):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, 16, 16), torch.zeros(1))
    last = len(network.output_blocks) - 1
    assert forward_flops(FLAGS, [0, last], 16) == counted["operations"]
    assert forward_flops(FLAGS, [0], 16) < counted["operations"]


def test_the_rate_of_a_product_is_operations_over_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr("benchmarks.timing.time.perf_counter", lambda: float(next(ticks)))
    assert product_rates(8, 2, CPU) == {
        "32 bits": [2 * 8**3] * 2,
        "16 bits": [2 * 8**3] * 2,
    }


def test_the_full_case_is_the_papers_network() -> None:
    with torch.device("meta"):
        network, _ = build_unet(unet_config(CASES["full"].config()).unet)
    assert HORSE.values("backbone.unet") == CASES["full"].values("backbone.unet")
    count = sum(parameter.numel() for parameter in network.parameters())
    assert round(count / 1e6, 1) == 552.8


@pytest.mark.parametrize("case", [HORSE, CASES["full"], CASES["tiny"]])
def test_a_network_is_read_without_hydra(case: Case) -> None:
    config = case.config()
    assert UNetFlags(**case.values("backbone.unet")) == unet_config(config).unet
    features = case.values("features")
    assert features["blocks"] == config.features.blocks
    assert features["timesteps"] == config.features.timesteps


def test_gpu_runs_to_its_end_on_the_cpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "results.csv"
    with caplog.at_level(logging.INFO, "benchmarks"):
        assert main(["gpu", "--device", "cpu", "--tiny", "--results", str(path)]) == 0
    assert "GPU tests: skipped, as there is no GPU" in caplog.text
    rows = read(path)
    assert {row.benchmark for row in rows} == {"extraction", "head", "shares"}
    assert {(row.case, row.torch) for row in rows} == {("tiny", torch.__version__)}
    assert all(math.isfinite(row.median) for row in rows)
    found = {(row.variant, row.quantity): row for row in rows}
    assert found["ours, 16 bits", "times the floor"].median > 0
    assert found["ours, 16 bits", "error against 32 bits, block 2"].median < 0.02
    for program in ("a timestep of sweep.py", "train.py"):
        assert found[program, "extract, floor in 16 bits"].median > 0
        assert not found[program, "train"].note
    assert newest(rows) == rows
    shutil.copy(ROOT / "docs" / "performance.md", tmp_path)
    assert main(["draw", "--results", str(path), "--docs", str(tmp_path)]) == 0
    page = (tmp_path / "performance.md").read_text()
    assert "| times the floor (x) |" in between_markers(page, "extraction")


@pytest.mark.slow
def test_gpu_does_without_packages_what_it_can(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    missing = "hydra", "pytorch_lightning", "torchvision", "wandb", "matplotlib", "PIL", "pandas"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({missing}))\n"
        "from benchmarks.__main__ import main\n"
        f"sys.exit(main(['gpu', '--device', 'cpu', '--tiny', '--results', {str(path)!r}]))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    for part in ("head", "a timestep of all blocks", "a run end to end"):
        assert f"{part}: NOT DONE: No module named 'hydra" in done.stderr
    assert "Traceback" not in done.stderr
    assert {row.benchmark for row in read(path)} == {"extraction"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_without_a_gpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "results.csv"
    assert main(["gpu", "--results", str(path)]) == 2
    assert "`--device cuda`: torch finds no GPU" in caplog.text
    assert not path.exists()


def test_the_makefile_runs_all_benchmarks() -> None:
    text = (ROOT / "Makefile").read_text()
    assert f"benchmarks run {' '.join(BENCHMARKS)}\n" in text
    page = (ROOT / "docs" / "performance.md").read_text()
    assert all(f"benchmarks run {name}" in page for name in BENCHMARKS)


@pytest.mark.parametrize("wrong", [["run", "nothing"], ["run", "grid", "--repeats", "0"], ["run"]])
def test_wrong_commands(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(wrong)
    assert stopped.value.code == 2
    assert "usage: python -m benchmarks" in capsys.readouterr().err

"""The definitions of mIoU: the reference's numbers, torchmetrics' and a loop of plain lines."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from ddpmseg.errors import ConfigError, DataError
from ddpmseg.metrics.functional import (
    confusion,
    member_confusions,
    miou,
    miou_present,
    pixel_accuracy,
)
from ddpmseg.metrics.segmentation import Scores, SegmentationScores
from ddpmseg.records.results import peak_rss_mb

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "iou.json").read_text())["cases"]

# Three classes, 255 = ignore; class 2 occurs nowhere.
TOY_TRUTH = torch.tensor([[[0, 0, 0, 1], [0, 0, 1, 1]], [[0, 0, 0, 0], [0, 0, 255, 255]]])
TOY_PREDICTION = torch.tensor([[[0, 0, 0, 1], [0, 0, 1, 0]], [[0, 0, 0, 0], [0, 1, 1, 1]]])


def score(prediction: Tensor, truth: Tensor, num_classes: int, ignore_label: int) -> Scores:
    metric = SegmentationScores(num_classes, ignore_label)
    metric.update(prediction, truth)
    return metric.compute()


def loop_ious(
    prediction: Tensor, truth: Tensor, num_classes: int, ignore_label: int, drop_ignored: bool
) -> list[float]:
    """IoU per scored class, NaN where nothing is predicted or true, from sets of pixel numbers."""
    pairs = list(zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True))
    ious = []
    for label in range(num_classes):
        if label == ignore_label:
            continue
        kept = [i for i, (_, t) in enumerate(pairs) if not (drop_ignored and t == ignore_label)]
        predicted = {i for i in kept if pairs[i][0] == label}
        true = {i for i in kept if pairs[i][1] == label}
        union = len(predicted | true)
        ious.append(len(predicted & true) / union if union else math.nan)
    return ious


@st.composite
def masks(draw: st.DrawFn) -> tuple[Tensor, Tensor, int, int]:
    """Prediction, truth, number of classes and an ignore label inside or outside the classes."""
    num_classes = draw(st.integers(2, 5))
    ignore_label = draw(st.sampled_from([255, -1, num_classes, *range(num_classes)]))
    count = draw(st.integers(1, 30))
    label = st.integers(0, num_classes - 1)
    prediction = draw(st.lists(label, min_size=count, max_size=count))
    truth = draw(st.lists(label | st.just(ignore_label), min_size=count, max_size=count))
    return torch.tensor(prediction), torch.tensor(truth), num_classes, ignore_label


@pytest.mark.parametrize("index", range(4))
def test_paper_miou_equals_reference(index: int) -> None:
    tensors, case = load_file(GOLDEN / "iou.safetensors"), CASES[index]
    prediction, truth = tensors[f"iou{index}_pred"], tensors[f"iou{index}_gt"]
    scores = score(prediction, truth, case["num_classes"], case["ignore_label"])
    assert scores.miou.item() == pytest.approx(case["miou"], abs=1e-9)


def test_toy_masks_tell_the_definitions_apart() -> None:
    scores = score(TOY_PREDICTION, TOY_TRUTH, 3, 255)
    assert scores.confusion.tolist() == [[10, 1, 0], [1, 2, 0], [0, 0, 0], [0, 2, 0]]
    assert scores.iou.tolist() == pytest.approx([10 / 12, 2 / 6, 0])
    assert scores.iou_present.tolist() == pytest.approx([10 / 12, 2 / 4, math.nan], nan_ok=True)
    assert scores.miou.item() == pytest.approx(7 / 18)
    assert scores.miou_present.item() == pytest.approx(2 / 3)
    assert scores.pixel_accuracy.item() == pytest.approx(12 / 14)
    for value in (scores.miou, scores.miou_present, scores.pixel_accuracy, scores.iou):
        assert value.dtype == torch.float64
    assert scores.confusion.dtype == torch.int64


def test_class_predicted_but_true_nowhere_counts_as_zero() -> None:
    scores = score(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0]), 3, 255)
    assert scores.iou_present.tolist() == pytest.approx([2 / 3, 0, math.nan], nan_ok=True)
    assert scores.miou_present.item() == pytest.approx(1 / 3)


def test_ignore_label_among_the_classes() -> None:
    # One true 0 predicted as 1 is a false positive of the paper's metric; one true 1 predicted as 0
    # misses class 1 in both.
    scores = score(torch.tensor([1, 1, 0, 2]), torch.tensor([0, 1, 1, 2]), 3, 0)
    assert scores.confusion.tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0]]
    assert scores.iou.tolist() == pytest.approx([math.nan, 1 / 3, 1], nan_ok=True)
    assert scores.iou_present.tolist() == pytest.approx([math.nan, 1 / 2, 1], nan_ok=True)
    assert scores.pixel_accuracy.item() == pytest.approx(2 / 3)


def test_everything_ignored_has_no_conventional_score() -> None:
    scores = score(torch.tensor([0, 1]), torch.tensor([255, 255]), 2, 255)
    assert scores.miou.item() == 0
    assert math.isnan(scores.miou_present.item())
    assert math.isnan(scores.pixel_accuracy.item())


def test_large_sets_are_counted_to_the_pixel() -> None:
    many = 2**24 + 1  # the first whole number that float32 cannot hold
    counts = torch.tensor([[many, 2], [0, many], [0, 0]])
    expected = pytest.approx(many / (many + 2), rel=1e-12)
    assert miou(counts, 255).item() == expected
    assert miou_present(counts, 255).item() == expected
    assert pixel_accuracy(counts).item() == pytest.approx(2 * many / (2 * many + 2), rel=1e-12)


@given(masks())
def test_equals_loop(case: tuple[Tensor, Tensor, int, int]) -> None:
    prediction, truth, _, ignore_label = case
    scores = score(*case)
    scored = torch.arange(len(scores.iou)) != ignore_label
    paper = [0.0 if math.isnan(iou) else iou for iou in loop_ious(*case, drop_ignored=False)]
    assert scores.iou[scored].tolist() == pytest.approx(paper)
    assert scores.miou.item() == pytest.approx(sum(paper) / len(paper))
    present = loop_ious(*case, drop_ignored=True)
    assert scores.iou_present[scored].tolist() == pytest.approx(present, nan_ok=True)
    occurring = [iou for iou in present if not math.isnan(iou)]
    mean = sum(occurring) / len(occurring) if occurring else math.nan
    assert scores.miou_present.item() == pytest.approx(mean, nan_ok=True)
    kept = truth != ignore_label
    right = (prediction == truth)[kept].double().mean().item()
    assert scores.pixel_accuracy.item() == pytest.approx(right, nan_ok=True)


@given(masks())
def test_equals_torchmetrics(case: tuple[Tensor, Tensor, int, int]) -> None:
    prediction, truth, num_classes, ignore_label = case
    scores = score(*case)
    table = MulticlassConfusionMatrix(num_classes, ignore_index=ignore_label)
    assert torch.equal(scores.confusion[:-1], table(prediction, truth))
    macro = MulticlassJaccardIndex(num_classes, ignore_index=ignore_label)
    each = MulticlassJaccardIndex(num_classes, ignore_index=ignore_label, average="none")
    expected = macro(prediction, truth).item()
    assert scores.miou_present.item() == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert scores.iou_present.nan_to_num(0).tolist() == pytest.approx(
        each(prediction, truth).tolist(), abs=1e-6
    )


@given(masks(), st.randoms(use_true_random=False), st.integers(0, 30))
def test_counts_know_neither_order_nor_batches(
    case: tuple[Tensor, Tensor, int, int], random, cut: int
) -> None:
    prediction, truth, num_classes, ignore_label = case
    order = random.sample(range(len(truth)), len(truth))
    metric = SegmentationScores(num_classes, ignore_label)
    metric.update(prediction[order][:cut], truth[order][:cut])
    metric.update(prediction[order][cut:], truth[order][cut:])
    assert torch.equal(metric.counts, confusion(*case))


@given(masks(), st.randoms(use_true_random=False))
def test_relabelling_permutes_the_ious(case: tuple[Tensor, Tensor, int, int], random) -> None:
    prediction, truth, num_classes, ignore_label = case
    new = torch.tensor(random.sample(range(num_classes), num_classes))
    if 0 <= ignore_label < num_classes:
        new_ignore, new_truth = int(new[ignore_label]), new[truth]
    else:
        new_ignore = ignore_label
        inside = truth.masked_fill(truth == ignore_label, 0)
        new_truth = torch.where(truth == ignore_label, truth, new[inside])
    before = score(*case)
    after = score(new[prediction], new_truth, num_classes, new_ignore)
    for name in ("iou", "iou_present"):
        assert torch.equal(
            getattr(after, name)[new].nan_to_num(-1), getattr(before, name).nan_to_num(-1)
        )


@given(masks())
def test_perfect_prediction(case: tuple[Tensor, Tensor, int, int]) -> None:
    prediction, _, num_classes, _ = case
    counts = confusion(prediction, prediction, num_classes, 255)
    occurring = len(prediction.unique())
    assert miou(counts, 255).item() == pytest.approx(occurring / num_classes)
    assert miou_present(counts, 255).item() == 1
    assert pixel_accuracy(counts).item() == 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_integer_dtypes_and_an_ignore_label_they_cannot_hold(dtype: torch.dtype) -> None:
    expected = confusion(TOY_PREDICTION, TOY_TRUTH, 3, 255)
    counts = confusion(TOY_PREDICTION.to(dtype), TOY_TRUTH.to(torch.uint8), 3, 255)
    assert torch.equal(counts, expected)
    labels = TOY_PREDICTION.to(dtype)
    assert confusion(labels, labels, 3, 1000).diagonal().tolist() == [11, 5, 0]


def test_processes_are_summed() -> None:
    first, second = SegmentationScores(3, 255), SegmentationScores(3, 255)
    first.update(TOY_PREDICTION[0], TOY_TRUTH[0])
    second.update(TOY_PREDICTION[1], TOY_TRUTH[1])
    # What torch.distributed would do with two processes, without starting them.
    first.distributed_available_fn = lambda: True
    first.dist_sync_fn = lambda state, group: [state, second.counts]
    expected = score(TOY_PREDICTION, TOY_TRUTH, 3, 255)
    assert torch.equal(first.compute().confusion, expected.confusion)
    assert first.compute().miou == expected.miou


def test_reset_and_forward() -> None:
    metric = SegmentationScores(3, 255)
    per_batch = [metric(TOY_PREDICTION[i], TOY_TRUTH[i]).miou for i in range(2)]
    alone = [score(TOY_PREDICTION[i], TOY_TRUTH[i], 3, 255).miou for i in range(2)]
    assert per_batch == alone
    total = metric.compute()
    assert total.miou.item() == pytest.approx(7 / 18)
    metric.update(TOY_PREDICTION, TOY_TRUTH)
    assert total.confusion.sum() == 16, "an update changed scores handed out before"
    metric.reset()
    assert metric.counts.sum() == 0


def test_stray_label_in_truth_is_named() -> None:
    with pytest.raises(DataError, match=r"true mask holds label 3, 7, .*allowed: 0\.\.2 and 255"):
        confusion(torch.zeros(3).long(), torch.tensor([7, 3, 255]), 3, 255)


def test_stray_label_in_prediction_is_named() -> None:
    with pytest.raises(DataError, match=r"prediction holds label -1, .*allowed: 0\.\.2\)"):
        confusion(torch.tensor([-1, 0]), torch.tensor([255, 0]), 3, 255)


def test_unequal_shapes_are_named() -> None:
    with pytest.raises(DataError, match=r"shape \(4, 2\) .* of shape \(8,\)"):
        confusion(torch.zeros(4, 2).long(), torch.zeros(8).long(), 3, 255)


def test_one_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        SegmentationScores(1, 255)


def test_many_predictions_take_no_more_memory_than_one() -> None:
    """As of a sweep of all blocks with several seeds: a number of eight bytes for each would add up
    to 0.8 GB."""
    truth = (torch.arange(2**20) % 4).to(torch.uint8)
    truth[:10] = 255
    predictions = truth.clamp(max=3).expand(100, -1)
    before = peak_rss_mb()
    counts = member_confusions(predictions, truth, 4, 255)
    assert peak_rss_mb() - before < 300
    assert (counts == confusion(predictions[0], truth, 4, 255)).all()
    assert truth[:10].tolist() == [255] * 10

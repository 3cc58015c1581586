"""Votes and disagreement of an ensemble: cases by hand, plain loops, properties."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ddpmseg.heads.vote import hard_vote, image_uncertainty, member_disagreement, soft_vote


@st.composite
def scores(draw: st.DrawFn) -> Tensor:
    """Scores (M, K, P) among few whole numbers, so that ties are common."""
    members, classes, pixels = (draw(st.integers(1, high)) for high in (6, 5, 8))
    size = members * classes * pixels
    values = draw(st.lists(st.integers(-2, 2), min_size=size, max_size=size))
    return torch.tensor(values, dtype=torch.float32).view(members, classes, pixels)


def probabilities(logits: Tensor, pixel: int) -> list[list[float]]:
    rows = []
    for member in logits.double().tolist():
        exponentials = [math.exp(values[pixel]) for values in member]
        rows.append([value / sum(exponentials) for value in exponentials])
    return rows


def entropy(distribution: list[float]) -> float:
    return -sum(p * math.log(p) for p in distribution if p > 0)


def ballots(*votes: int, num_classes: int) -> Tensor:
    """Scores (M, K, 1) of members that vote as given, each for one pixel."""
    return torch.nn.functional.one_hot(torch.tensor(votes), num_classes).float()[..., None]


@pytest.mark.parametrize(
    ("votes", "label"),
    [
        ((2, 2, 1), 2),
        ((3, 1, 3, 1, 0), 1),
        ((3, 2, 1, 0), 0),
        ((3, 2), 2),
        ((3,), 3),
        ((0, 3, 3, 2, 2, 2), 2),
    ],
)
def test_majority_and_ties(votes: tuple[int, ...], label: int) -> None:
    assert hard_vote(ballots(*votes, num_classes=4)).tolist() == [label]


def test_one_sure_member_outweighs_two_unsure_ones_in_a_soft_vote_only() -> None:
    logits = torch.tensor([[0.1, 0.0], [0.1, 0.0], [0.0, 5.0]])[..., None]
    assert hard_vote(logits).tolist() == [0]
    assert soft_vote(logits).tolist() == [1]


@given(scores())
def test_hard_vote_equals_loop_and_mode(logits: Tensor) -> None:
    labels = []
    for pixel in range(logits.shape[2]):
        columns = logits[..., pixel].tolist()
        count = Counter(column.index(max(column)) for column in columns)
        labels.append(min(count, key=lambda label: (-count[label], label)))
    assert hard_vote(logits).tolist() == labels
    # The reference's own way; on a CPU its ties go to the smaller label too.
    assert logits.argmax(1).mode(0).values.tolist() == labels
    assert hard_vote(logits).dtype == torch.int64


@given(scores())
def test_soft_vote_equals_loop(logits: Tensor) -> None:
    for pixel, label in enumerate(soft_vote(logits).tolist()):
        rows = probabilities(logits, pixel)
        total = [sum(column) for column in zip(*rows, strict=True)]
        assert total[label] == pytest.approx(max(total), rel=1e-5)


def test_soft_vote_tie_goes_to_the_smaller_label() -> None:
    assert soft_vote(torch.zeros(3, 4, 2)).tolist() == [0, 0]


@given(scores())
def test_disagreement_equals_loop(logits: Tensor) -> None:
    for pixel, js in enumerate(member_disagreement(logits).tolist()):
        rows = probabilities(logits, pixel)
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        expected = entropy(mean) - sum(entropy(row) for row in rows) / len(rows)
        assert js == pytest.approx(expected, abs=2e-6)


@given(scores())
def test_disagreement_is_bounded(logits: Tensor) -> None:
    js = member_disagreement(logits)
    members, classes, _ = logits.shape
    assert (js >= 0).all()
    assert (js <= math.log(min(members, classes)) + 1e-6).all()
    assert torch.allclose(js, member_disagreement(logits.flip(0)), atol=1e-6)
    assert torch.allclose(js, member_disagreement(logits.flip(1)), atol=1e-6)


def test_disagreement_of_equal_and_of_opposed_members() -> None:
    torch.manual_seed(0)
    same = torch.randn(1, 7, 500).expand(10, 7, 500)
    assert (member_disagreement(same) >= 0).all()
    assert member_disagreement(same).max() < 1e-6
    opposed = 1e4 * ballots(0, 1, 2, 3, num_classes=4)
    assert member_disagreement(opposed).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_scores_are_reduced_in_fp32(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    logits = torch.randn(5, 30, 64).mul(5).to(dtype)
    js = member_disagreement(logits)
    assert js.dtype == torch.float32
    assert torch.allclose(js, member_disagreement(logits.float()))
    assert torch.equal(soft_vote(logits), soft_vote(logits.float()))
    assert torch.equal(hard_vote(logits), hard_vote(logits.float()))


def test_any_number_of_pixel_axes_and_inputs_left_alone() -> None:
    torch.manual_seed(2)
    logits = torch.randn(3, 4, 2, 5, 6)
    before = logits.clone()
    for function in (hard_vote, soft_vote, member_disagreement):
        result = function(logits)
        assert result.shape == (2, 5, 6)
        assert torch.equal(result.flatten(), function(logits.flatten(2)))
    assert torch.equal(logits, before)


class _LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operation makes; views of older ones are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view and isinstance(result, Tensor):
            self.size = max(self.size, result.numel() * result.itemsize)
        return result


def test_no_tensor_is_larger_than_one_members_scores() -> None:
    logits = torch.randn(10, 34, 256)
    for function in (hard_vote, soft_vote, member_disagreement):
        with _LargestTensor() as largest:
            function(logits)
        assert 0 < largest.size <= logits[0].numel() * 4, function.__name__


def test_image_uncertainty_is_the_mean_of_the_top_tenth() -> None:
    rising = torch.arange(20.0).view(4, 5)
    assert image_uncertainty(rising).item() == 18.5
    # 24 pixels: a tenth is 2.4, of which 2 count.
    batch = torch.stack([torch.arange(24.0), -torch.arange(24.0)]).view(2, 4, 6)
    assert image_uncertainty(batch).tolist() == [22.5, -0.5]


def test_image_uncertainty_of_very_small_images_is_the_mean_of_all() -> None:
    assert image_uncertainty(torch.arange(9.0).view(3, 3)).item() == 4
    assert image_uncertainty(torch.arange(10.0).view(2, 5)).item() == 9


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_image_uncertainty_equals_the_reference_slice(values: list[int]) -> None:
    ordered = sorted(values)
    top = ordered[-int(len(values) / 10) :]
    result = image_uncertainty(torch.tensor(values, dtype=torch.float64)[None])
    assert result.item() == pytest.approx(sum(top) / len(top))

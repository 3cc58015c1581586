"""The closed-form classifier against scikit-learn, fold by fold."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from ddpmseg.heads import ridge
from ddpmseg.heads.ridge import cross_validated_counts, mean_iou

CLASSES = 3


def data(
    pixels: int = 240, width: int = 6
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features that tell the classes apart for most pixels; folds and weights."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(CLASSES, (pixels,), generator=generator)
    features = torch.randn(pixels, width, generator=generator)
    features[torch.arange(pixels), labels] += 2
    folds = torch.randint(4, (pixels,), generator=generator)
    weights = torch.rand(pixels, generator=generator) + 0.5
    return features, labels, folds, weights


def test_every_fold_is_predicted_by_a_ridge_regression_on_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ridge, "HIDDEN", 20)
    features, labels, folds, weights = data()
    hidden = ridge._lift(features).double().numpy()
    expected = np.zeros((CLASSES, CLASSES))
    for fold in range(4):
        own = (folds == fold).numpy()
        rest = hidden[~own]
        penalty = ridge.PENALTY * (rest**2).sum() / rest.shape[1]
        model = Ridge(alpha=penalty, fit_intercept=False)
        model.fit(rest, np.eye(CLASSES)[labels.numpy()[~own]])
        predicted = np.asarray(model.predict(hidden[own])).argmax(axis=1)
        for true, found, weight in zip(labels[own], predicted, weights[own], strict=True):
            expected[true, found] += float(weight)
    counts = cross_validated_counts(features, labels, folds, weights, CLASSES)
    assert counts.numpy() == pytest.approx(expected, rel=1e-5)
    assert mean_iou(counts) > 0.5


def test_features_that_say_nothing_score_like_chance() -> None:
    features, labels, folds, weights = data()
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(9))
    informed = mean_iou(cross_validated_counts(features, labels, folds, weights, CLASSES))
    blind = mean_iou(cross_validated_counts(noise, labels, folds, weights, CLASSES))
    # Guessing one of three equal classes: (1/9) / (2/3 - 1/9) = 0.2.
    assert blind < 0.3 < informed


def test_the_score_does_not_depend_on_what_was_scored_before() -> None:
    features, labels, folds, weights = data()
    first = cross_validated_counts(features, labels, folds, weights, CLASSES)
    cross_validated_counts(features[:, :2], labels, folds, weights, CLASSES)
    second = cross_validated_counts(features, labels, folds, weights, CLASSES)
    assert torch.equal(second, first)


def test_mean_iou_leaves_out_classes_that_are_true_nowhere() -> None:
    counts = torch.tensor([[6.0, 2.0, 1.0], [1.0, 3.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert mean_iou(counts) == pytest.approx((6 / 10 + 3 / 6) / 2)

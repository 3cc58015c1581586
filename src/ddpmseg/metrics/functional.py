"""Agreement of predicted and true masks, as pure functions of one small table of counts.

`confusion` counts pixels by (true label, predicted label). Its last row holds the pixels whose true
label is the ignore label. Both definitions of mIoU read this table, and the tables of batches add
up to the table of the set. Let n[i, k] be a count, i in 0..K, and r the ignore label:

    IoU of class k = n[k, k] / (sum over i of n[i, k] + sum over j of n[k, j] - n[k, k])

    miou            i runs over 0..K (every pixel); mean over all k but r
    miou_present    i runs over 0..K-1 (no ignored pixel); mean over all k but r with a union > 0

`miou` is the paper's: a prediction on an ignored pixel is a false positive, and a class without any
predicted or true pixel scores 0. `miou_present` is the Jaccard index as commonly defined.
The ignore label may lie outside the classes (255) or be one of them (bedroom_28: 29 outputs,
ignore label 0): that class is then not scored, but predicting it still misses the true class.

Scores are fractions in [0, 1], float64, on the CPU: not every device supports float64.
"""

import torch
from jaxtyping import Bool, Float64, Int64, Integer
from torch import Tensor

from ddpmseg.errors import DataError


def confusion(
    prediction: Integer[Tensor, "..."],
    truth: Integer[Tensor, "..."],
    num_classes: int,
    ignore_label: int,
) -> Int64[Tensor, "{num_classes}+1 {num_classes}"]:
    """Count pixels by true label (rows 0..K-1, ignored pixels in row K) and predicted label.

    The two masks have the same shape, any integer dtype and any device: predictions in 0..K-1,
    truth in 0..K-1 or `ignore_label`. When `ignore_label` is also a class, the row of that class
    stays empty and its pixels are in row K. So rows 0..K-1 always equal torchmetrics'
    MulticlassConfusionMatrix with `ignore_index`.

    Raises DataError when the shapes differ or a label is outside its range.
    """
    if prediction.shape != truth.shape:
        raise DataError(
            f"a prediction of shape {tuple(prediction.shape)} cannot be compared with a true mask "
            f"of shape {tuple(truth.shape)}. Bring both to the same size."
        )
    prediction, truth = prediction.flatten().long(), truth.flatten().long()
    ignored = truth == ignore_label
    allowed = f"0..{num_classes - 1}"
    _check_labels(
        "the true mask", truth, ~ignored, num_classes, f"{allowed} and {ignore_label} (ignore)"
    )
    _check_labels("the prediction", prediction, torch.ones_like(ignored), num_classes, allowed)
    cells = truth.masked_fill(ignored, num_classes) * num_classes + prediction
    counts = torch.bincount(cells, minlength=(num_classes + 1) * num_classes)
    return counts.view(num_classes + 1, num_classes)


def member_confusions(
    predictions: Integer[Tensor, "m ..."],
    truth: Integer[Tensor, "..."],
    num_classes: int,
    ignore_label: int,
) -> Int64[Tensor, "m {num_classes}+1 {num_classes}"]:
    """`confusion` of several predictions of one truth, checked together.

    The memory it takes does not depend on the number of predictions. Raises DataError when a label
    is outside its range.
    """
    labels = truth.flatten().long()
    ignored = labels == ignore_label
    allowed = f"0..{num_classes - 1}"
    _check_labels(
        "the true mask", labels, ~ignored, num_classes, f"{allowed} and {ignore_label} (ignore)"
    )
    lowest, highest = (int(end) for end in predictions.aminmax())
    if lowest < 0 or highest >= num_classes:
        raise DataError(
            f"predictions hold labels {lowest}..{highest}, not all of them classes ({allowed})."
        )
    size = (num_classes + 1) * num_classes
    rows = labels.masked_fill(ignored, num_classes).mul_(num_classes)
    counts = rows.new_empty(len(predictions), size)
    cells = torch.empty_like(rows)  # in one place: pieces of memory between counts would add up
    for member, labels_of_member in enumerate(predictions.flatten(1)):
        torch.add(rows, labels_of_member, out=cells)
        counts[member] = torch.bincount(cells, minlength=size)
    return counts.view(-1, num_classes + 1, num_classes)


def iou_per_class(counts: Int64[Tensor, "k_plus_1 k"], ignore_label: int) -> Float64[Tensor, " k"]:
    """IoU of every class as the paper defines it: ignored pixels stay in the union.

    A class in neither prediction nor truth has 0, the class equal to `ignore_label` has NaN.
    Source: paper, section 3; reference `src/pixel_classifier.py`, `compute_iou`.
    """
    intersection, union = _overlaps(counts, counts)
    return _without(intersection / (union + 1e-8), ignore_label)


def iou_per_class_present(
    counts: Int64[Tensor, "k_plus_1 k"], ignore_label: int
) -> Float64[Tensor, " k"]:
    """IoU of every class over the pixels that are not ignored.

    A class that is predicted but never true has 0. A class in neither prediction nor truth has NaN,
    and so has the class equal to `ignore_label`.
    """
    intersection, union = _overlaps(counts, counts[:-1])
    return _without(intersection / union, ignore_label)


def miou(counts: Int64[Tensor, "k_plus_1 k"], ignore_label: int) -> Float64[Tensor, ""]:
    """The paper's metric: mean of `iou_per_class` over all classes but the ignore label."""
    return iou_per_class(counts, ignore_label).nanmean()


def miou_present(counts: Int64[Tensor, "k_plus_1 k"], ignore_label: int) -> Float64[Tensor, ""]:
    """Unweighted mean of `iou_per_class_present` over the classes predicted or true somewhere.

    A class that is predicted but never true counts with 0. NaN when every pixel is ignored. Agrees
    with torchmetrics' MulticlassJaccardIndex, average 'macro'.
    """
    return iou_per_class_present(counts, ignore_label).nanmean()


def pixel_accuracy(counts: Int64[Tensor, "k_plus_1 k"]) -> Float64[Tensor, ""]:
    """Share of correct labels among the pixels that are not ignored; NaN when all are ignored."""
    table = counts[:-1].cpu().double()
    return table.trace() / table.sum()


def _overlaps(
    counts: Int64[Tensor, "k_plus_1 k"], false_positives_in: Int64[Tensor, "rows k"]
) -> tuple[Float64[Tensor, " k"], Float64[Tensor, " k"]]:
    """Intersection and union per class.

    `false_positives_in`: the rows of `counts` whose predictions enter the union.
    """
    intersection = counts.diagonal()
    union = false_positives_in.sum(0) + counts[:-1].sum(1) - intersection
    return intersection.cpu().double(), union.cpu().double()


def _without(iou: Float64[Tensor, " k"], label: int) -> Float64[Tensor, " k"]:
    return iou.masked_fill(torch.arange(len(iou)) == label, torch.nan)


def _check_labels(
    mask: str,
    labels: Int64[Tensor, " p"],
    considered: Bool[Tensor, " p"],
    num_classes: int,
    allowed: str,
) -> None:
    wrong = considered & ((labels < 0) | (labels >= num_classes))
    if wrong.any():
        unknown = ", ".join(str(label) for label in labels[wrong].unique()[:5].tolist())
        raise DataError(
            f"{mask} holds label {unknown}, which is no class (allowed: {allowed}). "
            "Correct the masks or the class table named by `dataset.classes`."
        )

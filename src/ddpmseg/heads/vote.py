"""From the scores of an ensemble's members to labels, and to how far the members disagree.

Scores come as heads produce them: members first, classes second, pixels last, in any number of
axes. Members are taken one at a time: besides the scores, memory holds a few maps of one member.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def hard_vote(logits: Float[Tensor, "m k *pixels"]) -> Int64[Tensor, "*pixels"]:
    """The label that most members score highest; a tie goes to the smallest of the tied labels.

    Source: paper, section 2.5; reference `src/pixel_classifier.py`, `predict_labels`, whose
    `torch.mode` over members breaks ties in the same way.
    """
    # On a CPU, max is up to several times faster than argmax along an axis that is not the last.
    votes = logits.max(dim=1).indices.int()
    support = torch.zeros_like(votes)
    for vote in votes:
        support += votes == vote
    num_classes = logits.shape[1]
    return torch.where(support == support.amax(0), votes, num_classes).amin(0).long()


def soft_vote(logits: Float[Tensor, "m k *pixels"]) -> Int64[Tensor, "*pixels"]:
    """The label with the highest mean probability; a tie goes to the smallest label."""
    return _total_probability(logits).max(dim=0).indices


def mean_probability(logits: Float[Tensor, "m k *pixels"]) -> Float[Tensor, "k *pixels"]:
    """Class probabilities, averaged over the members; float32, or float64 for float64 scores."""
    return _total_probability(logits).div_(len(logits))


def member_disagreement(logits: Float[Tensor, "m k *pixels"]) -> Float[Tensor, "*pixels"]:
    """Jensen-Shannon divergence of the members' class probabilities, per pixel.

    That is the entropy of the mean probability minus the mean of the members' entropies, in nats:
    0 where all agree, at most ln(min(M, K)). float32, or float64 for float64 scores.

    Source: paper, section 2.5; reference `src/pixel_classifier.py`, `predict_labels`.
    """
    total = _probability(logits[0])
    total_entropy = _entropy(total)
    for member in logits[1:]:
        probability = _probability(member)
        total += probability
        total_entropy += _entropy(probability)
    members = len(logits)
    # Rounding may leave a hair less than nothing.
    return (_entropy(total.div_(members)) - total_entropy.div_(members)).clamp_min_(0)


def image_uncertainty(js: Float[Tensor, "*images h w"]) -> Float[Tensor, "*images"]:
    """Mean over the floor(N / 10) largest of an image's N = h * w disagreements.

    Under ten pixels all are averaged, as the reference's slice does.

    Source: paper, section 2.5; reference `src/pixel_classifier.py`, `predict_labels`.
    """
    pixels = js.flatten(-2)
    num_pixels = pixels.shape[-1]
    return pixels.topk(num_pixels // 10 or num_pixels, sorted=False).values.mean(-1)


def _total_probability(logits: Float[Tensor, "m k *pixels"]) -> Float[Tensor, "k *pixels"]:
    """Sum over the members."""
    total = _probability(logits[0])
    for member in logits[1:]:
        total += _probability(member)
    return total


def _probability(member: Float[Tensor, "k *pixels"]) -> Float[Tensor, "k *pixels"]:
    """Softmax over classes, in float32 or wider."""
    return member.softmax(dim=0, dtype=torch.promote_types(member.dtype, torch.float32))


def _entropy(probability: Float[Tensor, "k *pixels"]) -> Float[Tensor, "*pixels"]:
    """In nats; a probability that underflowed to 0 contributes 0."""
    return torch.special.entr(probability).sum(0)

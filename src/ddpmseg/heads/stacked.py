"""Many independent classifiers side by side as one module, with a leading member axis."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddpmseg.heads.base import TrainedHead
from ddpmseg.heads.pixels import LabelledPixels
from ddpmseg.heads.protocols import Protocol

NO_EPS = 1e-30
"""Vanishes beside a variance of 1; none at all is refused on a GPU."""


class StackedHead(TrainedHead):
    """M independent classifiers of pixel vectors: Linear, then (ReLU, BatchNorm, Linear) repeated.

    Vectors are first shifted and scaled per feature, by nothing unless `standardise` was called.
    Source: paper section 3.2; reference `src/pixel_classifier.py`.
    """

    def __init__(self, dim: int, num_classes: int, members: int, hidden: tuple[int, ...]) -> None:
        super().__init__(dim, num_classes, members)
        self.hidden = hidden
        self.norms = nn.ModuleList(StackedBatchNorm(members, width) for width in hidden)
        self.input_mean: Tensor
        self.input_scale: Tensor
        self.register_buffer("input_mean", torch.zeros(dim))
        self.register_buffer("input_scale", torch.ones(dim))

    @abstractmethod
    def first(self, vectors: Float[Tensor, "*m p d"]) -> Float[Tensor, "m h p"]:
        """The first layer of every member on scaled vectors (see `StackedLinear`)."""

    @property
    @abstractmethod
    def later(self) -> list[tuple["StackedBatchNorm", "StackedLinear"]]:
        """Each further linear layer and the normalisation before it."""

    def forward(self, vectors: Float[Tensor, "*m p d"]) -> Float[Tensor, "{self.members} p k"]:
        """Class scores (logits) of pixel vectors, the same for all members or one set for each.

        Vectors may have 16 bits; what is computed in is what autocast says, or else fp32.
        """
        h = self.first(self._scaled(vectors))
        for norm, linear in self.later:
            # A linear layer does not need its own output to learn.
            h = linear(norm(F.relu(h, inplace=True)))
        return h.transpose(1, 2)

    def _scaled(self, vectors: Float[Tensor, "*m p d"]) -> Float[Tensor, "*m p d"]:
        """(vectors - mean) * scale in fp32, rounded once to what follows is computed in.

        Weights are then cast to that dtype and gradients come back through it. So maps in float16,
        in which small gradients vanish, are read in fp32 first unless autocast computes in it.
        """
        mean, device = self.input_mean, vectors.device.type
        mixed = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if mixed else mean.dtype
        if vectors.dtype != dtype:
            vectors = vectors.to(mean.dtype)
        # A batch norm with given statistics reads 16 bits, computes in fp32 and writes 16 bits.
        rows = vectors.reshape(-1, self.dim)
        scaled = F.batch_norm(rows, mean, torch.ones_like(mean), self.input_scale, eps=NO_EPS)
        return scaled.to(dtype).view_as(vectors)

    def batch(
        self, step: int, pixels: LabelledPixels, protocol: Protocol, seed: int
    ) -> tuple[Int[Tensor, "*s p"], Int[Tensor, "*s p"]]:
        return pixels.batch(step, protocol, self.members, seed)

    def standardise(self, vectors: Float[Tensor, "p d"]) -> None:
        """From now on scale every feature to mean 0 and deviation 1 over these vectors.

        A feature that is constant over them stays unscaled.
        """
        deviation = vectors.std(dim=0, correction=0)
        self.input_mean.copy_(vectors.mean(dim=0))
        self.input_scale.copy_(torch.where(deviation > 0, 1 / deviation, 1))

    @abstractmethod
    def member_views(self, member: int) -> dict[str, Tensor]:
        """Everything that belongs to one member, sharing memory with the head."""


class StackedLinear(nn.Module):
    """A linear layer for every member.

    Between layers pixels lie innermost, (m, c, p): products, normalisation and loss then all read
    and write what they share without moving it.
    """

    def __init__(self, members: int, into: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, out, into))
        self.bias = nn.Parameter(torch.zeros(members, out))

    def forward(self, x: Float[Tensor, "*m i p"]) -> Float[Tensor, "m o p"]:
        """On values of each member's own, or on the same for all: then it is one product."""
        y = torch.matmul(self.weight, x)
        return y.add_(self.bias.to(y.dtype)[:, :, None])


class StackedBatchNorm(nn.Module):
    """BatchNorm1d for every member, with the defaults of torch (eps 1e-5, momentum 0.1)."""

    eps, momentum = 1e-5, 0.1
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, width))
        self.bias = nn.Parameter(torch.zeros(members, width))
        self.register_buffer("running_mean", torch.zeros(members, width))
        self.register_buffer("running_var", torch.ones(members, width))

    def forward(self, x: Float[Tensor, "m c p"]) -> Float[Tensor, "m c p"]:
        # Members and their channels as the channels of one item.
        normalised = F.batch_norm(
            x.flatten(0, 1)[None],
            self.running_mean.view(-1),
            self.running_var.view(-1),
            self.weight.view(-1),
            self.bias.view(-1),
            self.training,
            self.momentum,
            self.eps,
        )
        return normalised.view_as(x)

    def fold_into(self, linear: StackedLinear) -> tuple[Tensor, Tensor]:
        """Weight and bias with which linear(norm(x)) = weight @ x + bias in eval mode."""
        scale = self.weight / (self.running_var + self.eps).sqrt()
        shift = self.bias - self.running_mean * scale
        weight = linear.weight * scale[:, None]
        return weight, linear.bias + torch.einsum("moi,mi->mo", linear.weight, shift)


def folded(
    later: list[tuple[StackedBatchNorm, StackedLinear]], dtype: torch.dtype
) -> list[tuple[Float[Tensor, "m o i"], Float[Tensor, "m o"]]]:
    """Weights and biases of the layers after the first, each normalisation folded in, cast once."""
    return [
        (weight.to(dtype), bias.to(dtype))
        for weight, bias in (norm.fold_into(linear) for norm, linear in later)
    ]

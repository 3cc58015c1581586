"""Many independent classifiers side by side as one module, with a leading member axis."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class StackedHead(nn.Module, ABC):
    """M independent classifiers of pixel vectors: Linear, then (ReLU, BatchNorm, Linear) repeated.

    Vectors are first shifted and scaled per feature, by nothing unless `standardise` was called.
    Source: paper section 3.2; reference `src/pixel_classifier.py`.
    """

    def __init__(self, dim: int, num_classes: int, members: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.dim, self.num_classes, self.members, self.hidden = dim, num_classes, members, hidden
        self.norms = nn.ModuleList(StackedBatchNorm(members, width) for width in hidden)
        self.input_mean: Tensor
        self.input_scale: Tensor
        self.register_buffer("input_mean", torch.zeros(dim))
        self.register_buffer("input_scale", torch.ones(dim))

    @abstractmethod
    def first(self, vectors: Float[Tensor, "*m p d"]) -> Float[Tensor, "{self.members} p h"]:
        """The first layer of every member on scaled vectors."""

    @property
    @abstractmethod
    def later(self) -> list[tuple["StackedBatchNorm", "StackedLinear"]]:
        """Each further linear layer and the normalisation before it."""

    def forward(self, vectors: Float[Tensor, "*m p d"]) -> Float[Tensor, "{self.members} p k"]:
        """Class scores (logits) of pixel vectors, the same for all members or one set for each."""
        h = self.first((vectors - self.input_mean) * self.input_scale)
        for norm, linear in self.later:
            h = linear(norm(F.relu(h)))
        return h

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

    def member_state(self, member: int) -> dict[str, Tensor]:
        """A copy of everything that belongs to one member."""
        return {key: value.detach().clone() for key, value in self.member_views(member).items()}

    @torch.no_grad()
    def load_member(self, member: int, state: dict[str, Tensor]) -> None:
        """Put back what `member_state` gave."""
        for key, value in self.member_views(member).items():
            value.copy_(state[key])


class StackedLinear(nn.Module):
    def __init__(self, members: int, into: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, out, into))
        self.bias = nn.Parameter(torch.zeros(members, out))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            # One product for all members when they look at the same pixels.
            h = F.linear(x, self.weight.flatten(0, 1))
            return h.unflatten(1, self.bias.shape).transpose(0, 1) + self.bias[:, None]
        return torch.baddbmm(self.bias[:, None], x, self.weight.transpose(1, 2))


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

    def forward(self, x: Float[Tensor, "m p c"]) -> Float[Tensor, "m p c"]:
        members, pixels, width = x.shape
        # Members side by side are channels of one batch norm.
        y = F.batch_norm(
            x.transpose(0, 1).reshape(pixels, members * width),
            self.running_mean.view(-1),
            self.running_var.view(-1),
            self.weight.view(-1),
            self.bias.view(-1),
            self.training,
            self.momentum,
            self.eps,
        )
        return y.view(pixels, members, width).transpose(0, 1)

    def fold_into(self, linear: StackedLinear) -> tuple[Tensor, Tensor]:
        """Weight and bias with which linear(norm(x)) = weight @ x + bias in eval mode."""
        scale = self.weight / (self.running_var + self.eps).sqrt()
        shift = self.bias - self.running_mean * scale
        weight = linear.weight * scale[:, None]
        return weight, linear.bias + torch.einsum("moi,mi->mo", linear.weight, shift)

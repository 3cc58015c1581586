"""The paper's pixel classifier, all members of an ensemble in one module."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddpmseg.randomness import keyed_generator


def paper_hidden(num_classes: int) -> tuple[int, int]:
    """Hidden widths by number of outputs: 128, 32 under 30 outputs, else 256, 128.

    Source: reference `src/pixel_classifier.py`.
    """
    return (128, 32) if num_classes < 30 else (256, 128)


class StackedMLP(nn.Module):
    """M independent classifiers D -> hidden -> K with a leading member axis.

    Every hidden layer is Linear, ReLU, BatchNorm in this order. Weights start as N(0, 0.02), biases
    as 0, each member from its own stream of `seed`; so member m is the same in any ensemble.
    Vectors are first shifted and scaled per feature, by nothing unless `standardise` was called.
    Source: paper section 3.2; reference `src/pixel_classifier.py`.
    """

    def __init__(
        self, dim: int, num_classes: int, members: int, hidden: Sequence[int], seed: int = 0
    ) -> None:
        super().__init__()
        self.dim, self.num_classes, self.members = dim, num_classes, members
        self.hidden = tuple(hidden)
        widths = [dim, *hidden, num_classes]
        linears = [_StackedLinear(members, into, out) for into, out in pairwise(widths)]
        norms = [_StackedBatchNorm(members, width) for width in hidden]
        self.linears, self.norms = nn.ModuleList(linears), nn.ModuleList(norms)
        self.input_mean: Tensor
        self.input_scale: Tensor
        self.register_buffer("input_mean", torch.zeros(dim))
        self.register_buffer("input_scale", torch.ones(dim))
        for member in range(members):
            generator = keyed_generator(seed, member)
            for linear in linears:
                with torch.no_grad():
                    linear.weight[member].normal_(0, 0.02, generator=generator)

    def forward(
        self, vectors: Float[Tensor, "p d"] | Float[Tensor, "m p d"]
    ) -> Float[Tensor, "m p k"]:
        """Class scores (logits) of pixel vectors, the same for all members or one set for each."""
        h = self._first((vectors - self.input_mean) * self.input_scale)
        for norm, linear in self._rest:
            h = linear(norm(F.relu(h)))
        return h

    @property
    def _first(self) -> "_StackedLinear":
        return cast(_StackedLinear, self.linears[0])

    @property
    def _rest(self) -> list[tuple["_StackedBatchNorm", "_StackedLinear"]]:
        """Each further linear layer and the normalisation before it."""
        pairs = zip(self.norms, self.linears[1:], strict=True)
        return cast(list[tuple[_StackedBatchNorm, _StackedLinear]], list(pairs))

    def first_layer(self) -> tuple[Float[Tensor, "o d"], Float[Tensor, " o"]]:
        """Weight and bias of all members' first layer as one, on unscaled vectors, member-major."""
        weight = self._first.weight.flatten(0, 1) * self.input_scale
        return weight, self._first.bias.flatten() - weight @ self.input_mean

    def standardise(self, vectors: Float[Tensor, "p d"]) -> None:
        """From now on scale every feature to mean 0 and deviation 1 over these vectors.

        A feature that is constant over them stays unscaled.
        """
        deviation = vectors.std(dim=0, correction=0)
        self.input_mean.copy_(vectors.mean(dim=0))
        self.input_scale.copy_(torch.where(deviation > 0, 1 / deviation, 1))

    def after_first_layer(self, h: Float[Tensor, "n o s s"]) -> Float[Tensor, "n m k s s"]:
        """The remaining layers on whole images, in eval mode: grouped 1x1 convolutions.

        `h` is what `first_layer` gives at every pixel; it is overwritten. Each batch normalisation
        is folded into the layer that follows it.
        """
        for norm, linear in self._rest:
            weight, bias = norm.fold_into(linear)
            kernel = weight.flatten(0, 1)[..., None, None].to(h.dtype)
            h = F.conv2d(h.relu_(), kernel, bias.flatten().to(h.dtype), groups=self.members)
        return h.unflatten(1, (self.members, self.num_classes))

    def member_state(self, member: int) -> dict[str, Tensor]:
        """A copy of everything that belongs to one member."""
        layers = {k: v for k, v in self.state_dict().items() if not k.startswith("input_")}
        return {key: value[member].clone() for key, value in layers.items()}

    def load_member(self, member: int, state: dict[str, Tensor]) -> None:
        """Put back what `member_state` gave."""
        own = self.state_dict()
        with torch.no_grad():
            for key, value in state.items():
                own[key][member].copy_(value)


class _StackedLinear(nn.Module):
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


class _StackedBatchNorm(nn.Module):
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

    def fold_into(self, linear: _StackedLinear) -> tuple[Tensor, Tensor]:
        """Weight and bias with which linear(norm(x)) = weight @ x + bias in eval mode."""
        scale = self.weight / (self.running_var + self.eps).sqrt()
        shift = self.bias - self.running_mean * scale
        weight = linear.weight * scale[:, None]
        return weight, linear.bias + torch.einsum("moi,mi->mo", linear.weight, shift)

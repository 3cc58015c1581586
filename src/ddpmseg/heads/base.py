"""What every head promises: how it is fitted, how it reads whole images, how it is kept on disk."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from ddpmseg.errors import TrainingError
from ddpmseg.features.layout import FeatureLayout
from ddpmseg.features.maps import NativeMaps
from ddpmseg.heads.pixels import LabelledPixels
from ddpmseg.heads.protocols import Protocol

VECTOR_BYTES = 2**26
"""`PixelReader` builds the vectors of so many pixels at a time as fit into this memory."""


class Reader(ABC):
    """A fitted head on whole images.

    members: classifiers whose scores it gives. num_classes: scores of each.
    """

    members: int
    num_classes: int

    @abstractmethod
    def scores(self, maps: NativeMaps) -> Float32[Tensor, "n m k s s"]:
        """Class scores (logits) of every member at every pixel, on the device of the maps."""


class Head(nn.Module, ABC):
    """Reads classes out of pixel vectors of D features: `members` classifiers of K classes.

    A subclass derives from `TrainedHead` or from `FittedHead`. All that fitting finds is in its
    `state_dict()`, whose shapes the constructor fixes; on disk lie this and its arguments.

    kind: name of the family, the one by which `head=NAME` chooses it.
    arguments: names of the constructor's arguments, besides `dim` and `num_classes`, that a head
        read from disk needs. Each is an attribute of the head as well, a JSON value.
    """

    kind: ClassVar[str]
    arguments: ClassVar[tuple[str, ...]] = ()

    def __init__(self, dim: int, num_classes: int, members: int = 1) -> None:
        super().__init__()
        self.dim, self.num_classes, self.members = dim, num_classes, members

    @abstractmethod
    def forward(self, vectors: Float[Tensor, "*m p d"]) -> Float[Tensor, "{self.members} p k"]:
        """Class scores (logits) of pixel vectors, the same for all members or one set for each.

        A head of a single member is given (p, d).
        """

    @abstractmethod
    def fit_to(self, maps: NativeMaps, pixels: LabelledPixels, seed: int, train: "Train") -> None:
        """Fit it to the labelled pixels of images, whose maps these are.

        seed: draws what is drawn. train: does it for a head that learns by gradient descent.
        """

    @property
    def label(self) -> str:
        """How tables name it, such as 'mlp-128-32'."""
        return self.kind

    def reader(self, layout: FeatureLayout, dtype: torch.dtype) -> Reader:
        """The head, from now on in eval mode, on maps of this layout and dtype.

        A head that can work on the native maps, before they are resized, gives a faster one.
        """
        return PixelReader(self, layout)


class TrainedHead(Head):
    """A head trained by gradient descent on the cross-entropy of its scores.

    In training `forward` gets vectors in the dtype of the maps, which may have 16 bits; a head
    whose layers do not take them begins with `vectors.float()`.
    """

    def fit_to(self, maps: NativeMaps, pixels: LabelledPixels, seed: int, train: "Train") -> None:
        train(self, maps, pixels, seed)

    def batch(
        self, step: int, pixels: LabelledPixels, protocol: Protocol, seed: int
    ) -> tuple[Int[Tensor, "*s p"], Int[Tensor, "*s p"]]:
        """Positions and labels of a step: the same pixels for all members, or a row for each."""
        positions, labels = pixels.batch(step, protocol, self.members, seed)
        if self.members == 1:
            return positions.flatten(), labels.flatten()
        return positions, labels

    def standardise(self, vectors: Float[Tensor, "p d"]) -> None:
        """Take in a sample of the training vectors, float32, before the first step.

        A head that scales its input keeps their mean and deviation; others leave this as it is.
        """

    def member_views(self, member: int) -> dict[str, Tensor]:
        """Everything that belongs to one member, sharing memory with the head.

        A head of several members overrides it: each may stop learning at a time of its own.
        """
        if self.members > 1:
            raise NotImplementedError(f"{type(self).__name__} does not tell its members apart")
        return self.state_dict()

    def member_state(self, member: int) -> dict[str, Tensor]:
        """A copy of everything that belongs to one member."""
        return {key: value.detach().clone() for key, value in self.member_views(member).items()}

    @torch.no_grad()
    def load_member(self, member: int, state: dict[str, Tensor]) -> None:
        """Put back what `member_state` gave."""
        for key, value in self.member_views(member).items():
            value.copy_(state[key])


class FittedHead(Head):
    """A head that finds its state by itself, in closed form or otherwise."""

    @abstractmethod
    def fit(self, maps: NativeMaps, pixels: LabelledPixels, seed: int) -> None:
        """Fit it to the labelled pixels of images, whose maps these are.

        `pixels.vectors(maps)` goes through them; `seed` draws what is drawn. Called with the head
        on the device of the maps and without gradients: `torch.enable_grad()` brings them back.
        """

    def fit_to(self, maps: NativeMaps, pixels: LabelledPixels, seed: int, train: "Train") -> None:
        with torch.no_grad():
            self.to(maps.device).fit(maps, pixels, seed)
        self.cpu()
        for key, value in self.state_dict().items():
            if not value.isfinite().all():
                raise TrainingError(
                    f"head '{self.kind}': {key} is not finite after fitting. Look for NaN in the "
                    "features: `backbone.precision=32` rules out overflow in 16 bits."
                )


Train = Callable[[TrainedHead, NativeMaps, LabelledPixels, int], None]
"""Trains a head by gradient descent on the labelled pixels of images, with a seed."""


class PixelReader(Reader):
    """Any head on whole images: builds the vectors of some pixels at a time, in fp32."""

    def __init__(self, head: Head, layout: FeatureLayout) -> None:
        self.head, self.members, self.num_classes = head.eval(), head.members, head.num_classes
        self.chunk = max(1, VECTOR_BYTES // (4 * layout.dim))

    @torch.inference_mode()
    def scores(self, maps: NativeMaps) -> Float32[Tensor, "n m k s s"]:
        size = maps.layout.image_size
        every = torch.arange(size**2, device=maps.device)
        shape = (len(maps), self.members, self.num_classes, size**2)
        scores = torch.empty(shape, device=maps.device)
        for image, of_image in enumerate(scores):
            chunks = zip(every.split(self.chunk), of_image.split(self.chunk, dim=2), strict=True)
            for pixels, found in chunks:
                vectors = maps.pixel_vectors(torch.full_like(pixels, image), pixels).float()
                found.copy_(self.head(vectors).mT)
        return scores.unflatten(3, (size, size))

"""Native maps of many images, and the vectors of single pixels interpolated from them.

The reference resizes every map to the image (bilinear, align_corners=False) and concatenates them.
A pixel's vector is then a fixed combination of four native vectors per map, which is computed here
for the requested pixels only.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ddpmseg.features.bilinear import pixel_weights
from ddpmseg.features.layout import FeatureLayout


class NativeMaps:
    """Maps of n images. `groups[size]` is (n, size, size, channels), channels last."""

    def __init__(self, layout: FeatureLayout, groups: dict[int, Tensor]) -> None:
        self.layout, self.groups = layout, groups
        self._neighbours: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def empty(
        cls, layout: FeatureLayout, num_images: int, dtype: torch.dtype, device: torch.device
    ) -> "NativeMaps":
        return cls(
            layout,
            {
                size: torch.empty(
                    num_images,
                    size,
                    size,
                    sum(layout.maps[i].channels for i in members),
                    dtype=dtype,
                    device=device,
                )
                for size, members in layout.groups.items()
            },
        )

    @property
    def device(self) -> torch.device:
        return next(iter(self.groups.values())).device

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.groups.values())).dtype

    def to(self, device: torch.device) -> "NativeMaps":
        return NativeMaps(self.layout, {s: group.to(device) for s, group in self.groups.items()})

    def __len__(self) -> int:
        return len(next(iter(self.groups.values())))

    def __getitem__(self, images: slice) -> "NativeMaps":
        """The maps of a slice of the images; shares memory with this one."""
        return NativeMaps(self.layout, {s: group[images] for s, group in self.groups.items()})

    def map(self, index: int) -> Float[Tensor, "n size size c"]:
        """Map `index` of `layout.maps` for all images; shares memory."""
        size = self.layout.maps[index].size
        members = self.layout.groups[size]
        start = sum(self.layout.maps[i].channels for i in members[: members.index(index)])
        return self.groups[size][..., start : start + self.layout.maps[index].channels]

    def only(self, index: int) -> "NativeMaps":
        """The single map `index` of `layout.maps`, contiguous."""
        size = self.layout.maps[index].size
        return NativeMaps(self.layout.only(index), {size: self.map(index).contiguous()})

    def pixel_vectors(
        self,
        images: Int[Tensor, " p"],
        pixels: Int[Tensor, " p"],
        out: Float[Tensor, "p d"] | None = None,
    ) -> Float[Tensor, "p d"]:
        """Vectors of pixels in the dtype and on the device of the maps.

        Args:
            images: index of each pixel's image.
            pixels: row * image_size + column of each pixel.
            out: receives the vectors, if given.

        Source: paper section 3.2; reference `src/feature_extractors.py`, `collect_features`.
        """
        parts: dict[int, Tensor] = {}
        # Autocast would change the dtype, or reject a 16-bit dtype other than its own.
        with torch.autocast(self.device.type, enabled=False):
            for size, group in self.groups.items():
                members = self.layout.groups[size]
                widths = [self.layout.maps[index].channels for index in members]
                interpolated = self._interpolate(group, images, pixels)
                parts |= zip(members, interpolated.split(widths, dim=1), strict=True)
            return torch.cat([parts[index] for index in sorted(parts)], dim=1, out=out)

    def materialise(self) -> Float[Tensor, "n d s s"]:
        """Vectors of all pixels, float32, n * d * s * s * 4 bytes. For tests and small images."""
        size, device = self.layout.image_size, self.device
        pixels = torch.arange(size * size, device=device).repeat(len(self))
        images = torch.arange(len(self), device=device).repeat_interleave(size * size)
        vectors = self.pixel_vectors(images, pixels).float()
        return vectors.view(len(self), size, size, -1).permute(0, 3, 1, 2)

    def _interpolate(
        self,
        group: Float[Tensor, "n r r c"],
        images: Int[Tensor, " p"],
        pixels: Int[Tensor, " p"],
    ) -> Float[Tensor, "p c"]:
        size = group.shape[1]
        table, first = group.flatten(0, 2), images * size**2
        if size == self.layout.image_size:
            return table.index_select(0, first + pixels)
        if size not in self._neighbours:
            # At most 5 MB for an image of 256 x 256.
            cells, weights = pixel_weights(size, self.layout.image_size, self.dtype)
            self._neighbours[size] = cells.to(self.device), weights.to(self.device)
        cells, weights = self._neighbours[size]
        # A bag is a weighted sum of rows of a table; it reads them without copying them first.
        return F.embedding_bag(
            cells.index_select(0, pixels) + first[:, None],
            table,
            mode="sum",
            per_sample_weights=weights.index_select(0, pixels),
        )

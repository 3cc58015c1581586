"""Native maps of many images, and the vectors of single pixels interpolated from them.

A pixel's vector is what the reference gets by resizing every map to the image (bilinear,
align_corners=False) and concatenating: a fixed combination of four native vectors per map. Only the
pixels that are asked for are ever built.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ddpmseg.features.layout import FeatureLayout


class NativeMaps:
    """Maps of n images. `groups[size]` is (n, size, size, channels), channels last."""

    def __init__(self, layout: FeatureLayout, groups: dict[int, Tensor]) -> None:
        self.layout, self.groups = layout, groups

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
        """The maps of some images; shares memory with this one."""
        return NativeMaps(self.layout, {s: group[images] for s, group in self.groups.items()})

    def map(self, index: int) -> Float[Tensor, "n size size c"]:
        """Map `index` of `layout.maps` for all images; shares memory."""
        size = self.layout.maps[index].size
        members = self.layout.groups[size]
        start = sum(self.layout.maps[i].channels for i in members[: members.index(index)])
        return self.groups[size][..., start : start + self.layout.maps[index].channels]

    def pixel_vectors(
        self,
        images: Int[Tensor, " p"],
        pixels: Int[Tensor, " p"],
        out: Float[Tensor, "p d"] | None = None,
    ) -> Float[Tensor, "p d"]:
        """Vectors of pixels (image index, row * image_size + column), written to `out` if given.

        Of the maps' dtype, on their device.

        Source: paper section 3.2; reference `src/feature_extractors.py`, `collect_features`.
        """
        parts: dict[int, Tensor] = {}
        # Autocast would change the dtype, or refuse one of 16 bits that is not its own.
        with torch.autocast(self.device.type, enabled=False):
            for size, group in self.groups.items():
                members = self.layout.groups[size]
                widths = [self.layout.maps[index].channels for index in members]
                interpolated = _interpolate(group, images, pixels, self.layout.image_size)
                parts |= zip(members, interpolated.split(widths, dim=1), strict=True)
            return torch.cat([parts[index] for index in sorted(parts)], dim=1, out=out)

    def materialise(self) -> Float[Tensor, "n d s s"]:
        """Vectors of all pixels, float32: n * d * s * s * 4 bytes. For tests and small pictures."""
        size, device = self.layout.image_size, self.device
        pixels = torch.arange(size * size, device=device).repeat(len(self))
        images = torch.arange(len(self), device=device).repeat_interleave(size * size)
        vectors = self.pixel_vectors(images, pixels).float()
        return vectors.view(len(self), size, size, -1).permute(0, 3, 1, 2)


def _interpolate(
    group: Float[Tensor, "n r r c"],
    images: Int[Tensor, " p"],
    pixels: Int[Tensor, " p"],
    image_size: int,
) -> Float[Tensor, "p c"]:
    size = group.shape[1]
    table, first = group.flatten(0, 2), images * size**2
    if size == image_size:
        return table.index_select(0, first + pixels)
    cells, weights = _neighbours_of_all(image_size, size, group.dtype, group.device)
    # A bag is a weighted sum of rows of a table, which are read once and not copied out before.
    return F.embedding_bag(
        cells.index_select(0, pixels) + first[:, None],
        table,
        mode="sum",
        per_sample_weights=weights.index_select(0, pixels),
    )


@lru_cache(maxsize=64)
def _neighbours_of_all(
    image_size: int, map_size: int, dtype: torch.dtype, device: torch.device
) -> tuple[Int[Tensor, "p 4"], Float[Tensor, "p 4"]]:
    """`bilinear_neighbours` of every pixel of an image, 3 MB or less where it has 256 x 256."""
    pixels = torch.arange(image_size**2, device=device)
    rows, columns = pixels // image_size, pixels % image_size
    cells, weights = bilinear_neighbours(rows, columns, image_size, map_size)
    return cells, weights.to(dtype)


def bilinear_neighbours(
    rows: Int[Tensor, " p"], columns: Int[Tensor, " p"], image_size: int, map_size: int
) -> tuple[Int[Tensor, "p 4"], Float[Tensor, "p 4"]]:
    """The four cells of a map_size x map_size grid around each pixel, and their weights (sum 1).

    Bilinear resizing to image_size with align_corners=False and clamped edges, as
    `torch.nn.functional.interpolate`. Cells are row * map_size + column.
    """

    def along(position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        place = ((position + 0.5) * (map_size / image_size) - 0.5).clamp(0, map_size - 1)
        low = place.floor().long()
        return low, (low + 1).clamp(max=map_size - 1), place - low

    top, bottom, down = along(rows)
    left, right, across = along(columns)
    cells = [top * map_size + left, top * map_size + right]
    cells += [bottom * map_size + left, bottom * map_size + right]
    weights = [(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across]
    return torch.stack(cells, dim=1), torch.stack(weights, dim=1).float()

"""Group normalisation of maps in any layout, with fp32 parameters and exact statistics.

The variance as mean of squares minus square of the mean, which fast kernels compute, loses all
digits where a group's mean is many times its deviation. Such a group is shifted towards zero first.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

FAR = {torch.float32: 4.0, torch.float16: 4.0, torch.bfloat16: 8.0}
"""Mean over deviation from which a group is shifted on a CPU, for maps of up to 64 x 64 pixels. The
relative error that is left is the square of it times that of a sum, about 4e-7 at this size."""
FAR_IN_16_BITS = 8.0
"""The same on other devices: from here on the shift itself rounds nothing."""
SAMPLED = 256
"""Pixels of a map, at least, from which the mean to be subtracted is estimated."""


def use_native_norms(network: nn.Module) -> None:
    """Normalise maps in their own dtype and layout in all GroupNorm layers of a network."""
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.__class__ = _NativeGroupNorm


class _NativeGroupNorm(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return GroupNormFunction.apply(x, self.weight, self.bias, self.num_groups, self.eps)
        if x.device.type == "cpu":
            return _on_cpu(x, self.weight, self.bias, self.num_groups, self.eps)[0]
        return scaled_norm(self, x)


@torch.no_grad()
def scaled_norm(
    norm: nn.GroupNorm,
    x: Float[Tensor, "n c *s"],
    scale: Float[Tensor, "n c"] | None = None,
    shift: Float[Tensor, "n c"] | None = None,
) -> Float[Tensor, "n c *s"]:
    """norm(x) * (1 + scale) + shift, as one multiplication and addition per channel. No gradients.

    Factors, offsets and statistics have fp32; the result has the dtype and layout of x.

    On a GPU, torch's own group normalisation copies a channels_last map to the other layout and
    back, which takes longer than the convolutions.
    """
    shifted, mean, rstd = _statistics(x.flatten(2), norm.num_groups, norm.eps)
    factor, offset = _per_channel(mean, rstd, norm.weight, norm.bias)
    if scale is not None and shift is not None:
        factor, offset = factor * (1 + scale), offset * (1 + scale) + shift
    return _affine(shifted, factor, offset).view_as(x)


class GroupNormFunction(torch.autograd.Function):
    """Group normalisation of x (n, c, *s) with a fast backward pass, on any device.

    weight, bias and their gradients have fp32, whatever the dtype of x. On a CPU, torch's own
    backward is several times slower for 16-bit channels_last maps; on a GPU, it takes no fp32
    parameters with a 16-bit map.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        if x.device.type == "cpu":
            y, shifted, mean, rstd = _on_cpu(x, weight, bias, groups, eps)
        else:
            shifted, mean, rstd = _statistics(x.flatten(2), groups, eps)
            y = _affine(shifted, *_per_channel(mean, rstd, weight, bias)).view_as(x)
        ctx.save_for_backward(shifted.view_as(x), weight, mean, rstd)
        return y

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        (dy,) = grad_outputs
        x, weight, mean, rstd = ctx.saved_tensors
        shape, groups = x.shape, mean.shape[1]
        x, dy = x.flatten(2), dy.flatten(2)
        n, c, pixels = x.shape

        def per_channel(value: Tensor) -> Tensor:
            return value.float().repeat_interleave(c // groups, dim=1)

        def group_mean(value: Tensor) -> Tensor:
            return per_channel(value.view(n, groups, -1).sum(dim=2) * groups / (c * pixels))

        mean, rstd = per_channel(mean), per_channel(rstd)
        sum_dy = dy.sum(2, dtype=torch.float32)
        sum_dy_x = (dy * x).sum(2, dtype=torch.float32)
        # x_hat = (x - mean) * rstd; the sums below are over the pixels.
        sum_dy_x_hat = (sum_dy_x - mean * sum_dy) * rstd
        pull_mean = group_mean(weight * sum_dy)
        pull_scale = group_mean(weight * sum_dy_x_hat)
        # dx = rstd * (weight * dy - pull_mean - x_hat * pull_scale), ordered by powers of x.
        by_dy = (rstd * weight).to(x.dtype)[..., None]
        by_x = (-rstd * rstd * pull_scale).to(x.dtype)[..., None]
        constant = (rstd * (rstd * mean * pull_scale - pull_mean)).to(x.dtype)[..., None]
        dx = torch.addcmul(dy * by_dy + constant, x, by_x).view(shape)
        return dx, sum_dy_x_hat.sum(0), sum_dy.sum(0), None, None


def _on_cpu(
    x: Float[Tensor, "n c *s"], weight: Tensor, bias: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Float[Tensor, "n g"], Float[Tensor, "n g"]]:
    """The result, x with groups shifted, and the mean and inverse deviation of what is shifted.

    torch's kernel for channels_last maps is the fastest but computes the variance as said above. So
    its statistics are looked at, and where they are unreliable it runs again.
    """

    def normalise(value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, c = value.shape[:2]
        size = value[0, 0].numel()
        return torch.native_group_norm(value, weight, bias, n, c, size, groups, eps)

    y, mean, rstd = normalise(x)
    if torch.compiler.is_compiling():  # what is generated then computes the variance in two passes
        return y, x, mean, rstd
    # The kernel sums pixel by pixel: its rounding grows with the square root of their count.
    growth = max(1, x[0, 0].numel() / 64**2) ** 0.25
    far = mean.abs() * rstd * growth > FAR.get(x.dtype, torch.inf)
    if far.any():
        x = _shifted(x.flatten(2), mean, far).view_as(x)
        y, mean, rstd = normalise(x)
    return y, x, mean, rstd


def _statistics(
    x: Float[Tensor, "n c p"], groups: int, eps: float
) -> tuple[Float[Tensor, "n c p"], Float[Tensor, "n g"], Float[Tensor, "n g"]]:
    """x with groups shifted; fp32 mean and inverse deviation of what is shifted. On any device.

    Nothing waits for the device, so in 16 bits all of x is copied, shifted or not.
    """
    if x.dtype.itemsize > 2:
        variances, means = (
            v.unflatten(1, (groups, -1)) for v in torch.var_mean(x, 2, correction=0)
        )
        between, mean = torch.var_mean(means, 2, correction=0)
        return x, mean, (variances.mean(2) + between + eps).rsqrt()
    n, c, pixels = x.shape
    # A mean over a share s of the pixels is off by at most 1 / sqrt(s) deviations of all.
    sample = x[..., :: max(1, pixels // SAMPLED)].float().unflatten(1, (groups, -1))
    variance, mean = torch.var_mean(sample, (2, 3), correction=0)
    x = _shifted(x, mean, mean.square() > FAR_IN_16_BITS**2 * variance)

    def per_group(value: Tensor) -> Tensor:
        return value.view(n, groups, -1).sum(dim=2) / (pixels * (c // groups))

    mean = per_group(x.sum(2, dtype=torch.float32))
    squares = per_group(torch.linalg.vector_norm(x, dim=2, dtype=torch.float32).square())
    return x, mean, ((squares - mean * mean).clamp_min(0) + eps).rsqrt()


def _shifted(
    x: Float[Tensor, "n c p"], mean: Float[Tensor, "n g"], far: Bool[Tensor, "n g"]
) -> Float[Tensor, "n c p"]:
    """x minus the means of the groups that are `far`; in 16 bits minus the rounded means."""
    shift = torch.where(far, mean, 0).to(x.dtype)
    return x - shift.repeat_interleave(x.shape[1] // mean.shape[1], dim=1)[..., None]


def _per_channel(
    mean: Float[Tensor, "n g"],
    rstd: Float[Tensor, "n g"],
    weight: Float[Tensor, " c"],
    bias: Float[Tensor, " c"],
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """The factor and the offset of every channel."""
    group = len(weight) // mean.shape[1]
    factor = rstd.repeat_interleave(group, dim=1) * weight
    return factor, bias - mean.repeat_interleave(group, dim=1) * factor


def _affine(
    x: Float[Tensor, "n c p"], factor: Float[Tensor, "n c"], offset: Float[Tensor, "n c"]
) -> Float[Tensor, "n c p"]:
    """offset + x * factor, computed in fp32 and rounded once to the dtype of x."""
    factor, offset = factor[..., None], offset[..., None]
    if torch.compiler.is_compiling():  # the rounding becomes part of the same kernel
        return torch.addcmul(offset, x, factor).to(x.dtype)
    return torch.addcmul(offset, x, factor, out=torch.empty_like(x))

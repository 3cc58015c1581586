"""Group normalisation of the fast networks, held to torch's own in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpmseg.backbones.group_norm import GroupNormFunction, scaled_norm, use_native_norms


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("channels", "groups"), [(8, 2), (6, 6), (32, 32), (12, 1)])
def test_group_norm_has_the_gradients_of_torch(
    layout: torch.memory_format, channels: int, groups: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (3, channels, 5, 4)
    given = {
        "x": 2 * torch.randn(shape, generator=generator) + 1,
        "weight": torch.randn(channels, generator=generator),
        "bias": torch.randn(channels, generator=generator),
    }
    pull = torch.randn(shape, generator=generator)
    ours = {name: value.clone() for name, value in given.items()}
    ours["x"] = ours["x"].contiguous(memory_format=layout)
    theirs = {name: value.double() for name, value in given.items()}
    for value in (*ours.values(), *theirs.values()):
        value.requires_grad_()
    y = GroupNormFunction.apply(*ours.values(), groups, 1e-5)
    assert isinstance(y, Tensor)
    expected = F.group_norm(theirs["x"], groups, theirs["weight"], theirs["bias"], 1e-5)
    assert relative_error(y, expected) <= 1e-5
    y.backward(pull.contiguous(memory_format=layout))
    expected.backward(pull.double())
    for name in given:
        found, wanted = ours[name].grad, theirs[name].grad
        assert found is not None
        assert wanted is not None
        assert relative_error(found, wanted) <= 2e-5, name


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_norm_of_a_gpu_is_that_of_the_package(
    dtype: torch.dtype, limit: float, conditioned: bool
) -> None:
    """Plain arithmetic on any device, so that it can be held to the package's own here."""
    generator = torch.Generator().manual_seed(3)
    norm = nn.GroupNorm(4, 24)
    with torch.no_grad():
        norm.weight.normal_(1, 0.3, generator=generator)
        norm.bias.normal_(0, 0.3, generator=generator)
    x = torch.randn(2, 24, 6, 5, generator=generator) * 3 + 2
    x = x.to(dtype, memory_format=torch.channels_last)
    scale, shift = torch.randn(2, 2, 24, generator=generator)
    expected = norm(x.float())
    if conditioned:
        expected = expected * (1 + scale[..., None, None]) + shift[..., None, None]
    found = scaled_norm(norm, x, *((scale, shift) if conditioned else ()))
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found.float() - expected).norm() / expected.norm() < limit


def test_group_norm_in_bf16_keeps_statistics_in_fp32() -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(2, 32, 16, 16, generator=generator) + 3).bfloat16()
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    exact = x.detach().double().requires_grad_()
    weight = torch.randn(32, generator=generator, requires_grad=True)
    bias = torch.zeros(32, requires_grad=True)
    pull = torch.randn(x.shape, generator=generator).bfloat16()
    y = GroupNormFunction.apply(x, weight, bias, 8, 1e-5)
    assert isinstance(y, Tensor)
    assert y.dtype == torch.bfloat16
    y.backward(pull)
    F.group_norm(exact, 8, weight.detach().double(), bias.detach().double()).backward(pull.double())
    assert x.grad is not None
    assert exact.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert (x.grad.double() - exact.grad).norm() / exact.grad.norm() <= 0.02


def a_norm(channels: int, groups: int, generator: torch.Generator) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, channels)
    with torch.no_grad():
        norm.weight.normal_(1, 0.3, generator=generator)
        norm.bias.normal_(0, 0.3, generator=generator)
    return norm


@pytest.mark.parametrize("ratio", [0, 2, 10, 100, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_large_mean_costs_no_digits(dtype: torch.dtype, ratio: float) -> None:
    """`ratio`: mean over deviation. Torch's kernel for channels_last maps loses all from 100 on."""
    generator = torch.Generator().manual_seed(1)
    norm = a_norm(64, 32, generator)
    plain = (torch.randn(2, 64, 32, 32, generator=generator) + ratio).to(dtype)
    exact = F.group_norm(plain.double(), 32, norm.weight.double(), norm.bias.double(), norm.eps)
    x = plain.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torchs = relative_error(F.group_norm(plain, 32, norm.weight, norm.bias), exact)
        use_native_norms(norm)
        assert relative_error(scaled_norm(norm, x), exact) <= 1.25 * torchs
        assert relative_error(norm(x), exact) <= max(1.25 * torchs, 2e-6)
    assert relative_error(norm(x), exact) <= max(1.25 * torchs, 2e-6)


def test_a_group_far_from_zero_does_not_cost_the_others_digits() -> None:
    generator = torch.Generator().manual_seed(2)
    norm = a_norm(8, 4, generator)
    x = torch.randn(1, 8, 32, 32, generator=generator)
    x[:, 2:4] += 3e4
    x = x.half().contiguous(memory_format=torch.channels_last)
    exact = F.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double(), norm.eps)
    use_native_norms(norm)
    with torch.no_grad():
        for found in (norm(x), scaled_norm(norm, x)):
            for channel in range(8):
                assert relative_error(found[:, channel], exact[:, channel]) < 5e-4, channel


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_with_a_large_mean_are_those_of_float64(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    x = (torch.randn(2, 16, 16, 16, generator=generator) + 100).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    exact = x.detach().double().requires_grad_()
    weight = torch.randn(16, generator=generator, requires_grad=True)
    exact_weight = weight.detach().double().requires_grad_()
    bias = torch.zeros(16, requires_grad=True)
    pull = torch.randn(x.shape, generator=generator).to(dtype)
    y = GroupNormFunction.apply(x, weight, bias, 4, 1e-5)
    assert isinstance(y, Tensor)
    y.backward(pull)
    F.group_norm(exact, 4, exact_weight, bias.detach().double()).backward(pull.double())
    limit = {torch.float32: 2e-5, torch.bfloat16: 2e-2}[dtype]
    for found, wanted in ((x.grad, exact.grad), (weight.grad, exact_weight.grad)):
        assert found is not None
        assert wanted is not None
        assert relative_error(found, wanted) < limit
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_rows_of_tokens_are_normalised_like_maps() -> None:
    """As in the attention of other libraries: (n, c, tokens)."""
    generator = torch.Generator().manual_seed(5)
    norm = a_norm(16, 4, generator)
    x = torch.randn(2, 16, 25, generator=generator)
    expected = norm(x)
    use_native_norms(norm)
    assert relative_error(norm(x), expected.double()) < 1e-6
    assert relative_error(scaled_norm(norm, x), expected.double()) < 1e-6

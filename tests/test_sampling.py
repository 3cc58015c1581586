"""Images drawn from noise: held against plain formulas, and keyed by seed and index."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_fill import filled
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ddpmseg.backbones.guided_diffusion.sampler import Sampler, check_steps
from ddpmseg.backbones.guided_diffusion.unet import (
    UNetFlags,
    build_unet,
    sampling_process,
    use_half,
)
from ddpmseg.errors import ConfigError
from ddpmseg.randomness import keyed_generator

FLAGS = UNetFlags(16, 32, 1, "1,2", attention_resolutions="8", diffusion_steps=25)


def network(flags: UNetFlags) -> nn.Module:
    """A tiny UNet whose last layer is not zero, as a new one's is."""
    unet, _ = build_unet(flags)
    unet.load_state_dict(filled(unet.state_dict(), seed=0))
    return unet.eval()


def plain(unet: nn.Module, flags: UNetFlags, num_steps: int, seed: int, index: int) -> Tensor:
    """Ho et al. 2020, algorithm 2, or Song et al. 2021, equation 12, with x_0 clipped.

    The variances: of Ho et al. the larger choice, beta; with `learn_sigma` the mixture of Nichol
    and Dhariwal 2021, equation 15.
    """
    scale = 1000 / flags.diffusion_steps
    beta = np.linspace(scale * 1e-4, scale * 0.02, flags.diffusion_steps)
    bar = np.cumprod(1 - beta)
    generator = keyed_generator(seed, "sample", index)
    x = torch.randn(3, 16, 16, generator=generator)[None]
    every = list(range(0, flags.diffusion_steps, flags.diffusion_steps // num_steps))
    for step, t in reversed(list(enumerate(every))):
        before = bar[every[step - 1]] if step else 1.0
        with torch.no_grad():
            out = unet(x, torch.tensor([t]))
        x_0 = ((x - (1 - bar[t]) ** 0.5 * out[:, :3]) / bar[t] ** 0.5).clamp(-1, 1)
        if num_steps < flags.diffusion_steps:
            epsilon = (x - bar[t] ** 0.5 * x_0) / (1 - bar[t]) ** 0.5
            x = before**0.5 * x_0 + (1 - before) ** 0.5 * epsilon
            continue
        x = (
            before**0.5 * beta[t] / (1 - bar[t]) * x_0
            + (1 - beta[t]) ** 0.5 * (1 - before) / (1 - bar[t]) * x
        )
        if t:
            smallest = beta[t] * (1 - before) / (1 - bar[t])
            share = (out[:, 3:] + 1) / 2 if flags.learn_sigma else torch.ones(1)
            log_variance = share * np.log(beta[t]) + (1 - share) * np.log(smallest)
            noise = torch.randn(3, 16, 16, generator=generator)
            x = x + torch.exp(log_variance / 2) * noise
    return ((x[0] + 1) * 127.5).clamp(0, 255)


@pytest.mark.parametrize("learn_sigma", [False, True])
@pytest.mark.parametrize("num_steps", [25, 5])
def test_a_sample_is_that_of_the_formulas(num_steps: int, learn_sigma: bool) -> None:
    flags = replace(FLAGS, learn_sigma=learn_sigma)
    unet = network(flags)
    images = Sampler(unet, flags, num_steps)(3, [7, 0])
    assert (images.shape, images.dtype) == ((2, 3, 16, 16), torch.uint8)
    for image, index in zip(images, (7, 0), strict=True):
        expected = plain(unet, flags, num_steps, 3, index)
        assert (image - expected).abs().max() < 0.51
        assert 20 < expected.std() < 127


@pytest.mark.parametrize("num_steps", [25, 5])
def test_an_image_depends_on_seed_and_index_alone(num_steps: int) -> None:
    sampler = Sampler(network(FLAGS), FLAGS, num_steps)
    torch.manual_seed(1)
    images = sampler(0, range(4)).int()
    torch.manual_seed(2)
    for batch in ([2], [3, 0], [1, 2, 3]):
        assert (sampler(0, batch).int() - images[batch]).abs().max() <= 1
    assert len(images.unique(dim=0)) == 4
    assert (sampler(1, [0]).int() - images[:1]).abs().max() > 10


def test_sixteen_bits_change_little() -> None:
    unet = network(FLAGS)
    exact = Sampler(unet, FLAGS, 5)(0, range(2)).float()
    use_half(unet, torch.bfloat16)  # pyright: ignore[reportArgumentType]
    half = Sampler(unet, FLAGS, 5)(0, range(2)).float()
    assert not torch.equal(half, exact)
    assert (half - exact).abs().mean() < 3


@given(st.integers(2, 60), st.integers(-1, 61))
def test_a_number_of_steps_is_refused_just_where_the_process_cannot_have_it(
    total: int, num_steps: int
) -> None:
    flags = replace(FLAGS, noise_schedule="cosine", diffusion_steps=total)
    try:
        check_steps("--steps", num_steps, total)
    except ConfigError:
        # The package would have failed too, in its own words.
        with pytest.raises((ValueError, IndexError)):
            sampling_process(flags, num_steps)
    else:
        assert sampling_process(flags, num_steps).num_timesteps == num_steps


def test_what_is_possible_is_said() -> None:
    with pytest.raises(ConfigError) as error:
        Sampler(network(FLAGS), FLAGS, 10)
    assert str(error.value) == (
        "`num_steps=10`: no equal stride leaves 10 of 25 timesteps; the nearest numbers are 9 and "
        "13."
    )
    with pytest.raises(ConfigError, match=r"`--steps=26`: must lie in 2\.\.25\."):
        check_steps("--steps", 26, 25)

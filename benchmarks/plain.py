"""The straightforward way: what the paper's text says, written down as it is read.

The network as the guided_diffusion package builds it, in fp32; one whole forward pass per (image,
t), maps caught by hooks, each resized to the image; all training pixels in one matrix; members
trained one after another by a DataLoader over pixels; every member run over every test pixel.
Source: paper, section 3.2; Baranchuk et al. 2022, reference `train_interpreter.py`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ddpmseg.backbones.guided_diffusion.load import load_weights
from ddpmseg.backbones.guided_diffusion.unet import (
    GaussianDiffusion,
    UNetFlags,
    UNetModel,
    build_unet,
)
from ddpmseg.heads.mlp import initialise
from ddpmseg.randomness import keyed_generator
from ddpmseg.weights.read import resolve_checkpoint

Maps = dict[tuple[int, int], Tensor]
"""(timestep, block) -> map of one image (1, c, h, w), timestep-major."""

BATCH_SIZE, LEARNING_RATE, MAX_EPOCHS = 64, 1e-3, 100
FULL_EPOCHS, PATIENCE = 4, 50


def build_network(
    flags: UNetFlags, checkpoint: str, device: torch.device
) -> tuple[UNetModel, GaussianDiffusion]:
    network, diffusion = build_unet(flags)
    load_weights(network, resolve_checkpoint(checkpoint), "backbone.unet")
    return network.to(device).eval().requires_grad_(False), diffusion


@torch.no_grad()
def extract(
    network: UNetModel,
    diffusion: GaussianDiffusion,
    image: Float[Tensor, "1 3 s s"],
    noise: Float[Tensor, "1 3 s s"],
    blocks: Sequence[int],
    timesteps: Sequence[int],
) -> Maps:
    """Maps of an image in [-1, 1], one forward pass for every t."""
    maps: Maps = {}
    for timestep in timesteps:
        t = torch.tensor([timestep], device=image.device)
        caught: dict[int, Tensor] = {}
        hooks = [
            network.output_blocks[block].register_forward_hook(_keep_output(caught, block))
            for block in blocks
        ]
        network(diffusion.q_sample(image, t, noise=noise), t)
        for hook in hooks:
            hook.remove()
        maps |= {(timestep, block): value for block, value in caught.items()}
    return maps


def _keep_output(caught: dict[int, Tensor], block: int):
    def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
        caught[block] = output.float()

    return hook


def pixel_vectors(maps: Maps, size: int) -> Float[Tensor, "s*s d"]:
    """Every map resized to the image, concatenated, a row for every pixel."""
    resized = [
        F.interpolate(value, size=(size, size), mode="bilinear", align_corners=False)
        for value in maps.values()
    ]
    return torch.cat(resized, dim=1)[0].permute(1, 2, 0).reshape(size * size, -1)


def training_matrix(
    images: Sequence[Maps], masks: Int[Tensor, "n s s"], ignore_label: int
) -> tuple[Float[Tensor, "p d"], Int[Tensor, " p"]]:
    """Vectors and labels of all pixels of all training images that have a label."""
    size = masks.shape[-1]
    dim = sum(value.shape[1] for value in images[0].values())
    vectors = torch.empty(
        len(images) * size * size, dim, device=next(iter(images[0].values())).device
    )
    for index, maps in enumerate(images):
        vectors[index * size * size : (index + 1) * size * size] = pixel_vectors(maps, size)
    labels = masks.flatten().long().to(vectors.device)
    there = labels != ignore_label
    return (vectors, labels) if bool(there.all()) else (vectors[there], labels[there])


def matrix_bytes(num_images: int, size: int, dim: int) -> int:
    """Of `training_matrix`, before anything is done with it."""
    return num_images * size * size * dim * 4


def build_member(
    dim: int, num_classes: int, hidden: Sequence[int], seed: int, member: int
) -> nn.Sequential:
    """Linear, then ReLU, BatchNorm1d, Linear for every further layer; weights from N(0, 0.02)."""
    layers: list[nn.Module] = []
    width = dim
    for out in hidden:
        layers += [nn.Linear(width, out), nn.ReLU(), nn.BatchNorm1d(out)]
        width = out
    network = nn.Sequential(*layers, nn.Linear(width, num_classes))
    linears = [layer for layer in network if isinstance(layer, nn.Linear)]
    initialise([layer.weight for layer in linears], seed, member)
    for layer in linears:
        nn.init.zeros_(layer.bias)
    return network


def train_member(
    network: nn.Sequential,
    vectors: Float[Tensor, "p d"],
    labels: Int[Tensor, " p"],
    seed: int,
    member: int,
    max_iterations: int | None = None,
) -> int:
    """Train until no batch loss has been lower for over 50 batches after four epochs.

    Returns the number of iterations; `max_iterations` ends it earlier.
    """
    generator = keyed_generator(seed, "plain", member)
    pixels = TensorDataset(vectors, labels)
    loader = DataLoader(pixels, BATCH_SIZE, shuffle=True, drop_last=True, generator=generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    network.train()
    lowest, waited, done = float("inf"), 0, 0
    for epoch in range(MAX_EPOCHS):
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            done += 1
            if epoch >= FULL_EPOCHS:
                value = loss.item()
                lowest, waited = (value, 0) if value < lowest else (lowest, waited + 1)
            if waited > PATIENCE or done == max_iterations:
                return done
    return done


def least_iterations(num_pixels: int) -> int:
    """Iterations of a member that stops as early as it may: four epochs and 51 batches."""
    return FULL_EPOCHS * (num_pixels // BATCH_SIZE) + PATIENCE + 1


@torch.no_grad()
def predict(members: Sequence[nn.Sequential], vectors: Float[Tensor, "p d"]) -> Int[Tensor, " p"]:
    """The label most members vote for."""
    votes = [member.eval()(vectors).argmax(dim=1) for member in members]
    return torch.stack(votes).mode(dim=0).values

"""The pixel classifiers: the reference's scores and votes, plain torch, and their life on disk."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from golden_fill import FACTS, filled, golden, golden_maps, relative_error
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.features.layout import FeatureLayout, MapSpec
from ddpmseg.features.maps import NativeMaps
from ddpmseg.heads.export import load_head, save_head
from ddpmseg.heads.mlp import StackedMLP, paper_hidden
from ddpmseg.heads.protocols import PROTOCOLS, BatchLossStopping, choose_protocol
from ddpmseg.heads.segment import segment
from ddpmseg.heads.vote import hard_vote, image_uncertainty, member_disagreement, soft_vote


def plain_classifier(dim: int, num_classes: int, hidden: Sequence[int]) -> nn.Sequential:
    """One member in ordinary layers, numbered as in the reference where there are two hidden."""
    layers: list[nn.Module] = []
    for into, out in pairwise([dim, *hidden]):
        layers += [nn.Linear(into, out), nn.ReLU(), nn.BatchNorm1d(out)]
    return nn.Sequential(*layers, nn.Linear([dim, *hidden][-1], num_classes))


def as_member(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State of `plain_classifier` under the names of `StackedMLP`."""
    renamed = {}
    for key, value in state.items():
        number, name = key.split(".")
        part = "linears" if int(number) % 3 == 0 else "norms"
        if name != "num_batches_tracked":
            renamed[f"{part}.{int(number) // 3}.{name}"] = value
    return renamed


def stacked(
    plain: Sequence[nn.Sequential], dim: int, num_classes: int, hidden: Sequence[int]
) -> StackedMLP:
    head = StackedMLP(dim, num_classes, len(plain), hidden)
    for member, network in enumerate(plain):
        head.load_member(member, as_member(network.state_dict()))
    return head


def random_classifiers(
    members: int, dim: int, num_classes: int, hidden: Sequence[int]
) -> list[nn.Sequential]:
    """Members with other weights and batch norm statistics each, in training mode."""
    networks = [plain_classifier(dim, num_classes, hidden) for _ in range(members)]
    for seed, network in enumerate(networks):
        network.load_state_dict(filled(network.state_dict(), seed))
    return networks


def golden_head(num_classes: int, fill_seeds: Sequence[int]) -> StackedMLP:
    """Members filled under the reference's key names, `layers.0` to `layers.6`."""
    hidden, dim = paper_hidden(num_classes), FACTS["feature_dim"]
    networks = []
    for seed in fill_seeds:
        network = plain_classifier(dim, num_classes, hidden)
        state = {f"layers.{key}": value for key, value in network.state_dict().items()}
        state = filled(state, seed)
        network.load_state_dict({key.removeprefix("layers."): v for key, v in state.items()})
        networks.append(network)
    return stacked(networks, dim, num_classes, hidden).eval()


def scores_of(head: StackedMLP, vectors: Tensor) -> Tensor:
    """Of images (n, s, s, d) that are their own native maps."""
    size, dim = vectors.shape[2:]
    layout = FeatureLayout((MapSpec(0, 0, dim, size),), size)
    return head.reader(layout, torch.float32).scores(NativeMaps(layout, {size: vectors}))


ROW_20 = torch.arange(20 * 64, 21 * 64)


@pytest.mark.parametrize(
    ("num_classes", "seeds", "name"),
    [
        (
            FACTS["ensemble"]["num_classes"],
            FACTS["ensemble"]["fill_seeds"],
            "narrow_logits_member0",
        ),
        (FACTS["wide"]["num_classes"], [FACTS["wide"]["fill_seed"]], "wide_logits"),
    ],
)
def test_scores_equal_golden(num_classes: int, seeds: list[int], name: str) -> None:
    head = golden_head(num_classes, seeds)
    maps = golden_maps("output")
    with torch.no_grad():
        scores = head(maps.pixel_vectors(torch.zeros_like(ROW_20), ROW_20))
    reader = head.reader(maps.layout, torch.float32)
    factorised = reader.scores(maps[:1])[0, 0, :, 20].T
    assert scores.shape == (len(seeds), 64, num_classes)
    expected = golden()[f"{name}_image0_row20"]
    assert relative_error(scores[0], expected) <= 1e-5
    assert relative_error(factorised, expected) <= 1e-5


def test_vote_and_uncertainty_of_an_ensemble_equal_golden() -> None:
    facts = FACTS["ensemble"]
    head = golden_head(facts["num_classes"], facts["fill_seeds"])
    maps = golden_maps("output")
    result = segment(head.reader(maps.layout, torch.float32), maps)
    assert result.masks.dtype == torch.int64
    assert torch.equal(result.masks[0], golden()["ensemble_labels_image0"].long())
    assert result.uncertainty[0].item() == pytest.approx(facts["uncertainty_image0"], rel=1e-5)
    assert result.masks.shape == result.disagreement.shape == (2, 64, 64)
    assert torch.equal(result.uncertainty, image_uncertainty(result.disagreement))


@pytest.mark.parametrize("vote", ["hard", "soft"])
def test_segmentation_equals_a_head_on_every_pixel(vote) -> None:
    layout = FeatureLayout((MapSpec(5, 0, 3, 2), MapSpec(5, 1, 4, 8), MapSpec(9, 0, 3, 2)), 8)
    maps = NativeMaps.empty(layout, 3, torch.float32, torch.device("cpu"))
    for group in maps.groups.values():
        group.normal_(generator=torch.Generator().manual_seed(0))
    before = {size: group.clone() for size, group in maps.groups.items()}
    head = stacked(random_classifiers(3, 10, 5, [6, 4]), 10, 5, [6, 4]).eval()
    result = segment(head.reader(layout, torch.float32), maps, vote)
    for image, vectors in enumerate(maps.materialise()):
        with torch.no_grad():
            scores = head(vectors.flatten(1).T).transpose(1, 2).unflatten(2, (8, 8))
        expected = hard_vote(scores) if vote == "hard" else soft_vote(scores)
        assert torch.equal(result.masks[image], expected)
        disagreement = member_disagreement(scores)
        assert torch.allclose(result.disagreement[image], disagreement, atol=1e-5)
    assert all(torch.equal(maps.groups[size], group) for size, group in before.items())


WIDTHS = st.lists(st.integers(1, 6), max_size=3)


@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 5), WIDTHS)
def test_scores_of_images_equal_forward(
    members: int, dim: int, num_classes: int, hidden: list[int]
) -> None:
    head = stacked(
        random_classifiers(members, dim, num_classes, hidden), dim, num_classes, hidden
    ).eval()
    vectors = torch.randn(2, 3, 3, dim, generator=torch.Generator().manual_seed(dim))
    found = scores_of(head, vectors)
    with torch.no_grad():
        expected = head(vectors.reshape(-1, dim))
    expected = expected.view(members, 2, 3, 3, num_classes).permute(1, 0, 4, 2, 3)
    assert found.shape == (2, members, num_classes, 3, 3)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hidden", [[], [8], [8, 5]])
@pytest.mark.parametrize("shared", [True, False])
def test_training_equals_separate_plain_networks(shared: bool, hidden: list[int]) -> None:
    members, dim, num_classes = 3, 7, 4
    plain = random_classifiers(members, dim, num_classes, hidden)
    head = stacked(plain, dim, num_classes, hidden)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        vectors = torch.randn(members, 16, dim, generator=generator)
        labels = torch.randint(num_classes, (members, 16), generator=generator)
        if shared:
            vectors = vectors[:1].expand(members, -1, -1)
        head.zero_grad()
        scores = head(vectors[0] if shared else vectors)
        losses = [F.cross_entropy(scores[m], labels[m]) for m in range(members)]
        torch.stack(losses).sum().backward()
        for m, network in enumerate(plain):
            network.zero_grad()
            expected = network(vectors[m])
            assert torch.allclose(scores[m], expected, rtol=1e-4, atol=1e-5)
            F.cross_entropy(expected, labels[m]).backward()
    gradients = dict(head.named_parameters())
    for m, network in enumerate(plain):
        for key, expected in as_member(dict(network.named_parameters())).items():
            found = gradients[key].grad
            assert found is not None
            assert expected.grad is not None
            assert torch.allclose(found[m], expected.grad, rtol=1e-4, atol=1e-5), key
        statistics = head.member_state(m)
        for key, expected in as_member(network.state_dict()).items():
            assert torch.allclose(statistics[key], expected, rtol=1e-4, atol=1e-5), key


@pytest.mark.parametrize("hidden", [[], [6, 4]])
def test_standardised_features(hidden: list[int], tmp_path: Path) -> None:
    head = stacked(random_classifiers(2, 5, 3, hidden), 5, 3, hidden).eval()
    scale = torch.tensor([0.01, 1.0, 30.0, 1.0, 5.0])
    vectors = torch.randn(400, 5, generator=torch.Generator().manual_seed(0)) * scale + 7 * scale
    vectors[:, 3] = 0.1
    deviation = vectors.std(dim=0, correction=0)
    deviation[3] = 1
    with torch.no_grad():
        expected = head((vectors - vectors.mean(dim=0)) / deviation)
        state = head.member_state(1)
        head.standardise(vectors)
        assert torch.allclose(head(vectors), expected, rtol=1e-4, atol=1e-4)
        found = scores_of(head, vectors.view(4, 10, 10, 5))
        found = found.permute(1, 0, 3, 4, 2).reshape(expected.shape)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(head.member_state(1)[key], value) for key, value in state.items())
    save_head(head, tmp_path / "head.safetensors", {})
    with torch.no_grad():
        assert torch.equal(load_head(tmp_path / "head.safetensors")[0](vectors), head(vectors))


@pytest.mark.parametrize(("value", "count"), [(0.1, 8192), (1234.567, 300), (0.0, 5), (3.0, 1)])
def test_a_constant_feature_stays_unscaled(value: float, count: int) -> None:
    head = StackedMLP(2, 3, 1, [])
    vectors = torch.full((count, 2), value)
    vectors[:, 1] += torch.arange(count)
    head.standardise(vectors)
    assert head.input_scale[0] == 1
    assert head.input_mean[0].item() == pytest.approx(value, rel=1e-5)
    assert torch.isfinite(head.input_scale).all()


def test_shared_vectors_equal_the_same_vectors_for_each_member() -> None:
    head = stacked(random_classifiers(4, 6, 3, [5, 4]), 6, 3, [5, 4])
    vectors = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    for mode in (False, True):
        head.train(mode)
        with torch.no_grad():
            one_set, four_sets = head(vectors), head(vectors.expand(4, -1, -1))
        assert torch.allclose(one_set, four_sets, rtol=1e-5, atol=1e-6)


def test_a_member_is_the_same_in_any_ensemble() -> None:
    large, small = StackedMLP(5, 3, 6, [4], seed=9), StackedMLP(5, 3, 1, [4], seed=9)
    other = StackedMLP(5, 3, 6, [4], seed=10)
    for key, value in small.member_state(0).items():
        assert torch.equal(large.member_state(0)[key], value)
    weights = large.state_dict()["linears.0.weight"]
    for m, weight in enumerate(weights):
        assert not torch.equal(weight, other.member_state(m)["linears.0.weight"])
        assert all(not torch.equal(weight, rest) for rest in weights[m + 1 :])


def test_weights_start_as_in_the_paper() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    head = StackedMLP(1056, 11, 3, paper_hidden(11))
    assert torch.equal(torch.rand(2), expected)
    state = head.state_dict()
    shapes = [tuple(state[f"linears.{layer}.weight"].shape) for layer in range(3)]
    assert shapes == [(3, 128, 1056), (3, 32, 128), (3, 11, 32)]
    for key, value in state.items():
        if key.startswith("linears") and key.endswith("weight"):
            assert value.std(dim=(1, 2)).tolist() == pytest.approx([0.02] * 3, rel=0.12)
            assert value.mean(dim=(1, 2)).abs().max() < 0.004
        else:
            at_one = key.endswith(("running_var", "weight", "scale"))
            assert (value == (1 if at_one else 0)).all(), key


def test_hidden_widths_change_at_thirty_outputs() -> None:
    assert paper_hidden(29) == (128, 32)
    assert paper_hidden(30) == (256, 128)


def test_member_state_is_a_copy_and_comes_back() -> None:
    head = stacked(random_classifiers(3, 6, 3, [5]), 6, 3, [5])
    kept, others = head.member_state(1), [head.member_state(m) for m in (0, 2)]
    assert set(kept) == {key for key, _ in head.named_parameters()} | {
        "norms.0.running_mean",
        "norms.0.running_var",
    }
    for _ in range(2):
        head(torch.randn(8, 6, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter[1] += 1
    assert all(not torch.equal(head.member_state(1)[key], value) for key, value in kept.items())
    moved = [head.member_state(m) for m in (0, 2)]
    assert not torch.equal(moved[0]["norms.0.running_mean"], others[0]["norms.0.running_mean"])
    head.load_member(1, kept)
    assert all(torch.equal(head.member_state(1)[key], value) for key, value in kept.items())
    for m, state in zip((0, 2), moved, strict=True):
        assert all(torch.equal(head.member_state(m)[key], value) for key, value in state.items())


def stop_by_a_plain_loop(losses: Sequence[float], steps_per_epoch: int) -> int | None:
    """The step after which the reference ends the training of one member."""
    best, without_progress = 10_000_000.0, 0
    for step, loss in enumerate(losses):
        if step // steps_per_epoch > 3:
            if loss < best:
                best, without_progress = loss, 0
            else:
                without_progress += 1
            if without_progress > 50:
                return step
    return None


def stop_of_each_member(losses: Tensor, steps_per_epoch: int) -> list[int | None]:
    """The same by `BatchLossStopping` for losses (steps, members)."""
    stopping = BatchLossStopping(losses.shape[1])
    found: list[int | None] = [None] * losses.shape[1]
    for step, row in enumerate(losses):
        for member in stopping.update(step // steps_per_epoch, row).nonzero()[:, 0].tolist():
            assert found[member] is None, "a member stops once"
            found[member] = step
        assert stopping.stopped.tolist() == [stop is not None for stop in found]
    return found


@given(
    st.integers(1, 30),
    st.integers(1, 4),
    st.integers(1, 60),
    st.floats(0, 0.05),
    st.integers(0, 99),
)
def test_early_stop_equals_a_plain_loop(
    steps_per_epoch: int, members: int, levels: int, slope: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few levels make ties, a slope makes progress go on for longer.
    noise = torch.randint(levels, (220, members), generator=generator).float()
    losses = noise - slope * torch.arange(220.0)[:, None]
    expected = [
        stop_by_a_plain_loop(losses[:, m].tolist(), steps_per_epoch) for m in range(members)
    ]
    assert stop_of_each_member(losses, steps_per_epoch) == expected


def test_earliest_possible_stop_is_fifty_one_batches_after_the_first_of_epoch_five() -> None:
    losses = torch.tensor([[1.0, 1.0 - 0.001 * step] for step in range(200)])
    # Epochs of 20 steps: step 80 sets the lowest loss, steps 81 to 131 do not go below it.
    assert stop_of_each_member(losses, 20) == [131, None]


def test_a_loss_before_epoch_five_is_not_the_one_to_beat() -> None:
    losses = torch.full((40 + 51, 1), 2.0)
    losses[:40] = 0.5
    losses[60] = 1.0
    assert stop_of_each_member(losses, 10) == [None]


def test_protocols_hold_the_references_numbers() -> None:
    paper = choose_protocol("paper")
    assert (paper.batch_size, paper.learning_rate, paper.max_epochs) == (64, 1e-3, 100)
    assert paper.stop_early
    assert not paper.shared_batches
    assert not paper.one_cycle
    assert paper.balance == 0
    assert paper.steps_per_epoch(1000) == 15
    assert paper.steps_for(1000) == 1500
    assert paper.steps_for(10) == 100


def test_numbers_of_a_protocol_can_be_replaced() -> None:
    protocol = choose_protocol("paper", max_steps=7, batch_size=8, learning_rate=0.5)
    assert (protocol.steps_for(10**6), protocol.batch_size, protocol.learning_rate) == (7, 8, 0.5)
    assert protocol.max_epochs == PROTOCOLS["paper"].max_epochs
    assert choose_protocol("fast") == PROTOCOLS["fast"]
    assert choose_protocol("paper", batch_size=10).steps_for(95) == 900


def test_mistaken_protocols_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`head\.protocol=slow`: must be one of paper, fast\."):
        choose_protocol("slow")
    for key in ("max_steps", "batch_size", "learning_rate"):
        with pytest.raises(ConfigError) as caught:
            choose_protocol("fast", **{key: 0})
        assert str(caught.value) == f"`head.{key}=0`: must be greater than 0, or null."


@pytest.mark.parametrize("hidden", [[], [5], [6, 4]])
def test_a_head_on_disk_is_the_same_head(hidden: list[int], tmp_path: Path) -> None:
    head = stacked(random_classifiers(3, 7, 4, hidden), 7, 4, hidden).eval()
    facts = {"classes": ["a", "é"], "blocks": [1, 2], "score": 0.5, "none": None}
    path = tmp_path / "head.safetensors"
    save_head(head, path, facts)
    loaded, found = load_head(path)
    assert found == facts
    assert (loaded.hidden, loaded.members, loaded.dim) == (tuple(hidden), 3, 7)
    assert not loaded.training
    vectors = torch.randn(9, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(vectors), head(vectors))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head.safetensors"]


def damaged(path: Path, kind: str) -> None:
    """Put something at `path` that is nearly a head."""
    head = StackedMLP(7, 4, 2, [5])
    save_head(head, path, {})
    tensors = {key: value.clone() for key, value in head.state_dict().items()}
    card = {"dim": 7, "num_classes": 4, "members": 2, "hidden": [5]}
    whole = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(whole[:-10])
    elif kind == "text":
        path.write_text("weights, honestly")
    elif kind == "no card":
        save_file(tensors, path)
    elif kind == "other card":
        save_file(tensors, path, metadata={"ddpmseg": "not JSON"})
    elif kind == "card of another kind":
        save_file(tensors, path, metadata={"ddpmseg": "[1, 2]"})
    elif kind == "card without members":
        card.pop("members")
        save_file(tensors, path, metadata={"ddpmseg": json.dumps(card)})
    elif kind == "card with words":
        save_file(tensors, path, metadata={"ddpmseg": json.dumps(card | {"dim": "seven"})})
    elif kind == "other shape":
        save_file(tensors, path, metadata={"ddpmseg": json.dumps(card | {"dim": 8})})
    elif kind == "fewer tensors":
        tensors.pop("linears.0.bias")
        save_file(tensors, path, metadata={"ddpmseg": json.dumps(card)})


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "empty",
        "truncated",
        "text",
        "no card",
        "other card",
        "card of another kind",
        "card without members",
        "card with words",
        "other shape",
        "fewer tensors",
    ],
)
def test_a_damaged_head_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    damaged(path, kind)
    with pytest.raises(CheckpointError) as caught:
        load_head(path)
    message = str(caught.value)
    assert message.startswith(f"'{path}' is not a head written by ddpmseg (")
    assert "). Name the folder of a finished run; if it is damaged, repeat its command" in message

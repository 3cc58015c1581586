"""The segmentation network: torchvision's own function, and the weights it begins with."""

from pathlib import Path

import pytest
import torch
from golden_fill import relative_error
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large
from torchvision.transforms.functional import normalize

from ddpmseg.errors import CheckpointError
from ddpmseg.segmenters.deeplab import ARCHITECTURES, DeepLab, find_weights, load_body
from ddpmseg.segmenters.export import load_segmenter, save_segmenter

IMAGES = torch.randint(256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()


@pytest.fixture(scope="module")
def network() -> DeepLab:
    """Its batch norms know the statistics of some images: else its scores are next to nothing."""
    network = DeepLab("mobilenet", 5, seed=1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the dropout
        network.train()(IMAGES)
    return network.eval()


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A file like torchvision's, of random weights and, as older ones, without counters."""
    torch.manual_seed(2)
    state = mobilenet_v3_large(weights=None).state_dict()
    kept = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    path = tmp_path_factory.mktemp("imagenet") / "mobilenet.pth"
    torch.save(kept, path)
    return path, kept


@torch.inference_mode()
def test_scores_are_those_of_torchvision(network: DeepLab) -> None:
    theirs = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    theirs.load_state_dict(network.network.state_dict())
    inputs = normalize(IMAGES / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    expected = theirs.eval()(inputs)["out"]
    found = network(IMAGES)
    assert (found.shape, found.dtype) == ((2, 5, 32, 32), torch.float32)
    assert relative_error(found, expected) < 1e-4
    assert not any(key.startswith("aux") for key in network.network.state_dict())

    result = network.segment(IMAGES)
    assert (result.masks == expected.argmax(1)).float().mean() > 0.999  # two scores may tie
    probability = expected.softmax(1)
    entropy = -(probability * probability.log()).sum(1)
    torch.testing.assert_close(result.disagreement, entropy, rtol=1e-3, atol=1e-4)


def test_first_weights_depend_on_the_seed_alone(network: DeepLab) -> None:
    before = torch.get_rng_state()
    same, other = DeepLab("mobilenet", 5, seed=1), DeepLab("mobilenet", 5, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    key = "network.classifier.0.convs.0.0.weight"
    states = [each.state_dict()[key] for each in (network, same, other)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_has_a_body_of_its_classifier(name: str) -> None:
    with torch.device("meta"):
        kind = ARCHITECTURES[name]
        body = kind.network(3).backbone.state_dict()
        # Looked up by the name of the weights' enumeration, as torchvision does.
        from torchvision.models import get_model

        classifier = get_model(type(kind.imagenet).__name__.lower().removesuffix("_weights"))
    keys = {key.removeprefix(kind.prefix) for key in classifier.state_dict()}
    assert set(body) <= keys
    assert all(key.startswith(kind.dropped) for key in keys - set(body))


def test_the_body_takes_the_weights_of_imagenet(
    imagenet: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    path, state = imagenet
    network = DeepLab("mobilenet", 5)
    head = network.network.get_parameter("classifier.4.weight").detach().clone()
    digest = load_body(network, path)
    assert len(digest) == 64
    body = network.network.backbone.state_dict()
    loaded = [key for key in body if not key.endswith("num_batches_tracked")]
    assert len(loaded) > 100
    assert all(torch.equal(body[key], state[f"features.{key}"]) for key in loaded)
    assert torch.equal(network.network.get_parameter("classifier.4.weight"), head)
    newer = {"features.0.1.num_batches_tracked": torch.tensor(7)}
    torch.save(state | newer, tmp_path / "newer.pth")
    load_body(network, tmp_path / "newer.pth")


def test_weights_of_another_network_are_told(
    imagenet: tuple[Path, dict[str, Tensor]], network: DeepLab, tmp_path: Path
) -> None:
    with torch.device("meta"):
        resnet = DeepLab("resnet50", 2)
    with pytest.raises(CheckpointError, match=r"fits with `segmenter\.architecture=mobilenet`"):
        load_body(resnet, imagenet[0])
    other = DeepLab("mobilenet", 5)
    torch.save(network.network.state_dict(), tmp_path / "whole.pth")
    with pytest.raises(CheckpointError, match="whole segmentation network"):
        load_body(other, tmp_path / "whole.pth")
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "small.pth")
    with pytest.raises(CheckpointError, match=r"(?s)parameters differ.*Fetch one of https"):
        load_body(other, tmp_path / "small.pth")
    wrong = imagenet[1] | {"features.0.0.weight": torch.zeros(16, 1, 3, 3)}
    torch.save(wrong, tmp_path / "wrong.pth")
    with pytest.raises(CheckpointError, match=r"0\.0\.weight is \[16, 1, 3, 3\] in the file"):
        load_body(other, tmp_path / "wrong.pth")


class _Harm:
    def __reduce__(self):
        return print, ("harm",)


def test_files_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], imagenet: tuple[Path, dict[str, Tensor]]
) -> None:
    other = DeepLab("mobilenet", 5)
    torch.save(_Harm(), tmp_path / "harm.pth")
    (tmp_path / "cut.pth").write_bytes(imagenet[0].read_bytes()[:1000])
    (tmp_path / "page.pth").write_text("<!DOCTYPE html>")
    for name, says in (("harm", "would execute"), ("cut", "truncated"), ("page", "web page")):
        with pytest.raises(CheckpointError, match=says):
            load_body(other, tmp_path / f"{name}.pth")
    assert "harm" not in capsys.readouterr().out
    (tmp_path / "noise.safetensors").write_bytes(b"0" * 100)
    for name in ("noise.safetensors", "missing.safetensors"):
        with pytest.raises(CheckpointError, match="not a segmentation network"):
            load_segmenter(tmp_path / name)


def test_null_is_the_file_that_torch_keeps(
    imagenet: tuple[Path, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert find_weights("mobilenet", "random") is None
    assert find_weights("mobilenet", str(imagenet[0])) == imagenet[0]
    message = r"checkpoint=null`.*/mobilenet_v3_large-8738ca79\.pth.*not fetched.*https://.*random"
    with pytest.raises(CheckpointError, match=message):
        find_weights("mobilenet", None)
    kept = tmp_path / "hub" / "checkpoints" / "mobilenet_v3_large-8738ca79.pth"
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert find_weights("mobilenet", None) == kept


def test_a_written_network_is_read_as_it_was(network: DeepLab, tmp_path: Path) -> None:
    path = tmp_path / "segmenter.safetensors"
    save_segmenter(network, path, {"epoch": 3})
    again, facts = load_segmenter(path)
    assert facts == {"epoch": 3}
    assert not again.training
    assert torch.equal(again(IMAGES), network(IMAGES))

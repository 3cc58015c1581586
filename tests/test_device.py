"""Where to compute, if nobody says it."""

import pytest
import torch

from ddpmseg.config import TrainerConfig
from ddpmseg.runtime.device import choose_device, trainer_arguments


@pytest.mark.parametrize(
    ("there", "chosen"), [(("cuda", "mps"), "cuda"), (("mps",), "cpu"), ((), "cpu")]
)
def test_auto_is_cuda_or_the_cpu(
    there: tuple[str, ...], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cuda", "mps"):
        monkeypatch.setattr(getattr(torch, name), "is_available", lambda name=name: name in there)
    assert choose_device("auto").type == chosen
    arguments = trainer_arguments(TrainerConfig(), "32-true", None)
    assert arguments["accelerator"] == chosen  # of Lightning, whose own choice is MPS


def test_mps_is_used_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "is_available", lambda: True)
    assert choose_device("mps").type == "mps"
    assert trainer_arguments(TrainerConfig(accelerator="mps"), "32-true", None)["devices"] == 1

"""docs/your_own_data.md, followed to the letter on images of 16 pixels."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from pages import commands, page
from tiny_annotations import coco, save_coco, save_labelme
from tiny_run import CONF, HARDWARE, ROOT, composed

from ddpmseg.__main__ import main
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags, build_unet
from ddpmseg.runs.train import train
from ddpmseg.sweeps.sweep import sweep

PAGE = page("your_own_data")
COMMANDS = commands(PAGE)
NETWORK = UNetFlags(
    image_size=16,
    num_channels=32,
    channel_mult="1,1,1,2",
    num_res_blocks=3,
    attention_resolutions="2",
    num_head_channels=64,
)
"""Sixteen decoder blocks, so that those of the page exist."""
TRAIN = (*HARDWARE, "backbone.precision='32'", "head.hidden=[8]", "head.max_steps=6")
SWEEP = (
    *HARDWARE,
    "backbone.precision='32'",
    "sweep.head.hidden=[8]",
    "sweep.head.max_steps=6",
    "sweep.timesteps=[50,150]",
    "sweep.blocks=[5,6,12]",
    "sweep.clusters.images=0",
)


def run(command: str) -> None:
    """What a shell in the current folder would do, in this process and at tiny size."""
    program, *words = shlex.split(command.replace("256", "16"))
    assert program == "ddpmseg"
    folder = [word.split("=", 1)[1] for word in words if word.startswith("paths.output_dir=")]
    match words:
        case ["train", *overrides]:
            train(composed(Path(folder[0]), *overrides, *TRAIN, conf=Path("conf")))
        case ["sweep", *overrides]:
            given = (*overrides, *SWEEP)
            sweep(composed(Path(folder[0]), *given, root="sweep", conf=Path("conf")))
        case arguments:
            assert main(arguments) == 0


def is_there(command: str, capsys: pytest.CaptureFixture[str]) -> bool:
    """Whether the program has this command."""
    _, group, action, *_ = shlex.split(command)
    with pytest.raises(SystemExit):
        main([group, action, "--help"])
    return "usage" in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CONF, "conf")
    save_coco(tmp_path / "photos", coco(count=4))
    save_labelme(tmp_path / "cows", count=4)
    Path("checkpoints").mkdir()
    torch.save(build_unet(NETWORK)[0].state_dict(), "checkpoints/my_model.pt")
    assert len(COMMANDS) >= 11
    for command in COMMANDS:
        if " data check " in command and not is_there(command, capsys):
            continue
        run(command)
    written = ("horses/overlays.png", "predict/photo_3.png", "horses_sweep/report.html")
    assert all((tmp_path / "outputs" / name).is_file() for name in written)
    for path in re.findall(r"^(real/\w+|\w+\.\w+) ", PAGE, re.MULTILINE):
        assert (tmp_path / "data" / "horses" / path).exists()


def test_messages_of_the_page_are_those_of_the_program() -> None:
    sources = [path.read_text() for path in (ROOT / "src" / "ddpmseg").rglob("*.py")]
    # As a reader sees them: texts that go on in the next line are one.
    texts = re.sub(r'"\s+f?"', "", "\n".join(sources))
    table = PAGE.split("| message |", 1)[1].splitlines()[2:]
    messages = [row.removeprefix("| `").split("` | ", 1)[0] for row in table]
    assert len(messages) >= 16
    for message in messages:
        assert message in texts


def test_options_of_the_page_are_those_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "convert", "--help"])
    known = capsys.readouterr().out
    options = re.findall(r"`(--[a-z-]+)", PAGE.split("| option |", 1)[1].split("\n\n", 1)[0])
    assert len(options) >= 7
    for option in options:
        assert option in known

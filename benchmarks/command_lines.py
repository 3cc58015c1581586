"""Command lines as no user means them: every command and option with values of wrong kinds."""

import argparse
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from benchmarks.cases import CONF
from ddpmseg.__main__ import parser
from ddpmseg.config import register
from ddpmseg.data.ponies import draw_pony

PATHS = (
    *("run", "sweep", "pony.png", "folder", "text.txt", "broken.json", "broken.png", "broken.pt"),
    *("broken.npz", "missing", "text.txt/x", "missing/x", "ü/ö", "日本", "a b", "-x", "~nobody/x"),
    *("/dev/null", "/dev/null/x", "/proc/x", ".", "", "x" * 300, "folder/" + "y" * 200),
    *("${nowhere}", "a=b", "a,b", "\udcff", "a\nb", "run/config.yaml", "run/head.safetensors"),
)
"""What `write_files` writes or its caller makes, what is not there, and what nobody can write."""
SOUND = {
    **dict.fromkeys(("run", "paths", "runs", "labels"), ("run",)),
    **dict.fromkeys(("source", "train", "test"), ("folder", "run")),
    "folder": ("sweep",),
    "images": ("pony.png",),
    "checkpoint": ("run/head.safetensors", "random"),
    "archive": ("broken.npz",),
    "name": ("ponies",),
    "accelerator": ("cpu",),
    **dict.fromkeys(
        ("where", "vary", "over", "group_by", "by", "sort"), ("seed", "head.members=2")
    ),
}
"""Name of an argument -> what makes sense."""
NETWORK = """\
defaults:
  - override /backbone: random
backbone:
  precision: "32"
  unet:
    image_size: 16
    num_channels: 32
    channel_mult: "1,2"
    num_res_blocks: 1
    attention_resolutions: "8"
dataset: {image_size: 16, num_labelled: 3, num_test: 2}
trainer: {accelerator: cpu, precision: 32-true}
"""
HEAD = "head: {members: %d, hidden: [8], max_steps: 6, batch_size: 64}"
TINY = {
    "train/tiny": f"""{NETWORK}
features: {{blocks: [1, 2], timesteps: [5, 50]}}
{HEAD % 2}
""",
    "sweep/tiny": f"""{NETWORK}
sweep:
  blocks: [1, 2]
  timesteps: [5]
  num_examples: 1
  clusters: {{images: 1}}
  {HEAD % 1}
""",
}
"""Experiments that take seconds."""
NUMBERS = ("0", "-1", "1", "2", "1.5", "nan", "-inf", "1e400", "9" * 30, "0x10", "1_0", "٣", "")
WORDS = (
    *("null", "true", "[]", "[1,[2]]", "[1,2", "{a:1}", "{a", "'", '"', "${nowhere}", "${a", "???"),
    *("random", "ponies", "cpu", "mlp", "a,b", "(", "@", "\\", "é", "名前", "\U0001f40e", "\udcff"),
    *("z" * 500, "!!python/name:os.system", "%s", "\t", "a=b", "--x", "1..2", "range(3)", "[" * 60),
)
NAMES_PATH = ("dir", "output", "config", "cache")
"""Parts of the names of settings by which a path is read or written."""
SETTINGS = ("overrides", "given")
"""Arguments that take overrides."""
LAST = {
    "train": (
        *("multirun.dry_run=true", "trainer.devices=1", "logger.wandb=false", "head.max_steps=2"),
        *("pretrain.num_images=4", "pretrain.num_steps=2", "segmenter.num_epochs=1"),
    ),
    "sweep": ("sweep.dry_run=true", "multirun.dry_run=true", "logger.wandb=false"),
    "dashboard": ("--dry-run",),
    "sample": ("--num", "1", "--steps", "2", "--output", "drawn"),
    "robustness": ("--images", "1", "--severities", "1", "--types", "fog", "--output", "report"),
}
"""What keeps a command from computing for long, and from starting other processes."""


def write_files(folder: Path) -> None:
    """Write the files that `PATHS` names, but for a finished run and a sweep, and `TINY`."""
    for name, text in TINY.items():
        path = folder / "conf" / "experiment" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(f"# @package _global_\n{text}", encoding="utf-8")
    (folder / "folder").mkdir()
    Image.fromarray(draw_pony(0, "test", 0, 16)[0]).save(folder / "pony.png")
    (folder / "text.txt").write_text("a text\n", encoding="utf-8")
    (folder / "broken.json").write_text('{"images": [', encoding="utf-8")
    (folder / "broken.pt").write_bytes(b"PK\x03\x04 no weights")
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 no arrays")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no photograph")


def command_line(draw: Random) -> list[str]:
    """The words of a command that computes little."""
    name, command = draw.choice(_commands())
    words = [*name]
    for action in command._actions:
        if action.dest in (*SETTINGS, "help"):
            continue
        if not action.option_strings:
            most = 2 if action.nargs == "+" else 1
            words += [_argument(draw, action) for _ in range(draw.randint(1, most))]
        elif action.required or draw.random() < 0.12:
            words.append(action.option_strings[0])
            if action.nargs != 0:
                words.append(_argument(draw, action))
    if any(action.dest in SETTINGS for action in command._actions):
        words += _settings(draw, "sweep" if name[0] == "sweep" else "train")
    return [*words, *LAST.get(name[0], ())]


def _argument(draw: Random, action: argparse.Action) -> str:
    """Of an option or a positional argument: more often than not one that makes sense."""
    is_path = getattr(action.type, "__name__", "") == "path" or action.dest == "checkpoint"
    if draw.random() < 0.7:
        sound = action.choices or SOUND.get(action.dest, ("out" if is_path else "1",))
        return draw.choice([*sound])
    return draw.choice(PATHS if is_path else WORDS + NUMBERS)


def _settings(draw: Random, root: str) -> list[str]:
    """Overrides of a tiny network, and a few of any settings with any values."""
    words = [f"experiment={root}/tiny"] if draw.random() < 0.75 else []
    for _ in range(draw.randint(1, 3)):
        key = draw.choice(_keys(root))
        sign = draw.choice(["", "", "", "", "+", "++", "~"])
        words.append(f"{sign}{key}={_value(draw, key)}")
    return words if draw.random() < 0.9 else [*words, _value(draw, "")]


def _value(draw: Random, key: str) -> str:
    if key in _choices() and draw.random() < 0.5:
        return draw.choice(_choices()[key])
    if any(part in key for part in NAMES_PATH):
        return draw.choice(PATHS)
    if draw.random() < 0.2:
        characters = (chr(draw.randrange(1, draw.choice([128, 0xD800]))) for _ in range(4))
        return "".join(characters)
    number = draw.randint(-(2**70), 2**70) >> draw.randrange(70)
    return draw.choice([draw.choice(WORDS + NUMBERS), draw.choice(PATHS), str(number)])


@cache
def _choices() -> dict[str, list[str]]:
    """The choices of each group of settings."""
    groups = [folder for folder in sorted(CONF.iterdir()) if folder.is_dir()]
    return {
        group.name: sorted(str(path.relative_to(group))[:-5] for path in group.rglob("*.yaml"))
        for group in groups
    }


@cache
def _keys(root: str) -> list[str]:
    """All settings and groups of a program."""
    register()
    with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        known = _flat(compose(root), "")
    return [*_choices(), *known, "task", "nothing", "a.b.c", "hydra.sweep.dir", "hydra.job.num"]


def _flat(cfg: DictConfig, prefix: str) -> Iterator[str]:
    for key in cfg:
        yield f"{prefix}{key}"
        value = cfg._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none() and not value._is_missing():
            yield from _flat(value, f"{prefix}{key}.")


@cache
def _commands() -> list[tuple[list[str], argparse.ArgumentParser]]:
    """The words of every command, and its options; `get` alone needs a network."""
    return [leaf for leaf in _leaves([], parser()) if leaf[0][-1] != "get"]


def _leaves(
    words: list[str], parser: argparse.ArgumentParser
) -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
    """Commands of commands have two words."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield words, parser
    for action in below:
        for name, command in action.choices.items():
            yield from _leaves([*words, name], command)

"""What the programs say before they do anything: help, completion, settings, launchers."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra_plugins.hydra_joblib_launcher.config import JobLibLauncherConf
from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from tiny_run import CONF, ROOT

from ddpmseg import config as schemas
from ddpmseg.__main__ import main, parser
from ddpmseg.cli.completion import completed
from ddpmseg.command_line import called_command, command, hydra_override, override
from ddpmseg.composition import plan
from ddpmseg.composition.checks import typed_config
from ddpmseg.config.groups import overrides_of
from ddpmseg.config.identity import LAUNCHING
from ddpmseg.multiruns.multirun import planned_jobs

PROGRAMS = ("train", "sweep")
WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "lightning_fabric", "wandb", "pandas"):
            raise ImportError(f"{name} takes seconds to import")
sys.meta_path.insert(0, Refuse())
"""
"""A `sitecustomize.py` under which these libraries cannot be imported."""


def said(tmp_path: Path, *command: str | Path) -> str:
    """What a command prints where the slow libraries cannot be imported; it leaves no file."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(WITHOUT)
    path = [str(tmp_path / "without"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    folder = tmp_path / "a folder (1)"
    folder.mkdir()
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(folder.iterdir())
    return done.stdout


def offered(tmp_path: Path, line: str) -> list[str]:
    """What bash offers after TAB at the end of `line`, by an environment in an awkward folder."""
    (tmp_path / "my work (1)").symlink_to(Path(sys.prefix))
    script = """
        eval "$("$0" -m ddpmseg train -sc install=bash)"
        COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9
        "$(complete -p ddpmseg | sed 's/.*-F \\([^ ]*\\).*/\\1/')" ddpmseg
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    python = tmp_path / "my work (1)" / "bin" / "python"
    return said(tmp_path, "bash", "-c", script, python, line).splitlines()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ddpmseg tr", ["train "]),
        ("ddpmseg train -m features.batch", ["features.batch_size="]),
        ("'/my work/bin/ddpmseg' sweep grid=", ["paper", "quick"]),
        ("ddpmseg data convert --on-top ", ["smaller", "later"]),
        ("ddpmseg data check horse", ["horse_21 "]),
    ],
)
def test_tab_completes_in_a_folder_of_any_name(line: str, words: list[str], tmp_path: Path) -> None:
    assert offered(tmp_path, line) == words


@pytest.mark.parametrize(
    ("program", "word", "earlier", "words"),
    [
        ("train", "backbone=guided", [], ["guided_diffusion_256", "guided_diffusion_64"]),
        ("train", "+experiment=abl", [], ["ablation/depth", "ablation/noise"]),
        ("sweep", "experiment=", [], ["sweep/demo"]),
        ("train", "head=linear,", [], ["linear,mlp"]),
        ("train", "features.blocks=", ["features.blocks=[7]"], ["[7]"]),
        ("train", "trainer.resume=", [], ["true", "false"]),
        ("train", "features.timesteps=", ["no.such.key=1"], []),
        ("train", "dataset.roo", ["dataset=folder"], ["dataset.root="]),
        ("train", "backbone.checkpoint=./w", [], ["./weights/", "./well.pt"]),
    ],
)
def test_words_that_continue_a_command(
    program: str,
    word: str,
    earlier: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "well.pt").touch()
    found = completed(program, word, earlier)
    key = word.partition("=")[0] + "=" if "=" in word else ""
    fitting = [each for each in found if each.startswith(word)]
    assert {f"{key}{each}" for each in words} <= set(fitting)
    assert bool(words) == bool(fitting)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("./", ["./my horses/", "./plain/"]),
        ("./B", []),
        ('"./', ['"./Bücher/', '"./a(1).pt"', '"./my horses/', '"./plain/']),
        ("'./a", ["'./a(1).pt'"]),
        ('"./my horses/', ['"./my horses/x,y.pt"']),
    ],
)
def test_only_paths_that_hydra_reads_are_offered(
    typed: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quoted for Hydra where the value typed so far is; a folder leaves the quotes open."""
    monkeypatch.chdir(tmp_path)
    for name in ("my horses", "Bücher", "plain"):
        (tmp_path / name).mkdir()
    for name in ("a(1).pt", "my horses/x,y.pt"):
        (tmp_path / name).touch()
    found = completed("train", f"backbone.checkpoint={typed}", [])
    assert found == [f"backbone.checkpoint={word}" for word in words]


def test_values_are_offered_quoted_for_hydra() -> None:
    given = ["dataset=folder", 'dataset.root="./Bücher (1)"']
    assert completed("train", "dataset.root=", given) == ['dataset.root="./Bücher (1)"']


def test_no_key_that_only_the_package_uses_is_offered() -> None:
    words = [word for program in PROGRAMS for word in completed(program, "", [])]
    words += [word for group in ("dataset", "backbone") for word in completed("train", group, [])]
    words += completed("train", "backbone=", [])
    assert "seed=" in words
    assert not [word for word in words if "schema" in word or "_target_" in word]
    assert not [word for word in words if word.endswith(".")]


def test_unknown_shells_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-sc", "install=tcsh"]) == 2
    assert "one of bash, zsh, fish" in capsys.readouterr().err
    for shell in ("bash", "zsh", "fish"):
        assert main(["sweep", "-sc", f"uninstall={shell}"]) == 0


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_written_for_people(program: str, tmp_path: Path) -> None:
    text = said(tmp_path, sys.executable, "-P", "-m", "ddpmseg", program, "--help")
    assert text.startswith(f"ddpmseg {program} [group=choice]")
    assert 'eval "$(ddpmseg train -sc install=bash)"' in text
    assert "schema" not in text
    groups = text.split("Groups and their choices")[1]
    assert "backbone: alae," in groups
    assert "hydra/launcher: basic, joblib" in groups
    assert ("experiment: sweep/demo" in groups) == (program == "sweep")
    published = re.search(r"^ *ddpm +(.*)$", text, re.M)
    scores = "49.4     59.1    53.7      65.0       59.9            34.6"
    assert (published and published[1]) == (scores if program == "train" else None)
    examples = text.split("Examples\n")[1].split("\n\n")[0]
    assert examples.count(f"ddpmseg {program}") == 5
    for line in examples.replace("\\\n", " ").splitlines():
        if "PATH" not in line and "submitit" not in line:
            given = [word for word in shlex.split(line, comments=True)[2:] if word != "-m"]
            composed(program, *planned(program, *given)[0])


def test_every_option_of_every_command_has_a_text(tmp_path: Path) -> None:
    def lacking(command: argparse.ArgumentParser) -> list[str]:
        found = []
        for action in command._actions:
            if isinstance(action, argparse._SubParsersAction):
                texts = {choice.dest: choice.help for choice in action._choices_actions}
                found += [name for name in action.choices if not texts[name]]
                found += [line for other in action.choices.values() for line in lacking(other)]
            elif not action.help:
                found.append(f"{command.prog} {action.dest}")
        return found

    assert lacking(parser()) == []
    text = said(tmp_path, sys.executable, "-P", "-m", "ddpmseg", "--help")
    assert {"train", "sweep", "estimate", "robustness", "weights"} <= set(text.split())


@pytest.mark.parametrize(
    "command", [[ROOT / "train.py"], [ROOT / "sweep.py"], ["-P", "-m", "ddpmseg", "sweep"]]
)
def test_cfg_job_shows_what_would_run(command: list[str | Path], tmp_path: Path) -> None:
    given = ("--cfg", "job", "--resolve", "seed=7", "dataset.num_test=3")
    settings = OmegaConf.create(said(tmp_path, sys.executable, *command, *given))
    assert (settings.seed, settings.dataset.num_test) == (7, 3)
    assert settings.multirun == OmegaConf.structured(schemas.MultirunConfig)
    assert settings.paths.output_dir.startswith("outputs/")


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("joblib", JobLibLauncherConf),
        ("submitit_local", LocalQueueConf),
        ("submitit_slurm", SlurmQueueConf),
    ],
)
def test_a_launcher_has_the_settings_of_its_plugin(name: str, schema: type) -> None:
    ours = OmegaConf.load(CONF / "hydra" / "launcher" / f"{name}.yaml")
    assert set(ours) == {field.name for field in fields(schema)}
    assert ours._target_ == schema._target_  # pyright: ignore[reportAttributeAccessIssue]


def composed(program: str, *overrides: str) -> DictConfig:
    schemas.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(program, list(overrides), return_hydra_config=True)


def planned(program: str, *overrides: str) -> list[list[str]]:
    cfg = composed(program)
    OmegaConf.set_readonly(cfg.hydra, False)
    cfg.hydra.overrides.task = list(overrides)
    return planned_jobs(cfg)


def test_jobs_are_planned_as_the_sweeper_numbers_them() -> None:
    assert planned("train", "seed=0,1", "features.blocks=[3],[5,6]", "head=mlp") == [
        ["seed=0", "features.blocks=[3]", "head=mlp"],
        ["seed=0", "features.blocks=[5,6]", "head=mlp"],
        ["seed=1", "features.blocks=[3]", "head=mlp"],
        ["seed=1", "features.blocks=[5,6]", "head=mlp"],
    ]
    assert planned("train", "seed=range(0,3)") == [["seed=0"], ["seed=1"], ["seed=2"]]


def test_how_jobs_are_run_names_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(*arguments: str, program: tuple[str, ...] = ("train.py",)) -> str:
        monkeypatch.setattr(sys, "argv", [*program, *arguments])
        return schemas.multirun_key()

    assert key("-m", "seed=0,1") == key("-m", "seed=0,1", program=("bin/ddpmseg", "train"))

    for how in ("multirun.resume=rerun", "hydra/launcher=joblib", "++hydra.launcher.n_jobs=3"):
        assert LAUNCHING.match(how)
        assert key("-m", "seed=0,1", how) == key("seed=0,1", "--multirun")
    assert key("-m", "seed=0,1", "head=mlp") != key("-m", "head=mlp", "seed=0,1")
    for which in ("seed=0,1,2", "hydra.sweeper.params={}", "-multirunner"):
        assert key("-m", "seed=0,1", which) != key("-m", "seed=0,1")


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["/my work/train.py", "-m", "seed=0,1"], "python train.py -m seed=0,1"),
        (["/v/bin/ddpmseg", "sweep", "x=[1]"], "ddpmseg sweep 'x=[1]'"),
        (["/site/ddpmseg/__main__.py", "train", "a=b c"], "python -m ddpmseg train 'a=b c'"),
    ],
)
def test_the_command_of_this_process_can_be_repeated(
    argv: list[str], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert called_command() == shown


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3),
)


@given(VALUES)
@example("/data/my photos (1)/Kühe, a=b")
@example("null")
@example("C:\\photos\\")
@example('it\'s "quoted\\"')
@example("a\\${seed}")
def test_a_printed_override_gives_the_very_value(value: object) -> None:
    (word,) = shlex.split(override("dataset.root", value))
    (parsed,) = OverridesParser.create().parse_overrides([word])
    settings = OmegaConf.create({"seed": 0})
    OmegaConf.update(settings, parsed.key_or_group, parsed.value(), force_add=True)
    read = OmegaConf.to_container(settings, resolve=True)
    assert repr(read) == repr({"seed": 0, "dataset": {"root": value}})


def test_plain_values_are_printed_plainly() -> None:
    settings = {"dataset.root": "data/horses", "seed": 3, "features.blocks": [5, 6]}
    assert command("train", "experiment=demo", settings=settings) == (
        "ddpmseg train experiment=demo dataset.root=data/horses seed=3 'features.blocks=[5,6]'"
    )


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        (["backbone=random", "seed=3"], "ddpmseg train dataset=ponies backbone=random"),
        (
            ["dataset=horse_21", "dataset.num_test=3", "backbone=swav_lsun_horse"],
            "ddpmseg train dataset=horse_21 backbone=swav_lsun_horse dataset.num_test=3",
        ),
        (
            ["dataset=folder", "dataset.root='a (1)'", "dataset.classes=ponies"],
            "ddpmseg train dataset=folder backbone=ddpm_ponies dataset.classes=ponies "
            "'dataset.root=\"a (1)\"'",
        ),
        (
            ["backbone=guided_diffusion_256", "backbone.name=mine", "backbone.checkpoint=a.pt"],
            "ddpmseg train dataset=ponies backbone=guided_diffusion_256 backbone.name=mine "
            "backbone.checkpoint=a.pt",
        ),
    ],
)
def test_parts_are_printed_as_few_overrides_that_give_them(given: list[str], printed: str) -> None:
    config = plan.compose(None, given, typed_config)
    settings = overrides_of(dataset=config.dataset, backbone=config.backbone)
    assert command("train", settings=settings) == printed
    again = plan.compose(None, [hydra_override(*item) for item in settings.items()], typed_config)
    assert (again.dataset, again.backbone) == (config.dataset, config.backbone)

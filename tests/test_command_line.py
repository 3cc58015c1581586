"""What the programs say before they do anything: help, completion, settings, launchers."""

import os
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra_plugins.hydra_joblib_launcher.config import JobLibLauncherConf
from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf
from omegaconf import DictConfig, OmegaConf
from tiny_run import CONF, ROOT

from ddpmseg import config as schemas
from ddpmseg.config.identity import LAUNCHING
from ddpmseg.multiruns.multirun import planned_jobs

PROGRAMS = ("train.py", "sweep.py")
WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "pytorch_lightning", "wandb", "matplotlib"):
            raise ImportError(f"{name} takes seconds to import")
sys.meta_path.insert(0, Refuse())
"""
"""A `sitecustomize.py` under which these libraries cannot be imported."""


def told(tmp_path: Path, program: str, *arguments: str, **environment: str) -> str:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, str(ROOT / program), *arguments],
        env=os.environ | {"PYTHONPATH": path} | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "outputs").exists()
    return done.stdout


@pytest.mark.parametrize(
    ("program", "typed", "offered"),
    [
        ("train.py", "backbone=", "backbone=ddpm_ponies"),
        ("train.py", "features.b", "features.batch_size="),
        ("train.py", "multirun.r", "multirun.resume="),
        ("sweep.py", "grid=", "grid=quick"),
    ],
)
def test_completion_needs_no_torch(program: str, typed: str, offered: str, tmp_path: Path) -> None:
    line = f"python {program} {typed}"
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    assert offered in told(tmp_path, program, "-sc", "query=bash", **asked).split()


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_written_for_people(program: str, tmp_path: Path) -> None:
    text = told(tmp_path, program, "--help")
    assert text.startswith(f"python {program} [group=choice]")
    examples = text.split("Examples\n")[1].split("\n\n")[0]
    assert examples.count(f"python {program}") == 5
    assert f'eval "$(python {program} -sc install=bash)"' in text
    for line in examples.replace("\\\n", " ").splitlines():
        if "PATH" not in line and "submitit" not in line:
            given = [word for word in shlex.split(line, comments=True)[2:] if word != "-m"]
            composed(program, *planned(program, *given)[0])


@pytest.mark.parametrize("program", PROGRAMS)
def test_cfg_job_shows_what_would_run(program: str, tmp_path: Path) -> None:
    shown = told(tmp_path, program, "--cfg", "job", "--resolve", "seed=7", "dataset.num_test=3")
    settings = OmegaConf.create(shown)
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
        return compose(Path(program).stem, list(overrides), return_hydra_config=True)


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
    def key(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        return schemas.multirun_key()

    for how in ("multirun.resume=rerun", "hydra/launcher=joblib", "++hydra.launcher.n_jobs=3"):
        assert LAUNCHING.match(how)
        assert key("-m", "seed=0,1", how) == key("seed=0,1", "--multirun")
    assert key("-m", "seed=0,1", "head=mlp") != key("-m", "head=mlp", "seed=0,1")
    for which in ("seed=0,1,2", "hydra.sweeper.params={}", "-multirunner"):
        assert key("-m", "seed=0,1", which) != key("-m", "seed=0,1")

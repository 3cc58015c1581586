"""Every file of `conf/` composes and fits its schema, and no setting is without effect."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tiny_run import CONF, ROOT, composed

from ddpmseg import config as schemas
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags
from ddpmseg.composition.checks import planned_layout
from ddpmseg.config import TrainConfig
from ddpmseg.config.store import backbone_schemas
from ddpmseg.sweeps.checks import checked_sweep

GROUPS = {
    name: hint
    for name, hint in get_type_hints(TrainConfig).items()
    if isinstance(hint, type) and is_dataclass(hint)
}
OPTIONS = sorted(path for group in GROUPS for path in (CONF / group).glob("*.yaml"))
SELECTIONS = sorted((CONF / "backbone" / "features").glob("*.yaml"))
EXPERIMENTS = sorted((CONF / "experiment").rglob("*.yaml"))
SWEEPS = sorted((CONF / "experiment" / "sweep").rglob("*.yaml"))
GRIDS = sorted((CONF / "grid").glob("*.yaml"))
MUST_BE_GIVEN = {
    "dataset=folder": ("dataset.root=photos", "dataset.classes=ponies"),
    "backbone=guided_diffusion_64": ("backbone.checkpoint=random",),
    "backbone=guided_diffusion_256": ("backbone.checkpoint=random",),
    "backbone=timm": ("backbone.name=test_vit", "backbone.checkpoint=random"),
    "backbone=swav": ("backbone.checkpoint=random",),
    "backbone=swav_w2": ("backbone.checkpoint=random",),
    "backbone=mae": ("backbone.checkpoint=random",),
    "backbone=vdvae": ("backbone.checkpoint=random",),
    "backbone=alae": ("backbone.checkpoint=random",),
    "backbone=gan_encoder": ("backbone.checkpoint=random",),
    "backbone=gan_inversion": ("backbone.checkpoint=random",),
    "backbone=diffusers": (
        f"backbone.checkpoint={ROOT / 'tests' / 'golden' / 'unet2d'}",
        "dataset.image_size=256",
    ),
}
"""Values that only the user knows, for the options that ask for them."""


def option(path: Path) -> str:
    return f"{path.parent.name}={path.stem}"


def typed(tmp_path: Path, *overrides: str) -> TrainConfig:
    config = OmegaConf.to_object(composed(tmp_path, *overrides))
    assert isinstance(config, TrainConfig)
    return config


def test_the_files_are_found() -> None:
    assert len(OPTIONS) >= 19
    assert len(EXPERIMENTS) >= 15
    assert SWEEPS
    assert len(GRIDS) >= 2
    for group in GROUPS:
        assert any(path.parent.name == group for path in OPTIONS)


@pytest.mark.parametrize("path", OPTIONS, ids=option)
def test_every_option_fits_its_schema(path: Path, tmp_path: Path) -> None:
    given = MUST_BE_GIVEN.get(option(path), ())
    config = typed(tmp_path, option(path), *given)
    assert isinstance(getattr(config, path.parent.name), GROUPS[path.parent.name])


@pytest.mark.parametrize("path", SELECTIONS, ids=lambda path: path.stem)
def test_a_backbone_with_its_own_selection_has_those_blocks(path: Path, tmp_path: Path) -> None:
    choice = f"backbone={path.stem.removesuffix('_default')}"
    planned_layout(typed(tmp_path, choice, *MUST_BE_GIVEN.get(choice, ())))


@pytest.mark.parametrize(
    ("name", "dim"), [("paper_v0", 6144), ("paper_v1", 8192), ("paper_v3", 8448)]
)
@pytest.mark.parametrize("hook", ["output", "input"])
def test_the_papers_selections_have_its_dimensions(
    name: str, dim: int, hook: str, tmp_path: Path
) -> None:
    by_input = {"paper_v0": 14336, "paper_v1": 18432, "paper_v3": 17664}
    config = typed(
        tmp_path,
        "dataset.image_size=256",
        "backbone=guided_diffusion_256",
        "backbone.checkpoint=random",
        f"features={name}",
        f"features.hook={hook}",
    )
    assert planned_layout(config).dim == (dim if hook == "output" else by_input[name])


@pytest.mark.parametrize(("name", "dim"), [("swav", 6720), ("swav_w2", 13440), ("mae", 12288)])
@pytest.mark.parametrize("domain", ["", "_lsun_bedroom", "_ffhq", "_lsun_cat", "_lsun_horse"])
def test_the_papers_encoders_have_its_dimensions(
    name: str, dim: int, domain: str, tmp_path: Path
) -> None:
    given = ("dataset.image_size=256", f"backbone={name}{domain}", "backbone.checkpoint=random")
    assert planned_layout(typed(tmp_path, *given)).dim == dim


@pytest.mark.parametrize(
    ("name", "dim"),
    [("gan_encoder", 5824), ("gan_inversion", 5376), ("gan_inversion_ffhq", 5568)],
)
def test_the_papers_gans_have_the_dimensions_of_their_layers(
    name: str, dim: int, tmp_path: Path
) -> None:
    given = ("dataset.image_size=256", f"backbone={name}", "backbone.checkpoint=random")
    assert planned_layout(typed(tmp_path, *given)).dim == dim


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_composes(path: Path, tmp_path: Path) -> None:
    override = f"experiment={path.relative_to(CONF / 'experiment').with_suffix('')}"
    if path in SWEEPS:
        checked_sweep(composed(tmp_path, override, root="sweep"))
    else:
        typed(tmp_path, override)


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_grid_fits_the_bundled_backbone(path: Path, tmp_path: Path) -> None:
    config = checked_sweep(composed(tmp_path, f"grid={path.stem}", root="sweep"))
    assert config.sweep.blocks == list(range(12))
    assert len(config.sweep.timesteps or []) > 4


def test_sweep_yaml_has_the_defaults_of_the_schema(tmp_path: Path) -> None:
    config = checked_sweep(composed(tmp_path, "sweep.blocks=null", root="sweep"))
    assert config.sweep.head == schemas.HeadConfig(members=1)
    assert config.sweep.clusters == schemas.ClustersConfig()
    assert config.trainer == schemas.TrainerConfig()
    assert (config.seed, config.sweep.seeds) == (0, [0])


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_says_how_to_run_it(path: Path) -> None:
    name = path.relative_to(CONF / "experiment").with_suffix("")
    command = rf"(make \w+|python \w+\.py .*experiment={name}\b)"
    assert re.search(rf"^# Run: +{command}", path.read_text(), re.M)


# Loggers add up, as [csv,wandb]: their one schema is that of the root, or the last would reset all.
@pytest.mark.parametrize("group", sorted(set(GROUPS) - {"dataset", "backbone", "logger"}))
def test_an_option_named_schema_exists_for_every_group(group: str, tmp_path: Path) -> None:
    """Without it in the defaults list, a typo in that group would go unnoticed."""
    for path in (CONF / group).rglob("*.yaml"):
        assert "schema" in str(OmegaConf.load(path).defaults)


def test_defaults_of_train_yaml_are_those_of_the_schema(tmp_path: Path) -> None:
    config = typed(tmp_path)
    assert (config.task, config.seed) == ("segment", 0)
    assert config.trainer == schemas.TrainerConfig()
    assert config.pretrain == schemas.PretrainConfig()
    assert config.head == schemas.HeadConfig()


SOURCE = "\n".join(
    path.read_text()
    for path in sorted((ROOT / "src" / "ddpmseg").rglob("*.py"))
    if path.name != "config.py"
)
SETTINGS = [
    (group, f.name)
    for group, cls in GROUPS.items()
    if group not in ("dataset", "backbone")
    for f in fields(cls)
]
SETTINGS += [("sweep", f.name) for f in fields(schemas.SweepSettings)]
SETTINGS += [("part", name) for name in schemas.TRANSFER]
SETTINGS += [("clusters", f.name) for f in fields(schemas.ClustersConfig)]
BUILT = [
    (cls, f.name)
    for cls in (
        schemas.FolderDatasetConfig,
        schemas.PoniesConfig,
        *backbone_schemas().values(),
    )
    for f in fields(cls)
    if f.name not in ("_target_", *schemas.TRANSFER)
]


@pytest.mark.parametrize(("group", "name"), SETTINGS, ids=lambda v: v)
def test_every_setting_is_read(group: str, name: str) -> None:
    """As an attribute of what the code calls by the group's name, `settings` or `config`."""
    assert re.search(rf"\b(?:{group}|settings|config)\.{name}\b", SOURCE)


@pytest.mark.parametrize(("cls", "name"), BUILT, ids=lambda v: getattr(v, "__name__", v))
def test_every_field_of_a_target_is_an_argument_it_uses(cls: type, name: str) -> None:
    module, _, target = cls._target_.rpartition(".")  # pyright: ignore[reportAttributeAccessIssue]
    path = ROOT / "src" / Path(*module.split(".")).with_suffix(".py")
    body = path.read_text().split(f"class {target}", 1)[1].split("\nclass ", 1)[0]
    constructor = body.split("def __init__", 1)[1].split("\n    def ", 1)[0]
    assert len(re.findall(rf"(?<!\.)\b{name}\b", constructor)) >= 2


def test_every_flag_of_the_network_reaches_the_package() -> None:
    from guided_diffusion.script_util import model_and_diffusion_defaults

    flags = {f.name for f in fields(UNetFlags)}
    assert flags <= set(model_and_diffusion_defaults())


def test_the_default_output_folder_is_named_by_what_is_computed() -> None:
    schemas.register()

    def folder(*overrides: str) -> str:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", list(overrides)).paths.output_dir

    same = folder("backbone=random")
    for how in (
        "trainer.log_every_n_steps=7",
        "backbone.compile=true",
        "backbone.download=true",
        "backbone.url=http://mirror/x.pt",
        "backbone.sha256=ab",
        "features.cache_gb=1",
    ):
        assert folder("backbone=random", how) == same
    assert same.startswith("outputs/segment/ponies_random_")
    for other in ("seed=1", "features.timesteps=[50]", "head.members=2", "dataset.seed=1"):
        assert folder("backbone=random", other) != same

"""Every file of `conf/` composes and fits its schema, and builds what is there."""

import inspect
import json
import re
from collections import Counter
from dataclasses import fields, is_dataclass
from itertools import zip_longest
from pathlib import Path
from typing import get_type_hints

import pytest
from hydra.errors import HydraException
from hydra.utils import get_class
from omegaconf import OmegaConf
from tiny_run import CONF, ROOT, composed, layout_of, resolved_sweep

from ddpmseg import config as schemas
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags
from ddpmseg.backbones.registry import BACKBONES
from ddpmseg.backbones.settings import DEFAULT_FEATURES
from ddpmseg.config import TrainConfig, run_key, run_request, sweep_key
from ddpmseg.config.store import DOMAINS
from ddpmseg.data.registry import DATASETS
from ddpmseg.records.published import load_published
from ddpmseg.settings import PartConfig

GROUPS = {
    name: hint
    for name, hint in get_type_hints(TrainConfig).items()
    if isinstance(hint, type) and is_dataclass(hint)
}
OPTIONS = sorted(path for group in GROUPS for path in (CONF / group).glob("*.yaml"))
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


ENDS = ("", *{f"_{domain}" for domain in DOMAINS.values()})
DIMENSIONS = {
    **{f"swav{end}": 6720 for end in ENDS},
    **{f"swav_w2{end}": 13440 for end in ENDS},
    **{f"mae{end}": 12288 for end in ENDS},
    "gan_encoder": 5824,
    "gan_inversion": 5376,
    "gan_inversion_ffhq": 5568,
}
"""Of the paper's encoders and GANs on images of 256 pixels."""


def option(path: Path) -> str:
    return f"{path.parent.name}={path.stem}"


def typed(tmp_path: Path, *overrides: str) -> TrainConfig:
    config = OmegaConf.to_object(composed(tmp_path, *overrides))
    assert isinstance(config, TrainConfig)
    return config


def test_the_files_are_found() -> None:
    assert Counter(path.parent.name for path in OPTIONS) == {
        "backbone": 43, "dataset": 8, "features": 4, "logger": 4, "head": 2,
        "multirun": 1, "paths": 1, "pretrain": 1, "segmenter": 1, "trainer": 1,
    }  # fmt: skip
    assert (len(EXPERIMENTS), len(SWEEPS), len(GRIDS)) == (18, 1, 2)


def test_every_backbone_fits_its_schema_and_has_the_blocks_that_it_reads_by_default(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    names = {path.stem for path in OPTIONS if path.parent.name == "backbone"}
    assert names >= DIMENSIONS.keys()
    for name in sorted(names):
        choice = f"backbone={name}"
        given = MUST_BE_GIVEN.get(choice, ())
        with subtests.test(choice):
            size = ("dataset.image_size=256",) if name in DIMENSIONS else ()
            config = typed(tmp_path, choice, *given, *size)
            assert isinstance(config.backbone, schemas.BackboneConfig)
            chosen, defaults = config.features, config.backbone.default_features
            assert (chosen.blocks, chosen.timesteps) == (defaults.blocks, defaults.timesteps)
            assert (chosen.hook, chosen.batch_size) == (defaults.hook, defaults.batch_size)
            layout = layout_of(config)
            assert layout.dim == DIMENSIONS.get(name, layout.dim)


def test_a_choice_of_features_goes_before_the_backbones_own(tmp_path: Path) -> None:
    given = ("backbone=swav", "backbone.checkpoint=random")
    assert typed(tmp_path, *given, "features.blocks=[1]").features == schemas.FeaturesConfig(
        [1], [0], "input", batch_size=8
    )
    assert typed(tmp_path, *given, "features=paper_v3").features == schemas.FeaturesConfig(
        [5, 6, 7, 8, 12], [50, 150, 250], batch_size=3
    )
    assert typed(tmp_path, *given, "backbone.default_features.blocks=[2]").features.blocks == [2]


def test_every_other_option_fits_its_schema(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Composed with one option of every other group at a time."""
    groups = {group: [o for o in OPTIONS if o.parent.name == group] for group in GROUPS}
    del groups["backbone"]
    for chosen in zip_longest(*groups.values()):
        options = [option(path) for path in chosen if path]
        with subtests.test(" ".join(options)):
            given = [value for name in options for value in MUST_BE_GIVEN.get(name, ())]
            config = typed(tmp_path, *options, *given)
            for group in groups:
                assert isinstance(getattr(config, group), GROUPS[group])


@pytest.mark.parametrize(
    ("name", "dim", "dim_of_inputs"),
    [("paper_v0", 6144, 14336), ("paper_v1", 8192, 18432), ("paper_v3", 8448, 17664)],
)
def test_the_papers_selections_have_its_dimensions(
    name: str, dim: int, dim_of_inputs: int, tmp_path: Path
) -> None:
    given = (
        "dataset.image_size=256",
        "backbone=guided_diffusion_256",
        "backbone.checkpoint=random",
        f"features={name}",
    )
    for hook, expected in (("output", dim), ("input", dim_of_inputs)):
        config = typed(tmp_path, *given, f"features.hook={hook}")
        assert layout_of(config).dim == expected


def test_every_experiment_composes_and_says_how_to_run_it(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for path in EXPERIMENTS:
        name = str(path.relative_to(CONF / "experiment").with_suffix(""))
        with subtests.test(name):
            command = rf"(make \w+|ddpmseg train experiment={name}\b(?: (dataset=\w+))?)"
            found = re.search(rf"^# Run: +{command}", path.read_text(), re.M)
            assert found
            if path in SWEEPS:
                resolved_sweep(composed(tmp_path, f"experiment={name}", root="sweep"))
            else:
                dataset = [found[2]] if found[2] else []
                typed(tmp_path, f"experiment={name}", *dataset)


KEYS = json.loads((ROOT / "tests" / "golden" / "run_keys.json").read_text())


def test_runs_of_the_paper_keep_their_keys(subtests: pytest.Subtests) -> None:
    """As of version 0.2, so that a repeated command finds its folder again."""
    for name, by_dataset in KEYS["experiments"].items():
        for dataset, key in by_dataset.items():
            with subtests.test(f"{name} {dataset}"):
                config = composed(None, f"experiment={name}", f"dataset={dataset}")
                assert run_key(config) == key
                assert config.paths.output_dir.endswith(key)


def test_runs_and_sweeps_of_every_backbone_keep_their_keys(subtests: pytest.Subtests) -> None:
    for kind, root, key_of in (("backbones", "train", run_key), ("sweeps", "sweep", sweep_key)):
        for name, key in KEYS[kind].items():
            choice = f"backbone={name}"
            with subtests.test(f"{root} {choice}"):
                given = MUST_BE_GIVEN.get(choice, ())
                assert key_of(composed(None, choice, *given, root=root)) == key


def test_every_published_number_belongs_to_an_experiment(subtests: pytest.Subtests) -> None:
    published = load_published()
    assert set(published.datasets) == set(DOMAINS)
    for method in published.methods:
        if method.experiment:
            assert method.published.keys() == KEYS["experiments"][method.experiment].keys()
            for dataset, score in method.published.items():
                with subtests.test(f"{method.name} {dataset}"):
                    chosen = (f"experiment={method.experiment}", f"dataset={dataset}")
                    found = published.score_of(run_request(composed(None, *chosen)))
                    assert found == (method.name, score)


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_grid_fits_the_bundled_backbone(path: Path, tmp_path: Path) -> None:
    grid = resolved_sweep(composed(tmp_path, f"grid={path.stem}", root="sweep")).grid
    assert grid.blocks == tuple(range(12))
    assert len(grid.timesteps) > 4


def test_sweep_yaml_has_the_defaults_of_the_schema(tmp_path: Path) -> None:
    config = resolved_sweep(composed(tmp_path, "sweep.blocks=null", root="sweep")).config
    assert config.sweep.head == schemas.MlpConfig(members=1)
    assert config.sweep.clusters == schemas.ClustersConfig()
    assert config.trainer == schemas.TrainerConfig()
    assert (config.seed, config.sweep.seeds) == (0, [0])


def test_a_typo_in_a_file_is_noticed(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """A file of a group fits nothing but the group's schema."""
    for path in OPTIONS:
        group = path.parent.name
        if group == "logger" or "schema" not in path.read_text():
            continue  # loggers add up under one schema; others go on from a file of their group
        with subtests.test(option(path)):
            wrong = tmp_path / group / f"wrong_{path.name}"
            wrong.parent.mkdir(exist_ok=True)
            wrong.write_text(f"{path.read_text()}\nno_such_setting: 1\n")
            search = f"hydra.searchpath=[file://{tmp_path}]"
            with pytest.raises(HydraException, match="no_such_setting"):
                composed(tmp_path, f"{group}={wrong.stem}", search)


def test_defaults_of_train_yaml_are_those_of_the_schema(tmp_path: Path) -> None:
    config = typed(tmp_path)
    assert (config.task, config.seed) == ("segment", 0)
    assert config.trainer == schemas.TrainerConfig()
    assert config.pretrain == schemas.PretrainConfig()
    assert config.head == schemas.MlpConfig()


def test_every_field_of_a_target_is_an_argument_of_it(subtests: pytest.Subtests) -> None:
    """All but those that say where a file comes from, which are for the programs."""
    schemas_of_parts = (*DATASETS.schemas().values(), *BACKBONES.schemas().values())
    for schema in schemas_of_parts:
        if schema.construct is not PartConfig.construct:
            continue  # it records what a Python program has built
        with subtests.test(schema.__name__):
            others = {"_target_", DEFAULT_FEATURES, *schemas.TRANSFER}
            given = {f.name for f in fields(schema)} - others
            assert given <= inspect.signature(get_class(schema._target_)).parameters.keys()


def test_every_flag_of_the_network_reaches_the_package() -> None:
    from guided_diffusion.script_util import model_and_diffusion_defaults

    flags = {f.name for f in fields(UNetFlags)}
    assert flags <= set(model_and_diffusion_defaults())


def test_the_default_output_folder_is_named_by_what_is_computed() -> None:
    def folder(*overrides: str) -> str:
        return composed(None, *overrides).paths.output_dir

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

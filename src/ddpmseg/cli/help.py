"""The help of `train` and `sweep`: what they do, examples, and every group with its choices."""

import textwrap
from pathlib import Path

from ddpmseg.config.groups import groups_of
from ddpmseg.records.published import published_lines

TRAIN = r"""
ddpmseg train [group=choice] [group.key=value] ...

Reads pixel features out of a frozen diffusion model at chosen decoder blocks and timesteps, trains
a small head on a few labelled images, segments the test images and reports mIoU.

Examples
  ddpmseg train                                              # the bundled model on ponies
  ddpmseg train features.blocks='[6]' features.timesteps='[50]' head.members=1
  ddpmseg train experiment=ddpm dataset=horse_21             # the paper's method and dataset
  ddpmseg train dataset=folder dataset.root=PATH dataset.classes=PATH/classes.yaml \
      backbone=guided_diffusion_64 backbone.checkpoint=PATH/model.pt
  ddpmseg train -m features.blocks='[3],[5],[6]' features.timesteps='[50],[250]' head.members=1 \
      hydra/launcher=joblib                                  # six jobs, two at a time

Before a run
  ddpmseg train ... --cfg job --resolve       every setting with its value; runs nothing
  ddpmseg estimate ...                        memory, forward passes, time
  ddpmseg train -m ... multirun.dry_run=true  the jobs of a multirun and their states
"""
PAPER = """
The paper's methods and datasets (experiment=NAME dataset=NAME), with the published mIoU in percent
"""
SWEEP = r"""
ddpmseg sweep [group=choice] [group.key=value] ...

Trains a probe at every (decoder block, timestep) of a frozen diffusion model and reports what it
knows where: curves, heatmaps, small against large classes, clusters, in one report.html. The same
command goes on where it was stopped; another grid adds cells to the same folder.

Examples
  ddpmseg sweep                                              # 12 blocks x 21 timesteps on ponies
  ddpmseg sweep grid=quick sweep.seeds='[0,1,2]'             # 8 timesteps, error bars
  ddpmseg sweep sweep.blocks='[4,5,6,7]' sweep.timesteps='[0,25,50]'
  ddpmseg sweep dataset=celeba_19 backbone=ddpm_ffhq grid=quick
  ddpmseg sweep -m sweep.timesteps='[50],[150],[250]' hydra/launcher=submitit_slurm

Before a run
  ddpmseg sweep ... --cfg job --resolve   every setting with its value; runs nothing
  ddpmseg sweep ... sweep.dry_run=true    the cells and which are done
After it
  ddpmseg report FOLDER                   the report drawn anew
  ddpmseg select FOLDER                   which blocks and timesteps to read together
"""
END = """
Completion of commands, groups, choices and keys with TAB (bash, zsh, fish)
  eval "$(ddpmseg train -sc install=bash)"
Files in a folder conf/ of the working directory, such as conf/dataset/NAME.yaml, add choices.
Every setting is explained in docs/, every command by its --help. Hydra's own flags: --hydra-help
"""


def program_help(program: str, config_dir: Path | None = None) -> str:
    """The help of 'train' or 'sweep'."""
    text = {"train": TRAIN, "sweep": SWEEP}[program].strip()
    parts = [text, _groups(program, config_dir), END.strip()]
    if program == "train":
        parts.insert(1, "\n  ".join([PAPER.strip(), *published_lines()]))
    return "\n\n".join(parts)


def _groups(program: str, config_dir: Path | None) -> str:
    """A paragraph for each group that leaves a choice."""
    lines = ["Groups and their choices (group=choice)"]
    with groups_of(program, config_dir) as groups:
        for group in groups.names:
            names = groups.choices(group)
            if names != ["default"]:
                text = f"{group}: {', '.join(names)}"
                lines += textwrap.wrap(
                    text, 100, initial_indent="  ", subsequent_indent="      ",
                    break_long_words=False, break_on_hyphens=False,
                )  # fmt: skip
    return "\n".join(lines)

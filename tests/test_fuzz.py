"""Drawn command lines: none ends in a traceback, none hangs; `benchmarks.fuzz` tries more."""

from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.command_lines import command_line
from benchmarks.fuzz import copied, run_command


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of wandb-workspaces
@settings(
    max_examples=40,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.randoms(use_true_random=True))
def test_no_command_line_ends_in_a_traceback(finished_work: Path, draw: Random) -> None:
    words = command_line(draw)
    with copied(finished_work) as folder:
        outcome = run_command(words, folder)
    assert outcome.is_sound, f"{words!r}\n{outcome.status}: {outcome.text}"

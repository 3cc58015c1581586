"""What a command that waits for jobs of SLURM can see of them."""

import logging
import subprocess

log = logging.getLogger(__name__)
ACCOUNTS = ("sacct", "--noheader", "--allocations", "--jobs=1")
"""Asks for any job: it fails where SLURM keeps no accounts, not where there is no such job."""


def prepare_slurm() -> None:
    """Say once if SLURM keeps no accounts; submitit would repeat it at every look at the jobs.

    Without them it learns of a job that was cancelled from nothing, and waits for it.
    """
    import submitit  # which sets up its log when it is imported

    logging.getLogger(submitit.__name__).setLevel(logging.ERROR)
    try:
        asked = subprocess.run(ACCOUNTS, capture_output=True, text=True, check=False)
        answer = asked.stderr.strip() if asked.returncode else ""
    except OSError as error:
        answer = str(error)
    if answer:
        log.warning(
            "this cluster keeps no accounts (%s), so that this command cannot see if a job is "
            "cancelled, and waits. Look with squeue; end the command with Ctrl-C and repeat it: "
            "what is not finished is submitted again.",
            answer.splitlines()[-1],
        )

"""How the jobs of a multirun (`-m`) are run; none of it decides a result."""

from dataclasses import dataclass

RESUMES = ("skip", "rerun", "only_failed")


@dataclass
class MultirunConfig:
    """What becomes of the jobs of `-m`; a single run takes no notice of it."""

    resume: str = "skip"
    """'skip': leave out jobs that are finished; 'rerun': compute all anew, replacing results;
    'only_failed': of the jobs begun earlier by the same command, only those that failed or were
    cut off."""
    fail_fast: bool = False
    """Begin no further job once one has failed. Those that run by then go on to their end."""
    dry_run: bool = False
    """List the jobs and what is known of each; start none and write nothing."""
    share_gb: float = 5.0
    """Jobs of `train` share forward passes: native maps are kept in the multirun's folder until
    no job has failed, at most this many GB (10^9 bytes). 0, or `features.cache_gb` above 0, which
    has a folder that stays: none are kept here."""

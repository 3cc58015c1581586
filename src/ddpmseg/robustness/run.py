"""Finished heads on corrupted versions of their test images (paper, figure 6)."""

import copy
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl

from ddpmseg.data.corruptions import Corruption, choose, libraries
from ddpmseg.data.datamodule import LabelledImages
from ddpmseg.data.labelled import LabelledSplit
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.heads.base import Head
from ddpmseg.metrics import functional
from ddpmseg.records.cell_grid import METRICS
from ddpmseg.records.folder_kind import RESULTS
from ddpmseg.records.runs import METHOD
from ddpmseg.robustness.plan import Plan, Request, open_runs
from ddpmseg.robustness.report import write_report
from ddpmseg.robustness.scores import Robustness
from ddpmseg.robustness.store import Outcome
from ddpmseg.runtime.device import TEST_PRECISION, choose_device, trainer_arguments
from ddpmseg.runtime.progress import Progress, duration
from ddpmseg.training.head import HeadTesting

log = logging.getLogger(__name__)


def robustness(
    runs: Sequence[Path],
    types: Sequence[str],
    severities: Sequence[int],
    output: Path,
    images: int | None = None,
    seed: int = 0,
    cache_dir: Path | None = None,
    accelerator: str = "auto",
) -> list[Robustness]:
    """Test the heads of finished runs on clean and on corrupted images; write what came of it.

    types: names of types or of families. images: the first of the test images only. seed: draws
    what the corruptions draw. cache_dir: as `paths.cache_dir`, with the same default. Tests that
    are recorded below `output` are not repeated, whichever command made them.

    Raises UserError for a run that is unfinished, no segmentation, or lacks its images or weights,
    before anything is computed; for a type or severity that does not exist, or needs larger images;
    where the extra is missing, and where a folder cannot be written to.
    """
    corruptions = tuple(choose(types, severities))
    libraries()  # the extra is there
    request = Request(corruptions, output, images, seed, cache_dir, accelerator)
    plans = open_runs(runs, request)
    log.info(
        "%d run%s, each on its clean test images and on %d corrupted versions of them",
        *(len(plans), "s" * (len(plans) > 1), len(corruptions)),
    )
    tested = [_tested(plan, corruptions) for plan in plans]
    write_report(output, tested, plans[0].versions, corruptions)
    return tested


def _tested(plan: Plan, corruptions: Sequence[Corruption]) -> Robustness:
    """Scores on all versions, of which those that are not recorded are computed."""
    with plan.store.hold():
        found = {one: plan.store.read(one) for one in (None, *corruptions)}
        missing = [one for one, outcome in found.items() if outcome is None]
        log.info(
            "'%s': %s on %d test images, %d of %d tests are done",
            *(plan.folder, plan.run.text(METHOD), plan.num_test),
            *(len(found) - len(missing), len(found)),
        )
        if missing:
            found |= _compute(plan, missing, found[None])
    scores = {one: _scores(outcome, plan) for one, outcome in found.items() if outcome}
    return Robustness(plan.run, plan.num_test, scores.pop(None), scores)  # pyright: ignore


def _compute(
    plan: Plan, missing: Sequence[Corruption | None], clean: Outcome | None
) -> dict[Corruption | None, Outcome]:
    """Test the head on these versions, the clean images first; each is recorded at once."""
    extractor = plan.opened.extractor(choose_device(plan.opened.config.trainer.accelerator))
    head = plan.opened.head
    found: dict[Corruption | None, Outcome] = {}
    if clean is None:
        found[None] = clean = _test(plan, head, extractor, plan.dataset.test)
        plan.store.write(None, clean)
        _compare(plan, clean)
    left = [one for one in missing if one is not None]
    if not left:
        return found
    lasts = max(clean.seconds, 1e-3)
    log.info(
        "%d tests to go, about %s on %s (%.1f s each)",
        *(len(left), duration(lasts * len(left)), extractor.backbone.device, lasts),
    )
    progress = Progress([{"test": lasts}] * len(left))
    try:
        for one in left:
            split = plan.versions.version(one)
            found[one] = _test(plan, head, extractor, split)
            plan.store.write(one, found[one])
            progress.finish(f"{one}: miou {_scores(found[one], plan)['miou']:.4f}")
    finally:
        progress.close()
    return found


def _test(plan: Plan, head: Head, extractor: FeatureExtractor, split: LabelledSplit) -> Outcome:
    """As `ddpmseg train` tests: the clean images give the score of the run."""
    started = time.perf_counter()
    dataset = copy.copy(plan.dataset)
    dataset.test = split
    vote = plan.opened.config.head.vote
    testing = HeadTesting(head, extractor, plan.ignore_label, vote)  # pyright: ignore
    arguments = trainer_arguments(plan.opened.config.trainer, TEST_PRECISION, plan.folder)
    arguments["enable_progress_bar"] = False
    trainer = pl.Trainer(**arguments)
    trainer.test(testing, LabelledImages(dataset, extractor.images_per_pass), verbose=False)
    assert testing.scores is not None
    return Outcome(testing.scores.confusion.cpu(), time.perf_counter() - started)


def _compare(plan: Plan, clean: Outcome) -> None:
    """Tell where the clean images no longer give the score that the run recorded."""
    found, recorded = _scores(clean, plan)["miou"], plan.run.scores["miou"]
    same = plan.opened.results.get("num_test") == str(plan.num_test)
    if same and abs(found - recorded) > 0.005:
        log.warning(
            "the clean test images of '%s' give miou %.4f, its %s says %.4f: images or machine "
            "are not those of the run",
            *(plan.folder, found, RESULTS, recorded),
        )


def _scores(outcome: Outcome, plan: Plan) -> dict[str, float]:
    """By the names of `METRICS`, as fractions."""
    counts, ignore_label = outcome.counts, plan.ignore_label
    values = (
        functional.miou(counts, ignore_label),
        functional.miou_present(counts, ignore_label),
        functional.pixel_accuracy(counts),
    )
    return dict(zip(METRICS, map(float, values), strict=True))

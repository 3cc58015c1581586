"""What the numbers of a study say, in sentences; each is computed, none is assumed.

All values are means over the seeds a cell has, as percent of the paper's mIoU; +/- is the sample
standard deviation over those seeds. Missing cells are passed over.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from ddpmseg.records.cell_grid import CellGrid, best_cell, half_crossing, seed_mean, seed_spread
from ddpmseg.report.preferences import SEGMENTED, Preferences, class_preferences
from ddpmseg.report.study import Study

BAND = 0.9
"""Share of the best value that a block must reach to count as near it."""
SIGNIFICANT = 0.05
UNKNOWN_SPREAD = 0.01
"""What two scores must differ by where a single seed leaves their spread unknown."""
AGREES, DISAGREES = "agrees with the paper", "does not agree with the paper"


def findings(study: Study) -> list[str]:
    """Sentences about the best cells, the effect of block and t, class sizes and the controls.

    One that the grid is too small for is left out.
    """
    sentences = [
        _best_cell(study.grid),
        _best_blocks(study.grid),
        _half_of_maximum(study.grid),
        _largest_timestep(study),
        _groups(study),
        *_correlations(study),
        _controls(study),
        _missing(study.grid),
    ]
    return [sentence for sentence in sentences if sentence]


def _best_cell(grid: CellGrid) -> str:
    miou = grid.metric("miou")
    best = _best(grid, miou)
    what = "block" if grid.numbering.timeless else "cell"
    place = grid.numbering.cell(best.block, best.timestep, " at ")
    sentence = f"Best {what}: {place} with {_percent(best.mean)} mIoU"
    if best.seeds < 2:
        return f"{sentence} (one seed)."
    sentence += f" (± {100 * best.spread:.1f} over {best.seeds} seeds)."
    others = int((seed_mean(miou) >= best.mean - best.spread).sum()) - 1
    if not others:
        return sentence
    more = _count(others, f"other {what} lies", f"other {what}s lie")
    return f"{sentence} {more} within that spread."


def _best_blocks(grid: CellGrid) -> str:
    if len(grid.blocks) < 2:
        return ""
    values = np.nanmax(seed_mean(grid.metric("miou")), axis=1)
    # A hair less, so that 45 % is a tenth below 50 % whatever rounding makes of it.
    near = values >= BAND * values.max() - 1e-12
    timeless, name_of = grid.numbering.timeless, grid.numbering.block
    at_best, at_any = ("", "") if timeless else (" at their best t", " at any t")
    if near.all():
        lowest = values.argmin()
        return (
            f"All {len(values)} blocks come within a tenth of it{at_best}; the lowest is "
            f"{name_of(grid.blocks[lowest])} with {_percent(values[lowest])}."
        )
    rest = np.where(near, -np.inf, values).argmax()
    following = f"{name_of(grid.blocks[rest])} with {_percent(values[rest])}"
    if near.sum() == 1:
        return f"No other block comes within a tenth of it{at_any}; the next is {following}."
    blocks = _listed([block for block, is_near in zip(grid.blocks, near, strict=True) if is_near])
    return (
        f"Blocks {blocks} come within a tenth of it{at_best}; the best of the others is "
        f"{following}."
    )


def _half_of_maximum(grid: CellGrid) -> str:
    """Where the best block's curve first falls to half of its maximum."""
    mean = seed_mean(grid.metric("miou"))[grid.blocks.index(_best(grid).block)]
    there = ~np.isnan(mean)
    timesteps, curve = np.array(grid.timesteps)[there], mean[there]
    if len(curve) < 2:
        return ""
    start = f"The curve of block {_best(grid).block}"
    peak, last = int(curve.argmax()), timesteps[-1]
    if peak == len(curve) - 1:
        return f"{start} has its maximum at t = {last}, its largest t."
    crossing, right = half_crossing(timesteps.astype(float), curve)
    if right < 0:
        return f"{start} stays above half of its maximum up to t = {last} ({_percent(curve[-1])})."
    return (
        f"{start} falls to half of its maximum between t = {timesteps[right - 1]} and "
        f"{timesteps[right]} (about {crossing:.0f} by linear interpolation)."
    )


def _largest_timestep(study: Study) -> str:
    """How the largest t compares with the best cell, and with the controls at this t or at none."""
    grid = study.grid
    if len(grid.timesteps) < 2:
        return ""
    miou = grid.metric("miou")
    miou[:, :-1] = np.nan
    largest = _best(grid, miou)
    share = largest.mean / max(_best(grid).mean, 1e-12)
    sentence = (
        f"At t = {largest.timestep}, the largest of the grid, the best block ({largest.block}) has "
        f"{_percent(largest.mean)} mIoU, {_percent(share)} of the best cell's value"
    )
    controls = {
        study.control_label(name): _best(control)
        for name, control in study.controls.items()
        if control.numbering.timeless or control.timesteps == (largest.timestep,)
    }
    if not controls:
        return f"{sentence}."
    name = max(controls, key=lambda name: controls[name].mean)
    control = controls[name]
    verdict = _compared(largest, control)
    return f"{sentence}; that is {verdict} the control {name} ({_percent(control.mean)})."


def _groups(study: Study) -> str:
    """Best cells of the small and of the large classes, against what the paper says."""
    grid, groups = study.grid, study.groups
    if not groups.small or max(len(grid.blocks), len(grid.timesteps)) < 2:
        return ""
    small, large = (_best(grid, grid.group_iou(group)) for group in (groups.small, groups.large))
    sentence = (
        f"The mean IoU of small classes is highest at {small.where} ({_percent(small.mean)}), of "
        f"large ones at {large.where} ({_percent(large.mean)})"
    )
    if small.mean < SEGMENTED:
        return f"{sentence}; small classes are hardly segmented, so their place says little."
    readings = []
    if grid.numbering.timeless:
        # What the paper says of blocks is about the decoder of a diffusion model.
        later = {-1: "an earlier", 0: "the same", 1: "a later"}
        return f"{sentence}: small ones at {later[int(np.sign(small.block - large.block))]} block."
    if len(grid.blocks) > 1:
        readings.append(_reading(small.block - large.block, "shallower", "deeper", "block"))
    if len(grid.timesteps) > 1:
        readings.append(_reading(large.timestep - small.timestep, "smaller", "larger", "t"))
    return f"{sentence}: small ones at {' and '.join(readings)}."


def _reading(difference: int, expected: str, opposite: str, what: str) -> str:
    """`difference` is positive where small classes do as the paper says (section 3.1)."""
    if difference == 0:
        return f"the same {what}"
    if difference > 0:
        return f"a {expected} {what} ({AGREES})"
    return f"a {opposite} {what} ({DISAGREES})"


def _correlations(study: Study) -> list[str]:
    """Rank correlations of a class's area with its preferred block, its preferred t, its half."""
    found = class_preferences(study)
    if found is None:
        return []
    sentences = []
    if len(study.grid.blocks) > 1:
        readings = (f"shallower blocks, which {AGREES}", f"deeper blocks, which {DISAGREES}")
        if study.grid.numbering.timeless:
            readings = ("later blocks", "earlier blocks")
        value = found.rho_block, found.p_block
        sentences.append(_correlation("block", "block ", found.block, value, readings))
    if len(study.grid.timesteps) > 1:
        readings = (f"larger t, which {DISAGREES}", f"smaller t, which {AGREES}")
        value = found.rho_timestep, found.p_timestep
        sentences.append(_correlation("t", "t = ", found.timestep, value, readings))
        sentences += _half_correlation(found)
    if sentences and found.left_out:
        classes = _count(found.left_out, "class that stays", "classes that stay")
        sentences[-1] += f" Left out: {classes} below {_percent(SEGMENTED)} IoU in every cell."
    return sentences


def _correlation(
    what: str,
    prefix: str,
    preferred: tuple[int, ...],
    value: tuple[float, float],
    readings: tuple[str, str],
) -> str:
    """`readings`: what smaller classes prefer if the correlation is negative, if it is positive."""
    if len(set(preferred)) == 1:
        return f"All {len(preferred)} classes prefer {prefix}{preferred[0]}, whatever their area."
    rho, p = value
    if np.isnan(rho):
        return ""
    reading = f"smaller classes prefer {readings[int(rho > 0)]}"
    return (
        f"Over {len(preferred)} classes, area and preferred {what} have a rank correlation of "
        f"{rho:+.2f} (Spearman, {_p_value(p)}): {_significant(p, reading)}."
    )


def _half_correlation(found: Preferences) -> list[str]:
    """Whether large classes are known earlier in the reverse process: their curves fall later."""
    if np.isnan(found.rho_half):
        return []
    lasting = found.half.count(math.inf)
    beyond = ""
    if lasting:
        beyond = f"; {_count(lasting, 'class never falls', 'classes never fall')} so far"
    readings = (f"at smaller t, which {DISAGREES}", f"at larger t, which {AGREES}")
    reading = f"large classes are known {readings[int(found.rho_half > 0)]}"
    return [
        f"Area and the t at which a class's IoU falls to half of its best (in its preferred block"
        f"{beyond}) have a rank correlation of {found.rho_half:+.2f} "
        f"({_p_value(found.p_half)}): {_significant(found.p_half, reading)}."
    ]


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _significant(p: float, reading: str) -> str:
    return f"no clear relation (p > {SIGNIFICANT})" if p > SIGNIFICANT else reading


def _compared(cell: "_Best", control: "_Best") -> str:
    """'above', 'below' or 'level with' the control, whose difference must exceed the spreads."""
    spreads = [best.spread for best in (cell, control) if not np.isnan(best.spread)]
    margin = sum(spreads) if len(spreads) == 2 else max(UNKNOWN_SPREAD, *spreads, 0.0)
    if abs(cell.mean - control.mean) <= margin:
        return "level with"
    return "above" if cell.mean > control.mean else "below"


def _controls(study: Study) -> str:
    """The best cell of every control; of the untrained network beside the trained one at its t."""
    parts = []
    for name, grid in study.controls.items():
        best = _best(grid)
        single = len(grid.blocks) == len(grid.timesteps) == 1
        part = f"{name} reaches {_percent(best.mean)} mIoU"
        part = part if single else f"{part} ({best.where})"
        if not grid.numbering.timeless and best.timestep in study.grid.timesteps:
            miou = study.grid.metric("miou")
            column = study.grid.timesteps.index(best.timestep)
            miou = np.where(np.arange(miou.shape[1])[:, None] == column, miou, np.nan)
            if not np.isnan(miou).all():
                trained = _best(study.grid, miou)
                part += (
                    f", the trained network {_percent(trained.mean)} at this t (block "
                    f"{trained.block})"
                )
        parts.append(part)
    return f"The control {'; the control '.join(parts)}." if parts else ""


def _missing(grid: CellGrid) -> str:
    whole = len(grid.blocks) * len(grid.timesteps) * len(grid.seeds)
    missing = whole - len(grid.cells)
    verb = "is" if missing == 1 else "are"
    return f"{missing} of {whole} cells {verb} missing." if missing else ""


@dataclass(frozen=True)
class _Best:
    """The best (block, timestep) of a grid by the mean over its seeds."""

    block: int
    timestep: int
    mean: float
    spread: float
    seeds: int
    where: str


def _best(grid: CellGrid, values: Float64[np.ndarray, "b t s"] | None = None) -> _Best:
    """By `values`, else by mIoU."""
    values = grid.metric("miou") if values is None else values
    mean = seed_mean(values)
    row, column = best_cell(mean)
    return _Best(
        grid.blocks[row],
        grid.timesteps[column],
        float(mean[row, column]),
        float(seed_spread(values)[row, column]),
        int((~np.isnan(values[row, column])).sum()),
        grid.numbering.cell(grid.blocks[row], grid.timesteps[column]),
    )


def _listed(numbers: Sequence[int]) -> str:
    """'2, 4 to 6 and 9': ascending, runs of three or more shortened."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts: list[str] = []
    for run in runs:
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run)
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"

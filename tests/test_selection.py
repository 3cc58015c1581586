"""The search keeps to its budget and finds what an exhaustive one finds where that is easy."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddpmseg.sweeps.selection import Budget, Chosen, Search, channels, paper_rule

WIDTH = {0: 8, 1: 8, 2: 4, 3: 4, 4: 2}
TIMESTEPS = (0, 50, 100, 200)


def additive(gain: dict[int, float], worth: dict[int, float]):
    """Every block and timestep adds its own; greedy steps are then the right ones."""

    def score(chosen: Chosen) -> float:
        return sum(gain[block] for block in chosen[0]) + sum(worth[t] for t in chosen[1])

    return score


def everything(budget: Budget) -> list[Chosen]:
    """All sets that the budget allows."""
    return [
        (blocks, timesteps)
        for size in range(1, len(WIDTH) + 1)
        for blocks in combinations(sorted(WIDTH), size)
        for passes in range(1, len(TIMESTEPS) + 1)
        for timesteps in combinations(TIMESTEPS, passes)
        if budget.allows((blocks, timesteps), WIDTH)
    ]


START = ((0, 1, 2), (50, 100))


@given(
    st.integers(1, 4),
    st.integers(2, 40),
    st.lists(st.floats(-1, 1), min_size=9, max_size=9),
)
def test_never_over_the_budget_and_never_worse_than_a_start_within_it(
    passes: int, most: int, values: list[float]
) -> None:
    budget = Budget(passes, most)
    score = additive(
        dict(zip(WIDTH, values, strict=False)), dict(zip(TIMESTEPS, values[5:], strict=True))
    )
    search = Search(score, WIDTH, budget)
    chosen = search.run(START, TIMESTEPS)
    assert budget.allows(chosen, WIDTH)
    assert chosen[0] == tuple(sorted(set(chosen[0])))
    assert chosen[1] == tuple(sorted(set(chosen[1])))
    assert search.scores[chosen] == max(search.scores.values())
    if budget.allows(START, WIDTH):
        assert score(chosen) >= score(START)
    assert set(search.scores) <= set(everything(budget))


def test_finds_the_best_set_of_an_additive_score() -> None:
    score = additive(
        {0: -0.1, 1: 0.3, 2: 0.2, 3: -0.2, 4: 0.1}, {0: 0.4, 50: 0.1, 100: -0.3, 200: 0.2}
    )
    budget = Budget(3, 100)
    best = max(everything(budget), key=score)
    assert Search(score, WIDTH, budget).run(START, TIMESTEPS) == best
    assert best == ((1, 2, 4), (0, 50, 200))


def test_exchanges_a_timestep_that_greed_took_first() -> None:
    """Alone t = 0 is best, but 50 and 200 together are better than any pair with it."""
    pairs = {(0,): 3.0, (50,): 2.0, (200,): 1.0, (50, 200): 9.0, (0, 50): 4.0, (0, 200): 3.5}
    search = Search(lambda chosen: pairs.get(chosen[1], 0.0), {0: 1}, Budget(2, 10))
    assert search.run(((0,), (0,)), TIMESTEPS) == ((0,), (50, 200))


def test_of_equal_sets_the_cheaper_is_kept() -> None:
    search = Search(lambda chosen: 1.0, WIDTH, Budget(3, 100))
    assert search.run(START, TIMESTEPS) == ((4,), (0,))


def test_every_set_is_scored_once() -> None:
    asked: list[Chosen] = []

    def score(chosen: Chosen) -> float:
        asked.append(chosen)
        return float(hash(chosen) % 97)

    Search(score, WIDTH, Budget(3, 40)).run(START, TIMESTEPS)
    assert len(asked) == len(set(asked))


def test_a_budget_for_no_cell_is_refused() -> None:
    for budget in (Budget(3, 1), Budget(0, 100)):
        with pytest.raises(ValueError, match="allows no cell"):
            Search(lambda chosen: 1.0, WIDTH, budget).run(START, TIMESTEPS)


def test_channels_count_every_timestep() -> None:
    assert channels(((0, 2), (0, 50, 100)), WIDTH) == 3 * (8 + 4)


@pytest.mark.parametrize(
    ("num_blocks", "expected"), [(18, (5, 6, 7, 8, 12)), (12, (3, 4, 5, 6, 8))]
)
def test_the_papers_rule(num_blocks: int, expected: tuple[int, ...]) -> None:
    grid = range(0, 1000, 50)
    assert paper_rule(num_blocks, range(num_blocks), list(grid)) == (expected, (50, 150, 250))


def test_the_papers_rule_among_a_few_cells() -> None:
    assert paper_rule(18, [4, 6, 12], [0, 100, 300]) == ((4, 6, 12), (0, 100, 300))
    assert paper_rule(4, [0, 1, 2, 3], [5]) == ((1, 2, 3), (5,))

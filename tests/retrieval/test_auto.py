"""Which index is chosen, by indexes that take as long as they say."""

import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.retrieval.auto import Measured, choose_index
from ragjax.types import TopK

QUERIES = np.eye(4, 3, dtype=np.float32)
K = 2


class Clock:
    """Seconds that pass only while something is searched."""

    def __init__(self):
        self.now, self.searched = 0.0, []

    def __call__(self):
        return self.now

    def index(self, name, ids, *seconds):
        """An index that gives these rows to every query, in so many seconds: of each search in turn."""
        return Fake(self, name, np.asarray(ids, np.int32), list(seconds))


class Fake:
    def __init__(self, clock, name, ids, seconds):
        self.clock, self.name, self.ids, self.seconds = clock, name, ids, seconds
        self.count = 0

    def search(self, queries, k):
        self.clock.searched.append(self.name)
        self.clock.now += self.seconds[min(self.count, len(self.seconds) - 1)]
        self.count += 1
        ids = np.broadcast_to(self.ids, (len(queries), k))
        return TopK(ids, np.zeros(ids.shape, np.float32), ids >= 0)


@pytest.fixture
def clock():
    return Clock()


def chosen(clock, candidates, exact, **options):
    given = {"target": 0.5, "repetitions": 3, "clock": clock}
    return choose_index(candidates, exact, QUERIES, K, **(given | options))


def test_the_fastest_that_is_good_enough(clock):
    candidates = {
        "poor": clock.index("poor", [7, 8], 0.125),  # fastest, and finds nothing of it
        "half": clock.index("half", [1, 9], 0.5),
        "same": clock.index("same", [1, 0], 1.0),  # in another order
    }
    exact = clock.index("exact", [0, 1], 2.0)
    found = chosen(clock, candidates, exact)
    assert found.name == "half"
    assert found.table == (
        Measured("exact", 1.0, 2.0),
        Measured("poor", 0.0, 32.0),
        Measured("half", 0.5, 8.0),
        Measured("same", 1.0, 4.0),
    )
    assert found.reason == (
        "half is the fastest of the 3 that reach recall@2 0.5: 4.00 times as many queries a second as "
        "exact search, at recall 0.5000."
    )
    assert chosen(clock, candidates, exact, target=0.51).name == "same"
    assert chosen(clock, candidates, exact, target=1.0).name == "same"


def test_if_none_is_good_enough_search_is_exact_and_says_so(clock):
    candidates = {
        "none": clock.index("none", [-1, -1], 0.25),
        "half": clock.index("half", [1, -1], 0.25),
    }
    found = chosen(clock, candidates, clock.index("exact", [0, 1], 2.0), target=0.75)
    assert found.name == "exact"
    assert found.reason == (
        "No other index reaches recall@2 0.75 (the best is half with 0.5000), so search is exact."
    )
    assert [row.recall for row in found.table] == [1.0, 0.0, 0.5]
    alone = chosen(clock, {}, clock.index("exact", [0, 1], 2.0))
    assert (alone.name, len(alone.table)) == ("exact", 1)
    assert alone.reason == (
        "No other index reaches recall@2 0.5 (there are no others), so search is exact."
    )


def test_exact_search_is_a_candidate_too(clock):
    """And the first of equally fast ones."""
    slow, as_fast = clock.index("slow", [0, 1], 4.0), clock.index("as_fast", [0, 1], 2.0)
    found = chosen(clock, {"slow": slow, "as_fast": as_fast}, clock.index("exact", [0, 1], 2.0))
    assert found.name == "exact"
    assert found.reason == "Exact search is the fastest of the 3 that reach recall@2 0.5."


def test_the_first_search_is_not_measured_and_the_median_of_the_others_is(clock):
    """Each repetition goes round all indexes."""
    odd = clock.index("odd", [0, 1], 1000.0, 0.5, 64.0, 0.25)
    found = chosen(clock, {"odd": odd}, clock.index("exact", [0, 1], 50.0, 1.0))
    assert found.table[1] == Measured("odd", 1.0, 8.0)
    assert found.table[0].queries_per_second == 4.0
    assert clock.searched == ["exact", "odd"] * 4


def test_a_query_for_which_nothing_is_to_be_found_misses_nothing(clock):
    """As where exact search has no passage for it."""
    found = chosen(clock, {"any": clock.index("any", [3, 4], 1.0)}, clock.index("e", [-1, -1], 2.0))
    assert found.table[1].recall == 1.0


def test_a_share_is_that_of_what_exact_search_finds(clock):
    one = clock.index("one", [5, -1], 1.0)
    found = chosen(clock, {"one": one}, clock.index("exact", [5, -1], 2.0))
    assert (found.name, found.table[1].recall) == ("one", 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": QUERIES[:0]}, r"queries have shape \(0, 3\)"),
        ({"queries": QUERIES[0]}, r"queries have shape \(3,\)"),
        ({"queries": QUERIES * np.float32("nan")}, "queries hold a number that is infinite or NaN"),
        ({"k": 0}, "k is 0; it must be at least 1"),
        ({"target": 0.0}, "target is 0.0; a recall"),
        ({"target": 1.5}, "target is 1.5; a recall"),
        ({"target": float("nan")}, "target is nan; a recall"),
        ({"repetitions": 0}, "repetitions is 0"),
        ({"k": 3}, r"The index 'exact' gives rows of shape \(4, 2\); it must give 3"),
        ({"named": "exact"}, "A candidate is called 'exact'"),
    ],
)
def test_what_is_refused(clock, change, message):
    class Two(Fake):
        def search(self, queries, k):
            return super().search(queries, 2)

    exact = Two(clock, "exact", np.array([0, 1], np.int32), [1.0])
    given = {"queries": QUERIES, "k": K, "named": "a"} | change
    candidates = {given.pop("named"): exact}
    with pytest.raises(UserError, match=message):
        choose_index(candidates, exact, **given)

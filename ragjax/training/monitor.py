"""Warnings of a retriever that has collapsed or is ignored: what its figures say, in words."""

import math
from collections.abc import Mapping

HUB = 0.5  # share of all mass on one passage; less is harmless where a few passages suffice
DECIDED, MISSING = 1.1, 0.5  # effective passages at most, with a recall below
IGNORED = 1e-5  # nats between posterior and prior
WORSE = 0.05  # than with random passages, in return or exact match
ROWS = 2  # running, in which a symptom has to be there
# The kinds of symptoms, and the figures of which any shows that a row has measured one.
MEASURED_BY = {
    "hub": ("hub_share",),
    "collapse": ("effective_passages",),
    "ignored": ("passage_credit",),
    "useless": ("eval/retrieval_gain", "dev/retrieval_gain"),
}


def symptoms(figures: Mapping[str, float]) -> list[str]:
    """What is wrong with a retriever whose figures these are, a sentence each; none if all is well.

    Args:
      figures: numbers by the names of `ops.retrieval_figures`, and `retrieval_gain` in `eval/` or
        `dev/`, the return or exact match with the retriever minus that with random passages; those that
        are missing are passed over.

    Returns:
      Sentences that begin with their kind, one of `MEASURED_BY`, and a colon.
    """
    found = []
    hub, effective = figures.get("hub_share", 0.0), figures.get("effective_passages")
    if hub > HUB:
        found.append(f"hub: one passage takes {hub:.0%} of the retrieval mass")
    recall = figures.get("recall", 1.0)
    if effective is not None and effective < DECIDED and recall < MISSING:
        found.append(f"collapse: p(d|x) is decided, but recall is {recall:.0%}")
    if figures.get("passage_credit", 1.0) < IGNORED and (effective or 0.0) > DECIDED:
        found.append(
            "ignored: what is read does not change what is done, so retrieval learns nothing"
        )
    gain = min(figures.get(f"{of}/retrieval_gain", 0.0) for of in ("eval", "dev"))
    if gain < -WORSE:
        found.append(f"useless: retrieved passages do worse than random ones by {-gain:.3g}")
    return found


class RetrieverMonitor:
    """Watches the figures of a run row by row, and warns of symptoms that stay.

    It warns once a symptom is there in `ROWS` rows running, since a single one may be that of a start;
    and again only after it was gone as long. Rows that don't measure it don't count.
    """

    def __init__(self):
        """Nothing was observed yet."""
        self._last: dict[str, list[bool]] = {kind: [] for kind in MEASURED_BY}
        self._told: set[str] = set()

    def observe(self, figures: Mapping[str, float]) -> list[str]:
        """Takes in a row of figures, NaN where nothing was measured; returns the new warnings."""
        figures = {name: value for name, value in figures.items() if not math.isnan(value)}
        there = {symptom.partition(":")[0]: symptom for symptom in symptoms(figures)}
        new = []
        for kind, names in MEASURED_BY.items():
            if not any(name in figures for name in names):
                continue
            last = self._last[kind] = [*self._last[kind], kind in there][-ROWS:]
            if kind not in self._told and sum(last) == ROWS:
                self._told.add(kind)
                new.append(there[kind])
            if not any(last):
                self._told.discard(kind)
        return new

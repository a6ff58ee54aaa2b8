"""The alarm of a retriever that ails: what its figures say, in words."""

from collections.abc import Mapping
from typing import Any

HUB = 0.25  # share of all mass on one passage, of a corpus in which none is asked for that often
DECIDED, MISSING = 1.1, 0.5  # effective passages at most, with a recall below
IGNORED = 1e-4  # nats between posterior and prior
WORSE = 0.05  # than with random passages, in return or exact match


def symptoms(figures: Mapping[str, Any]) -> list[str]:
    """What is wrong with a retriever whose figures these are, a sentence each; none if all is well.

    Args:
      figures: numbers by the names of `ops.health.retrieval_health`, and `retrieval_gain` in `eval/`
        or `dev/`, the return or exact match with the retriever minus that with random passages; those
        that are missing are passed over.
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

"""What a policy would earn, from another one's log: Open Bandit, with each policy's own log beside it.

`OPEN_BANDIT=DIR ragjax plot experiments/off_policy.py --run` measures, with DIR the folder of the Open
Bandit Dataset that holds `random/men/men.csv` and `bts/men/men.csv`, `.gz` or not: its small version,
since the features of every item in every round lie in memory.
"""

import itertools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ragjax.data.bandit_logs import BanditLog, load_log, read_rounds
from ragjax.errors import UserError, require
from ragjax.evaluation.plots import Plot, read_figures, recorded_by, results_of
from ragjax.evaluation.tables import MarkdownTable
from ragjax.ops.off_policy import Estimate, doubly_robust, ips, snips
from ragjax.ops.reward_model import LOGISTIC, RIDGE, cross_fitted, model_terms

POLICIES = {"random": "random", "bts": "Bernoulli Thompson sampling"}
CLIP, FOLDS, RESAMPLES, POSITIONS = 5.0, 5, 2000, 3
MOST_ROUNDS = 50_000
DIRECT = "direct, logistic"
USER, AFFINITY = ("user_feature_",), ("user-item_affinity_",)  # how the columns' names begin
OWN = "its own log"  # the value of a policy by the log that it made
NOTES = """\
A log's round is one item at one of three positions, the chance with which it was shown, and whether it
was clicked. The random policy shows each item alike. The chances of Bernoulli Thompson sampling moved
within the week; it is evaluated as its mean, the share of rounds at a position that each item had in its
log. In the other direction the logged chances themselves are what is divided by.

Models of the reward are linear in position, item, user features and the affinity of the user to the
item, and predict each round from the folds that it is not in. What the direct method's value errs by is
the model's bias, which no interval shows. Items that a user saw side by side are rounds of their own in
these logs, and are taken as independent."""


def log_path(name: str) -> Path:
    """The file of a policy's log, below the folder that OPEN_BANDIT names.

    Raises:
      UserError: the variable isn't set, or the folder holds no such file.
    """
    folder = os.environ.get("OPEN_BANDIT", "")
    require(
        bool(folder),
        "OPEN_BANDIT is not set; set it to the Open Bandit Dataset's folder (with random/men/men.csv).",
    )
    for suffix in (".csv", ".csv.gz"):
        path = Path(folder) / name / "men" / f"men{suffix}"
        if path.is_file():
            return path
    raise UserError(
        f"OPEN_BANDIT is {folder}, which holds no {name}/men/men.csv; name the dataset's folder."
    )


def read_log(name: str) -> BanditLog:
    """A policy's log, with the user's features.

    Raises:
      UserError: it has too many rounds, more positions than three, or rewards that are no clicks.
    """
    path = log_path(name)
    rounds = sum(1 for _ in itertools.islice(read_rounds(path, broken=[]), MOST_ROUNDS + 1))
    require(
        rounds <= MOST_ROUNDS,
        f"{path} has more than {MOST_ROUNDS:,} rounds; name the dataset's small version.",
    )
    log = load_log(path, context=USER)
    last = int(log.position.max()) + 1
    require(
        last <= POSITIONS,
        f"{path} has an item at position {last} of {POSITIONS}; name a log of three.",
    )
    require(
        bool(np.isin(log.reward, (0, 1)).all()),
        f"{path} has rewards that are neither 0 nor 1; name a log of clicks.",
    )
    return log


def features_of(name: str, log: BanditLog) -> np.ndarray:
    """[n,A,F] of every item in every round: a constant, position, item, user, and affinity."""
    affinity = load_log(log_path(name), context=AFFINITY).context
    count, items = affinity.shape
    require(
        set(log.items) == set(map(str, range(items))),
        f"{log_path(name)} shows {len(log.items)} of {items} items; take a log in which all are shown.",
    )

    def of_round(values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(values[:, None], (count, items, values.shape[1]))

    parts = [
        np.ones((count, items, 1), np.float32),
        of_round(np.eye(POSITIONS, dtype=np.float32)[log.position]),
        np.broadcast_to(np.eye(items, dtype=np.float32), (count, items, items)),
        of_round(log.context),
        affinity[:, [int(item) for item in log.items], None],
    ]
    return np.concatenate(parts, axis=2)


def shares(position: jax.Array, action: jax.Array, items: int) -> jax.Array:
    """[3,A] how often each item is shown at a position."""
    counts = jnp.zeros((POSITIONS, items)).at[position, action].add(1.0)
    return counts / jnp.sum(counts, axis=1, keepdims=True)


def estimates(log: dict[str, jax.Array], target: jax.Array) -> dict[str, Estimate]:
    """Every estimator of the value of the policy `target` [3,A] from a log."""
    chances = target[log["position"]]
    weight = jnp.take_along_axis(chances, log["action"][:, None], axis=1)[:, 0] / log["propensity"]
    reward = log["reward"]
    ridge, ridge_all = model_terms(log["ridge"], log["action"], chances)
    logistic, logistic_all = model_terms(log["logistic"], log["action"], chances)
    return {
        "IPS": ips(reward, weight),
        f"IPS, weights up to {CLIP:g}": ips(reward, weight, clip=CLIP),
        "SNIPS": snips(reward, weight),
        DIRECT: ips(logistic_all, jnp.ones_like(weight)),
        "doubly robust, ridge": doubly_robust(reward, weight, ridge, ridge_all),
        "doubly robust, logistic": doubly_robust(reward, weight, logistic, logistic_all),
    }


def on_device(name: str, log: BanditLog) -> dict[str, jax.Array]:
    """The columns of a log, with what the models predict for every item."""
    features, action = jnp.asarray(features_of(name, log)), jnp.asarray(log.action[:, 0])
    reward = jnp.asarray(log.reward[:, 0], jnp.float32)
    fit = jax.jit(cross_fitted, static_argnames=("model", "folds", "penalty"))
    return {
        "action": action,
        "position": jnp.asarray(log.position),
        "reward": reward,
        "propensity": jnp.asarray(log.propensity[:, 0], jnp.float32),
        "ridge": fit(RIDGE, features, action, reward, folds=FOLDS),
        "logistic": fit(LOGISTIC, features, action, reward, folds=FOLDS),
    }


def resampled(log: dict[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
    """As many rounds, drawn with replacement."""
    count = len(log["reward"])
    rows = jax.random.randint(key, (count,), 0, count)
    return {name: column[rows] for name, column in log.items()}


def evaluated(
    log: dict[str, jax.Array],
    other: dict[str, jax.Array],
    policy: Callable[[dict[str, jax.Array]], jax.Array],
) -> dict[str, dict[str, float]]:
    """Every estimator's figures, and the percentile bootstrap interval over rounds of both logs.

    Args:
      log: what the value is estimated from.
      other: the log of the policy that is evaluated.
      policy: that policy [3,A], from its log.
    """

    @jax.jit
    def both(log: dict[str, jax.Array], other: dict[str, jax.Array]) -> dict[str, Estimate]:
        own = ips(other["reward"], jnp.ones_like(other["reward"]))
        return {OWN: own, **estimates(log, policy(other))}

    def value(key: jax.Array) -> dict[str, jax.Array]:
        one, two = jax.random.split(key)
        found = both(resampled(log, one), resampled(other, two))
        return {name: estimate.value for name, estimate in found.items()}

    keys = jax.random.split(jax.random.PRNGKey(0), RESAMPLES)
    draws = jax.jit(lambda keys: jax.lax.map(value, keys))(keys)
    figures = {}
    found = both(log, other)
    for name in (OWN, *sorted(set(found) - {OWN})):  # JAX has sorted them
        estimate = found[name]
        low, high = np.quantile(np.asarray(draws[name]), [0.025, 0.975])
        figures[name] = {field: float(part) for field, part in estimate._asdict().items()}
        figures[name] |= {"low": float(low), "high": float(high)}
    return figures


def measure() -> dict[str, Any]:
    """Both directions: {"rounds", "clicks": {policy: number}, policy: {estimator: its figures}}."""
    logs = {name: read_log(name) for name in POLICIES}
    random, bts = (on_device(name, log) for name, log in logs.items())
    items = len(logs["random"].items)
    require(
        logs["bts"].items == logs["random"].items,
        "OPEN_BANDIT names logs that show different items; name logs of one campaign.",
    )

    def mean_over_the_week(log: dict[str, jax.Array]) -> jax.Array:
        return shares(log["position"], log["action"], items)

    def alike(log: dict[str, jax.Array]) -> jax.Array:
        del log
        return jnp.full((POSITIONS, items), 1 / items, jnp.float32)

    return {
        "rounds": {name: len(log.action) for name, log in logs.items()},
        "clicks": {name: int(log.reward.sum()) for name, log in logs.items()},
        "items": items,
        "bts": evaluated(random, bts, mean_over_the_week),
        "random": evaluated(bts, random, alike),
    }


def get_table() -> MarkdownTable:
    """The recorded figures as a table."""
    numbers = read_figures(results_of(Path(__file__)))
    lines = [
        "| value of | from the log of | by | clicks in 1,000 | 95 % interval | standard error | "
        "effective rounds | largest weight | clipped |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, other in (("bts", "random"), ("random", "bts")):
        for by, row in numbers[name].items():
            value, low, high, error = (
                f"{1000 * row[field]:.2f}" for field in ("value", "low", "high", "standard_error")
            )
            source = name if by == OWN else other
            cells = [POLICIES[name], POLICIES[source], by, value]
            cells += ["–", "–"] if by == DIRECT else [f"{low} to {high}", error]
            if by in (OWN, DIRECT):
                cells += ["–", "–", "–"]  # no weights
            else:
                cells += [f"{row['effective_size']:,.0f}", f"{row['largest_weight']:.1f}"]
                cells.append(f"{100 * row['clipped']:.1f} %")
            lines.append("| " + " | ".join(cells) + " |")
    rounds, clicks = numbers["rounds"], numbers["clicks"]
    logs = " and ".join(
        f"{rounds[name]:,} rounds with {clicks[name]} clicks of {label}"
        for name, label in POLICIES.items()
    )
    lines += [
        "",
        f"Logs: {logs}; {numbers['items']} items. Intervals: percentiles of {RESAMPLES:,} bootstrap "
        "resamples of the rounds of both logs, the models of the reward kept; standard errors: by the "
        f"estimators' formulas. {held(numbers)}",
    ]
    return MarkdownTable(
        title="The value of a policy from the log of another, on Open Bandit",
        body="\n".join(lines),
        source=recorded_by(numbers, "OPEN_BANDIT=DIR ragjax plot experiments/off_policy.py --run"),
        notes=NOTES,
    )


def held(numbers: dict[str, Any]) -> str:
    """Sentences on how far the estimates are from each policy's own log, and from the other policy."""
    sentences = []
    for name, other in (("bts", "random"), ("random", "bts")):
        own, foreign = (numbers[policy][OWN] for policy in (name, other))
        rows = [row for by, row in numbers[name].items() if by not in (OWN, DIRECT)]
        inside = [
            sum(row["low"] <= goal["value"] <= row["high"] for row in rows)
            for goal in (own, foreign)
        ]
        furthest = max(
            abs(row["value"] - own["value"])
            / math.hypot(row["standard_error"], own["standard_error"])
            for row in rows
        )
        sentences.append(
            f"Of {len(rows)} intervals for {POLICIES[name]}, {inside[0]} hold its value by its own "
            f"log, which the estimates differ from by at most {furthest:.1f} standard errors of the "
            f"difference, and {inside[1]} the value of the policy whose log was used."
        )
    return " ".join(sentences)


def get_plots() -> tuple[Plot, ...]:
    """None: the figures are a table's."""
    return ()

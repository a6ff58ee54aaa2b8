"""Interest exploration: users of two kinds, who don't say which, and documents of two topics.

With the rules of RecSim 0.2.4 (Ie et al. 2019, arXiv 1909.04847). Documents of the topic that most users
care less for look better; only by showing both does a policy learn whom it serves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from ragjax.data.items import Column
from ragjax.envs.recommendation.base import Recommendation
from ragjax.envs.recommendation.baselines import Ranked, Ranking, scored
from ragjax.envs.recommendation.choice import chosen, logit
from ragjax.envs.recommendation.simulation import (
    Ranges,
    Reaction,
    Simulation,
    beside,
    between,
)
from ragjax.envs.scene import Role, Scene, bars
from ragjax.types import Leaf, PRNGKey

TOPICS = 2


@struct.dataclass
class Rules(Ranked):
    """The constants.

    Attributes:
      first_topic: [] share of documents of topic 0; the others are of topic 1.
      topic_quality: [2] mean of the logarithm of quality, by topic.
      first_kind: [] share of users of kind 0; the others are of kind 1.
      kind_affinity: [2,2] mean of the logarithm of affinity, by kind of user and by topic.
      deviation: [] standard deviation of either logarithm.
      no_click: [] c of the choice model.
    """

    first_topic: Leaf
    topic_quality: Leaf
    first_kind: Leaf
    kind_affinity: Leaf
    deviation: Leaf
    no_click: Leaf

    def rankings(self) -> dict[str, Ranking]:
        """By quality, among all or with one topic before the other."""
        first = 100.0  # far more than any quality
        return {
            "quality": lambda parts, looks: looks[..., 0],
            "topic_0": lambda parts, looks: looks[..., 0] + first * looks[..., 1],
            "topic_1": lambda parts, looks: looks[..., 0] + first * looks[..., 2],
        }

    def oracles(self) -> dict[str, Ranking]:
        """By what the user clicks by: affinity to the topic + quality."""

        def appeal(parts: Mapping[str, Array], looks: Array) -> Array:
            return looks[..., 0] + scored(parts["hidden"], looks[..., 1:])

        return {"affinity": appeal}


@struct.dataclass
class Documents:
    """Topic and quality of each, [...]."""

    topic: Leaf
    quality: Leaf


@struct.dataclass
class User:
    """Affinity [2] to each topic."""

    affinity: Leaf


def rules() -> Rules:
    """The constants of RecSim."""
    return Rules(
        first_topic=jnp.asarray(0.2, float),
        topic_quality=jnp.asarray([0.8, 0.2], float),
        first_kind=jnp.asarray(0.3, float),
        kind_affinity=jnp.asarray([[0.1, 0.7], [0.7, 0.1]], float),
        deviation=jnp.asarray(0.1, float),
        no_click=jnp.asarray(5.0, float),
    )


def _log_normal(rules: Rules, key: PRNGKey, mean: Array) -> Array:
    return jnp.exp(mean + rules.deviation * jax.random.normal(key, mean.shape))


def _documents(rules: Rules, key: PRNGKey, count: int) -> Documents:
    topic_key, quality_key = jax.random.split(key)
    topic = (jax.random.uniform(topic_key, (count,)) >= rules.first_topic).astype(jnp.int32)
    return Documents(topic, _log_normal(rules, quality_key, rules.topic_quality[topic]))


def _looks(documents: Documents) -> Float[Array, "... 3"]:
    topic = jax.nn.one_hot(documents.topic, TOPICS)
    return jnp.concatenate([documents.quality[..., None], topic], axis=-1)


def _user(rules: Rules, key: PRNGKey) -> User:
    kind_key, affinity_key = jax.random.split(key)
    kind = (jax.random.uniform(kind_key) >= rules.first_kind).astype(jnp.int32)
    return User(_log_normal(rules, affinity_key, rules.kind_affinity[kind]))


def _chance(rules: Rules, key: PRNGKey) -> Float[Array, ""]:
    del rules
    return jax.random.uniform(key)


def respond(rules: Rules, user: User, shown: Documents, chance: Float[Array, ""]) -> Reaction:
    """A user clicks by the logit model of affinity to the topic + quality, and stays the same.

    Args:
      rules: the constants.
      user: before.
      shown: documents [S].
      chance: a number drawn from [0, 1).
    """
    appeal = user.affinity[shown.topic] + shown.quality
    place = chosen(*logit(appeal, rules.no_click), chance)
    clicks = (jnp.arange(len(appeal)) == place).astype(float)
    clicked = jnp.sum(clicks)
    return Reaction(
        user=user,
        responses=jnp.concatenate([clicks[:, None], _looks(shown)], axis=-1),
        reward=clicked,
        terminated=jnp.zeros((), bool),
        figures={"click_rate": clicked, "shown_quality": jnp.mean(shown.quality)},
    )


@dataclass(frozen=True)
class InterestExploration(Recommendation):
    """Reward 1 for each step with a click; the time limit ends an episode.

    Seen of the user: nothing. Of each place: clicked, quality, the topic as one-hot. Of a candidate or a
    document of the corpus: quality, the topic as one-hot. Hidden: the user's affinity to either topic.
    A file of `items` has the columns `topic`, 0 or 1, and `quality`, 0 to 50, which is about 1 or 2 in
    RecSim. Metrics of an episode: `click_rate`, clicks a step, and `shown_quality`, the mean over all
    places.
    """

    name: ClassVar[str] = "interest_exploration"

    time_limit: int = 100

    def user_scene(self, rules: Rules, user: User, caption: str) -> Scene:
        """The affinity to each topic, which no policy sees; that to the better liked one is the goal."""
        del rules
        affinities = user.affinity.tolist()
        rows: list[tuple[str, float, Role]] = [
            (f"topic {topic}", affinity, "goal" if affinity == max(affinities) else "agent")
            for topic, affinity in enumerate(affinities)
        ]
        return bars(rows, 0.0, 4.0, caption)

    def simulation(self) -> Simulation:
        """Users and documents with the constants of RecSim."""
        document = beside(between(0.0, np.inf), between(0.0, 1.0, TOPICS))
        return Simulation(
            rules=rules(),
            documents=_documents,
            document=Documents,
            columns={"topic": Column(0, TOPICS - 1, whole=True), "quality": Column(0.0, 50.0)},
            looks=_looks,
            user=_user,
            another=lambda rules, key, user: _user(rules, key),
            observed=lambda user: jnp.zeros((0,)),
            hidden=lambda rules, user: user.affinity,
            chance=_chance,
            respond=respond,
            figures=("click_rate", "shown_quality"),
            ranges=Ranges(
                user=between(0.0, 0.0, 0),
                place=beside(between(0.0, 1.0), document),
                hidden=between(0.0, np.inf, TOPICS),
                document=document,
            ),
        )

"""Long-term satisfaction: clickbait engages at once, and lowers what a user is content with later.

With the rules of RecSim 0.2.4 (Ie et al. 2019, arXiv 1909.04847), of its code: the description there has
the opposite sign of the effect on net exposure.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from ragjax.data.items import Column
from ragjax.envs.recommendation.base import Recommendation
from ragjax.envs.recommendation.baselines import Ranked, Ranking
from ragjax.envs.recommendation.simulation import (
    Ranges,
    Reaction,
    Simulation,
    beside,
    between,
)
from ragjax.envs.scene import Role, Scene, bars
from ragjax.errors import require
from ragjax.types import Leaf, PRNGKey


@struct.dataclass
class Rules(Ranked):
    """The constants; all are [].

    Attributes:
      memory: share of the net exposure that stays from step to step.
      sensitivity: of the satisfaction to net exposure.
      innovation: standard deviation of the noise on net exposure.
      clickbait_mean: mean of the logarithm of engagement with pure clickbait, at satisfaction 1.
      clickbait_deviation: its standard deviation, at any satisfaction.
      wholesome_mean: the same of documents without any clickbait.
      wholesome_deviation: the same.
      visible: largest engagement that an observation shows; the reward is not cut.
      steps: of an episode.
    """

    memory: Leaf
    sensitivity: Leaf
    innovation: Leaf
    clickbait_mean: Leaf
    clickbait_deviation: Leaf
    wholesome_mean: Leaf
    wholesome_deviation: Leaf
    visible: Leaf
    steps: Leaf

    def rankings(self) -> dict[str, Ranking]:
        """The most and the least clickbait first."""
        return {
            "clickbait": lambda parts, looks: looks[..., 0],
            "wholesome": lambda parts, looks: -looks[..., 0],
        }


@struct.dataclass
class Documents:
    """The share [...] of clickbait in each, 0 to 1."""

    clickbait: Leaf


@struct.dataclass
class User:
    """Net exposure [] to what is not clickbait, and the steps [] that are left."""

    exposure: Leaf
    left: Leaf


@struct.dataclass
class Chance:
    """Standard normal numbers, []: of the engagement, and of the noise on net exposure."""

    engagement: Leaf
    innovation: Leaf


def rules(sensitivity: float, steps: int) -> Rules:
    """The constants of RecSim, but for those given."""
    return Rules(
        memory=jnp.asarray(0.7, float),
        sensitivity=jnp.asarray(sensitivity, float),
        innovation=jnp.asarray(0.05, float),
        clickbait_mean=jnp.asarray(5.0, float),
        clickbait_deviation=jnp.asarray(1.0, float),
        wholesome_mean=jnp.asarray(4.0, float),
        wholesome_deviation=jnp.asarray(1.0, float),
        visible=jnp.asarray(100.0, float),
        steps=jnp.asarray(steps, jnp.int32),
    )


def _documents(rules: Rules, key: PRNGKey, count: int) -> Documents:
    del rules
    return Documents(jax.random.uniform(key, (count,)))


def _looks(documents: Documents) -> Float[Array, "... 1"]:
    return documents.clickbait[..., None]


def _user(rules: Rules, key: PRNGKey) -> User:
    exposure = (jax.random.uniform(key) - 0.5) / (1.0 - rules.memory)
    return User(exposure, rules.steps)


def _chance(rules: Rules, key: PRNGKey) -> Chance:
    del rules
    return Chance(*jax.random.normal(key, (2,)))


def satisfaction(rules: Rules, user: User) -> Float[Array, ""]:
    """σ(sensitivity · net exposure)."""
    return jax.nn.sigmoid(rules.sensitivity * user.exposure)


def respond(rules: Rules, user: User, shown: Documents, chance: Chance) -> Reaction:
    """A user always takes the first document, of clickbait c, and engages with it.

    The engagement is exp(N(μ, s)), where μ = (c μ_1 + (1 - c) μ_0) · satisfaction and s = c s_1 +
    (1 - c) s_0 of clickbait (1) and wholesome documents (0). Net exposure becomes
    memory · exposure - 2 (c - 1/2) + innovation · N(0, 1).

    Args:
      rules: the constants.
      user: before.
      shown: documents [S].
      chance: the numbers drawn.
    """
    bait, content = shown.clickbait[0], satisfaction(rules, user)
    mean = bait * rules.clickbait_mean + (1.0 - bait) * rules.wholesome_mean
    deviation = bait * rules.clickbait_deviation + (1.0 - bait) * rules.wholesome_deviation
    engagement = jnp.exp(mean * content + deviation * chance.engagement)
    noise = rules.innovation * chance.innovation
    exposure = rules.memory * user.exposure - 2.0 * (bait - 0.5) + noise
    left = user.left - 1

    first = (jnp.arange(len(shown.clickbait)) == 0).astype(float)
    visible = first * jnp.minimum(engagement, rules.visible)
    return Reaction(
        user=User(exposure, left),
        responses=jnp.stack([first, visible, shown.clickbait], axis=-1),
        reward=engagement,
        terminated=left <= 0,
        figures={"clickbait": bait, "satisfaction": content},
    )


@dataclass(frozen=True)
class LongTermSatisfaction(Recommendation):
    """Reward is the engagement with the first document of the slate.

    Seen of the user: nothing. Of each place: taken, engagement up to 100, share of clickbait. Of a
    candidate or a document of the corpus: its share of clickbait. Hidden: the user's satisfaction, 0 to
    1. A file of `items` has the column `clickbait`, 0 to 1. Metrics of an episode: `clickbait` and
    `satisfaction`, means over its steps.

    Attributes:
      sensitivity: of a user's satisfaction to net exposure. With RecSim's 0.01 satisfaction stays near
        1/2, so that it is best to show the most clickbait. From 0.1 on it is best to show the least,
        though clickbait still engages more at once: at 0.3 that returns about 1,630 an episode, the most
        clickbait 480, and chance 980.
      steps: of an episode, which then terminates.
    """

    name: ClassVar[str] = "long_term_satisfaction"

    slate: int = 1
    sensitivity: float = 0.01
    steps: int = 60

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        require(
            0 <= self.sensitivity < np.inf,
            f"env.sensitivity is {self.sensitivity}; it must not be negative, nor infinite.",
        )
        require(self.steps >= 1, f"env.steps is {self.steps}; it must be at least 1.")

    def user_scene(self, rules: Rules, user: User, caption: str) -> Scene:
        """Satisfaction, and the net exposure that it comes of; no policy sees either."""
        happy, exposure = float(satisfaction(rules, user)), float(user.exposure)
        reach = 1.0 / (1.0 - float(rules.memory))  # exposure to one kind of document alone
        rows: list[tuple[str, float, Role]] = [
            ("satisfaction", happy, "goal"),
            ("net exposure", exposure, "agent"),
        ]
        return bars(rows, -reach, reach, f"{int(user.left)} steps left, {caption}")

    def simulation(self) -> Simulation:
        """Users and documents with the constants of RecSim, but for the fields."""
        share = between(0.0, 1.0)
        return Simulation(
            rules=rules(self.sensitivity, self.steps),
            documents=_documents,
            document=Documents,
            columns={"clickbait": Column(0.0, 1.0)},
            looks=_looks,
            user=_user,
            another=lambda rules, key, user: _user(rules, key),
            observed=lambda user: jnp.zeros((0,)),
            hidden=lambda rules, user: satisfaction(rules, user)[None],
            chance=_chance,
            respond=respond,
            figures=("clickbait", "satisfaction"),
            ranges=Ranges(
                user=between(0.0, 0.0, 0),
                place=beside(share, between(0.0, 100.0), share),
                hidden=share,
                document=share,
            ),
        )

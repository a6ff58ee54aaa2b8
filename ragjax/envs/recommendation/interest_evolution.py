"""Interest evolution: a user's interests drift with what is watched, and good documents give time back.

The environment that SlateQ was measured in (Ie et al. 2019, arXiv 1905.12767), with the rules of RecSim
0.2.4. What pleases at once makes a user come to like its topic, but time goes by with it; documents of
good quality give most of that time back.
"""

import dataclasses
from collections.abc import Callable, Mapping
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
from ragjax.envs.recommendation.choice import chosen, proportional
from ragjax.envs.recommendation.numbered import FIRST_TOKEN, numbered_vocabulary
from ragjax.envs.recommendation.simulation import (
    Ranges,
    Reaction,
    Simulation,
    beside,
    between,
)
from ragjax.envs.scene import Role, Scene, bars
from ragjax.errors import require
from ragjax.types import Leaf, PRNGKey, Vocabulary

TOPICS = 20
TOPIC_QUALITY = np.concatenate([np.linspace(-3, 0, 14), np.linspace(0, 3, 6)])


@struct.dataclass
class Rules(Ranked):
    """The constants; all are [] but the first.

    Attributes:
      topic_quality: [20] mean quality of each topic's documents.
      quality_deviation: standard deviation of a document's quality about it.
      budget: time of a user, at the start.
      length: time that a document takes.
      returned: share of a document's time that comes back for each unit of quality, 0.9 / 3.4.
      idle: time that passes where nothing is clicked.
      no_click: c of the choice model.
      least_affinity: m of the choice model, the least interest there is.
      change: share of 1 - |u| of the way to 1 that an interest u moves by.
    """

    topic_quality: Leaf
    quality_deviation: Leaf
    budget: Leaf
    length: Leaf
    returned: Leaf
    idle: Leaf
    no_click: Leaf
    least_affinity: Leaf
    change: Leaf

    def rankings(self) -> dict[str, Ranking]:
        """By what a user likes now, by the mean quality of the topic, and by one step's use of both.

        `affinity_quality` is (u_t + 1) · (length + length · returned · mean quality of t): the click
        score times the time watched and the time given back. Quality is that of an oracle, which no
        observation tells.
        """
        known = self._by_quality(lambda parts: self.topic_quality)
        return {"affinity": lambda parts, looks: scored(parts["user"], looks)} | known

    def oracles(self) -> dict[str, Ranking]:
        """The same by the mean qualities of this episode, which may be dealt out anew."""
        known = self._by_quality(lambda parts: parts["hidden"][..., 1:])
        return {f"episode_{name}": ranking for name, ranking in known.items()}

    def _by_quality(self, quality_of: Callable[[Mapping[str, Array]], Array]) -> dict[str, Ranking]:
        """The rankings by what `quality_of` an observation's parts says of topics, [...,20]."""

        def quality(parts: Mapping[str, Array], looks: Array) -> Array:
            return scored(quality_of(parts), looks)

        def both(parts: Mapping[str, Array], looks: Array) -> Array:
            gain = self.length * (1.0 + self.returned * quality(parts, looks))
            return (scored(parts["user"], looks) - self.least_affinity) * gain

        return {"affinity_quality": both, "quality": quality}


@struct.dataclass
class Documents:
    """Topic and quality of each, [...]."""

    topic: Leaf
    quality: Leaf


@struct.dataclass
class User:
    """A user of an episode.

    Attributes:
      interests: [20] in each topic, -1 to 1.
      budget: [] the time that is left.
      dealt: [20] the topic whose quality each topic has in this episode; None for its own.
    """

    interests: Leaf
    budget: Leaf
    dealt: Leaf = None


@struct.dataclass
class Chance:
    """Numbers drawn from [0, 1), []: by one a document is clicked, by the other an interest rises."""

    click: Leaf
    rise: Leaf


def rules() -> Rules:
    """The constants of RecSim."""
    return Rules(
        topic_quality=jnp.asarray(TOPIC_QUALITY, float),
        quality_deviation=jnp.asarray(0.1, float),
        budget=jnp.asarray(200.0, float),
        length=jnp.asarray(4.0, float),
        returned=jnp.asarray(0.9 / 3.4, float),
        idle=jnp.asarray(0.5, float),
        no_click=jnp.asarray(1.0, float),
        least_affinity=jnp.asarray(-1.0, float),
        change=jnp.asarray(0.3, float),
    )


def _documents(rules: Rules, key: PRNGKey, count: int) -> Documents:
    topic_key, quality_key = jax.random.split(key)
    topic = jax.random.randint(topic_key, (count,), 0, TOPICS)
    blur = rules.quality_deviation * jax.random.normal(quality_key, (count,))
    return Documents(topic, rules.topic_quality[topic] + blur)


def _looks(documents: Documents) -> Float[Array, "... 20"]:
    return jax.nn.one_hot(documents.topic, TOPICS)


def _user(rules: Rules, key: PRNGKey) -> User:
    return User(jax.random.uniform(key, (TOPICS,), minval=-1.0, maxval=1.0), rules.budget)


def _dealt_user(rules: Rules, key: PRNGKey) -> User:
    user_key, deal_key = jax.random.split(key)
    user = _user(rules, user_key)
    return User(user.interests, user.budget, jax.random.permutation(deal_key, TOPICS))


def _another_user(rules: Rules, key: PRNGKey, user: User) -> User:
    return dataclasses.replace(_user(rules, key), dealt=user.dealt)


def _hidden(rules: Rules, user: User) -> Float[Array, "21"]:
    means = rules.topic_quality if user.dealt is None else rules.topic_quality[user.dealt]
    return jnp.append(user.budget, means)


def _chance(rules: Rules, key: PRNGKey) -> Chance:
    del rules
    return Chance(*jax.random.uniform(key, (2,)))


def respond(rules: Rules, user: User, shown: Documents, chance: Chance) -> Reaction:
    """A user chooses, watches, and changes.

    A document of topic t and quality q is clicked by the proportional model of interests u. Then it is
    watched for w = min(budget, length), the reward; the budget changes by -w + returned · w · q; and
    with Δ = change · (1 - |u_t|) (1 - u_t) the interest u_t becomes u_t + Δ with probability
    (u_t + 1) / 2, else u_t - Δ. Where none is clicked, the budget falls by `idle`.

    Args:
      rules: the constants.
      user: before.
      shown: documents [S].
      chance: the numbers drawn.
    """
    interest = user.interests[shown.topic]
    place = chosen(*proportional(interest, rules.no_click, rules.least_affinity), chance.click)
    clicks = (jnp.arange(len(interest)) == place).astype(float)
    clicked = place < len(interest)
    one = jnp.minimum(place, len(interest) - 1)
    qualities = shown.quality
    if user.dealt is not None:
        means = rules.topic_quality
        qualities = qualities - means[shown.topic] + means[user.dealt[shown.topic]]
    topic, quality, before = shown.topic[one], qualities[one], interest[one]

    watched = jnp.where(clicked, jnp.minimum(user.budget, rules.length), 0.0)
    spent = jnp.where(clicked, watched - rules.returned * watched * quality, rules.idle)
    budget = user.budget - spent

    move = rules.change * (1.0 - jnp.abs(before)) * (1.0 - before)
    rises = chance.rise < (before + 1.0) / 2.0
    after = jnp.clip(before + jnp.where(rises, move, -move), -1.0, 1.0)
    interests = user.interests.at[topic].set(jnp.where(clicked, after, before))

    seen = jnp.stack([clicks, clicks * watched, qualities], axis=-1)
    return Reaction(
        user=User(interests, budget, user.dealt),
        responses=jnp.concatenate([seen, _looks(shown)], axis=-1),
        reward=watched,
        terminated=budget <= 0.0,
        figures={
            "click_rate": jnp.sum(clicks),
            "shown_quality": jnp.mean(qualities),
            "watched": watched,
        },
    )


@dataclass(frozen=True)
class InterestEvolution(Recommendation):
    """Reward is the time that a user watches, until the user's time is spent.

    Seen of the user: the interest in each of 20 topics. Of each place: clicked, time watched, quality,
    the topic as one-hot. Of a candidate or a document of the corpus: the topic as one-hot, not its
    quality, which is drawn about the mean of its topic. Hidden: the time that is left, and the mean
    quality of each topic. Metrics of an episode: `click_rate`, clicks a step; `shown_quality`, the mean
    over all places; `watched`, time a step; `success`, whether as much is watched as there was time.

    A file of `items` has the columns `topic`, 0 to 19, and `quality`, -100 to 100, which the rules need
    and no policy sees before it has shown the item: RecSim's is -3 to 3 by topic, and one of 3.8 gives
    all of the time back.

    Published settings are 10 candidates with a slate of 3 (SlateQ) or 2. An episode ends by itself
    after some hundred steps at most.

    Attributes:
      dealt: whether each episode deals the qualities of topics out anew among them, so that they can be
        known by this episode's responses alone; not so in RecSim.
      tokens: whether passages are tokens of the topic and of the document [N,2] in place of the topic
        as one-hot, so that an encoder has an embedding of each document, which can tell its quality.
    """

    name: ClassVar[str] = "interest_evolution"

    slate: int = 3
    time_limit: int = 1000
    dealt: bool = False
    tokens: bool = False

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        require(
            self.has_corpus or not self.tokens,
            "env.tokens is true, but there are no passages; set env.corpus or env.items, or leave "
            "env.tokens at false.",
        )

    def passages(
        self, corpus: Documents, looks: Float[Array, "N 20"]
    ) -> tuple[Array, Vocabulary | None]:
        """The topics as one-hots [N,20]; with `tokens` those of topic and document [N,2]."""
        if not self.tokens:
            return looks, None
        count = len(corpus.topic)
        number = TOPICS + jnp.arange(count, dtype=jnp.int32)
        rows = jnp.stack([corpus.topic, number], axis=-1) + FIRST_TOKEN
        return rows, numbered_vocabulary(TOPICS, count)

    def user_scene(self, rules: Rules, user: User, caption: str) -> Scene:
        """The interest in each topic; topics of good quality are goals, those of bad one dangers."""
        qualities = np.asarray(_hidden(rules, user))[1:]
        rows: list[tuple[str, float, Role]] = [
            (f"topic {topic}", interest, "goal" if quality > 0 else "danger")
            for topic, (interest, quality) in enumerate(
                zip(user.interests.tolist(), qualities.tolist(), strict=True)
            )
        ]
        return bars(rows, -1.0, 1.0, f"time left {float(user.budget):.1f}, {caption}")

    def describe_passage(self, row: int, content: np.ndarray) -> str:
        """The document's topic."""
        del row
        topic = int(content[0]) - FIRST_TOKEN if self.tokens else int(np.argmax(content))
        return f"topic {topic}"

    def simulation(self) -> Simulation:
        """Users and documents with the constants of RecSim."""
        topics = between(0.0, 1.0, TOPICS)
        return Simulation(
            rules=rules(),
            documents=_documents,
            document=Documents,
            columns={"topic": Column(0, TOPICS - 1, whole=True), "quality": Column(-100.0, 100.0)},
            looks=_looks,
            user=_dealt_user if self.dealt else _user,
            another=_another_user,
            observed=lambda user: user.interests,
            hidden=_hidden,
            chance=_chance,
            respond=respond,
            figures=("click_rate", "shown_quality", "watched"),
            ranges=Ranges(
                user=between(-1.0, 1.0, TOPICS),
                place=beside(
                    between(0.0, 1.0), between(0.0, 4.0), between(-np.inf, np.inf), topics
                ),
                hidden=between(-np.inf, np.inf, 1 + TOPICS),
                document=topics,
            ),
            success=lambda rules, totals: totals["watched"] >= rules.budget,
        )

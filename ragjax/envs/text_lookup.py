"""TextLookup: what to do is said in one of N sentences, and the observation names its subject.

Lookup with passages that are text. A subject has two words, such as "amber bell", and each of its words
is in several sentences: to find the right one, a policy has to learn which word each number of an
observation stands for, and to act on it, what the words for directions mean.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from ragjax.envs.base import Environment, timestep
from ragjax.envs.scene import Label, Polygon, Scene, Shape
from ragjax.errors import require
from ragjax.ranges import SEED
from ragjax.types import PAD_ID, UNK_ID, Env, Leaf, PRNGKey, Timestep, Vocabulary

ADJECTIVES = ("amber", "black", "crooked", "dusty", "empty", "faded", "golden", "hollow")
NOUNS = ("anchor", "bell", "cabin", "dock", "elm", "fountain", "gate", "harbour")
DIRECTIONS = ("north", "east", "south", "west")
SENTENCES = (
    "the {subject} lies {direction}",
    "go {direction} to reach the {subject}",
    "look {direction} for the {subject}",
)


@struct.dataclass
class Sentences:
    """What the sentences are about and what they say.

    Attributes:
      subjects: [N,O] adjective and noun of each, as one-hots side by side.
      answers: [N] the direction that each says.
    """

    subjects: Leaf
    answers: Leaf


@dataclass(frozen=True)
class TextLookup(Environment):
    """Reward 1 for the direction that the sentence about the subject says; an episode is one step.

    The metric `gold` is the row of that sentence. Observation [adjectives + nouns]: the subject, a
    one-hot for each of its words. Passages [N,P]: tokens of a sentence for each of the
    N = adjectives · nouns subjects.

    Attributes:
      adjectives: how many there are.
      nouns: how many there are.
      actions: A, directions.
      passage_seed: seed that directions and wordings are drawn from.
    """

    name: ClassVar[str] = "text_lookup"

    adjectives: int = 6
    nouns: int = 6
    actions: int = 4
    passage_seed: int = field(default=0, metadata=SEED)

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        known = {"adjectives": ADJECTIVES, "nouns": NOUNS, "actions": DIRECTIONS}
        for name, words in known.items():
            value = getattr(self, name)
            require(
                1 <= value <= len(words),
                f"env.{name} is {value}; it must be at least 1 and at most {len(words)}.",
            )
        require(
            self.passage_seed >= 0,
            f"env.passage_seed is {self.passage_seed}; it must not be negative.",
        )

    def write(self) -> tuple[list[str], Int[np.ndarray, "N"]]:
        """The N sentences, in the order of adjectives and then nouns, and the direction of each."""
        random = np.random.default_rng(self.passage_seed)
        count = self.adjectives * self.nouns
        answers = random.permutation(np.arange(count) % self.actions).astype(np.int32)
        wordings = random.integers(len(SENTENCES), size=count)
        subjects = [f"{a} {n}" for a in ADJECTIVES[: self.adjectives] for n in NOUNS[: self.nouns]]
        written = [
            SENTENCES[wording].format(subject=subject, direction=DIRECTIONS[answer])
            for subject, wording, answer in zip(subjects, wordings, answers, strict=True)
        ]
        return written, answers

    def scene(self, params: Sentences, state: Leaf) -> Scene:
        """The subject amid the directions, of which that of its sentence is marked."""
        adjective, noun = divmod(int(state), self.nouns)
        right = int(params.answers[int(state)])
        shapes: list[Shape] = [
            Label(0.0, 0.0, f"{ADJECTIVES[adjective]} {NOUNS[noun]}", height=0.3)
        ]
        for action in range(self.actions):
            turned = -math.pi / 2 * action  # from north to east
            sine, cosine = math.sin(turned), math.cos(turned)
            arrow = [(-0.22, 1.0), (0.22, 1.0), (0.0, 1.35)]
            corners = [(x * cosine - y * sine, x * sine + y * cosine) for x, y in arrow]
            role = "goal" if action == right else "muted"
            shapes.append(Polygon(corners, role=role))
            shapes.append(Label(-1.62 * sine, 1.62 * cosine, DIRECTIONS[action], height=0.22))
        return Scene(shapes, x=(-2.1, 2.1), y=(-1.9, 1.9))

    def action_name(self, action: int) -> str:
        """The direction."""
        return DIRECTIONS[action]

    def describe_passage(self, row: int, content: np.ndarray) -> str:
        """The sentence."""
        del content
        return self.write()[0][row]

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""
        sentences, answers = self.write()
        tokens, vocabulary = tokenise(sentences)
        adjective, noun = np.divmod(np.arange(len(sentences)), self.nouns)
        eyes = np.eye(self.adjectives, dtype=np.float32), np.eye(self.nouns, dtype=np.float32)
        subjects = np.concatenate([eyes[0][adjective], eyes[1][noun]], axis=-1)

        def shown(said: Sentences, passage: Array, *result: Array) -> Timestep:
            made = timestep(said.subjects[passage], *result)
            return dataclasses.replace(made, metrics={"gold": passage})

        def reset(said: Sentences, key: PRNGKey) -> tuple[Array, Timestep]:
            passage = jax.random.randint(key, (), 0, len(sentences))
            return passage, shown(said, passage)

        def step(
            said: Sentences, key: PRNGKey, passage: Array, action: Int[Array, ""]
        ) -> tuple[Array, Timestep]:
            del key
            reward = (action == said.answers[passage]).astype(jnp.float32)
            return passage, shown(said, passage, reward, jnp.asarray(True))

        low = np.zeros(subjects.shape[1:], np.float32)
        return Env(
            Sentences(jnp.asarray(subjects), jnp.asarray(answers)),
            reset,
            step,
            self.actions,
            low=low,
            high=low + 1.0,
            passages=jnp.asarray(tokens),
            vocabulary=vocabulary,
        )


def tokenise(texts: list[str]) -> tuple[Int[np.ndarray, "N P"], Vocabulary]:
    """Texts as tokens, one a word, and what they tell of the words.

    Args:
      texts: N texts, in lower case and without punctuation.

    Returns:
      [N,P] tokens, padded with 0, and their `Vocabulary`.
    """
    split = [text.split() for text in texts]
    words = sorted({word for text in split for word in text})
    ids = {word: UNK_ID + 1 + place for place, word in enumerate(words)}
    tokens = np.full((len(texts), max(map(len, split))), PAD_ID, np.int32)
    for row, text in zip(tokens, split, strict=True):
        row[: len(text)] = [ids[word] for word in text]
    size = UNK_ID + 1 + len(words)
    found = np.array([np.any(tokens == token, axis=-1).sum() for token in range(size)])
    named = np.arange(size) > UNK_ID
    idf = np.where(named, np.log((len(texts) + 1) / (found + 1)), 0.0).astype(np.float32)
    fold = jnp.arange(size, dtype=jnp.int32)
    return tokens, Vocabulary(fold, jnp.asarray(idf), jnp.asarray(named))

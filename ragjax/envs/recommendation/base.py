"""What RecSim's environments have in common: users, documents, and the steps between them.

RecSim (Ie et al. 2019, arXiv 1909.04847) offers a few candidates, drawn anew in each step, of which a
slate is shown (`corpus` 0). Here the candidates can also be all N documents of a corpus that stays as it
is, from which a policy has to retrieve (`corpus` N, or the user's own `items`). A few of them drawn by
chance are candidates as in RecSim, so that figures carry over.
"""

import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from ragjax.data.items import read_items
from ragjax.envs.base import Environment, timestep
from ragjax.envs.recommendation.baselines import Ranked, Ranking
from ragjax.envs.recommendation.memory import Remembering, remember_responses
from ragjax.envs.recommendation.simulation import Ranges, Simulation
from ragjax.envs.scene import Scene
from ragjax.errors import require
from ragjax.manifests import file_digest
from ragjax.ranges import SEED
from ragjax.types import Env, Leaf, PRNGKey, Timestep, Vocabulary


@struct.dataclass
class Params(Ranked):
    """What an environment is made of.

    Attributes:
      rules: the constants of users and documents, a tree of arrays that is `Ranked`.
      corpus: the documents, a tree of [N,...]; None where candidates are drawn anew in each step.
    """

    rules: Leaf
    corpus: Leaf

    def rankings(self) -> dict[str, Ranking]:
        """Those of the rules."""
        return self.rules.rankings()

    def oracles(self) -> dict[str, Ranking]:
        """Those of the rules."""
        return self.rules.oracles()


@struct.dataclass
class State:
    """An episode.

    Attributes:
      user: a tree of arrays.
      offered: the candidates, a tree of [C,...]; None where they are all documents of a corpus.
      totals: name -> [] sum over the steps so far.
      steps: [] how many.
    """

    user: Leaf
    offered: Leaf
    totals: Leaf
    steps: Leaf


@dataclass(frozen=True)
class Recommendation(Environment):
    """Base of the environments after RecSim. A subclass says what users and documents are.

    Observation: what is seen of the user [U]; what is seen of each place of the slate shown last [S,R],
    zeros at first; with `reveal` what is hidden of the user [H]; with `memory` what was seen of all
    places so far [M,R+1], see `remember_responses`; with `corpus` 0 what is seen of each
    candidate [C,F], last. Actions: S distinct places of candidates, or rows of the corpus, in the order
    in which they are shown. Passages, with a corpus: what is seen of each document [N,F].

    Attributes:
      candidates: C, documents to choose from in each step; without effect if there is a corpus.
      slate: S, how many of them are shown.
      corpus: N, documents that stay the same in all episodes and are all to choose from; 0 for
        candidates that are drawn anew in each step, as in RecSim.
      passage_seed: seed that the corpus is drawn from.
      items: file that holds the corpus in place of drawn documents: JSON lines, CSV or TSV (`.gz` or
        not), a row each, with a column for all that the rules need, what no policy sees included;
        other columns are not read. Leave `corpus` at 0 then.
      reveal: whether observations hold what is hidden of the user, for an oracle to compare with.
      memory: M, responses that are remembered and shown; 0 for none.
      earlier: E, responses of earlier users that the memory begins with, each of whom was shown one
        slate by chance. With M rows at most; E / S users, so that it is a multiple of S.
    """

    candidates: int = 10
    slate: int = 2
    corpus: int = 0
    passage_seed: int = field(default=0, metadata=SEED)
    items: str = ""
    reveal: bool = False
    memory: int = 0
    earlier: int = 0

    def __post_init__(self):
        """Checks the fields, and makes the path absolute."""
        super().__post_init__()
        if self.items:
            object.__setattr__(self, "items", str(Path(self.items).expanduser().absolute()))
        for name in ("candidates", "slate"):
            value = getattr(self, name)
            require(value >= 1, f"env.{name} is {value}; it must be at least 1.")
        for name in ("corpus", "passage_seed"):
            value = getattr(self, name)
            require(value >= 0, f"env.{name} is {value}; it must not be negative.")
        require(
            not (self.items and self.corpus),
            f"env.corpus is {self.corpus} together with env.items, whose rows are the corpus; leave "
            "env.corpus at 0.",
        )
        if not self.items:
            name = "corpus" if self.corpus else "candidates"
            count = getattr(self, name)
            self._require_enough(count, f"env.{name} {count}")
        require(
            self.memory == 0 or self.memory >= self.slate,
            f"env.memory is {self.memory}; set it to 0 for no memory, or to at least the {self.slate} "
            "places of a slate, which are remembered at once.",
        )
        require(
            0 <= self.earlier <= self.memory and self.earlier % self.slate == 0,
            f"env.earlier is {self.earlier}; choose a multiple of the {self.slate} places of a slate, "
            f"at most the {self.memory} rows of env.memory.",
        )

    @property
    def has_corpus(self) -> bool:
        """Whether the documents to choose from stay the same."""
        return bool(self.corpus or self.items)

    def _require_enough(self, count: int, source: str) -> None:
        require(
            self.slate <= count,
            f"env.slate is {self.slate}, more than {source}; show at most as many documents as "
            "there are.",
        )

    def origins(self) -> dict[str, Any]:
        """The file of items, if there is one.

        Raises:
          UserError: it is not there.
        """
        if not self.items:
            return {}
        path = Path(self.items)
        require(path.is_file(), f"env.items is {path}, which is no file; name one that exists.")
        return {"items": {"run": self.items, "digest": file_digest(path), "holds": "items"}}

    def simulation(self) -> Simulation:
        """What users and documents are."""
        raise NotImplementedError

    def passages(self, corpus: Any, looks: Float[Array, "N F"]) -> tuple[Array, Vocabulary | None]:
        """What a policy sees of a corpus, and the vocabulary if that is tokens; `looks` by default."""
        del corpus
        return looks, None

    def user_scene(self, rules: Any, user: Any, caption: str) -> Scene | None:
        """What is seen of a user; None if it can't be drawn."""
        del rules, user, caption
        return None

    def scene(self, params: Params, state: State | Remembering) -> Scene | None:
        """The user, also what no policy sees of it, and the means of the steps so far."""
        inner: State = state.inner if isinstance(state, Remembering) else state
        means = [
            f"{name.replace('_', ' ')} {float(total) / max(int(inner.steps), 1):.2f}"
            for name, total in inner.totals.items()
        ]
        return self.user_scene(params.rules, inner.user, ", ".join(means) + " a step")

    def action_name(self, action: int) -> str:
        """The place of a candidate, or the row of a document."""
        return f"document {action}" if self.has_corpus else f"candidate {action}"

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""
        simulation = self.simulation()
        corpus, passages, vocabulary = None, None, None
        count = self.candidates
        if self.has_corpus:
            corpus = self._documents(simulation)
            looks = simulation.looks(corpus)
            count = len(looks)
            passages, vocabulary = self.passages(corpus, looks)

        def offer(params: Params, key: PRNGKey) -> Any:
            if params.corpus is not None:
                return None
            return simulation.documents(params.rules, key, self.candidates)

        def reset(params: Params, key: PRNGKey) -> tuple[State, Timestep]:
            user_key, offer_key = jax.random.split(key)
            user = simulation.user(params.rules, user_key)
            return self.begin(simulation, params, user, offer(params, offer_key))

        def step(
            params: Params, key: PRNGKey, state: State, action: Int[Array, "S"]
        ) -> tuple[State, Timestep]:
            chance_key, offer_key = jax.random.split(key)
            chance = simulation.chance(params.rules, chance_key)
            offered = offer(params, offer_key)
            return self.advance(simulation, params, state, action, chance, offered)

        low, high = self._limits(simulation.ranges)
        env = Env(
            Params(simulation.rules, corpus),
            reset,
            step,
            num_actions=count,
            low=low,
            high=high,
            passages=passages,
            vocabulary=vocabulary,
            slate=self.slate,
            parts=self._parts(simulation.ranges),
        )
        if not self.memory:
            return env
        earlier = functools.partial(self._earlier, simulation) if self.earlier else None
        return remember_responses(env, self.memory, earlier)

    def _earlier(
        self, simulation: Simulation, params: Params, key: PRNGKey, state: State
    ) -> Float[Array, "E R"]:
        """What other users, in the world of this episode's, met with in a slate by chance each."""

        def visit(key: PRNGKey) -> Array:
            user_key, document_key, slate_key, chance_key = jax.random.split(key, 4)
            user = simulation.another(params.rules, user_key, state.user)
            documents = params.corpus
            if documents is None:
                documents = simulation.documents(params.rules, document_key, self.candidates)
            count = len(jax.tree.leaves(documents)[0])
            slate = jax.random.choice(slate_key, count, (self.slate,), replace=False)
            shown = jax.tree.map(lambda leaf: leaf[slate], documents)
            chance = simulation.chance(params.rules, chance_key)
            return simulation.respond(params.rules, user, shown, chance).responses

        visits = jax.vmap(visit)(jax.random.split(key, self.earlier // self.slate))
        return visits.reshape(self.earlier, -1)

    def _documents(self, simulation: Simulation) -> Any:
        """The corpus, drawn or read.

        Raises:
          UserError: names the line of the file of items that is not as it must be, or there are fewer
            than a slate has places.
        """
        if not self.items:
            key = jax.random.PRNGKey(self.passage_seed)
            return simulation.documents(simulation.rules, key, self.corpus)
        columns = simulation.columns
        read = read_items(Path(self.items), columns)
        count = len(next(iter(read.values())))
        self._require_enough(count, f"the {count} of env.items {self.items}")
        return simulation.document(
            **{
                name: jnp.asarray(values, jnp.int32 if columns[name].whole else float)
                for name, values in read.items()
            }
        )

    def begin(
        self, simulation: Simulation, params: Params, user: Any, offered: Any
    ) -> tuple[State, Timestep]:
        """The first step of an episode, of a given user and given candidates."""
        totals = {name: jnp.zeros(()) for name in simulation.figures}
        state = State(user, offered, totals, jnp.zeros((), jnp.int32))
        nothing = jnp.zeros((self.slate, len(simulation.ranges.place[0])))
        return state, self._show(simulation, params, state, nothing)

    def advance(
        self,
        simulation: Simulation,
        params: Params,
        state: State,
        action: Int[Array, "S"],
        chance: Any,
        offered: Any,
    ) -> tuple[State, Timestep]:
        """One step in which all that chance decides is given, the next candidates included."""
        documents = state.offered if params.corpus is None else params.corpus
        shown = jax.tree.map(lambda leaf: leaf[action], documents)
        reaction = simulation.respond(params.rules, state.user, shown, chance)
        totals = {name: state.totals[name] + reaction.figures[name] for name in simulation.figures}
        state = State(reaction.user, offered, totals, state.steps + 1)
        made = self._show(simulation, params, state, reaction.responses)
        return state, dataclasses.replace(
            made,
            reward=reaction.reward.astype(jnp.float32),
            terminated=jnp.asarray(reaction.terminated, bool),
        )

    def _show(
        self, simulation: Simulation, params: Params, state: State, responses: Array
    ) -> Timestep:
        """What is seen after a step, and the means of its figures over the episode so far."""
        parts = [simulation.observed(state.user), responses]
        if self.reveal:
            parts.append(simulation.hidden(params.rules, state.user))
        if state.offered is not None:
            parts.append(simulation.looks(state.offered))
        observation = jnp.concatenate([part.reshape(-1) for part in parts])
        made = timestep(observation.astype(jnp.float32))
        metrics = episode_means(state.totals, state.steps)
        if simulation.success is not None:
            success = simulation.success(params.rules, state.totals)
            metrics["episode_success"] = success.astype(made.reward.dtype)
        return dataclasses.replace(made, metrics=metrics)

    def _parts(self, ranges: Ranges) -> dict[str, tuple[int, ...]]:
        """What observations are joined of."""
        parts = {"user": ranges.user, "responses": ranges.place, "hidden": ranges.hidden}
        shapes: dict[str, tuple[int, ...]]
        shapes = {name: (len(low),) for name, (low, _) in parts.items()}
        shapes["responses"] = (self.slate, *shapes["responses"])
        if not self.reveal:
            del shapes["hidden"]
        if not self.has_corpus:
            shapes["candidates"] = (self.candidates, len(ranges.document[0]))
        return shapes

    def _limits(self, ranges: Ranges) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest value of each number of an observation."""
        times = (1, self.slate, int(self.reveal), 0 if self.has_corpus else self.candidates)
        sides = (
            [np.tile(part[side], count) for part, count in zip(ranges, times, strict=True)]
            for side in (0, 1)
        )
        low, high = (np.concatenate(side).astype(np.float32) for side in sides)
        # Of places where nothing has been shown, zeros are seen.
        return np.minimum(low, 0.0), np.maximum(high, 0.0)


def episode_means(totals: dict[str, Array], steps: Int[Array, ""]) -> dict[str, Array]:
    """Metrics: what `totals` sum up, a step; 0 before the first one."""
    return {
        f"episode_{name}": total / jnp.maximum(steps, 1).astype(total.dtype)
        for name, total in totals.items()
    }

"""RecoGym: users browse a shop by themselves, and between that are shown one product at a time.

The environment of Rohde et al. (2018, arXiv 1808.00720), version 1, without flips. What users view of
their own accord tells their taste ω; the best product to show is then argmax_a β_a·ω + bias_a, a search
for the largest inner product: an encoder of the views is the query, products are what is retrieved.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from ragjax.envs.base import Environment, timestep
from ragjax.envs.recommendation.base import episode_means
from ragjax.envs.recommendation.baselines import Ranked, Ranking, scored
from ragjax.envs.recommendation.choice import drawn_by_weight
from ragjax.envs.recommendation.numbered import (
    FIRST_TOKEN,
    numbered_vocabulary,
    numbers_of,
    shares_of_views,
)
from ragjax.envs.scene import Scene, likeliest
from ragjax.errors import require
from ragjax.ranges import SEED
from ragjax.types import Env, Leaf, PRNGKey, Timestep, Vocabulary

ONE_HOTS = 4096  # most products that are shown as one-hots
PAGE = 16  # views for which chance is drawn together
USERS = 1000  # whose views popularity is the mean of


@struct.dataclass
class Shop(Ranked):
    """The products, and the constants of users.

    Attributes:
      products: [P,L] Γ, of views and of clicks alike (β = Γ).
      appeal: [P] μ, the bias of views and of clicks.
      drift: [] standard deviation by which each number of a taste changes after a view.
      leave: [] chance that a visit ends after a view.
      stop_visiting: [] share of visits after which the user is gone, and not back to be shown products.
      visit: [] chance that a user browses again after having been shown a product.
      stop: [] chance that it is gone then.
    """

    products: Leaf
    appeal: Leaf
    drift: Leaf
    leave: Leaf
    stop_visiting: Leaf
    visit: Leaf
    stop: Leaf

    def rankings(self) -> dict[str, Ranking]:
        """By a product's share of all users' first views, and of the views that are seen of the user."""
        tastes = jax.random.normal(jax.random.PRNGKey(0), (USERS, self.products.shape[-1]))
        shares = jax.nn.softmax(tastes @ self.products.T + self.appeal, axis=-1).mean(0)

        def viewed(parts: Mapping[str, Array], looks: Array) -> Array:
            own, rows = shares_of_views(parts, len(shares)), numbers_of(looks)
            rows = jnp.broadcast_to(rows, (*own.shape[:-1], rows.shape[-1]))
            return jnp.take_along_axis(own, rows, axis=-1)

        return {"popularity": lambda parts, looks: shares[numbers_of(looks)], "viewed": viewed}

    def oracles(self) -> dict[str, Ranking]:
        """By the score that a click comes of."""

        def score(parts: Mapping[str, Array], looks: Array) -> Array:
            rows = numbers_of(looks)
            return scored(parts["hidden"], self.products[rows]) + self.appeal[rows]

        return {"affinity": score}


@struct.dataclass
class State:
    """An episode.

    Attributes:
      taste: [L] ω of the user.
      seen: [P] how often each product was viewed; or [V] the last views, newest first, -1 for none.
      fresh: [V] whether it was viewed since the last action; [0] where `seen` are counts.
      views: [] of the episode so far.
      shown: [] the product shown last, -1 for none.
      clicked: [] whether it was clicked.
      totals: name -> [] sum over the steps so far.
      steps: [] how many.
    """

    taste: Leaf
    seen: Leaf
    fresh: Leaf
    views: Leaf
    shown: Leaf
    clicked: Leaf
    totals: Leaf
    steps: Leaf


@struct.dataclass
class Visit:
    """What chance decides in a visit.

    Attributes:
      length: [] from [0, 1), by which the number of views is drawn.
      end: [] from [0, 1), by which the user is gone or not.
      views: PRNG key of the views, see `draw_views`.
    """

    length: Leaf
    end: Leaf
    views: Leaf


@struct.dataclass
class Chance:
    """What chance decides in a step: a click and what follows, both [] from [0, 1), and a visit."""

    click: Leaf
    move: Leaf
    visit: Leaf


def click_chance(score: Float[Array, "..."]) -> Float[Array, "..."]:
    """[...] probability of a click, σ(5 σ(2 σ(0.3 z) - 2) - 6), of scores z = β_a·ω + bias_a."""
    sigmoid = jax.nn.sigmoid
    return sigmoid(5.0 * sigmoid(2.0 * sigmoid(0.3 * score) - 2.0) - 6.0)


def draw_visit(shop: Shop, key: PRNGKey) -> Visit:
    """What chance decides in a visit."""
    uniform_key, views_key = jax.random.split(key)
    length, end = jax.random.uniform(uniform_key, (2,))
    return Visit(length, end, views_key)


def draw_views(key: PRNGKey, page: Int[Array, ""], factors: int) -> tuple[Array, Array]:
    """What chance decides in 16 views of a visit, the first 16 on page 0.

    They are drawn together, which costs less than one after another.

    Returns:
      [16] from [0, 1), and [16,L] standard normal.
    """
    product_key, drift_key = jax.random.split(jax.random.fold_in(key, page))
    uniform = jax.random.uniform(product_key, (PAGE,))
    return uniform, jax.random.normal(drift_key, (PAGE, factors))


def visit_length(shop: Shop, uniform: Float[Array, ""]) -> Int[Array, ""]:
    """The number of views of a visit: n with probability (1 - leave)^(n-1) leave."""
    beyond = jnp.floor(jnp.log1p(-uniform) / jnp.log1p(-shop.leave))
    return 1 + beyond.astype(jnp.int32)


def browse(shop: Shop, state: State, visit: Visit, count: Int[Array, ""]) -> State:
    """The user views `count` products, each with softmax(Γω + μ), and its taste drifts after each."""

    def view(state: State, uniform: Array, drift: Array) -> State:
        scores = shop.products @ state.taste + shop.appeal
        product = drawn_by_weight(jnp.exp(scores - jnp.max(scores)), uniform)
        taste = state.taste + shop.drift * drift
        if state.fresh.shape[0]:
            newest = product[None].astype(jnp.int32)
            seen = jnp.concatenate([newest, state.seen[:-1]])
            fresh = jnp.concatenate([jnp.ones((1,), bool), state.fresh[:-1]])
        else:
            viewed = jnp.arange(len(state.seen)) == product
            seen, fresh = state.seen + viewed.astype(jnp.int32), state.fresh
        return dataclasses.replace(
            state, taste=taste, seen=seen, fresh=fresh, views=state.views + 1
        )

    def view_page(page: Array, state: State) -> State:
        uniform, drift = draw_views(visit.views, page, len(state.taste))
        views = jnp.minimum(count - page * PAGE, PAGE)
        return jax.lax.fori_loop(
            0, views, lambda row, state: view(state, uniform[row], drift[row]), state
        )

    return jax.lax.fori_loop(0, (count + PAGE - 1) // PAGE, view_page, state)


def respond(
    shop: Shop, state: State, product: Int[Array, ""], chance: Chance
) -> tuple[State, Array]:
    """The user is shown a product, clicks on it or not, and browses, is gone, or waits for the next.

    A click is followed by a visit, whatever chance says. A visit may be the last that is seen.

    Returns:
      The state, and whether the user is gone.
    """
    scores = shop.products @ state.taste + shop.appeal
    expected = click_chance(scores[product])
    clicked = chance.click < expected
    visits = clicked | (chance.move < shop.visit)
    gone = ~visits & (chance.move < shop.visit + shop.stop)
    figures = {
        "click_rate": clicked.astype(float),
        "click_chance": expected,
        "best_chance": click_chance(jnp.max(scores)),
    }
    state = dataclasses.replace(
        state,
        fresh=jnp.zeros_like(state.fresh),
        shown=product.astype(jnp.int32),
        clicked=clicked,
        totals={name: total + figures[name] for name, total in state.totals.items()},
        steps=state.steps + 1,
    )
    count = jnp.where(visits, visit_length(shop, chance.visit.length), 0)
    state = browse(shop, state, chance.visit, count)
    return state, gone | (visits & (chance.visit.end < shop.stop_visiting))


@dataclass(frozen=True)
class RecoGym(Environment):
    """Reward 1 for each click on the product that is shown, until the user is gone.

    Actions: a slate of one product, so that policies serve that choose among passages. An episode begins
    after the user's first visit; users who are gone by then, 1 in 26, are not met. Metrics of an
    episode: `click_rate`, the mean of clicks; `click_chance`, of their probability; and `best_chance`,
    of that of the best product.

    What products are like is not shown, but which one is which, to learn an embedding of each. With
    `views` 0, for up to 4,096 products, observations are [2 P + 2]: the share of each product among the
    user's views so far; the product shown last, as one-hot; whether it was clicked; log(1 + views so
    far). Passages [P,P]: each product as one-hot.

    With `views` V, for many products, they are [2 V + 2]: the last V views, newest first, as token of
    the product, 0 for none; for each whether it came after the last action; whether the product shown
    last was clicked; log(1 + views so far). Passages [P,1]: the product's token, which is its number +
    4. With `reveal`, [L] the user's taste comes last. The metric `labels` [V] of a step with `views`
    tells the products viewed since its action, -1 in the other places.

    Attributes:
      products: P.
      factors: L, numbers of a taste and of a product.
      sigma_mu_organic: standard deviation of the products' appeal to everybody. At RecoGym's 3 showing
        the most popular one is nearly best; at 1 personal taste decides.
      views: V, or 0.
      reveal: whether observations hold the user's taste, for an oracle to compare with.
      passage_seed: seed that the products are drawn from.
    """

    name: ClassVar[str] = "recogym"

    time_limit: int = 1000
    products: int = 100
    factors: int = 5
    sigma_mu_organic: float = 3.0
    views: int = 0
    reveal: bool = False
    passage_seed: int = field(default=0, metadata=SEED)

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        require(self.products >= 2, f"env.products is {self.products}; there must be at least 2.")
        require(self.factors >= 1, f"env.factors is {self.factors}; it must be at least 1.")
        for name in ("views", "passage_seed"):
            value = getattr(self, name)
            require(value >= 0, f"env.{name} is {value}; it must not be negative.")
        require(
            0 <= self.sigma_mu_organic < np.inf,
            f"env.sigma_mu_organic is {self.sigma_mu_organic}; it must not be negative, nor infinite.",
        )
        require(
            self.views > 0 or self.products <= ONE_HOTS,
            f"env.products is {self.products} with env.views 0, where products are one-hots; set "
            f"env.views, to 16 for example, for more than {ONE_HOTS} products.",
        )

    def scene(self, params: Shop, state: State) -> Scene:
        """The products that the user would click likeliest, in percent; the one shown is the agent."""
        scores = jnp.asarray(params.products @ state.taste + params.appeal)
        chances = 100 * np.asarray(click_chance(scores))
        clicks = float(state.totals["click_rate"])
        caption = f"{int(state.views)} views, {clicks:.0f} clicks"
        return likeliest("product", chances, int(state.shown), 4.0, caption)

    def action_name(self, action: int) -> str:
        """The product."""
        return f"product {action}"

    def shop(self) -> Shop:
        """The products, drawn from their seed, and the constants of RecoGym."""
        random = np.random.default_rng(self.passage_seed)
        products = random.normal(size=(self.products, self.factors))
        appeal = self.sigma_mu_organic * random.normal(size=self.products)
        return Shop(
            products=jnp.asarray(products, float),
            appeal=jnp.asarray(appeal, float),
            drift=jnp.asarray(0.1, float),
            leave=jnp.asarray(0.26, float),
            stop_visiting=jnp.asarray(0.01 / 0.26, float),
            visit=jnp.asarray(0.05, float),
            stop=jnp.asarray(0.01, float),
        )

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""

        def reset(shop: Shop, key: PRNGKey) -> tuple[State, Timestep]:
            taste_key, visit_key = jax.random.split(key)
            taste = jax.random.normal(taste_key, (self.factors,))
            state = self.begin(shop, taste, draw_visit(shop, visit_key))
            return state, self.show(state)

        def step(
            shop: Shop, key: PRNGKey, state: State, action: Int[Array, "1"]
        ) -> tuple[State, Timestep]:
            uniform_key, visit_key = jax.random.split(key)
            click, move = jax.random.uniform(uniform_key, (2,))
            chance = Chance(click, move, draw_visit(shop, visit_key))
            state, gone = respond(shop, state, action[0], chance)
            return state, dataclasses.replace(
                self.show(state), reward=state.clicked.astype(jnp.float32), terminated=gone
            )

        parts, largest = self._parts()
        high = np.concatenate(largest).astype(np.float32)
        low = np.zeros_like(high)
        if self.reveal:
            low[-self.factors :] = -np.inf
        passages, vocabulary = self._passages()
        return Env(
            self.shop(),
            reset,
            step,
            num_actions=self.products,
            low=low,
            high=high,
            passages=passages,
            vocabulary=vocabulary,
            slate=1,
            parts=parts,
        )

    def begin(self, shop: Shop, taste: Float[Array, "L"], visit: Visit) -> State:
        """The state after the first visit of a user, who is then shown products."""
        size = self.views or self.products
        state = State(
            taste=taste,
            seen=jnp.full((size,), -1 if self.views else 0, jnp.int32),
            fresh=jnp.zeros((self.views,), bool),
            views=jnp.zeros((), jnp.int32),
            shown=jnp.full((), -1, jnp.int32),
            clicked=jnp.zeros((), bool),
            totals={name: jnp.zeros(()) for name in ("click_rate", "click_chance", "best_chance")},
            steps=jnp.zeros((), jnp.int32),
        )
        return browse(shop, state, visit, visit_length(shop, visit.length))

    def show(self, state: State) -> Timestep:
        """What is seen of an episode, and the means of its figures so far."""
        if self.views:
            tokens = jnp.where(state.seen < 0, 0, state.seen + FIRST_TOKEN)
            parts = [tokens, state.fresh]
        else:
            shares = state.seen.astype(float) / jnp.maximum(state.views, 1).astype(float)
            parts = [shares, jax.nn.one_hot(state.shown, self.products)]
        parts += [state.clicked[None], jnp.log1p(state.views.astype(float))[None]]
        if self.reveal:
            parts.append(state.taste)
        observation = jnp.concatenate([part.astype(jnp.float32) for part in parts])
        metrics = episode_means(state.totals, state.steps)
        if self.views:
            metrics["labels"] = jnp.where(state.fresh, state.seen, -1)
        return dataclasses.replace(timestep(observation), metrics=metrics)

    def _parts(self) -> tuple[dict[str, tuple[int, ...]], list[np.ndarray]]:
        """What observations are joined of, and the largest value of each of their numbers."""
        if self.views:
            token = float(self.products - 1 + FIRST_TOKEN)
            parts = {"views": (self.views, token), "fresh": (self.views, 1.0)}
        else:
            parts = {"views": (self.products, 1.0), "shown": (self.products, 1.0)}
        parts |= {"clicked": (1, 1.0), "amount": (1, np.inf)}
        if self.reveal:
            parts["hidden"] = (self.factors, np.inf)
        shapes = {name: (width,) for name, (width, _) in parts.items()}
        return shapes, [np.full(width, largest) for width, largest in parts.values()]

    def _passages(self) -> tuple[Any, Vocabulary | None]:
        """The products as passages: one-hots, or tokens and their vocabulary."""
        if not self.views:
            return jnp.eye(self.products), None
        tokens = jnp.arange(self.products, dtype=jnp.int32)[:, None] + FIRST_TOKEN
        return tokens, numbered_vocabulary(self.products)

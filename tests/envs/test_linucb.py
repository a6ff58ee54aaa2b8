"""LinUCB against ridge regressions solved one by one, and that it learns what is clicked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.recommendation.linucb import LinUCB
from ragjax.envs.recommendation.numbered import FIRST_TOKEN
from ragjax.envs.recommendation.recogym import RecoGym
from ragjax.errors import UserError


def test_arms_are_ridge_regressions():
    bandit = LinUCB(alpha=0.5, ridge=2.0)
    rng = np.random.default_rng(0)
    arms, width, many = 3, 4, 40
    x = rng.normal(size=(many, width)).astype(np.float32)
    shown = rng.integers(arms, size=many).astype(np.int32)
    reward = rng.random(many).astype(np.float32)
    learned = bandit.learn(
        bandit.start(arms, width), jnp.asarray(x), jnp.asarray(shown), jnp.asarray(reward)
    )
    scores = []
    for arm in range(arms):
        mine = x[shown == arm]
        inverse = np.linalg.inv(2.0 * np.eye(width) + mine.T @ mine)
        theta = inverse @ (reward[shown == arm] @ mine)
        np.testing.assert_allclose(learned.inverse[arm], inverse, atol=1e-5)
        spread = np.sqrt(np.einsum("nd,de,ne->n", x, inverse, x))
        scores.append(x @ theta + 0.5 * spread)
    chosen = bandit.choose(learned, jnp.asarray(x))
    np.testing.assert_array_equal(chosen, np.argmax(scores, axis=0))
    assert len(set(np.asarray(chosen).tolist())) == arms


@pytest.mark.slow
def test_more_is_clicked_as_it_learns():
    spec = RecoGym(products=40)
    played = LinUCB(width=8).play(spec, jax.random.key(0), 128, 500)
    first, *_, last = np.split(np.asarray(played["reward"]), 5)
    error = np.sqrt(first.mean() / first.size)
    assert last.mean() - first.mean() > 3 * np.sqrt(2) * error
    assert played["shown"].shape == played["reward"].shape == (500, 128)


def test_contexts_are_the_shares_of_views():
    for views in (0, 8):
        env = RecoGym(products=6, views=views).build()
        _, first = env.reset(env.params, jax.random.key(0))
        seen = np.asarray(first.observation[: views or 6])
        shares = [np.mean(seen == product + FIRST_TOKEN) for product in range(6)] if views else seen
        plain, mixed = (
            LinUCB(width=width).contexts(env, jax.random.key(1))(first.observation[None])
            for width in (0, 3)
        )
        np.testing.assert_allclose(plain, [[*shares, 1]], rtol=1e-6)
        assert mixed.shape == (1, 4)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"alpha": -0.1}, "alpha is -0.1; it must not be negative."),
        ({"ridge": 0.0}, "ridge is 0.0; it must be positive."),
        ({"width": -1}, "width is -1; it must not be negative."),
    ],
)
def test_bad_fields_are_named(fields, sentence):
    with pytest.raises(UserError) as caught:
        LinUCB(**fields)
    assert str(caught.value) == sentence

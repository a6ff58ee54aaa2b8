"""Models of the reward that doubly robust estimators lean on, fitted to the log they are used on.

A model is linear in features φ(x,a) of a context and an action, with one of two forms:

    ridge     q = φ·β            minimises ½ Σ_i c_i (r_i - φ_i·β)² + ½ λ |β|²
    logistic  q = σ(φ·β)         minimises Σ_i c_i [log(1 + exp(φ_i·β)) - r_i φ_i·β] + ½ λ |β|²

with c_i the weight of a round, and r in [0, 1] for the second. Features that hold a constant give it an
intercept, which is penalised as the others are. What a round is predicted to earn has to come from a
model that has not seen it, or the doubly robust estimator is biased: `cross_fitted`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragjax.errors import require
from ragjax.ops.scoring import FULL_PRECISION

NEWTON_STEPS = 30
_HALVINGS = 12  # of a step, of which the longest that helps is taken


class RewardModel(NamedTuple):
    """How a reward is predicted.

    Attributes:
      fit: (features [n,F], reward [n], weight [n], penalty λ) -> β [F].
      predict: (features [...,F], β [F]) -> [...] the mean reward.
    """

    fit: Callable[[Array, Array, Array, float], Array]
    predict: Callable[[Array, Array], Array]


def fit_ridge(
    features: Float[Array, "n F"],
    reward: Float[Array, "n"],
    weight: Float[Array, "n"],
    penalty: float,
) -> Float[Array, "F"]:
    """[F] β of the ridge model, in closed form."""
    weighted = features * weight[:, None]
    gram = jnp.matmul(weighted.T, features, precision=FULL_PRECISION)
    moment = jnp.matmul(weighted.T, reward, precision=FULL_PRECISION)
    return _solve(gram, moment, penalty)


def fit_logistic(
    features: Float[Array, "n F"],
    reward: Float[Array, "n"],
    weight: Float[Array, "n"],
    penalty: float,
) -> Float[Array, "F"]:
    """[F] β of the logistic model, by Newton's method with a step that is halved until it helps."""
    steps = 0.5 ** jnp.arange(_HALVINGS, dtype=features.dtype)
    rounding = 8 * jnp.finfo(features.dtype).eps

    def loss(beta: Array) -> Array:
        logit = jnp.matmul(features, beta, precision=FULL_PRECISION)
        each = jax.nn.softplus(logit) - reward * logit
        return jnp.sum(weight * each) + 0.5 * penalty * jnp.sum(jnp.square(beta))

    def newton(beta: Array, _: None) -> tuple[Array, None]:
        mean = predict_logistic(features, beta)
        curvature = (features * (weight * mean * (1 - mean))[:, None]).T
        hessian = jnp.matmul(curvature, features, precision=FULL_PRECISION)
        slope = jnp.matmul((weight * (mean - reward)), features, precision=FULL_PRECISION)
        direction = _solve(hessian, slope + penalty * beta, penalty)
        tried = beta - steps[:, None] * direction
        before = loss(beta)
        helps = jax.vmap(loss)(tried) <= before + rounding * jnp.abs(before)
        return jnp.where(jnp.any(helps), tried[jnp.argmax(helps)], beta), None

    return jax.lax.scan(newton, jnp.zeros_like(features[0]), length=NEWTON_STEPS)[0]


def predict_ridge(features: Float[Array, "*n F"], beta: Float[Array, "F"]) -> Float[Array, "*n"]:
    """[...] φ·β."""
    return jnp.matmul(features, beta, precision=FULL_PRECISION)


def predict_logistic(features: Float[Array, "*n F"], beta: Float[Array, "F"]) -> Float[Array, "*n"]:
    """[...] σ(φ·β)."""
    return jax.nn.sigmoid(predict_ridge(features, beta))


RIDGE = RewardModel(fit_ridge, predict_ridge)
LOGISTIC = RewardModel(fit_logistic, predict_logistic)


def cross_fitted(
    model: RewardModel,
    features: Float[Array, "n A F"],
    action: Int[Array, "n"],
    reward: Float[Array, "n"],
    *,
    folds: int,
    penalty: float = 1.0,
) -> Float[Array, "n A"]:
    """Predicts every round by a model that is fitted to the rounds of all other folds.

    Round i is of fold i mod `folds`; rounds must be independent of those of other folds.

    Args:
      model: `RIDGE`, `LOGISTIC`, or one like them.
      features: [n,A,F] φ(x_i,a) of all actions.
      action: [n] the one that was logged.
      reward: [n] r.
      folds: at least 2, at most n.
      penalty: λ, positive.

    Returns:
      [n,A] q(x_i,a), from which `model_terms` makes what the doubly robust estimator takes.

    Raises:
      UserError: the folds are too few or too many, or the penalty isn't positive.
    """
    count = features.shape[0]
    require(
        2 <= folds <= count,
        f"folds is {folds} for {count} rounds; give it 2 to {count}, for each is predicted by others.",
    )
    require(penalty > 0, f"penalty is {penalty}; it must be positive, so that there is one model.")
    logged = jnp.take_along_axis(features, action[:, None, None], axis=1)[:, 0]
    fold = jnp.arange(count) % folds
    others = (fold != jnp.arange(folds)[:, None]).astype(features.dtype)
    betas = jax.vmap(lambda weight: model.fit(logged, reward, weight, penalty))(others)
    return jax.vmap(model.predict)(features, betas[fold])


def model_terms(
    means: Float[Array, "n A"], action: Int[Array, "n"], target: Float[Array, "n A"]
) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """[n] q(x_i,a_i) of what was logged, and [n] Σ_a π(a|x_i) q(x_i,a) of the policy `target`."""
    predicted = jnp.take_along_axis(means, action[:, None], axis=1)[:, 0]
    return predicted, jnp.sum(target * means, axis=1)


def _solve(matrix: Array, vector: Array, penalty: float) -> Array:
    """(matrix + λ I)^-1 vector, of a matrix that is not negative."""
    ridged = matrix + penalty * jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    return jax.scipy.linalg.solve(ridged, vector, assume_a="pos")

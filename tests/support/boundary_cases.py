"""Experience whose episodes end in every way, and what an advantage estimator must make of it.

A window is what a vectorised environment with automatic resets hands to a learner: T steps in each of
E columns, in which episodes end and the next ones begin. The data are plain NumPy, the expected numbers
come from plain Python floats, and nothing here imports the code under test, so that any library's
estimator can be checked:

    from boundary_cases import check_estimator

    def theirs(reward, terminated, truncated, values, final_values, discount, trace):
        ...  # call the library
        return advantages

    check_estimator(theirs)  # AssertionError names the cases that it gets wrong

The task is a chain of states 0, 1, ..., 8 walked in this order, with a known reward for leaving each;
leaving 8 terminates. Each case is written as the states acted on, with what ended the episode there:

    T  terminated: nothing follows, so what follows is worth 0
    U  truncated by a time limit: what follows is worth the value of the next state of the chain
    B  both at once: termination decides

State X is that of a next episode whose rewards and values are absurd, so that whatever leaks across an
end shows.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

X = 9
REWARD = (0.5, -0.25, 0.75, 0.25, -0.5, 1.0, -0.75, 0.5, 0.25, 3000.0)
CRITIC = (
    0.25,
    -0.5,
    1.0,
    0.75,
    -1.0,
    0.5,
    1.25,
    -0.25,
    0.5,
    7000.0,
)  # some critic's, not the true ones
NOWHERE = -5000.0  # what the critic says of an observation after which nothing follows

# name -> states acted on, with the ends; then the state that stands after the last step.
CASES: dict[str, tuple[str, int]] = {
    "no end": ("0 1 2 3 4 5", 6),
    "termination": ("6 7 8T X X X", X),
    "truncation": ("1 2 3U X X X", X),
    "both at once": ("6 7 8B X X X", X),
    "termination at the first step": ("8T X X X X X", X),
    "truncation at the first step": ("4U X X X X X", X),
    "both at the first step": ("8B X X X X X", X),
    "termination at the last step": ("3 4 5 6 7 8T", X),
    "truncation at the last step": ("0 1 2 3 4 5U", X),
    "both at the last step": ("3 4 5 6 7 8B", X),
    "the absurd episode terminates first": ("X X XT 0 1 2", 3),
    "the absurd episode is truncated first": ("X XU 3 4 5U X", X),
    "an end at every step": ("0U 8T 3U 8B 5U XT", 2),
    "two resets, all ordinary": ("7 8T 0 1U 4 5", 6),
}

DISCOUNTS = (0.9, 1.0)
TRACES = (0.0, 0.5, 0.95, 1.0)


@dataclasses.dataclass(frozen=True)
class Window:
    """All cases side by side, one a column.

    Attributes:
      names: E names of cases.
      absurd: [T,E] whether the step belongs to an absurd episode.
      reward: [T,E] float32.
      terminated: [T,E] bool.
      truncated: [T,E] bool.
      values: [T+1,E] of the states acted on, and of the one that stands after the last step.
      final_values: [T,E] of the observation that each step led to, before any reset; an ordinary step's
        is the value of the next state, a termination's is `NOWHERE`.
    """

    names: tuple[str, ...]
    absurd: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    values: np.ndarray
    final_values: np.ndarray


def true_values(discount: float) -> tuple[float, ...]:
    """The values of the chain, with which every advantage of an ordinary episode is 0."""
    values = [0.0] * 10
    for state in range(8, -1, -1):
        values[state] = REWARD[state] + discount * values[state + 1]
    values[X] = CRITIC[X]
    return tuple(values)


def window(value_of: Sequence[float] = CRITIC) -> Window:
    """The cases under a critic: state -> value."""
    columns = []
    for steps, after in CASES.values():
        tokens = steps.split()
        states = [X if token[0] == "X" else int(token[0]) for token in tokens]
        ends = [token[1:] for token in tokens]
        final = [
            NOWHERE if end in ("T", "B") else value_of[X if state == X else state + 1]
            for state, end in zip(states, ends, strict=True)
        ]
        columns.append(
            {
                "absurd": [state == X for state in states],
                "reward": [REWARD[state] for state in states],
                "terminated": [end in ("T", "B") for end in ends],
                "truncated": [end in ("U", "B") for end in ends],
                "values": [value_of[state] for state in [*states, after]],
                "final_values": final,
            }
        )
    stacked = {name: np.array([column[name] for column in columns]).T for name in columns[0]}
    floats = {
        name: stacked[name].astype(np.float32) for name in ("reward", "values", "final_values")
    }
    return Window(tuple(CASES), **(stacked | floats))


@dataclasses.dataclass(frozen=True)
class Episode:
    """The part of an episode that lies within the window, as Python floats.

    Attributes:
      column: number of the case.
      steps: where it lies in the window.
      rewards: one a step.
      values: one a step, of the states acted on.
      tail: what follows its last step is worth.
    """

    column: int
    steps: slice
    rewards: list[float]
    values: list[float]
    tail: float

    @property
    def scale(self) -> float:
        """The largest number that its estimates are made of, at least 1."""
        return max(1.0, *map(abs, [*self.rewards, *self.values, self.tail]))


def episodes(cases: Window) -> Iterator[Episode]:
    """Cuts a window up into episodes, each with its own tail; nothing is shared between them."""
    length, count = cases.reward.shape
    for column in range(count):
        begin = 0
        for t in range(length):
            terminated, truncated = cases.terminated[t, column], cases.truncated[t, column]
            if terminated:
                tail = 0.0
            elif truncated:
                tail = float(cases.final_values[t, column])
            elif t == length - 1:
                tail = float(cases.values[length, column])
            else:
                continue
            steps = slice(begin, t + 1)
            yield Episode(
                column,
                steps,
                [float(x) for x in cases.reward[steps, column]],
                [float(x) for x in cases.values[steps, column]],
                tail,
            )
            begin = t + 1


def advantages_of(episode: Episode, discount: float, trace: float) -> list[float]:
    """A_t = Σ_n (γλ)^n δ_{t+n} with δ_t = r_t + γ V_{t+1} - V_t, backwards."""
    following = [*episode.values[1:], episode.tail]
    advantage, found = 0.0, []
    for t in reversed(range(len(episode.rewards))):
        error = episode.rewards[t] + discount * following[t] - episode.values[t]
        advantage = error + discount * trace * advantage
        found.append(advantage)
    return found[::-1]


def returns_of(episode: Episode, discount: float, trace: float) -> list[float]:
    """G_t = r_t + γ [(1 - λ) V_{t+1} + λ G_{t+1}], backwards from the tail."""
    following = [*episode.values[1:], episode.tail]
    target, found = episode.tail, []
    for t in reversed(range(len(episode.rewards))):
        mixed = (1 - trace) * following[t] + trace * target
        target = episode.rewards[t] + discount * mixed
        found.append(target)
    return found[::-1]


def expected(
    cases: Window, of_episode: Callable[[Episode], list[float]]
) -> tuple[np.ndarray, np.ndarray]:
    """([T,E] what a recursion over single episodes gives, [T,E] scales of the episodes)."""
    values = np.full(cases.reward.shape, np.nan)
    scales = np.ones(cases.reward.shape)
    for episode in episodes(cases):
        values[episode.steps, episode.column] = of_episode(episode)
        scales[episode.steps, episode.column] = episode.scale
    assert np.all(np.isfinite(values))
    return values, scales


def check_estimator(estimator: Callable[..., Any], tolerance: float = 1e-5) -> None:
    """Checks generalised advantages on every case, for several discounts and traces.

    Args:
      estimator: (reward [T,E], terminated [T,E], truncated [T,E], values [T+1,E], final_values [T,E],
        discount, trace) -> advantages [T,E]. Arrays are NumPy's, float32 and bool; discount and trace
        are Python floats. `values` are those of the states acted on and of the one that stands after
        the last step; where an episode has ended, the next value is that of the next episode.
        `final_values` are those of the observations that the steps led to, before any reset.
      tolerance: largest error, times the episode's largest number where that exceeds 1.

    Raises:
      AssertionError: it names each case that is wrong, with its first wrong step.
    """
    wrong: dict[str, str] = {}
    for discount in DISCOUNTS:
        for critic, value_of in [("a critic", CRITIC), ("the true values", true_values(discount))]:
            cases = window(value_of)
            arrays = [
                getattr(cases, name)
                for name in ("reward", "terminated", "truncated", "values", "final_values")
            ]
            for trace in TRACES:
                actual = np.asarray(estimator(*arrays, discount, trace), np.float64)
                assert actual.shape == cases.reward.shape, f"advantages have shape {actual.shape}"
                right, scales = expected(
                    cases, lambda e, d=discount, t=trace: advantages_of(e, d, t)
                )
                missed = ~(np.abs(actual - right) <= tolerance * scales)  # NaN is missed, too
                for column in np.flatnonzero(missed.any(axis=0)):
                    t = int(np.argmax(missed[:, column]))
                    wrong.setdefault(
                        cases.names[column],
                        f"step {t} has advantage {actual[t, column]:.6g}, not "
                        f"{right[t, column]:.6g} (discount {discount}, trace {trace}, {critic})",
                    )
    assert not wrong, "\n".join(f"{name}: {what}" for name, what in wrong.items())

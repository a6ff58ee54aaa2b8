"""Environments of Gymnasium, stepped on the host by one callback a step."""

import contextlib
import difflib
import importlib
import pkgutil
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array

from ragjax.envs.base import Environment
from ragjax.errors import UserError, require
from ragjax.files import parse_json
from ragjax.imports import naming
from ragjax.interrupts import stop_if_interrupted
from ragjax.types import Env, Timestep

_watching: list[list[BaseException]] = []  # what failed during each open block of `host_errors`


@contextlib.contextmanager
def host_errors() -> Iterator[None]:
    """Raises what went wrong in a Gymnasium environment while the block ran.

    A callback must not raise: in a program of several devices the others would wait for the one that
    failed until XLA kills the process. It keeps the error instead and answers NaN from then on. This
    block waits for the callbacks that it started and then raises the error, also in place of one that
    followed from it. Blocks may be nested. A signal that is held back ends what the environment plays
    in the same way, between two of its steps.

    Raises:
      UserError: an observation or a reward was not finite, or the environment failed; its own error is
        the cause.
      KeyboardInterrupt: of such a signal.
      RuntimeError: the environment was to go on from a state that is not its last.
    """
    failures: list[BaseException] = []
    _watching.append(failures)
    try:
        yield
        jax.effects_barrier()
    except Exception as error:
        if not failures or failures[0] is error:
            raise
        raise failures[0] from error
    finally:
        _watching.pop()
    if failures:
        raise failures[0]


class _Answer(NamedTuple):
    """What one callback returns: few arrays, since each takes as long as an environment's step.

    Attributes:
      observations: [2,E,O...] what is acted on next, and what the step led to.
      numbers: [2,E] reward, and return so far.
      counts: [4,E] terminated, truncated, length so far, and (the same for all) the host's calls.
    """

    observations: Any
    numbers: Any
    counts: Any

    def unpack(self) -> tuple[Array, Timestep]:
        """Returns the state, [] the calls that led to it, and the `Timestep`."""
        terminated, truncated, length, calls = self.counts
        timestep = Timestep(
            observation=self.observations[0],
            reward=self.numbers[0],
            terminated=terminated.astype(bool),
            truncated=truncated.astype(bool),
            final_observation=self.observations[1],
            metrics={"episode_return": self.numbers[1], "episode_length": length},
        )
        return calls[0], timestep


class _Host:
    """The environments themselves; the traced state is only the number of calls that led to it.

    NumPy alone works here: a callback that computes with JAX waits for the thread that it occupies. The
    arguments are a number an environment, which JAX copies before the call (up to 100 kB, beyond which
    `np.asarray` could wait for that thread, too).
    """

    def __init__(self, name: str, vector: Any):
        """Takes over a `gymnasium.vector.VectorEnv` that resets in the same step."""
        self.name, self.vector = name, vector
        self.first_action = int(vector.single_action_space.start)
        self.failure: BaseException | None = None
        envs, shape = vector.num_envs, vector.single_observation_space.shape
        self.last = _Answer(
            np.zeros((2, envs, *shape), np.float32),
            np.zeros((2, envs), np.float32),
            np.zeros((4, envs), np.int32),
        )

    def reset(self, seeds: Any) -> _Answer:
        """Starts every environment anew from its seed, [E]."""
        return self._answer(lambda: self._reset(np.asarray(seeds).tolist()))

    def step(self, action_and_calls: Any) -> _Answer:
        """Steps every environment, [E+1]: its action, and last the state that this starts from."""
        return self._answer(lambda: self._step(np.asarray(action_and_calls)))

    def _answer(self, work: Callable[[], None]) -> _Answer:
        if self.failure is None:
            try:
                stop_if_interrupted()
                work()
                self._check()
            except BaseException as error:
                self.failure = error
                # No answer that looks like data, but one that ends loops that wait for an episode's end.
                self.last.observations[:] = self.last.numbers[:] = np.nan
                self.last.counts[:] = [[1], [0], [1], [0]]
        if self.failure is not None:
            for failures in _watching:
                failures[:] = failures[:1] or [self.failure]
        return _Answer(*(array.copy() for array in self.last))

    def _reset(self, seeds: list[int]) -> None:
        observations, numbers, counts = self.last
        with _told(self.name):
            observations[:], _ = self.vector.reset(seed=seeds)
        numbers[:] = 0.0
        counts[:3] = 0
        counts[3] += 1

    def _step(self, action_and_calls: np.ndarray) -> None:
        observations, numbers, counts = self.last
        action, calls = action_and_calls[:-1], action_and_calls[-1]
        if calls != counts[3, 0]:
            raise RuntimeError(
                f"the Gymnasium environment {self.name!r} stands after call {counts[3, 0]} and can't "
                f"go on from where call {calls} led: reset it, and give each of its users its own"
            )
        going_on = (counts[0] | counts[1]) == 0
        with _told(self.name):
            observation, reward, terminated, truncated, info = self.vector.step(
                action + self.first_action
            )
        observations[:] = observation
        for row in np.flatnonzero(terminated | truncated):
            observations[1, row] = info["final_obs"][row]
        numbers[1] = numbers[1] * going_on + reward
        numbers[0] = reward
        counts[2] = counts[2] * going_on + 1
        counts[0], counts[1] = terminated, truncated
        counts[3] += 1

    def _check(self) -> None:
        for what, values in (("an observation", self.last[0]), ("a reward", self.last[1])):
            if not np.isfinite(values).all():
                bad = values[~np.isfinite(values)][0]
                raise UserError(
                    f"the Gymnasium environment {self.name!r} returned {bad} in {what}; mend it, or "
                    "set env.id to another one."
                )


def _module_of_id(name: str) -> Iterator[str]:
    """The module that an id makes Gymnasium import."""
    module, colon, _ = name.partition(":")
    return _foreign([module] if colon else [])


def _modules_of_wrappers(paths: Iterable[str]) -> Iterator[str]:
    """The modules of import paths, "module:name" or "module.name"."""
    return _foreign(
        path.partition(":")[0] if ":" in path else path.rpartition(".")[0] or path for path in paths
    )


def _foreign(modules: Iterable[str]) -> Iterator[str]:
    """Those of neither Gymnasium nor a package that it imports itself, by its entry points."""
    points = metadata.entry_points(group="gymnasium.envs")
    known = {"gymnasium", *(point.module.partition(".")[0] for point in points)}
    return (module for module in modules if module.partition(".")[0] not in known)


@dataclass(frozen=True)
class Gymnasium(Environment):
    """An environment of Gymnasium with numbered actions, whatever its observations are.

    An array is observed as it is. Numbered and composed observations become one array by Gymnasium's
    own `FlattenObservation`, one-hot for each number.

    It lives on the host, so it takes part in `jit` and `scan`, but not in `vmap`. Its state can't be
    saved or copied: each `vectorise` has one state, that of the last call; go on from any other by
    resetting. Wrap what runs it in `host_errors`.

    Attributes:
      id: what Gymnasium registers it as; "module:Name-v0" imports the module first.
      time_limit: steps after which an episode is truncated; None for the limit that Gymnasium registers.
      kwargs: arguments of the environment as a JSON object, such as '{"is_slippery": false}'.
      wrappers: import paths, such as "gymnasium.wrappers.NormalizeObservation", of classes or functions
        that take an environment alone and return one; the first is the innermost. A wrapper with
        arguments needs a function that gives them.
    """

    name: ClassVar[str] = "gymnasium"
    traceable: ClassVar[bool] = False

    id: str = field(default="CartPole-v1", metadata=naming(_module_of_id))
    time_limit: int | None = None
    kwargs: str = "{}"
    wrappers: tuple[str, ...] = field(default=(), metadata=naming(_modules_of_wrappers))

    def __post_init__(self):
        """Checks the fields."""
        require(
            isinstance(_json(self.kwargs), dict),
            f"env.kwargs is {self.kwargs!r}; give a JSON object, such as '{{\"size\": 4}}'.",
        )
        require(
            not self.history,
            "env.history is on, but a Gymnasium environment keeps no history here; turn it off.",
        )
        if self.time_limit is not None:
            super().__post_init__()

    @property
    def limit(self) -> int:
        """Steps within which every episode ends.

        Raises:
          UserError: Gymnasium doesn't know the environment, or no limit for it, or isn't installed.
        """
        if self.time_limit is not None:
            return self.time_limit
        limit = self._make_bare().spec.max_episode_steps
        require(
            limit is not None,
            f"Gymnasium registers no time limit for env.id {self.id!r}; set env.time_limit.",
        )
        return limit

    def guard(self) -> contextlib.AbstractContextManager[None]:
        """Raises what went wrong on the host, see `host_errors`."""
        return host_errors()

    def build(self) -> Env:
        """There is no single episode of it to vmap."""
        raise NotImplementedError("a Gymnasium environment exists on the host only: use vectorise")

    def vectorise(self, num_envs: int) -> Env:
        """Returns `num_envs` environments side by side, [E] leading every array.

        Episodes end at the time limit, start anew by themselves, and report their return and length.
        The key of a reset seeds them; the keys of steps go unused, as each draws from its own seed.

        Raises:
          UserError: Gymnasium isn't installed or doesn't know the environment, it or a wrapper refuses
            its arguments, its actions are not `Discrete`, its observations no array, or it has no time
            limit.
        """
        gymnasium = import_gymnasium()
        one = self._make()
        space, actions = one.observation_space, one.action_space
        require(
            isinstance(actions, gymnasium.spaces.Discrete),
            f"env.id {self.id!r} has the action space {actions}, but a policy here chooses among "
            "discrete actions; choose an environment with a Discrete action space.",
        )
        require(
            isinstance(space, gymnasium.spaces.Box),
            f"env.id {self.id!r} has the observation space {space}, but a policy here reads one array "
            "of numbers; name a wrapper in env.wrappers that makes one.",
        )
        limit = self.limit
        vector = gymnasium.vector.SyncVectorEnv(
            [lambda: self._make(limit)] * num_envs,
            autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
        )
        host = _Host(self.id, vector)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), host.last)

        def reset(params, key):
            del params
            seeds = jax.random.bits(key, (num_envs,), jnp.uint32)
            return io_callback(host.reset, shapes, seeds, ordered=True).unpack()

        def step(params, key, state, action):
            del params, key
            action_and_calls = jnp.append(action.astype(jnp.int32), state)
            return io_callback(host.step, shapes, action_and_calls, ordered=True).unpack()

        with np.errstate(over="ignore"):  # bounds beyond float32 are none
            low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        return Env((), reset, step, num_actions=int(actions.n), low=low, high=high)

    def _make(self, limit: int | None = None) -> Any:
        """Returns one `gymnasium.Env` in its wrappers, with an array as observation where it can."""
        gymnasium = import_gymnasium()
        env = self._make_bare(limit)
        for path in self.wrappers:
            env = _wrap(env, path)
        space = env.observation_space
        if not isinstance(space, gymnasium.spaces.Box) and space.is_np_flattenable:
            env = gymnasium.wrappers.FlattenObservation(env)
        return env

    def _make_bare(self, limit: int | None = None) -> Any:
        """Returns one `gymnasium.Env`, or a `UserError` for an id that Gymnasium can't make."""
        gymnasium = import_gymnasium()
        kwargs = _json(self.kwargs)
        try:
            return gymnasium.make(
                self.id, max_episode_steps=limit, disable_env_checker=True, **kwargs
            )
        except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
            reason = str(error).rstrip(".")
            raise UserError(
                f"env.id {self.id!r} needs a package that isn't installed ({reason}); install it, or "
                "choose another environment."
            ) from error
        except gymnasium.error.Error as error:
            near = difflib.get_close_matches(self.id, list(gymnasium.registry), cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else "choose another one."
            raise UserError(f"env.id is {self.id!r}, which Gymnasium can't make; {hint}") from error
        except Exception as error:
            if not kwargs:
                raise _failed(self.id, error) from error
            raise UserError(
                f"env.kwargs is {self.kwargs!r}, which env.id {self.id!r} refuses "
                f"({type(error).__name__}: {error}); give arguments that it takes."
            ) from error


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Turns what an environment raises into a sentence, whose cause it is."""
    try:
        yield
    except Exception as error:
        raise _failed(name, error) from error


def _failed(name: str, error: Exception) -> UserError:
    """What is said of an environment that raised an error: the error, and where it comes from."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return UserError(
        f"the Gymnasium environment {name!r} failed ({type(error).__name__}: {error}; in "
        f"{place.filename}, line {place.lineno}); mend it, or set env.id to another one."
    )


def _json(text: str) -> Any:
    """A JSON value, or None for no JSON."""
    try:
        return parse_json(text)
    except (TypeError, ValueError):
        return None


def _wrap(env: Any, path: str) -> Any:
    """Returns the environment within what `path` names."""
    try:
        wrapped = pkgutil.resolve_name(path)(env)
        if not isinstance(wrapped, import_gymnasium().Env):
            raise TypeError(f"it returns {type(wrapped).__name__}")
    except Exception as error:
        raise UserError(
            f"env.wrappers names {path!r}, which can't wrap {env} ({type(error).__name__}: {error}); "
            "give the import path of what takes an environment alone and returns one."
        ) from error
    return wrapped


def import_gymnasium() -> Any:
    """Returns the module `gymnasium`, which takes a while to import and is an extra.

    Raises:
      UserError: it isn't installed.
    """
    try:
        return importlib.import_module("gymnasium")
    except ModuleNotFoundError as error:
        raise UserError(
            "environments of Gymnasium need the package 'gymnasium', which isn't installed: "
            "run `pip install gymnasium`"
        ) from error

"""A film of one episode that the policy of a run plays: `ragjax render`."""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from ragjax import envs
from ragjax.envs.base import Environment
from ragjax.envs.scene import Scene
from ragjax.envs.wrappers import innermost
from ragjax.errors import UserError, require
from ragjax.evaluation.episodes import Episodes
from ragjax.evaluation.films import check_film, rate_of, write_film
from ragjax.evaluation.frames import Moment, frames
from ragjax.evaluation.replay import Describer, Step, replay
from ragjax.precision import single_precision
from ragjax.printing import PlainConsole
from ragjax.run_dir import Run
from ragjax.text import counted
from ragjax.training.logging import RunProgress


def film_run(
    run: Run,
    output: Path,
    *,
    episode: int,
    seed: int | None,
    sampled: bool,
    rate: int | None,
    most: int,
    console: PlainConsole,
) -> list[str]:
    """Writes the film.

    Args:
      run: of a policy.
      output: the film.
      episode: number of the episode, from 1: with likeliest actions those of a page of `ragjax report`.
      seed: of the episodes; the run's own if None.
      sampled: whether actions are drawn from the policy, or else the likeliest ones.
      rate: frames a second; by the number of frames if None.
      most: frames that are drawn.
      console: where progress is drawn.

    Returns:
      What came of it, a line each.

    Raises:
      UserError: the run is not of a policy, its environment can't be drawn, or the film can't be made.
    """
    require_drawn(run)
    check_film(output)
    moments, length = play(run, episode, seed, sampled=sampled, most=most)
    begun = run.config.seed if seed is None else seed
    title = f"{run.config.subject}, episode {episode} of seed {begun}"
    title += ", actions drawn" * sampled
    rate = rate or rate_of(len(moments))
    with RunProgress(console, len(moments), 0, "frame") as progress:

        def told() -> Iterator[Any]:
            for number, frame in enumerate(frames(title, moments, output), 1):
                yield frame
                progress.advance(number, {})

        made = write_film(output, told(), rate)
    size = output.stat().st_size / 1e6
    lines = [f"{output}: {counted(len(moments), 'frame')}, {made:.3g} a second, {size:.2f} MB"]
    if made != rate:
        lines.append(f"a GIF has no rate of {rate} frames a second; {made:.3g} is the nearest")
    if len(moments) < length + 1:
        lines.append(
            f"the first {len(moments)} of {length + 1} frames are shown; --max-frames shows more"
        )
    return lines


def require_drawn(run: Run) -> None:
    """Checks that the run's episodes can be drawn.

    Raises:
      UserError: the run is not of a policy, or its environment can't be drawn.
    """
    require(
        issubclass(run.config.records, Episodes),
        "This run answers questions and plays no episodes; name the run of a policy.",
    )
    learner: Any = run.learner
    if type(learner.env).scene is Environment.scene:
        raise _not_drawn(learner.env)


@single_precision
def play(
    run: Run, episode: int, seed: int | None, *, sampled: bool, most: int
) -> tuple[list[Moment], int]:
    """Plays an episode to its end.

    Returns:
      Its first moments, at most `most` of steps + 1, and its steps.
    """
    learner: Any = run.learner
    spec = learner.env.on_split("test")
    env = spec.watched(episode)
    key = jax.random.PRNGKey(run.config.seed if seed is None else seed)
    limit, place = learner.config.env.limit, episode - 1
    describer, params = Describer(spec, env), jax.device_get(env.params)
    moments: list[Moment] = []
    total, length, last = 0.0, 0, None
    steps = replay(run.state, learner.config.policy, env, key, limit, greedy=not sampled)
    for length, last in enumerate(steps, 1):
        if len(moments) < most:
            seen = _scene(spec, params, last.before, place)
            moments.append(Moment(seen, length - 1, total, describer.decision(last, place)))
        total += float(last.timestep.reward[place])
        if last.timestep.done[place]:
            break
    assert last is not None  # a limit is at least one step
    if len(moments) < most:
        seen = _scene(spec, params, last.after, place)
        moments.append(Moment(seen, length, total, None, _ending(last, place)))
    return moments, length


def _ending(step: Step, place: int) -> str:
    if step.timestep.terminated[place]:
        return "the episode has ended"
    return "the episode was cut by its time limit"


def _scene(spec: Environment, params: Any, state: Any, place: int) -> Scene:
    """What is seen in one of several environments."""
    own = jax.tree.map(lambda leaf: leaf[place], innermost(state))
    scene = spec.scene(params, own)
    if scene is None:
        raise _not_drawn(spec)
    return scene


def _not_drawn(spec: Environment) -> UserError:
    return UserError(
        f"Environment {spec.name} can't be drawn; name the run of a policy in one of "
        f"{', '.join(drawn_environments())}, or give yours a `scene()`, see ragjax/envs/base.py."
    )


def drawn_environments() -> list[str]:
    """Names of the environments of the package that have a scene."""
    for module in pkgutil.walk_packages(envs.__path__, f"{envs.__name__}."):
        importlib.import_module(module.name)

    def below(kind: type[Environment]) -> Iterator[type[Environment]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    own = [kind for kind in below(Environment) if kind.__module__.startswith(f"{envs.__name__}.")]
    drawn = [kind for kind in own if kind.scene is not Environment.scene]
    return sorted({kind.name for kind in drawn if hasattr(kind, "name")})  # bases have none

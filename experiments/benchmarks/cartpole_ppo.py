"""PPO on CartPole-v1 against Stable-Baselines3: same hyperparameters, machine, cores and day.

    python experiments/benchmarks/cartpole_ppo.py [--threads 2] [--quick]

The hyperparameters are those of CleanRL's `ppo.py`. Both sides run on the same cores, in processes of
their own, one at a time. A single run gets one core or all of them, whichever makes a short run faster
(`probe`); each side its own best. Steps a second count from the start of training to its end; a second
figure adds our compilation, or the making of model and environments. A run has reached the target when
the last 100 training episodes, with drawn actions, return 475 on average. It is solved if 100 greedy and
100 sampled episodes in fresh environments do so too after training.

A sweep is 16 seeds times 8 learning rates in one compiled program. Each core, seen by XLA as a device,
goes through its seeds with `lax.map`, the learning rates of a seed being vmapped. Stable-Baselines3 has
no such thing: its time is the mean of its measured runs times their number, one after another; with as
many threads as the sweep has, with the number that is best for it, and divided by the cores as if that
many runs could go side by side without slowing each other.

What differs between the two sides: Stable-Baselines3 clips the critic's change without taking the
larger of the clipped and the plain loss, and its learning rate is one rollout further in its decline.
"""

import argparse
import dataclasses
import datetime
import functools
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from ragjax.envs.cartpole import CartPole
from ragjax.errors import UserError, require
from ragjax.evaluation import rendering
from ragjax.evaluation.plots import recorded_by
from ragjax.evaluation.tables import MarkdownTable
from ragjax.files import write_json
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig, EpisodesLearner
from ragjax.models.policy import ActorCritic
from ragjax.objectives.ppo import PPO
from ragjax.origin import provenance
from ragjax.printing import PlainConsole
from ragjax.training.learner import State
from ragjax.training.optimizer import Adam
from ragjax.training.step import make_step

HERE = Path(__file__).parent
NAME = "experiments/benchmarks/cartpole_ppo.py"
RESULTS = HERE.parent / "results" / "benchmarks" / "cartpole_ppo.json"
OURS, THEIRS = "ragjax", "stable-baselines3"

TARGET, WINDOW = 475.0, 100  # return, and episodes that it is averaged over
RATES = tuple(2.5e-4 * 2.0**power for power in range(-2, 6))  # CleanRL's is the third


@dataclass(frozen=True)
class Budget:
    """How much is run.

    Attributes:
      env_steps: steps of one training run; whole rollouts within them are made.
      seeds: single runs of each side.
      sweep_seeds: seeds of the sweep.
      learning_rates: learning rates of the sweep.
      probe_steps: steps of the runs that tell how many threads are best.
      episodes: episodes of each kind that are played after training.
    """

    env_steps: int = 500_000
    seeds: int = 3
    sweep_seeds: int = 16
    learning_rates: tuple[float, ...] = RATES
    probe_steps: int = 25_600
    episodes: int = 100

    @property
    def sweep_runs(self) -> int:
        """Runs of the sweep."""
        return self.sweep_seeds * len(self.learning_rates)


QUICK = Budget(
    env_steps=5_120,
    seeds=1,
    sweep_seeds=2,
    learning_rates=RATES[2:4],
    probe_steps=2_048,
    episodes=20,
)


def get_config(env_steps: int) -> EpisodesConfig:
    """CleanRL's hyperparameters."""
    return EpisodesConfig(
        env=CartPole(),
        algorithm=PPO(
            num_envs=4, rollout_length=128, discount=0.99, entropy_coef=0.01, clip_value=True
        ),
        optimizer=Adam.for_policies(learning_rate=2.5e-4, epsilon=1e-5, max_grad_norm=0.5),
        env_steps=env_steps,
        evaluation=EpisodeEvaluation(every=0),
    )


def settings(config: EpisodesConfig, seed: int, threads: int, episodes: int) -> dict[str, Any]:
    """The same run for `cartpole_sb3.py`."""
    algorithm, optimizer = config.algorithm, config.optimizer
    assert isinstance(algorithm, PPO)
    assert isinstance(config.policy, ActorCritic)
    assert isinstance(optimizer, Adam)
    names = ("num_envs", "rollout_length", "epochs", "minibatches", "discount", "gae_lambda")
    names += ("clip_eps", "clip_value", "normalise_advantage", "entropy_coef", "value_coef")
    return {name: getattr(algorithm, name) for name in names} | {
        "seed": seed,
        "threads": threads,
        "episodes": episodes,
        "env_id": "CartPole-v1",
        "env_steps": config.steps * algorithm.batch_size,
        "learning_rate": optimizer.learning_rate,
        "anneal": optimizer.schedule == "linear",
        "epsilon": optimizer.epsilon,
        "max_grad_norm": optimizer.max_grad_norm,
        "hidden": list(config.policy.hidden),
    }


# Our side


def train(
    learner: EpisodesLearner, key: Array, hyper: dict[str, Array]
) -> tuple[State, tuple[Array, Array]]:
    """A whole run; and of the episodes that ended in each update the mean return and the number, [n]."""
    size, step = learner.config.algorithm.batch_size, make_step(learner, learner.stages[0])

    def update(state: State, _: None):
        new, metrics = step(state, None, hyper, learner.data)
        before, after = (jnp.sum(each.carry.env_state.length) for each in (state, new))
        # Steps of the episodes that ended, those from before the rollout included, by their mean.
        length = metrics["episode_length"]
        ended = jnp.asarray(size + before - after, jnp.float32) / jnp.maximum(length.value, 1.0)
        count = jnp.where(length.known, jnp.round(ended), 0.0)
        return new, (metrics["episode_return"].value, count)

    first = learner.init(key, hyper, learner.data)
    return jax.lax.scan(update, first, length=learner.config.steps)


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], float]:
    """Compiles for these arguments; returns the program, and the seconds that it took."""
    began = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return program, time.perf_counter() - began


def returns_of(played: Mapping[str, Mapping[str, Array]]) -> dict[str, Any]:
    """Mode -> returns, of what `EpisodesLearner.play` gives."""
    return {mode: np.asarray(played[mode]["return"]).tolist() for mode in ("greedy", "sampled")}


def measure_single(budget: Budget) -> dict[str, Any]:
    """Runs with the seeds 0, 1, ... one after another, by one program."""
    learner = get_config(budget.env_steps).create()
    config, hyper = learner.config, learner.hyper
    keys = [jax.random.PRNGKey(seed) for seed in range(budget.seeds)]
    program, compile_seconds = compiled(functools.partial(train, learner), keys[0], hyper)
    evaluate = jax.jit(lambda state: learner.play(state, budget.episodes))
    runs = []
    for seed, key in enumerate(keys):
        began = time.perf_counter()
        state, (returns, counts) = jax.block_until_ready(program(key, hyper))
        seconds = time.perf_counter() - began
        ends = seconds * np.arange(1, config.steps + 1) / config.steps
        steps = config.steps * config.algorithm.batch_size
        run = {"seed": seed, "setup_seconds": compile_seconds, "seconds": seconds, "steps": steps}
        reached = seconds_to_target(ends, np.asarray(returns), np.asarray(counts))
        runs.append(run | {"seconds_to_target": reached} | figures(returns_of(evaluate(state))))
    return {"runs": runs}


def measure_sweep(budget: Budget) -> dict[str, Any]:
    """All seeds times all learning rates in one program, spread over the devices that there are."""
    learner = get_config(budget.env_steps).create()
    config = learner.config
    devices = most_devices(budget.sweep_seeds, len(jax.devices()))
    mesh = Mesh(np.array(jax.devices()[:devices]), ("seeds",))
    axis = PartitionSpec("seeds")
    # The check would have every zero that a scan starts from cast to "varying"; no value is shared here.
    spread = functools.partial(
        jax.shard_map, mesh=mesh, in_specs=axis, out_specs=axis, check_vma=False
    )
    rates = jnp.asarray(budget.learning_rates, jnp.float32)

    def run(key, rate):
        return train(learner, key, learner.hyper | {"learning_rate": rate})

    def seeds_of_a_device(keys):
        return jax.lax.map(lambda key: jax.vmap(run, (None, 0))(key, rates), keys)

    def evaluations_of_a_device(states):
        play = jax.vmap(lambda state: learner.play(state, budget.episodes))
        return jax.lax.map(play, states)

    keys = jnp.stack([jax.random.PRNGKey(seed) for seed in range(budget.sweep_seeds)])
    program, compile_seconds = compiled(spread(seeds_of_a_device), keys)
    began = time.perf_counter()
    states, log = jax.block_until_ready(program(keys))
    seconds = time.perf_counter() - began
    played = jax.jit(spread(evaluations_of_a_device))(states)
    returns, counts = (np.asarray(values) for values in log)
    runs = []
    for seed in range(budget.sweep_seeds):
        for place, rate in enumerate(budget.learning_rates):
            updates = np.arange(1, config.steps + 1)
            reached = seconds_to_target(updates, returns[seed, place], counts[seed, place])
            own = {mode: {"return": of["return"][seed, place]} for mode, of in played.items()}
            steps = None if reached is None else int(reached) * config.algorithm.batch_size
            run_of = {"seed": seed, "learning_rate": rate, "steps_to_target": steps}
            runs.append(run_of | figures(returns_of(own)))
    steps = budget.sweep_runs * config.steps * config.algorithm.batch_size
    timing = {"setup_seconds": compile_seconds, "seconds": seconds, "steps": steps}
    return {"devices": devices, **timing, "runs": runs}


def most_devices(seeds: int, available: int) -> int:
    """The largest number of devices that the seeds can be dealt to evenly."""
    return max(number for number in range(1, available + 1) if seeds % number == 0)


# Both sides


def seconds_to_target(
    ends: Sequence[float] | np.ndarray,
    returns: Sequence[float] | np.ndarray,
    counts: Sequence[float] | np.ndarray,
) -> float | None:
    """When the last `WINDOW` training episodes first returned `TARGET` on average.

    Args:
      ends: [n] times, increasing.
      returns: [n] mean return of the episodes that ended there; anything where none did.
      counts: [n] their number. Entries are not divided: of those before, as few count as hold `WINDOW`
        episodes together.

    Returns:
      One of `ends`, or None.
    """
    number = np.asarray(counts, np.float64)
    total = np.where(number > 0, np.nan_to_num(np.asarray(returns, np.float64)) * number, 0.0)
    number, total = (np.concatenate([[0.0], np.cumsum(values)]) for values in (number, total))
    for place in range(1, len(number)):
        if number[place] >= WINDOW:
            start = np.searchsorted(number, number[place] - WINDOW, side="right") - 1
            mean = (total[place] - total[start]) / (number[place] - number[start])
            if mean >= TARGET:
                return float(np.asarray(ends)[place - 1])
    return None


def figures(played: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Mean returns after training, and whether they solve the task."""
    means = {f"{mode}_return": float(np.mean(played[mode])) for mode in ("greedy", "sampled")}
    return means | {"solved": min(means.values()) >= TARGET}


def worker(arguments: Sequence[str], cores: Sequence[int], devices: int = 1) -> Any:
    """Runs a Python file on some of the cores and returns the JSON that it prints.

    Raises:
      UserError: it failed; what it printed has been passed on.
    """
    flags = f"--xla_force_host_platform_device_count={devices}"
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # inherited by what is started now
    try:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            env=os.environ | {"XLA_FLAGS": flags},
        )
    finally:
        os.sched_setaffinity(0, before)
    output, _ = process.communicate()
    require(
        process.returncode == 0,
        f"{Path(arguments[0]).name} ended with exit code {process.returncode}; see what it says above.",
    )
    return json.loads(output.splitlines()[-1])


def run_ours(part: str, budget: Budget, cores: Sequence[int], devices: int = 1) -> dict[str, Any]:
    """`measure_single` or `measure_sweep` in a process of its own."""
    given = json.dumps(dataclasses.asdict(budget))
    return worker([__file__, "--part", part, "--budget", given], cores, devices)


def run_theirs(budget: Budget, seed: int, cores: Sequence[int]) -> dict[str, Any]:
    """One run of Stable-Baselines3 in a process of its own, as a row like those of `measure_single`."""
    given = settings(get_config(budget.env_steps), seed, len(cores), budget.episodes)
    found = worker([str(HERE / "cartpole_sb3.py"), json.dumps(given)], cores)
    ends, returns = found.pop("episode_seconds"), found.pop("episode_returns")
    reached = seconds_to_target(ends, returns, np.ones(len(ends)))
    played = {mode: found.pop(mode) for mode in ("greedy", "sampled")}
    return {"seed": seed, **found, "seconds_to_target": reached} | figures(played)


def rate_of(run: Mapping[str, Any], *, setup: bool = False) -> float:
    """Steps a second of a run, with `setup` including the compilation or the making of the model."""
    return run["steps"] / (run["seconds"] + (run["setup_seconds"] if setup else 0.0))


def fastest(rates: Mapping[str, float]) -> int:
    """The number of threads that the largest rate belongs to."""
    return int(max(rates, key=lambda threads: rates[threads]))


def measure(budget: Budget, cores: Sequence[int], console: PlainConsole) -> dict[str, Any]:
    """The whole benchmark; workers run one at a time."""
    probe = dataclasses.replace(budget, env_steps=budget.probe_steps, seeds=2, episodes=1)
    numbers = sorted({1, len(cores)})
    run_single: dict[str, Callable[[Budget, int], list[dict[str, Any]]]] = {
        OURS: lambda budget, threads: run_ours("single", budget, cores[:threads])["runs"],
        THEIRS: lambda budget, threads: [
            run_theirs(budget, seed, cores[:threads]) for seed in range(budget.seeds)
        ],
    }
    result: dict[str, Any] = {"budget": dataclasses.asdict(budget), "cores": len(cores)}
    for side, run in run_single.items():
        rates = {str(threads): rate_of(run(probe, threads)[-1]) for threads in numbers}
        threads = fastest(rates)
        said = ", ".join(f"{rate:,.0f} with {number}" for number, rate in rates.items())
        console.print(f"{side}: steps/s by threads: {said}")
        # The sweep uses every core, so the other side is measured with as many threads, too.
        wanted = {threads, len(cores)} if side == THEIRS else {threads}
        by_threads = {number: run(budget, number) for number in sorted(wanted)}
        result[side] = {
            "probe": rates,
            "threads": threads,
            "runs": by_threads[threads],
            "runs_on_all_cores": by_threads.get(len(cores), []),
        }
        for number, runs in by_threads.items():
            for row in runs:
                console.print(
                    f"{side}, {number} threads, seed {row['seed']}: {row['seconds']:.1f} s, "
                    f"{rate_of(row):,.0f} steps/s, greedy {row['greedy_return']:.0f}, "
                    f"sampled {row['sampled_return']:.0f}"
                )
    devices = most_devices(budget.sweep_seeds, len(cores))
    result["sweep"] = run_ours("sweep", budget, cores, devices)
    seconds = result["sweep"]["seconds"]
    console.print(f"{OURS}, {budget.sweep_runs} runs at once: {seconds:.1f} s")
    return result | {"recorded": datetime.date.today().isoformat()} | facts()


def facts() -> dict[str, Any]:
    """The machine, the versions and the commit."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = found[0].partition(":")[2].strip() if found else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    hardware = {"cpu": model, "cores": os.cpu_count(), "memory_gib": round(memory)}
    source = provenance()
    for package in ("torch", THEIRS):
        if importlib.util.find_spec(package.replace("-", "_")):
            source["versions"][package] = metadata.version(package)
    source["versions"]["python"] = platform.python_version()
    return {"hardware": hardware | {"system": platform.platform()}, **source}


# The table


def load_results() -> dict[str, Any]:
    """The recorded figures.

    Raises:
      UserError: there are none.
    """
    try:
        return json.loads(RESULTS.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{RESULTS} can't be read ({error}); run python {NAME}.") from error


def render(result: Mapping[str, Any] | None = None) -> str:
    """What `get_table` returns as Markdown that ends in a newline."""
    return rendering.render(get_table(result))


def get_table(result: Mapping[str, Any] | None = None) -> MarkdownTable:
    """The figures as a table.

    Args:
      result: what `measure` returns; by default the recorded figures.
    """
    found = load_results() if result is None else result
    budget = found["budget"]
    sides = {OURS: found[OURS]["runs"], THEIRS: found[THEIRS]["runs"]}
    names = {side: f"{side} {found['versions'].get(side, '')}".strip() for side in sides}
    single = [
        ["one run", "steps/s", "with set-up", f"s to {TARGET:.0f}", "with set-up", "solved"],
        *([names[side], *_cells(runs)] for side, runs in sides.items()),
        ["ratio", *(_ratio(sides, *measured) for measured in _MEASURED), ""],
    ]
    sweep, count = found["sweep"], len(found["sweep"]["runs"])
    ours = sweep["setup_seconds"] + sweep["seconds"]
    one, equal = (
        float(np.mean([run["seconds"] for run in found[THEIRS][name]]))
        for name in ("runs", "runs_on_all_cores")
    )
    cores, best = found["cores"], found[THEIRS]["threads"]
    rows = [
        (f"{OURS}, one program, compiled in {sweep['setup_seconds']:.1f} s", ours),
        (f"{THEIRS}, {count} × {equal:.1f} s, {_counted(cores, 'thread')} each", count * equal),
    ]
    if best != cores:
        rows += [
            (f"{THEIRS}, {count} × {one:.1f} s, {_counted(best, 'thread')} each", count * one),
            (f"{THEIRS}, the same, {cores} at a time without loss", count * one / cores),
        ]
    several = [[f"{count} runs", "s", "steps/s", "ratio"]]
    several += [
        [label, f"{seconds:,.0f}", f"{sweep['steps'] / seconds:,.0f}", f"{seconds / ours:.1f}"]
        for label, seconds in rows
    ]
    reached = sum(run["steps_to_target"] is not None for run in sweep["runs"])
    solved = sum(run["solved"] for run in sweep["runs"])
    seeds = _counted(len(sides[OURS]), "seed")
    probes = "; ".join(
        f"{side}: {', '.join(f'{rate:,.0f} with {n}' for n, rate in found[side]['probe'].items())}"
        for side in sides
    )
    versions = ", ".join(
        f"{package} {found['versions'][package]}"
        for package in ("python", "jax", "torch", "gymnasium")
        if package in found["versions"]
    )
    rates = ", ".join(f"{rate:.3g}" for rate in budget["learning_rates"])
    lines = [
        *_grid(single),
        "",
        f"Mean of {seeds} (smallest to largest).",
        "",
        f"**The sweep: {budget['sweep_seeds']} seeds × {len(budget['learning_rates'])} learning "
        f"rates ({rates}).** In ours {reached} of {count} runs reached {TARGET:.0f} in training; after "
        f"it {solved} solve the task.",
        "",
        *_grid(several),
        "",
        f"A run reaches {TARGET:.0f} when its last {WINDOW} training episodes return that on average, "
        f"and is solved if {budget['episodes']} greedy and {budget['episodes']} sampled episodes "
        "after training do. Set-up: compilation, or the making of model and environments. Both sides "
        f"had the same {_counted(cores, 'core')} and took the better number of threads for single runs "
        f"(steps/s in a short one: {probes}).",
        "",
        f"{found['hardware']['cpu']}, {found['hardware']['cores']} cores, "
        f"{found['hardware']['memory_gib']} GiB; {versions}; recorded on {found['recorded']}.",
    ]
    title = "PPO on CartPole-v1 at CleanRL's hyperparameters"
    return MarkdownTable(
        title=f"{title}, {budget['env_steps']:,} steps a run",
        body="\n".join(lines),
        source=recorded_by(found, f"python {NAME} --threads {cores}"),
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _grid(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "| --- |" + " ---: |" * (len(rows[0]) - 1), *lines[1:]]


def _seconds_to_target(run: Mapping[str, Any], *, setup: bool = False) -> float | None:
    """Seconds until the target, or None of a run that does not count."""
    reached = run["seconds_to_target"]
    if reached is None or not run["solved"]:
        return None
    return reached + (run["setup_seconds"] if setup else 0.0)


# What the columns of single runs show: value of a run, decimals, whether more is better.
_MEASURED: tuple[tuple[Callable[[Mapping[str, Any]], float | None], int, bool], ...] = (
    (rate_of, 0, True),
    (functools.partial(rate_of, setup=True), 0, True),
    (_seconds_to_target, 1, False),
    (functools.partial(_seconds_to_target, setup=True), 1, False),
)


def _values(runs: Sequence[Mapping[str, Any]], value: Callable[..., float | None]) -> list[float]:
    return [found for run in runs if (found := value(run)) is not None]


def _cells(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Mean, smallest and largest of each column, and how many runs count."""
    cells = []
    for value, digits, _ in _MEASURED:
        found = _values(runs, value)
        numbers = (np.mean(found), min(found), max(found)) if found else ()
        shown = [f"{number:,.{digits}f}" for number in numbers]
        cells.append(f"{shown[0]} ({shown[1]} to {shown[2]})" if shown else "–")
    return [*cells, f"{sum(run['solved'] for run in runs)} of {len(runs)}"]


def _ratio(
    sides: Mapping[str, Sequence[Mapping[str, Any]]],
    value: Callable[..., float | None],
    digits: int,
    more: bool,
) -> str:
    """How many times better our mean is than theirs."""
    del digits
    ours, theirs = (_values(sides[side], value) for side in (OURS, THEIRS))
    if not ours or not theirs:
        return "–"
    quotient = float(np.mean(ours) / np.mean(theirs))
    return f"{quotient if more else 1 / quotient:.1f}"


# The command


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the options.")


def main(arguments: Sequence[str]) -> None:
    """Runs the benchmark, records it unless it is quick, and prints the table."""
    parser = _Parser(prog=NAME, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="cores that both sides may use")
    parser.add_argument("--quick", action="store_true", help="a smoke test, which records nothing")
    parser.add_argument("--part", choices=("single", "sweep"), help=argparse.SUPPRESS)
    parser.add_argument("--budget", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:  # one of our own workers
        part = {"single": measure_single, "sweep": measure_sweep}[options.part]
        print(json.dumps(part(Budget(**json.loads(options.budget)))))
        return
    require(
        hasattr(os, "sched_setaffinity"),
        f"{platform.system()} can't pin a process to cores; run the benchmark on Linux.",
    )
    cores = sorted(os.sched_getaffinity(0))
    require(
        1 <= options.threads <= len(cores),
        f"--threads is {options.threads}; choose 1 to {len(cores)}, the cores of this machine.",
    )
    require(
        importlib.util.find_spec("stable_baselines3") is not None,
        "stable-baselines3 isn't installed; run pip install -e '.[benchmarks]'.",
    )
    console = PlainConsole(stderr=True)
    budget = QUICK if options.quick else Budget()
    result = measure(budget, cores[: options.threads], console)
    if not options.quick:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        write_json(RESULTS, result)
        console.print(f"recorded in {RESULTS}")
    print(render(result), end="")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"{Path(NAME).name}: {error}", file=sys.stderr)
        sys.exit(2)

"""Films of runs: what is played, what is shown of it, and what `ragjax render` refuses."""

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import pytest
from PIL import Image, ImageSequence
from report_runs import blocks_of, data_of

from ragjax.cli import main
from ragjax.envs.base import Environment
from ragjax.envs.cartpole import CartPole
from ragjax.envs.recommendation.base import Recommendation
from ragjax.evaluation.frames import layout_of
from ragjax.evaluation.replay import Describer, Step, replay
from ragjax.ops.distributions import MarginalCategorical
from ragjax.precision import single_precision
from ragjax.report.film import drawn_environments, play
from ragjax.run_dir import load_run

pytest_plugins = ["tiny_run"]

SUPPORT = Path(__file__).parents[1] / "support"
FEW = ("--evaluation.every", "5", "--evaluation.episodes", "4", "--evaluation.during", "2")
LOOKUP = (
    *("lookup/marginal", "--env.steps", "3", "--env.time_limit", "3", "--log_every", "1"),
    *("--algorithm.rollout_length", "2", "--algorithm.num_envs", "2", "--env_steps", "40", *FEW),
)
MOST = 1000


def trained_run(tmp_path_factory, name, *words):
    run = tmp_path_factory.mktemp(name) / "run"
    assert main(["train", *words, "--run-dir", str(run)]) == 0
    return run


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A finished run of CartPole, of up to 40 steps, with a normaliser."""
    words = (str(SUPPORT / "tiny_policy_config.py"), "--env_steps", "320", *FEW)
    return trained_run(tmp_path_factory, "policy", *words)


@pytest.fixture(scope="module")
def lookup(tmp_path_factory):
    """A finished run of a policy that retrieves, in episodes of 3 steps."""
    return trained_run(tmp_path_factory, "lookup", *LOOKUP)


def read(path):
    """The frames of a GIF, and the hundredths of a second that each stands."""
    with Image.open(path) as image:
        found = [
            (np.asarray(frame.convert("RGB")), frame.info["duration"] // 10)
            for frame in ImageSequence.Iterator(image)
        ]
    return [frame for frame, _ in found], [time for _, time in found]


# What is played


def test_moments_are_those_of_the_episode(policy):
    moments, length = play(load_run(policy), 3, None, sampled=False, most=MOST)
    assert len(moments) == length + 1
    assert [moment.steps for moment in moments] == list(range(length + 1))
    # Of CartPole each step earns 1.
    assert [moment.total for moment in moments] == [float(step) for step in range(length + 1)]
    assert all(moment.decision is not None for moment in moments[:-1])
    assert moments[-1].decision is None
    assert [bool(moment.ended) for moment in moments] == [False] * length + [True]
    carts = [moment.scene.shapes[3].x for moment in moments]
    assert np.abs(np.diff(carts)).max() < 0.1
    assert len(set(carts)) > 2


def test_decisions_are_the_likeliest_ones(policy):
    moments, _ = play(load_run(policy), 1, None, sampled=False, most=MOST)
    for moment in moments[:-1]:
        shares = dict(moment.decision.actions)
        assert list(shares) == ["push left", "push right"]
        assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)
        assert shares[moment.decision.taken] == max(shares.values())
        assert moment.decision.passages == []


def test_an_episode_is_that_of_the_report_s_page(policy, ragjax, tmp_path):
    assert ragjax("report", policy, "-o", tmp_path / "page.html", "--episodes", "4")[0] == 0
    page = data_of((tmp_path / "page.html").read_text())
    (block,) = blocks_of(page, "decisions")
    for number, told in enumerate(block["episodes"], 1):
        moments, length = play(load_run(policy), number, None, sampled=False, most=MOST)
        assert told["facts"][:2] == [f"return {moments[-1].total:.6g}", f"{length} steps"]
        taken = [decision["taken"] for decision in told["decisions"]]
        assert taken == [moment.decision.taken for moment in moments[:-1]]


@single_precision
def first_distribution(run, episode):
    """What the policy thinks of the first observation of an episode."""
    spec = run.learner.env.on_split("test")
    env = spec.watched(episode)
    _, shown = env.reset(env.params, jax.random.PRNGKey(run.config.seed))
    return jax.device_get(run.learner.acting(run.state)(shown.observation))


def test_weights_are_those_of_the_policy(lookup):
    run = load_run(lookup)
    moments, length = play(run, 2, None, sampled=False, most=MOST)
    assert length == 3
    for moment in moments[:-1]:
        for name in ("prior", "posterior"):
            weights = [getattr(passage, name) for passage in moment.decision.passages]
            assert sum(weights) == pytest.approx(1.0, abs=1e-5)
    first = moments[0].decision
    distribution = first_distribution(run, 2)
    assert isinstance(distribution, MarginalCategorical)
    prior = np.exp(distribution.log_prior[1])
    assert [passage.prior for passage in first.passages] == pytest.approx(
        sorted(prior, reverse=True), rel=1e-5
    )
    assert [share for _, share in first.actions] == pytest.approx(
        np.exp(distribution.log_probs[1]), rel=1e-5
    )
    taken = int(first.taken)
    readers = np.exp(jax.nn.log_softmax(distribution.logits[1], axis=-1))[:, taken]
    posterior = prior * readers / np.sum(prior * readers)
    order = np.argsort(-prior, kind="stable")
    assert [passage.posterior for passage in first.passages] == pytest.approx(
        posterior[order], rel=1e-4
    )


def test_passages_are_described(lookup):
    run = load_run(lookup)
    (moment, *_), _ = play(run, 1, None, sampled=False, most=MOST)
    answers = np.asarray(run.learner.env.build().params.answers)
    for passage in moment.decision.passages:
        assert passage.text == f"says {answers[passage.row]}"
        assert passage.title == f"passage {passage.row}"


def test_an_estimator_that_mixes_passages_has_no_weights(ragjax, tmp_path):
    run = tmp_path / "run"
    assert ragjax("train", *LOOKUP, "--policy.estimator", "attention", "--run-dir", run)[0] == 0
    (moment, *_), _ = play(load_run(run), 1, None, sampled=False, most=MOST)
    assert len(moment.decision.passages) == 8
    assert {passage.prior for passage in moment.decision.passages} == {None}
    assert ragjax("render", run, "-o", tmp_path / "film.gif")[0] == 0


def test_drawn_actions_and_seeds(policy):
    run = load_run(policy)

    def taken(seed=None, sampled=True, episode=1):
        moments, _ = play(run, episode, seed, sampled=sampled, most=MOST)
        return [moment.decision.taken for moment in moments[:-1]]

    assert taken() == taken(run.config.seed)
    assert len({tuple(taken(seed)) for seed in range(3)}) == 3
    assert taken() != taken(sampled=False)
    assert taken() != taken(episode=2)


def test_a_slate_is_named_item_by_item():
    """An action of several places, of a policy whose distribution is not over single actions."""

    class Items(Environment):
        def action_name(self, action):
            return f"item {action}"

    describer = Describer(Items(), CartPole().build())
    empty = dict.fromkeys(("before", "ids", "prior", "posterior", "after", "timestep"))
    step = Step(action=np.array([[1, 0]]), probabilities=None, **empty)
    decision = describer.decision(step, 0)
    assert decision.taken == "item 1, item 0"
    assert decision.actions == []


def test_a_replay_can_be_broken_off(policy):
    run = load_run(policy)
    env = run.learner.env.vectorise(2)
    steps = replay(run.state, run.config.policy, env, jax.random.PRNGKey(0), 3)
    assert len(list(steps)) == 3


def test_the_last_state_is_seen(policy):
    """Which environments that start anew by themselves do not show: here the pole falls."""
    for episode in range(1, 4):
        moments, length = play(load_run(policy), episode, None, sampled=True, most=MOST)
        if length < 40:
            break
    assert moments[-1].scene.shapes[4].role == "danger"
    assert {moment.scene.shapes[4].role for moment in moments[:-1]} == {"part"}
    assert moments[-1].ended == "the episode has ended"


def test_a_time_limit_is_told(lookup, policy):
    run = load_run(policy)
    run.learner.env = CartPole(time_limit=2)
    moments, length = play(run, 1, None, sampled=False, most=MOST)
    assert length == 2
    assert moments[-1].ended == "the episode was cut by its time limit"
    moments, _ = play(load_run(lookup), 1, None, sampled=False, most=MOST)
    assert moments[-1].ended == "the episode has ended"


# The film


def test_a_film_has_a_frame_for_each_state(policy, ragjax, tmp_path):
    path = tmp_path / "film.gif"
    code, out, _ = ragjax("render", policy, "--output", path)
    moments, length = play(load_run(policy), 1, None, sampled=False, most=MOST)
    shown, times = read(path)
    assert code == 0
    assert len(shown) == length + 1
    assert all(np.any(one != other) for one, other in itertools.pairwise(shown))
    size = path.stat().st_size / 1e6
    assert out == f"{path}: {length + 1} frames, {100 / times[0]:.3g} a second, {size:.2f} MB\n"
    assert times[-1] >= 150
    # The cart is the blue of agents.
    cart = moments[0].scene.shapes[3]
    blue = np.all(shown[0] == [0x2F, 0x6F, 0xCE], axis=-1)
    left, right = moments[0].scene.x
    across = np.flatnonzero(blue.any(axis=0)).mean()
    begins, _, width, _ = layout_of(moments).scene
    wanted = begins + width * (cart.x - left) / (right - left)
    assert across == pytest.approx(wanted, abs=2)


def test_equal_films_have_equal_bytes(lookup, ragjax, tmp_path):
    for name in ("a.gif", "b.gif"):
        assert ragjax("render", lookup, "-o", tmp_path / name, "--sampled")[0] == 0
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    assert ragjax("render", lookup, "-o", tmp_path / "c.gif", "--episode", "2")[0] == 0
    assert (tmp_path / "a.gif").read_bytes() != (tmp_path / "c.gif").read_bytes()


def test_what_is_not_shown_is_told(policy, ragjax, tmp_path):
    path = tmp_path / "film.gif"
    code, out, _ = ragjax("render", policy, "-o", path, "--max-frames", "2", "--fps", "30")
    assert code == 0
    _, length = play(load_run(policy), 1, None, sampled=False, most=MOST)
    assert len(read(path)[0]) == 2
    assert out.splitlines()[1:] == [
        "a GIF has no rate of 30 frames a second; 33.3 is the nearest",
        f"the first 2 of {length + 1} frames are shown; --max-frames shows more",
    ]


def test_progress_is_told(policy, ragjax, tmp_path):
    code, _, err = ragjax("render", policy, "-o", tmp_path / "film.gif")
    assert code == 0
    assert "frames/s" in err


# What is refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--episode", "0"), "--episode is 0; choose one of 1 to 1000."),
        (("--episode", "1001"), "--episode is 1001; choose one of 1 to 1000."),
        (("--max-frames", "0"), "--max-frames is 0; draw at least 1."),
        (("--fps", "0"), "--fps is 0; choose from 1 to 50 frames a second."),
        (("--fps", "51"), "--fps is 51; choose from 1 to 50 frames a second."),
        (("--seed", "-1"), "--seed is -1; choose one from 0 to 4294967295."),
        (("-o", "film.png"), "--output is film.png; give the film a name in .gif or .mp4."),
    ],
    ids=" ".join,
)
def test_bad_options(words, said, refused, policy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused("render", policy, *words) == said
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory(refused, policy, tmp_path):
    path = tmp_path / "missing" / "film.gif"
    assert refused("render", policy, "-o", path) == (
        f"--output is {path}, but {path.parent} is not a directory; make it or name another."
    )


def test_a_run_of_questions(refused, trained, tmp_path):
    assert refused("render", trained, "-o", tmp_path / "film.gif") == (
        "This run answers questions and plays no episodes; name the run of a policy."
    )


def test_a_run_without_a_checkpoint(refused, policy, tmp_path):
    copied = Path(shutil.copytree(policy, tmp_path / "copied"))
    shutil.rmtree(copied / "checkpoints")
    said = refused("render", copied, "-o", tmp_path / "film.gif")
    assert "should hold a whole checkpoint but has none" in said


def test_several_seeds(ragjax, refused, tmp_path):
    """As with other commands, one of them has to be named."""
    run = tmp_path / "run"
    words = (SUPPORT / "tiny_policy_config.py", "--env_steps", "128", "--num_seeds", "2", *FEW)
    assert ragjax("train", *words, "--run-dir", run)[0] == 0
    assert f"{run} holds 2 seeds; name the directory of one of them" in refused("render", run)
    assert ragjax("render", run / "seed_1", "-o", tmp_path / "film.gif")[0] == 0


@dataclass(frozen=True)
class Undrawn(Environment):
    """CartPole without a picture; not its subclass, for a class with such is no spec of its own."""

    name: ClassVar[str] = "undrawn"

    def build(self):
        return CartPole().build()


@dataclass(frozen=True)
class Shy(Undrawn):
    """The same that can be drawn in some configurations only, and not in this one."""

    name: ClassVar[str] = "shy"

    def scene(self, params, state):
        return None


@pytest.mark.parametrize("spec", [Undrawn(time_limit=40), Shy(time_limit=40)])
def test_an_environment_that_cannot_be_drawn(spec, policy, refused, tmp_path, monkeypatch):
    run = load_run(policy)
    run.learner.env = spec
    monkeypatch.setattr("ragjax.commands.load_run", lambda directory: run)
    assert refused("render", policy, "-o", tmp_path / "film.gif") == (
        f"Environment {spec.name} can't be drawn; name the run of a policy in one of "
        f"{', '.join(drawn_environments())}, or give yours a `scene()`, see ragjax/envs/base.py."
    )
    assert list(tmp_path.iterdir()) == []


def test_the_drawn_environments_are_named():
    found = drawn_environments()
    assert found == sorted(found)
    assert {"acrobot", "cartpole", "catch", "lookup", "mountain_car"} <= set(found)
    assert not {"random_walk", "gymnasium", "undrawn"} & set(found)


def test_environments_of_a_folder_are_named_too(monkeypatch):
    monkeypatch.setattr(Recommendation, "scene", lambda self, params, state: None)
    assert "interest_evolution" in drawn_environments()

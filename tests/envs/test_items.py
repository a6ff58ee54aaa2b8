"""The user's own items as the corpus of an environment, from the file to a run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.cli import main
from ragjax.envs.recommendation.interest_evolution import InterestEvolution
from ragjax.envs.recommendation.interest_exploration import InterestExploration
from ragjax.envs.recommendation.long_term_satisfaction import LongTermSatisfaction
from ragjax.errors import UserError

FILES = {
    InterestEvolution: "id\ttopic\tquality\na\t3\t0.5\nb\t19\t-2\nc\t0\t1.25\nd\t3\t9\n",
    InterestExploration: "topic\tquality\n1\t0.5\n0\t2\n1\t1.25\n0\t0\n",
    LongTermSatisfaction: "clickbait\n0.5\n0\n1\n0.25\n",
}


@pytest.fixture
def spec(tmp_path):
    def of(kind, content=None, **fields):
        path = tmp_path / "items.tsv"
        path.write_text(FILES[kind] if content is None else content)
        return kind(items=str(path), slate=2, **fields)

    return of


@pytest.mark.parametrize("kind", FILES, ids=lambda kind: kind.name)
def test_its_rows_are_the_corpus(spec, kind):
    """All that is drawn otherwise is read, and a drawn corpus of these documents plays the same."""
    env = spec(kind).build()
    assert env.num_actions == 4
    assert "candidates" not in env.parts
    columns = kind(slate=2).simulation().columns
    header, *lines = (line.split("\t") for line in FILES[kind].splitlines())
    cells = {name: [line[place] for line in lines] for place, name in enumerate(header)}
    assert set(vars(env.params.corpus)) == set(columns)
    for name, values in vars(env.params.corpus).items():
        np.testing.assert_array_equal(values, np.array(cells[name], float))
    np.testing.assert_array_equal(env.passages, kind(slate=2).simulation().looks(env.params.corpus))
    drawn = kind(corpus=4, slate=2).build()
    assert jax.tree.structure(drawn.params) == jax.tree.structure(env.params)
    for mine, other in zip(jax.tree.leaves(env.params), jax.tree.leaves(drawn.params), strict=True):
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
    key, slate = jax.random.key(0), jnp.asarray([3, 1])
    made = []
    for one in (env, drawn):
        state, first = one.reset(env.params, key)
        made.append((first, one.step(env.params, key, state, slate)))
    jax.tree.map(np.testing.assert_array_equal, *made)


def test_quality_is_seen_only_once_an_item_was_shown(spec):
    env = spec(InterestEvolution).build()
    other = spec(InterestEvolution, FILES[InterestEvolution].replace("\t9", "\t7")).build()
    np.testing.assert_array_equal(env.passages, other.passages)
    key = jax.random.key(0)
    state, first = env.reset(env.params, key)
    _, second = other.reset(other.params, key)
    np.testing.assert_array_equal(first.observation, second.observation)
    _, shown = env.step(env.params, key, state, jnp.asarray([3, 0]))
    np.testing.assert_array_equal(shown.observation[20:].reshape(2, 23)[:, 2], [9, 0.5])


def test_items_may_be_tokens(spec):
    tokens = np.asarray(spec(InterestEvolution, tokens=True).build().passages)
    assert tokens.shape == (4, 2)
    assert len(np.unique(tokens[:, 1])) == 4


@pytest.mark.parametrize(
    ("fields", "content", "sentence"),
    [
        (
            {"corpus": 5},
            None,
            "env.corpus is 5 together with env.items, whose rows are the corpus; leave env.corpus at 0.",
        ),
        (
            {},
            "topic\tquality\n1\t0\n",
            "env.slate is 2, more than the 1 of env.items {path}; show at most as many documents as "
            "there are.",
        ),
        (
            {},
            "topic\n1\n",
            "{path}, line 2 has no 'quality' (it has topic); add it, a number from -100",
        ),
    ],
)
def test_what_does_not_fit_is_said(spec, tmp_path, fields, content, sentence):
    with pytest.raises(UserError) as caught:
        spec(InterestEvolution, content, **fields).build()
    assert str(caught.value).startswith(sentence.format(path=tmp_path / "items.tsv"))


CONFIG = """
from ragjax.envs.recommendation.interest_evolution import InterestEvolution
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.slate_retrieval import SlateRetrieval
from ragjax.objectives.a2c import A2C


def get_config():
    return EpisodesConfig(
        env=InterestEvolution(slate=2),
        algorithm=A2C(num_envs=4, rollout_length=4),
        policy=SlateRetrieval(k=3, hidden=(4,)),
        env_steps=32,
        evaluation=EpisodeEvaluation(episodes=2, every=0),
    )
"""


def test_a_run_learns_from_a_file_and_keeps_to_it(spec, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG)
    items = spec(InterestEvolution).items
    train = ["train", "config.py", "--env.items", "items.tsv", "--run-dir", "run"]

    def fails(words):
        assert main(words) == 2
        return capsys.readouterr().err

    (tmp_path / "items.tsv").write_text("topic\tquality\n1\tnan\n")
    told = fails(train)
    assert told.strip().endswith(
        f"{items}, line 2: 'quality' is 'nan'; it must be a number from -100 to 100."
    )
    assert "Traceback" not in told
    spec(InterestEvolution)
    assert main(train) == 0
    assert main(["evaluate", "run"]) == 0
    capsys.readouterr()
    spec(InterestEvolution, FILES[InterestEvolution].replace("\t9", "\t7"))
    told = fails(["evaluate", "run"])
    assert f"run was made with the items of {items}, but {items} holds other items now" in told
    (tmp_path / "items.tsv").unlink()
    told = fails(["evaluate", "run"])
    assert told == f"ragjax: env.items is {items}, which is no file; name one that exists.\n"


def test_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert InterestEvolution(items="a.tsv").items == str(tmp_path / "a.tsv")
    assert dataclasses.replace(InterestEvolution(items="a.tsv"), slate=1).items.startswith("/")

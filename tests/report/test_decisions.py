"""Episodes that policies play anew for a page: every decision with its probabilities."""

import os
import shutil
from pathlib import Path

import pytest
from report_runs import blocks_of, data_of
from tiny_task import TOWNS

from ragjax.cli import main

pytest_plugins = ["tiny_run"]

SUPPORT = Path(__file__).parents[1] / "support"
FEW = ("--evaluation.every", "5", "--evaluation.episodes", "4", "--evaluation.during", "2")
AGENT = """
from tiny_task import TinyTask
from ragjax.agents.adaptive_retrieval.environment import AdaptiveRetrieval
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.policy import ActorCritic
from ragjax.objectives.ppo import PPO


def get_config():
    return EpisodesConfig(
        env=AdaptiveRetrieval(reader={reader!r}, task=TinyTask(), k=3),
        algorithm=PPO(num_envs=8, rollout_length=4, discount=1.0, minibatches=2),
        policy=ActorCritic(),
        env_steps=64,
        evaluation=EpisodeEvaluation(every=2, during=10),
        log_every=1,
        checkpoint_every=2,
    )
"""


def decisions(ragjax, run, tmp_path, *words):
    """-> (episodes, what is said beside them) of a run's page."""
    code, _, err = ragjax("report", run, "-o", tmp_path / "page.html", *words)
    assert code == 0, err
    page = data_of((tmp_path / "page.html").read_text())
    said = [text for block in blocks_of(page, "words") for text in block["paragraphs"]]
    return [each for block in blocks_of(page, "decisions") for each in block["episodes"]], said


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A finished run of CartPole."""
    run = tmp_path_factory.mktemp("policy") / "run"
    words = ["--env_steps", "320", *FEW]
    assert (
        main(["train", str(SUPPORT / "tiny_policy_config.py"), *words, "--run-dir", str(run)]) == 0
    )
    return run


def test_a_policy_s_actions_have_probabilities(policy, ragjax, tmp_path):
    episodes, _ = decisions(ragjax, policy, tmp_path, "--episodes", "3")
    assert [episode["label"] for episode in episodes] == ["episode 1", "episode 2", "episode 3"]
    for episode in episodes:
        made = episode["decisions"]
        assert f"return {len(made)}" in episode["facts"]  # of CartPole each step earns 1
        for decision in made:
            shares = dict(decision["actions"])
            assert sum(shares.values()) == pytest.approx(1.0, abs=1e-4)
            assert shares[decision["taken"]] == max(shares.values())
            assert decision["passages"] == []


def test_equal_runs_play_equal_episodes(policy, ragjax, tmp_path):
    assert decisions(ragjax, policy, tmp_path) == decisions(ragjax, policy, tmp_path)


def test_a_policy_that_retrieves_shows_prior_and_posterior(ragjax, tmp_path):
    run = tmp_path / "run"
    sizes = ("--algorithm.rollout_length", "2", "--algorithm.num_envs", "2", "--log_every", "1")
    words = ("lookup/marginal", *sizes, "--env_steps", "20", *FEW)
    assert ragjax("train", *words, "--run-dir", run)[0] == 0
    episodes, _ = decisions(ragjax, run, tmp_path, "--episodes", "2")
    passages = episodes[0]["decisions"][0]["passages"]
    assert all(title.startswith("passage ") for title, *_ in passages)
    for place in (2, 3):
        assert sum(passage[place] for passage in passages) == pytest.approx(1.0, abs=1e-4)
    posterior = [passage[3] for passage in passages]
    assert posterior == sorted(posterior, reverse=True)


def test_an_agent_s_decisions_about_questions(trained, ragjax, tmp_path):
    config, run = tmp_path / "agent.py", tmp_path / "run"
    config.write_text(AGENT.format(reader=os.path.relpath(trained)))
    assert ragjax("train", config, "--run-dir", run)[0] == 0
    episodes, _ = decisions(ragjax, run, tmp_path, "--episodes", "4")
    assert len(episodes) == 4
    for episode in episodes:
        assert "live?" in episode["label"] or "town" in episode["label"]
        (gold,) = [fact for fact in episode["facts"] if fact.startswith("gold: ")]
        assert gold.removeprefix("gold: ") in TOWNS
        for decision in episode["decisions"]:
            ((action, share),) = decision["actions"]
            assert action == decision["taken"]
            assert 0 < share <= 1
            assert len(decision["passages"]) == (3 if "retrieve" in action else 0)
    assert {fact for episode in episodes for fact in episode["facts"] if "kind" in fact} == {
        *("kind: home", "kind: town")
    }


def test_what_cannot_play_is_said(policy, ragjax, tmp_path):
    damaged = Path(shutil.copytree(policy, tmp_path / "damaged"))
    for checkpoint in (damaged / "checkpoints").iterdir():
        shutil.rmtree(checkpoint)
    episodes, said = decisions(ragjax, damaged, tmp_path)
    assert episodes == []
    assert any(f"The policy of {damaged} can't play here: " in text for text in said)


def test_no_episodes_are_played_where_none_are_asked_for(policy, ragjax, tmp_path):
    assert decisions(ragjax, policy, tmp_path, "--episodes", "0")[0] == []

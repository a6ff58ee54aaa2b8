"""Runs of adaptive retrieval from the command line: trained, resumed, evaluated and asked."""

import contextlib
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_task import PEOPLE, TinyTask

from ragjax.agents.adaptive_retrieval.environment import AdaptiveRetrieval
from ragjax.agents.adaptive_retrieval.questions import ReadQuestions
from ragjax.cli import main
from ragjax.config import read_json
from ragjax.errors import UserError
from ragjax.evaluation.runs import load_runs, record_run
from ragjax.learners.episodes import EpisodesConfig
from ragjax.objectives.ppo import PPO
from ragjax.run_dir import CHECKPOINTS

pytest_plugins = ["tiny_run"]
TEXT = f"Where does {PEOPLE[0]} live?"


CONFIG = """
from tiny_task import TinyTask
from ragjax.agents.adaptive_retrieval.environment import AdaptiveRetrieval
from ragjax.agents.adaptive_retrieval.fixed_policies import FixedPolicy
from ragjax.models.policy import ActorCritic
from ragjax.objectives.ppo import PPO
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig

def get_config():
    return EpisodesConfig(
        env=AdaptiveRetrieval(reader={reader!r}, task=TinyTask(), k=3),
        algorithm=PPO(num_envs=8, rollout_length=4, discount=1.0, minibatches=2),
        policy={policy},
        env_steps=8 * 4 * 4,
        evaluation=EpisodeEvaluation(every=2, during=10),
        log_every=1,
        checkpoint_every=2,
    )
"""


@pytest.fixture(scope="module")
def agent(trained, tmp_path_factory):
    """The directory of an agent's run, made from the command line; it names its reader relatively."""
    base = tmp_path_factory.mktemp("agent")
    with contextlib.chdir(base):
        reader = os.path.relpath(trained)
        (base / "agent.py").write_text(CONFIG.format(reader=reader, policy="ActorCritic()"))
        assert main(["train", "agent.py", "--run-dir", "run"]) == 0
    return base / "run"


def test_an_agent_s_run_reports_by_kind(agent, trained):
    result = json.loads((agent / "result.json").read_text())
    made = json.loads((trained / "result.json").read_text())["git_commit"]
    assert result["reader"].keys() == {"run", "git_commit", "digest"}
    assert result["reader"]["git_commit"] == made
    assert (agent.parent / result["reader"]["run"]).resolve() == trained.resolve()
    for mode in ("greedy", "sampled"):
        for kind in ("home", "town"):
            assert 0 <= result[f"{mode}_retrievals_{kind}"] <= 6
            assert 0 <= result[f"{mode}_score_{kind}"] <= 1
    assert result["episodes"] == 12
    assert result["dev"]["source"] == "the development split"
    assert result["dev"].keys() - {"source"} <= result.keys()
    assert result["dev"]["episodes"] == 12
    episodes = [json.loads(line) for line in (agent / "episodes.jsonl").read_text().splitlines()]
    asked = TinyTask().generate().splits["test"]
    for mode in ("greedy", "sampled"):
        found = [(row["id"], row["kind"]) for row in episodes if row["mode"] == mode]
        assert sorted(found) == sorted((q.id, q.relation) for q in asked)
        means = [result[f"{mode}_reward_{kind}"] for kind in ("home", "town")]
        assert result[f"{mode}_return"] == pytest.approx(np.mean(means))
    greedy = [row for row in episodes if row["mode"] == "greedy"]
    told = [row["retrievals_home"] for row in greedy if row["retrievals_home"] is not None]
    assert np.mean(told) == pytest.approx(result["greedy_retrievals_home"])
    rows = [json.loads(line) for line in (agent / "metrics.jsonl").read_text().splitlines()]
    assert any("eval/greedy_retrievals_home" in row for row in rows)


def test_an_agent_s_run_resumes_as_the_run_it_was(agent, tmp_path):
    """From its first checkpoint on, as if it had been killed before the last."""
    run_dir = Path(shutil.copytree(agent, tmp_path / "run"))
    shutil.rmtree(run_dir / CHECKPOINTS / "4")
    (run_dir / "result.json").unlink()
    (run_dir / "episodes.jsonl").unlink()
    config = str(agent.parent / "agent.py")
    assert main(["train", config, "--run-dir", str(run_dir), "--resume"]) == 0
    for name in ("metrics.jsonl", "episodes.jsonl"):
        assert (run_dir / name).read_bytes() == (agent / name).read_bytes()
    metrics = (agent / "metrics.jsonl").read_text()
    losses = [json.loads(row)["loss"] for row in metrics.splitlines() if "loss" in row]
    assert len(set(losses)) == 4


def test_asking_an_agent_shows_its_decisions(agent, capsys):
    assert main(["answer", str(agent), TEXT, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["question"] == TEXT
    assert 1 <= len(told["decisions"]) <= 6
    for decision in told["decisions"]:
        assert 0 < decision["probability"] <= 1
        retrieved = decision["action"] in ("retrieve", "retrieve again")
        assert ("passages" in decision) == retrieved
        if retrieved:
            assert len(decision["passages"]) == 3
    assert main(["answer", str(agent), TEXT]) == 0
    assert told["decisions"][0]["action"] in capsys.readouterr().out


def test_an_agent_is_evaluated_on_a_split(agent, capsys, monkeypatch):
    used, table = [], ReadQuestions.table

    def recorded(self, split):
        used.append(split)
        return table(self, split)

    monkeypatch.setattr(ReadQuestions, "table", recorded)
    assert main(["evaluate", str(agent), "--split", "dev", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["split"], told["episodes"]) == ("dev", 12)
    assert set(used) == {"dev"}
    result = json.loads((agent / "result.json").read_text())
    assert result["dev"]["sampled_return"] == told["sampled_return"]
    assert main(["evaluate", str(agent)]) == 0
    shown = capsys.readouterr().out
    assert set(used) == {"dev", "test"}
    assert "of 12 episodes of test questions" in " ".join(shown.split())
    assert "retrievals_home" in shown


def test_a_reader_is_found_from_another_directory(agent, trained, tmp_path, monkeypatch):
    """Where nothing is of the name that the config has: from where the run began."""
    named = read_json(agent / "config.json")
    assert not Path(named.env.reader).is_absolute()
    (tmp_path / "below" / named.env.reader).mkdir(parents=True)  # another one of this name
    monkeypatch.chdir(tmp_path / "below")
    found = named.load(agent).env.reader_dir
    assert found.is_absolute()
    assert found.resolve() == trained.resolve()
    monkeypatch.chdir(agent.parent)
    assert named.load(agent).env.reader_dir == Path(named.env.reader)


def words_of(command, agent, run_dir):
    """A command on the agent's run or a copy of it."""
    return {
        "evaluate": ["evaluate", run_dir],
        "answer": ["answer", run_dir, TEXT],
        "resume": ["train", agent.parent / "agent.py", "--run-dir", run_dir, "--resume"],
    }[command]


@pytest.mark.parametrize("command", ["evaluate", "answer", "resume"])
def test_a_reader_that_was_trained_anew_is_noticed(agent, trained, tmp_path, refused, command):
    """Another run in the reader's place would give other figures under the agent's name."""
    run_dir = Path(shutil.copytree(agent, tmp_path / "run"))
    content = json.loads((run_dir / "origin.json").read_text())
    content["runs"]["reader"]["digest"] = "0" * 16  # of the reader that was there before
    (run_dir / "origin.json").write_text(json.dumps(content))
    words = words_of(command, agent, run_dir)
    assert f"{trained.parent.name}/{trained.name} holds other parameters now" in refused(*words)


@pytest.mark.parametrize("command", ["evaluate", "answer", "resume"])
def test_questions_that_are_others_now_are_noticed(agent, refused, monkeypatch, command):
    """An answer that was edited since; the policy also observes what the training questions have."""
    generate = TinyTask.generate

    def edited(self):
        data = generate(self)
        first, *others = data.splits["test"]
        splits = data.splits | {"test": (dataclasses.replace(first, answers=("Nowhere",)), *others)}
        return dataclasses.replace(data, splits=splits)

    monkeypatch.setattr(TinyTask, "generate", edited)
    words = words_of(command, agent, agent)
    assert f"Task tiny makes other test questions now than {agent} began with" in refused(*words)


def test_a_run_that_kept_no_digests_of_its_questions_is_used_as_before(agent, tmp_path):
    run_dir = Path(shutil.copytree(agent, tmp_path / "run"))
    (run_dir / "data.json").unlink()
    with pytest.raises(UserError, match=r"data\.json can't be read"):
        read_json(run_dir / "config.json").load(run_dir)
    content = json.loads((run_dir / "origin.json").read_text())
    (run_dir / "origin.json").write_text(json.dumps(content | {"files": {}}))
    read_json(run_dir / "config.json").load(run_dir)


def test_an_agent_is_asked_in_words(agent, capsys):
    assert main(["answer", str(agent), ""]) == 2
    assert "empty" in capsys.readouterr().err


@pytest.mark.parametrize("question", ["zzz qqq", pytest.param("zzz ?", marks=pytest.mark.slow)])
def test_an_agent_has_no_answer_to_unknown_words(agent, capsys, question):
    assert main(["answer", str(agent), TEXT, "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    assert main(["answer", str(agent), question, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == known.keys()
    assert (told["answer"], told["probability"], told["decisions"]) == (None, None, [])
    assert told["notes"][-1].startswith("no word of the question is known")
    assert main(["answer", str(agent), question]) == 0
    assert capsys.readouterr().out.startswith("no answer\n  note: unknown words left out: zzz")


def test_a_missing_reader_is_named(tmp_path, capsys):
    (tmp_path / "agent.py").write_text(
        CONFIG.format(reader="nowhere/seed_{seed}", policy="ActorCritic()")
    )
    arguments = [str(tmp_path / "agent.py"), "--run-dir", str(tmp_path / "run"), "--seed", "4"]
    assert main(["train", *arguments]) == 2
    assert "env.reader names nowhere/seed_4, which holds no finished run" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_split_without_questions_is_named_before_training(
    agent, tmp_path, refused, monkeypatch, split
):
    data = TinyTask().generate()
    empty = dataclasses.replace(data, splits=data.splits | {split: ()})
    monkeypatch.setattr(TinyTask, "generate", lambda self: empty)
    monkeypatch.chdir(agent.parent)  # where the reader is found
    message = refused("train", "agent.py", "--run-dir", tmp_path / "run")
    assert f"Task tiny has no {split} questions; give it at least one." in message
    assert not (tmp_path / "run").exists()


def test_seeds_side_by_side_share_one_reader():
    fields = {"algorithm": PPO(), "num_seeds": 2}
    EpisodesConfig(env=AdaptiveRetrieval(reader="runs/one"), **fields)
    with pytest.raises(
        UserError, match="num_seeds is 2, but environment adaptive_retrieval has a trained part"
    ):
        EpisodesConfig(env=AdaptiveRetrieval(), **fields)


def test_an_agent_s_questions_pair_recorded_runs(agent, tmp_path):
    record_run(agent, tmp_path / "ppo" / "seed_0")
    (run,) = load_runs(tmp_path / "ppo", (0,))
    returns, kinds = run.figure("sampled_return"), run.strata("sampled_return")
    assert returns.shape == kinds.shape == (12,)
    means = [returns[kinds == kind].mean() for kind in ("home", "town")]
    assert np.mean(means) == pytest.approx(run.result["sampled_return"])
    home = run.figure("sampled_score_home")
    assert home.shape == (6,)
    assert home.mean() == pytest.approx(run.result["sampled_score_home"])
    assert run.figure("train_seconds").shape == (1,)
    assert run.strata("train_seconds") is None


@pytest.mark.slow
def test_a_fixed_policy_is_measured_without_training(trained, tmp_path, capsys, monkeypatch):
    config, run_dir = tmp_path / "fixed.py", tmp_path / "run"
    config.write_text(CONFIG.format(reader=str(trained), policy="FixedPolicy(1)"))
    assert main(["train", str(config), "--run-dir", str(run_dir)]) == 0
    result = json.loads((run_dir / "result.json").read_text())
    assert (result["steps"], result["env_steps"], sum(result["parameters"].values())) == (0, 0, 0)
    for mode in ("greedy", "sampled"):
        assert result[f"{mode}_retrievals_home"] == result[f"{mode}_retrievals_town"] == 1
    assert not (run_dir / "metrics.jsonl").read_text()
    read = []
    monkeypatch.setattr(ReadQuestions, "table", lambda self, split: read.append(split))
    capsys.readouterr()
    assert main(["answer", str(run_dir), TEXT, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [decision["action"] for decision in told["decisions"]] == ["retrieve", "read and answer"]
    assert not read  # no question but this one

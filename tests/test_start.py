"""A run that starts from the parameters of another, and joins likelihood and reward."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from tiny_config import get_config

from ragjax.errors import UserError
from ragjax.learners.start import require_start
from ragjax.objectives.answer_reward import AnswerReward
from ragjax.objectives.joint import Joint
from ragjax.run_dir import load_run
from ragjax.training.optimizer import evaluation_params
from ragjax.training.program import starting_state

pytest_plugins = ["tiny_run"]


def begun(config):
    """The state that a run of this config begins with."""
    return starting_state(config.create(), config.seeds)


def test_training_starts_from_the_parameters_that_the_run_was_evaluated_with(trained):
    config = dataclasses.replace(get_config(), start=str(trained))
    state = begun(config)
    theirs = load_run(trained).state
    expected = evaluation_params(theirs.params, theirs.opt_state)
    jax.tree.map(np.testing.assert_array_equal, state.params, expected)
    assert state.step == 0
    valued = dataclasses.replace(config, objective=Joint(reward=AnswerReward(advantage="gae")))
    params = dict(begun(valued).params)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(params.pop("critic")))
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert state.index.built_at_step == -1  # embedded anew before it is searched


def test_the_seed_stands_in_the_name(trained):
    named = str(trained.parent / "{seed}")
    config = dataclasses.replace(get_config(), start=named, seed=3)
    assert config.start_dir(3) == trained.parent / "3"
    with pytest.raises(UserError, match=r"start is '.*', but .*3 holds no finished run"):
        begun(config)


def test_a_run_continued_from_another_directory_finds_its_start(trained, copied, monkeypatch):
    """Relative to the directory in which it began; here as if that were the start's own."""
    content = json.loads((copied / "origin.json").read_text())
    began = json.dumps(content | {"directory": str(trained.parent)})
    (copied / "origin.json").write_text(began)
    config = dataclasses.replace(get_config(), start=trained.name)
    monkeypatch.chdir(copied)
    with pytest.raises(UserError, match="holds no finished run"):
        begun(config)
    learner = config.load(copied)
    assert learner.config.start_dir(0) == trained
    require_start(learner.config, 0)


def test_a_run_of_another_model_is_refused(trained):
    reader = dataclasses.replace(get_config().reader, width=32)
    config = dataclasses.replace(get_config(), start=str(trained), reader=reader)
    with pytest.raises(UserError, match=r"that run differs in reader.width; give the same"):
        begun(config)


@pytest.mark.slow
def test_a_joint_run_from_the_command_line(trained, tmp_path):
    from ragjax.cli import main

    file = tmp_path / "joint.py"
    file.write_text(
        "import dataclasses, tiny_config\n"
        "from ragjax.learners.questions import Phase\n"
        "from ragjax.objectives.answer_reward import AnswerReward\n"
        "from ragjax.objectives.joint import Joint\n"
        "from ragjax.objectives.likelihood import RagSequence\n"
        "from ragjax.objectives.rewards import TokenF1\n"
        "def get_config():\n"
        "    return dataclasses.replace(\n"
        "        tiny_config.get_config(),\n"
        "        objective=Joint(\n"
        "            likelihood=RagSequence(rename_reader=0.5),\n"
        "            reward=AnswerReward(samples=3, advantage='gae', whiten=True, reward=TokenF1(),\n"
        "                                updates=2, kl_coef=0.1, entropy_coef=0.01)),\n"
        "        checkpoint_every=2,\n"
        f"        phases=(Phase(steps=4, batch_size=6, k=3),), start={str(trained)!r})\n"
    )
    run_dir = tmp_path / "joint"
    command = ["train", str(file), "--run-dir", str(run_dir), "--seed", "1"]
    assert main([*command, "--start", str(tmp_path / "nothing")]) == 2
    assert not run_dir.exists()  # so that the right command finds nothing in its way
    assert main(command) == 0
    result = json.loads((run_dir / "result.json").read_text())
    assert result["start"]["run"] == str(trained)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    rewards = [row["reward"] for row in rows if "reward" in row]
    assert len(rewards) == 4
    assert result["curve"] == {"step": [1, 2, 3, 4], "reward": rewards}
    assert 0 <= result["drawn_em"] <= result["em"]
    assert all(0 <= reward <= 1 for reward in rewards)
    kl, entropy, value_loss = (
        [row[name] for row in rows if name in row] for name in ("kl", "entropy", "value_loss")
    )
    # The first rate of the warm-up is 0; from then on the run leaves its reference.
    assert kl[0] == pytest.approx(0, abs=1e-5)
    assert len(kl) == 4
    assert min(kl[1:]) > 0.01
    vocabulary = get_config().tokenizer.vocab_size
    assert len(entropy) == len(set(entropy)) == 4
    assert all(0.1 < figure < np.log(vocabulary) for figure in entropy)
    assert len(value_loss) == len(set(value_loss)) == 4
    assert all(0 < figure < 1 for figure in value_loss)
    objective = json.loads((run_dir / "config.json").read_text())["objective"]
    assert objective["type"].endswith("Joint")

    # From its first checkpoint on it is the same run, its reference included.
    before = {
        name: (run_dir / name).read_bytes() for name in ("metrics.jsonl", "predictions.jsonl")
    }
    shutil.rmtree(run_dir / "checkpoints" / "4")
    assert main(["train", str(file), "--run-dir", str(run_dir), "--seed", "1", "--resume"]) == 0
    for name, content in before.items():
        assert (run_dir / name).read_bytes() == content

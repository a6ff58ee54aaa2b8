"""Trains small runs of every kind, evaluates them and asks: python all_commands.py DIRECTORY.

`results.json` there holds what the commands said, and the modes of JAX that were on.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

import jax

from ragjax.cli import main

HERE = Path(__file__).parent
# In some rollouts no episode ends, and some passages are misses: there is nothing to report of them.
FEW = ("--evaluation.every", "5", "--evaluation.episodes", "4", "--evaluation.during", "2")
RUNS = {
    "text": (HERE / "tiny_config.py",),
    "policy": (
        *(HERE / "tiny_policy_config.py", "--algorithm.rollout_length", "2", "--log_every", "1"),
        *("--algorithm.num_envs", "4", "--env_steps", "160", *FEW),
    ),
    "retrieval": (
        *("lookup/marginal", "--env.steps", "3", "--env.time_limit", "3", "--log_every", "1"),
        *("--algorithm.rollout_length", "2", "--algorithm.num_envs", "1"),
        *("--env_steps", "20", *FEW),
    ),
}


def said(*words: object) -> str:
    """What a command prints; it has to succeed."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main([str(word) for word in words])
    assert code == 0, words
    return output.getvalue()


def run_all(directory: Path) -> None:
    """Runs every command, and writes what came of it."""
    results: dict[str, object] = {
        "x64": jax.config.jax_enable_x64,
        "debug_nans": jax.config.jax_debug_nans,
    }
    for name, words in RUNS.items():
        run_dir = directory / name
        said("train", *words, "--run-dir", run_dir)
        results[name] = json.loads(said("evaluate", run_dir, "--json"))
    question = ("answer", directory / "text", "Where does Ada live?", "--json", "--force")
    results["answer"] = json.loads(said(*question))
    index = directory / "index"
    passages = directory / "text" / "passages.jsonl"
    said("index", "build", passages, index, "--run", directory / "text")
    for how in (("hybrid", "--weight", "0.3"), ("rrf",)):
        found = said("index", "search", index, "Where does Ada live?", "--json", "--how", *how)
        results[how[0]] = json.loads(found)
    (directory / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))

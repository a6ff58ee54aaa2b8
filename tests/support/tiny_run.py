"""The trained tiny run that the tests of commands and evaluation share; a plugin of the test session."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = Path(__file__).parent / "tiny_config.py"


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The directory of a finished run of tiny_config.py: to be read, never to be changed."""
    from ragjax.cli import main

    run_dir = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", str(CONFIG), "--run-dir", str(run_dir)]) == 0
    return run_dir


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "copied"))


@pytest.fixture(scope="module")
def processes():
    """(arguments, program, **environment) -> a `ragjax` process."""
    # The package of this checkout, whichever one is installed.
    paths = CONFIG.parent, CONFIG.parents[2]
    shared = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    started = []

    def start(arguments, program=("-m", "ragjax"), **environment):
        command = [sys.executable, *map(str, program), *map(str, arguments)]
        process = subprocess.Popen(
            command,
            env=shared | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()

"""What `import ragjax` offers."""

import json
import subprocess
import sys

import pytest
from tiny_task import PEOPLE

import ragjax
from ragjax.errors import UserError

pytest_plugins = ["tiny_run"]


def test_a_run_is_loaded_and_asked(trained):
    """As the README shows it, by a path that is text."""
    run = ragjax.load_run(str(trained))
    assert isinstance(run, ragjax.Run)
    told = run.answer(f"Where does {PEOPLE[0]} live?")
    assert told.keys() >= {"answer", "probability", "passages"}
    figures, result = run.evaluate(), json.loads((trained / "result.json").read_text())
    assert figures["em"] == result["em"]
    for arguments, said in (
        (("all",), "--split is 'all'"),
        ((None, 3), "--episodes is of policies"),
    ):
        with pytest.raises(UserError, match=said):
            run.evaluate(*arguments)
    with pytest.raises(UserError, match="is not a directory"):
        ragjax.load_run("nowhere")


def test_every_name_is_there():
    for name in ragjax.__all__:
        assert getattr(ragjax, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ragjax.nothing


def test_importing_it_is_quick():
    """JAX is imported once a run is loaded, not before."""
    program = "import ragjax, sys; ragjax.__version__; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0

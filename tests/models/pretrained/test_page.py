"""The page for those who come from transformers: its code runs, and its names exist."""

import re
from pathlib import Path

import pytest

from ragjax.models import pretrained
from ragjax.models.pretrained.bart import BartModule
from ragjax.models.pretrained.llama import LlamaModule
from ragjax.models.pretrained.t5 import T5Module

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "ragjax/models/pretrained/README.md").read_text()


def test_its_code_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    source = "sentence-transformers/all-MiniLM-L6-v2"
    assert code.count(source) == 1
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code.replace(source, str(ROOT / "tests/goldens/sentence_transformer")), names)
    assert names["embedded"].shape == (1, 16)
    assert pretrained.load(tmp_path / "copy").kind == "bert"


@pytest.mark.parametrize("kind", [BartModule, T5Module])
def test_the_methods_that_it_names_exist(kind):
    assert "`encode`, `project`, `init_cache` and `step` of BART and T5" in PAGE
    assert all(
        callable(getattr(kind, name)) for name in ("encode", "project", "init_cache", "step")
    )
    assert "`read` and `step` of Llama" in PAGE
    assert all(callable(getattr(LlamaModule, name)) for name in ("read", "step"))

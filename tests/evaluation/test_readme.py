"""The tables inside a README."""

from pathlib import Path

import pytest

from ragjax.errors import UserError
from ragjax.evaluation import readme

README = """# Title
<!-- table:experiments/a.py -->
old
<!-- /table -->
between
<!-- table:experiments/b.py -->
<!-- /table -->
after
"""


def test_blocks_are_replaced_one_by_one():
    assert readme.table_blocks(README) == ["experiments/a.py", "experiments/b.py"]
    once = readme.replace_block(README, "experiments/b.py", "| new |\n\nnote\n")
    assert once == README.replace("b.py -->\n", "b.py -->\n| new |\n\nnote\n")
    assert readme.replace_block(once, "experiments/b.py", "| new |\n\nnote") == once
    twice = readme.replace_block(README, "experiments/a.py", "A\n")
    assert twice == README.replace("old\n", "A\n")


@pytest.mark.parametrize(
    ("text", "name", "sentence"),
    [
        (README, "experiments/c.py", "has no line <!-- table:experiments/c.py -->"),
        (README + README, "experiments/a.py", "has 2 lines <!-- table:experiments/a.py -->"),
        (
            README.replace("<!-- /table -->\nbet", "bet"),
            "experiments/b.py",
            "a.py --> isn't closed",
        ),
        (README.replace("<!-- /table -->\naf", "af"), "experiments/a.py", "b.py --> isn't closed"),
    ],
)
def test_broken_blocks_are_named(text, name, sentence):
    with pytest.raises(UserError) as caught:
        readme.replace_block(text, name, "new")
    assert sentence in str(caught.value)


def test_a_readme_is_regenerated_byte_for_byte(tmp_path, monkeypatch, record, write_experiment):
    write_experiment(tmp_path)
    record(tmp_path, "rag", 0, {"q0", "q1"})
    path = tmp_path / "README.md"
    path.write_text(
        "# T\n<!-- table:experiments/tiny.py -->\n<!-- /table -->\nend\n", encoding="utf-8"
    )
    monkeypatch.chdir(Path("/"))
    assert readme.update_readme(path)
    first = path.read_bytes()
    assert "| RAG | 50.0 ± ".encode() in first
    assert b"`experiments/results/tiny/rag/seed_0`" in first
    assert first.endswith(b"c0ffee\n\n</details>\n<!-- /table -->\nend\n")
    assert str(tmp_path).encode() not in first
    assert not readme.update_readme(path)
    assert path.read_bytes() == first
    with pytest.raises(UserError, match=r"absent\.md can't be read"):
        readme.update_readme(tmp_path / "absent.md")

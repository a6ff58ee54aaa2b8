"""The generated pages, of a checkout with one experiment and one config."""

import shutil

import pytest

from ragjax.cli import main
from ragjax.errors import UserError
from ragjax.evaluation import pages

CONFIG = '''"""RAG, tiny.

    ragjax train configs/tiny/rag.py

Expected (experiments/tiny.py): nothing yet.
"""


def get_config():
    raise AssertionError("a page needs the docstring alone")
'''
PLOTS = """

def get_plots():
    from ragjax.evaluation.plots import Curve, Plot

    return (Plot("slope", "Slope", "x", "y", (Curve("c", (0, 1), (0, 1)),)),)
"""


@pytest.fixture
def checkout(tmp_path, write_experiment, record):
    """A directory with an experiment, its run and picture, a config and a README."""
    path = write_experiment(tmp_path)
    text = path.read_text().replace('title="Tiny"', 'title="Tiny", notes="One idea.\\n\\nAnother."')
    path.write_text(f'"""How tiny it is.\n\nMore."""\n{text}{PLOTS}')
    record(tmp_path, "rag", 0, {"q0", "q1"})
    picture = tmp_path / "experiments" / "results" / "tiny" / "slope.png"
    picture.touch()
    (tmp_path / "configs" / "tiny").mkdir(parents=True)
    (tmp_path / "configs" / "tiny" / "rag.py").write_text(CONFIG)
    (tmp_path / "README.md").write_text("<!-- table:experiments/tiny.py -->\n<!-- /table -->\n")
    return tmp_path


def test_the_page_of_experiments(checkout):
    page = pages.experiments_page(checkout)
    assert "`ragjax pages` writes the page anew" in page
    assert "- [tiny](#tiny): How tiny it is.\n" in page
    head, table, provenance, notes, picture = (
        page.index(part)
        for part in (
            "## tiny\n\n[`tiny.py`](tiny.py): How tiny it is.\n\n**Tiny.**",
            "| RAG | 50.0 ± 50.0 |",
            "<details><summary>Runs</summary>",
            "</details>\n\nOne idea.\n\nAnother.\n\n!",
            "![Slope](results/tiny/slope.png)\n",
        )
    )
    assert head < table < provenance < notes < picture
    assert str(checkout) not in page


def test_experiments_of_all_sorts(checkout):
    benchmarks = checkout / "experiments" / "benchmarks"
    benchmarks.mkdir()
    (benchmarks / "speed.py").write_text(
        '"""Speed."""\nfrom ragjax.evaluation.tables import MarkdownTable\n\n'
        'def get_table():\n    return MarkdownTable("Speed", "| a |", "By hand.", "Fast.")\n'
    )
    (benchmarks / "helper.py").write_text('"""No experiment."""\nget_table = None\n')
    page = pages.experiments_page(checkout)
    section = page[page.index("## speed") : page.index("## tiny")]
    assert section.startswith("## speed\n\n[`speed.py`](benchmarks/speed.py): Speed.\n\n**Speed.**")
    assert section.endswith("By hand.\n\n</details>\n\nFast.\n\n")
    assert "helper" not in page
    (benchmarks / "broken.py").write_text("def get_table(:")
    with pytest.raises(UserError, match=r"broken\.py is not a Python file \(invalid syntax"):
        pages.experiments_page(checkout)


def test_a_picture_that_is_not_drawn(checkout):
    (checkout / "experiments" / "results" / "tiny" / "slope.png").unlink()
    with pytest.raises(
        UserError, match=r"slope\.png is missing; draw it by `ragjax plot .*tiny\.py`"
    ):
        pages.experiments_page(checkout)


def test_a_docstring_tells_what_to_expect(checkout):
    ((path, text),) = pages.expected_docstrings(checkout).items()
    assert path == checkout / "configs" / "tiny" / "rag.py"
    assert "\nExpected (experiments/tiny.py): EM 50.0 ± 50.0.\n" in text
    assert text == CONFIG.replace("nothing yet", "EM 50.0 ± 50.0")
    path.write_text(CONFIG.replace("Expected (", "As in ("))
    assert pages.expected_docstrings(checkout) == {}


def test_a_row_that_overrides_fields_is_not_the_config_as_it_stands(checkout, record):
    path = checkout / "experiments" / "tiny.py"
    own = 'Row("RAG", "configs/tiny/rag.py"),'
    other = 'Row("K=8", "configs/tiny/rag.py", ("--k", "8"), key="rag_k8"),'
    path.write_text(path.read_text().replace(own, f"{own} {other}"))
    record(checkout, "rag_k8", 0, {"q0", "q1", "q2", "q3"})
    (text,) = pages.expected_docstrings(checkout).values()
    assert "\nExpected (experiments/tiny.py): EM 50.0 ± 50.0.\n" in text


def test_a_row_of_some_columns_tells_what_it_measures(checkout):
    """Also where it measures columns that are not told."""
    path, own = checkout / "experiments" / "tiny.py", 'Row("RAG", "configs/tiny/rag.py"),'
    some = own.replace('"),', '", columns=("EM", "late")),')
    text = path.read_text().replace(own, some)
    late = 'columns=(Column("late", "em", against="rag"), '
    path.write_text(text.replace("columns=(Column(", f"{late}Column(", 1))
    (text,) = pages.expected_docstrings(checkout).values()
    assert "\nExpected (experiments/tiny.py): EM 50.0 ± 50.0.\n" in text


def test_expectations_that_no_row_meets(checkout):
    other = checkout / "configs" / "tiny" / "other.py"
    other.write_text(CONFIG)
    with pytest.raises(UserError) as caught:
        pages.expected_docstrings(checkout)
    assert str(caught.value) == (
        "configs/tiny/other.py expects figures of experiments/tiny.py, which has no row for it as it "
        "stands; name another experiment."
    )
    other.write_text(CONFIG.replace("experiments/tiny.py", "experiments/none.py"))
    with pytest.raises(UserError, match=r"none\.py does not exist"):
        pages.expected_docstrings(checkout)


def test_the_page_of_configs_is_made_of_docstrings(checkout):
    pages.write_pages(checkout)
    (checkout / "configs" / "more").mkdir()
    (checkout / "configs" / "more" / "bare.py").touch()
    page = pages.configs_page(checkout)
    bare, rag = (
        page.index("## more\n\n### [bare](more/bare.py)\n\n(no"),
        page.index("## tiny\n\n###"),
    )
    assert bare < rag
    assert page[rag:] == (
        "## tiny\n\n### [rag](tiny/rag.py)\n\nRAG, tiny.\n\n    ragjax train configs/tiny/rag.py\n\n"
        "Expected (experiments/tiny.py): EM 50.0 ± 50.0.\n"
    )


def test_the_command_writes_what_has_changed(checkout, capsys):
    files = ("experiments/README.md", "configs/tiny/rag.py", "configs/README.md", "README.md")
    assert main(["pages", str(checkout)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(checkout / name) for name in files]
    assert "| RAG | 50.0 ± 50.0 |" in (checkout / "README.md").read_text()
    assert main(["pages", str(checkout)]) == 0
    assert capsys.readouterr().out == ""


def test_part_of_a_checkout_will_do(checkout, capsys):
    shutil.rmtree(checkout / "configs")
    (checkout / "README.md").unlink()
    assert pages.write_pages(checkout) == [checkout / "experiments" / "README.md"]
    assert main(["pages", str(checkout / "experiments" / "results")]) == 2
    assert "holds neither experiments/ nor configs/; name" in capsys.readouterr().err

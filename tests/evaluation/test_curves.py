"""The curves of runs: what is read, what is drawn, and what bad directories get."""

import json

import pytest

from ragjax.cli import main
from ragjax.errors import UserError
from ragjax.evaluation.curves import distinct_labels, read_metrics, run_plots


def write(directory, rows, tail=""):
    directory.mkdir(parents=True)
    lines = [json.dumps(row) for row in rows]
    (directory / "metrics.jsonl").write_text("\n".join(lines) + "\n" + tail)
    return directory


@pytest.fixture
def run(tmp_path):
    rows = [
        {"step": 1, "loss": 3.0, "odd": 1.0},
        {"step": 2, "loss": 2.0},
        {"step": 2, "dev/em": 0.5},
    ]
    return write(tmp_path / "one", rows)


@pytest.fixture
def seeds(tmp_path):
    """Two seeds; the second has lost its last row."""
    for seed, losses in enumerate(((1.0, 2.0, 3.0), (3.0, 6.0))):
        rows = [{"step": 10 * step, "loss": loss} for step, loss in enumerate(losses)]
        write(tmp_path / "many" / f"seed_{seed}", rows)
    return tmp_path / "many"


def test_metrics_by_figure_and_step(run):
    assert read_metrics(run) == {"loss": {1: 3.0, 2: 2.0}, "odd": {1: 1.0}, "dev/em": {2: 0.5}}


def test_what_a_kill_leaves_of_a_line_is_passed_over(tmp_path):
    torn = write(tmp_path / "torn", [{"step": 1, "loss": 3.0}], '{"step": 2, "lo')
    assert read_metrics(torn) == {"loss": {1: 3.0}}


def test_what_is_not_finite_is_a_gap(tmp_path):
    rows = [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 1.0}]
    assert read_metrics(write(tmp_path / "gap", rows)) == {"loss": {2: 1.0}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"metrics\.jsonl can't be read \(No such file or directory\); name a run's"),
        ("", r"metrics\.jsonl holds no metrics yet; wait for the run's first ones\."),
        ('{"step": 1}\n', "holds no metrics yet"),
        ('{"step": 1, "lo', "holds no metrics yet"),
        ('{"loss": 1}\n{"step": 2, "loss": 1}\n', "has no row of metrics in line 1 .KeyError"),
        ('[1]\n{"step": 2, "loss": 1}\n', "has no row of metrics in line 1 "),
        (
            '{"step": 1, "loss": "low"}\n{"step": 2, "loss": 1}\n',
            "has no row of metrics in line 1 ",
        ),
        ("\xff\n{}\n", "has no row of metrics in line 1 .*; mend or remove that line"),
    ],
)
def test_bad_metrics_are_named(text, said, tmp_path):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=said):
        read_metrics(tmp_path)


def test_main_figures_in_their_order(run, seeds):
    loss, em = run_plots([run, seeds])
    assert (loss.title, em.title) == ("loss", "dev/em")
    assert [curve.label for curve in loss.curves] == ["one", "many"]
    assert [curve.label for curve in em.curves] == ["one"]


def test_seeds_are_a_band_where_all_of_them_are(seeds):
    ((curve,),) = [plot.curves for plot in run_plots([seeds])]
    assert (list(curve.x), list(curve.y)) == ([0, 10], [2.0, 4.0])
    assert (list(curve.low), list(curve.high)) == ([1.0, 2.0], [3.0, 6.0])


def test_seeds_that_share_no_step(tmp_path):
    for seed in (0, 1):
        write(tmp_path / f"seed_{seed}", [{"step": seed, "loss": 1.0}])
    with pytest.raises(UserError, match="share no step at which loss is logged"):
        run_plots([tmp_path])


def test_named_figures_and_all_where_none_is_main(run, tmp_path):
    assert [plot.title for plot in run_plots([run], ["odd", "loss", "odd"])] == ["odd", "loss"]
    with pytest.raises(UserError) as caught:
        run_plots([run], ["em"])
    said = str(caught.value)
    assert said == "--figures names 'em', which no run has logged; choose of dev/em, loss, odd."
    other = write(tmp_path / "other", [{"step": 1, "b": 1.0, "a": 1.0}])
    assert [plot.title for plot in run_plots([other])] == ["a", "b"]


def test_labels_tell_runs_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = [tmp_path / name for name in ("a/seed_0", "b/seed_0", "b/seed_1")]
    assert distinct_labels(places[:1]) == ["seed_0"]
    assert distinct_labels(places) == ["a/seed_0", "b/seed_0", "b/seed_1"]
    assert distinct_labels([tmp_path / "_new", tmp_path / "$a$"]) == ["_new", "$a$"]
    with pytest.raises(UserError, match="a is given more than once; give each run once"):
        distinct_labels([tmp_path / "a", tmp_path / "b" / ".." / "a"])


# The command


def test_a_figure_may_have_any_name(tmp_path, capsys):
    """Such as one of an environment's kinds, whatever signs are in it."""
    name = r"eval/$\foo$_{"
    run = write(tmp_path / "odd", [{"step": 1, name: 1.0}, {"step": 2, name: 2.0}])
    output = tmp_path / "odd.png"
    assert main(["plot", str(run), "--figures", name, "--output", str(output)]) == 0
    assert output.read_bytes().startswith(b"\x89PNG")


def test_runs_are_drawn_into_one_picture(run, seeds, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plot", str(run), str(seeds), "--output", "new/two.png"]) == 0
    assert capsys.readouterr().out == "new/two.png\n"
    assert main(["plot", str(run), "--figures", "loss", "odd"]) == 0
    assert capsys.readouterr().out == "curves.png\n"
    two, curves = (tmp_path / name for name in ("new/two.png", "curves.png"))
    assert two.read_bytes() != curves.read_bytes()
    assert curves.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "There is nothing to draw; name runs or an experiment's file."),
        (("nowhere",), "nowhere is not a directory; name a run's, or one of seeds."),
        (("empty",), "empty holds neither metrics.jsonl nor runs named seed_<n>; name a run's"),
        (("one", "one"), "one is given more than once"),
        (("one", "--run"), "--run is for an experiment's file"),
        (
            ("one", "--output", "pictures"),
            "--output is pictures; give the curves of runs a name in",
        ),
        (("one", "some.py"), "An experiment's file is drawn by itself; name it alone."),
        (("some.py", "--figures", "loss"), "--figures is for runs; leave it out"),
        (("some.py",), "some.py does not exist; name a file in experiments/."),
    ],
)
def test_bad_words(words, said, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["plot", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"ragjax: {said}")
    assert len(err.splitlines()) == 1

"""Metrics against hand-computed cases and a second implementation of the SQuAD v1.1 behaviour."""

import json
import random
import subprocess
import sys
from itertools import groupby

import pytest

from ragjax.errors import UserError
from ragjax.evaluation import matching, metrics

ASCII_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def oracle_tokens(text):
    """SQuAD normalisation as a scan over characters: no regular expression, no translate, no split.

    Lower case; ASCII punctuation vanishes; a run of word characters (letters, digits) that is a, an
    or the becomes a space; white space separates tokens.
    """
    kept = [c for c in text.lower() if c not in ASCII_PUNCTUATION]
    runs = ("".join(run) for _, run in groupby(kept, key=str.isalnum))
    spaced = "".join(" " if run in ("a", "an", "the") else run for run in runs)
    pieces = groupby(spaced, key=str.isspace)
    return ["".join(piece) for blank, piece in pieces if not blank]


def oracle_match(prediction, answer):
    """Equal tokens; where there are none on a side, equal texts."""
    predicted, expected = oracle_tokens(prediction), oracle_tokens(answer)
    if predicted and expected:
        return float(predicted == expected)
    return float(prediction.strip() == answer.strip())


def oracle_f1(prediction, answer):
    """Token F1 through precision and recall, matching tokens one at a time."""
    if not oracle_tokens(prediction) or not oracle_tokens(answer):
        return oracle_match(prediction, answer)
    predicted, left, same = oracle_tokens(prediction), oracle_tokens(answer), 0
    expected = len(left)
    for token in predicted:
        if token in left:
            left.remove(token)
            same += 1
    if same == 0:
        return 0.0
    precision, recall = same / len(predicted), same / expected
    return 2 * precision * recall / (precision + recall)


def fuzzed_texts(count, seed=0):
    """Strings of words, articles, ASCII and other punctuation, white space and accents."""
    rng = random.Random(seed)
    atoms = [
        "a",
        "an",
        "the",
        "A",
        "AN",
        "The",
        "THE",
        "Paris",
        "paris",
        "London",
        "42",
        "3.5",
        "U.S.",
    ]
    atoms += ["Île", "ÉCOLE", "straße", "İzmir", "naïve", "東京", "a\u0301", "théâtre", "O'Neill"]
    atoms += ["another", "thea", "1st", "St.", "a-the", "an_a", "the\u2013end", "«a»", "½", "٣"]
    glue = [
        " ",
        " ",
        " ",
        "  ",
        "\t",
        "\n",
        "\u00a0",
        "\u2003",
        "",
        "-",
        "\u2013",
        ",",
        ". ",
        "_",
        "'",
        "…",
    ]
    texts = ["", " ", "the", "a an the", "...", "\u200b"]
    while len(texts) < count:
        parts = []
        for _ in range(rng.randrange(7)):
            parts += [rng.choice(atoms), rng.choice(glue)]
        texts.append("".join(parts))
    return texts


def record(name="q0", prediction="Paris", answers=("Paris",), relation="capital", **fields):
    """A record whose scores are those of its prediction."""
    base = {
        "id": name,
        "question": "What is the capital of France?",
        "relation": relation,
        "entity": "France",
        "answers": list(answers),
        "positives": ["p1"],
        "prediction": prediction,
        "probability": 0.5,
        "em": matching.exact_match(prediction, answers),
        "strict_em": matching.strict_match(prediction, answers),
        "f1": matching.token_f1(prediction, answers),
        "retrieved": ["p0", "p1", "p2", "p3", "p4"],
        "prior": [0.4, 0.3, 0.1, 0.1, 0.1],
        "posterior": [0.1, 0.75, 0.05, 0.05, 0.05],
    }
    return base | fields


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat, sat!", "cat sat"),
        ("St. Lucia's", "st lucias"),
        ("a-an", "aan"),  # punctuation goes first, so no article is left
        ("the\u2013end", "\u2013end"),  # a typographic dash bounds words and stays
        ("an_a", "ana"),
        ("another theatre", "another theatre"),
        ("\tA\u00a0B\n", "b"),
        ("ÉCOLE", "école"),
        ("the a an", ""),
        ("", ""),
    ],
)
def test_normalise_answer_by_hand(text, expected):
    assert matching.normalise_answer(text) == expected


def test_normalisation_agrees_with_the_oracle_on_fuzzed_strings():
    texts = fuzzed_texts(1000)
    assert len(set(texts)) > 800
    changed = 0
    for text in texts:
        expected = " ".join(oracle_tokens(text))
        assert matching.normalise_answer(text) == expected, repr(text)
        changed += expected != text
    assert changed > 500


def test_scores_agree_with_the_oracle_on_fuzzed_pairs():
    rng = random.Random(1)
    texts = fuzzed_texts(1000, seed=2)
    seen = set()
    for text in texts:
        answers = rng.sample(texts, rng.randrange(1, 4))
        if rng.random() < 0.3:  # the same words in another dress, or in another order
            words = text.split()
            rng.shuffle(words)
            answers.append(rng.choice([f"The {text.upper()}!", " ".join(words)]))
        em = max(oracle_match(text, answer) for answer in answers)
        f1 = max(oracle_f1(text, answer) for answer in answers)
        assert matching.exact_match(text, answers) == em, (text, answers)
        assert matching.token_f1(text, answers) == pytest.approx(f1, abs=1e-12), (text, answers)
        seen.add((em, f1 in (0.0, 1.0)))
    assert seen == {(1.0, True), (0.0, True), (0.0, False)}


@pytest.mark.parametrize(
    ("prediction", "answers", "em", "f1"),
    [
        ("the Paris", ["Paris"], 1, 1.0),
        ("Paris France", ["Paris"], 0, 2 / 3),  # an answer that contains the reference is no match
        ("new new york", ["new york york"], 0, 2 / 3),  # common tokens: new, york
        ("york new", ["new york"], 0, 1.0),
        ("", ["the"], 0, 0.0),
        ("Rome", ["Paris", "Rome (Italy)", "Roma"], 0, 2 / 3),
        ("Lyon", ["Paris"], 0, 0.0),
    ],
)
def test_scores_by_hand(prediction, answers, em, f1):
    assert matching.exact_match(prediction, answers) == em
    assert matching.token_f1(prediction, answers) == pytest.approx(f1)


@pytest.mark.parametrize("answers", [[], "Paris"])
def test_answers_must_be_a_sequence_of_texts(answers):
    with pytest.raises(ValueError, match="answers"):
        matching.exact_match("Paris", answers)
    with pytest.raises(ValueError, match="answers"):
        matching.token_f1("Paris", answers)


def test_ranking_by_hand():
    retrieved = ["a", "b", "c", "d"]
    assert metrics.first_positive_rank(retrieved, ["d", "c"]) == 3
    assert metrics.first_positive_rank(retrieved, ["x"]) is None
    assert [metrics.recall_at_k(retrieved, ["c", "d"], k) for k in (1, 2, 3, 4, 9)] == [
        0,
        0,
        1,
        1,
        1,
    ]
    assert metrics.reciprocal_rank(retrieved, ["c", "d"]) == pytest.approx(1 / 3)
    assert metrics.reciprocal_rank(retrieved, ["x"]) == 0
    assert metrics.positive_mass(retrieved, ["b", "d"], [0.4, 0.3, 0.2, 0.1]) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="positive"):
        metrics.recall_at_k(retrieved, [], 1)
    with pytest.raises(ValueError, match="k is 0"):
        metrics.recall_at_k(retrieved, ["a"], 0)


def test_summary_by_hand():
    records = [
        record("q2", "Lyon France", ("Lyon",), relation="city", positives=["p0"]),
        record("q0"),
        record("q1", "Rome", ("Paris",), positives=["x"]),
        record("q3", "The euro", ("Euro",), relation="currency", positives=["p4", "p2"]),
    ]
    summary = metrics.summarise(records)
    per_relation = summary.pop("per_relation")
    assert summary == pytest.approx(
        {
            "em": 2 / 4,
            "strict_em": 2 / 4,
            "f1": (2 / 3 + 1 + 0 + 1) / 4,
            "contains": 3 / 4,  # also "Lyon France"
            "recall@1": 1 / 4,
            "recall@5": 3 / 4,
            "mrr": (1 + 1 / 2 + 0 + 1 / 3) / 4,
            "posterior_mass": (0.1 + 0.75 + 0 + 0.1) / 4,
            "has_answer@1": None,  # these records don't have it
            "has_answer@5": None,
            "questions": 4,
            "gold_questions": 4,
        }
    )
    assert list(per_relation) == ["capital", "city", "currency"]
    shares = {"em": 0.5, "strict_em": 0.5, "f1": 0.5, "recall@1": 0, "recall@5": 0.5}
    shares |= {"has_answer@1": None, "has_answer@5": None}
    assert per_relation["capital"] == pytest.approx(shares | {"questions": 2})
    assert metrics.summarise(reversed(records)) == metrics.summarise(records)


def test_depths_of_recall_follow_the_number_retrieved():
    def retrieving(n):
        ids = [f"x{i}" for i in range(n - 1)] + ["p1"] * (n > 0)
        return metrics.summarise([record(retrieved=ids, prior=[0.0] * n, posterior=[0.1] * n)])

    def recall(summary):
        return {name: value for name, value in summary.items() if name.startswith("recall")}

    assert recall(retrieving(0)) == {"recall@1": None, "recall@5": None}
    assert recall(retrieving(4)) == {"recall@1": 0, "recall@5": None}
    assert recall(retrieving(5)) == {"recall@1": 0, "recall@5": 1}
    assert recall(retrieving(12)) == {"recall@1": 0, "recall@5": 0, "recall@10": 0}
    assert recall(retrieving(20)) == {"recall@1": 0, "recall@5": 0, "recall@10": 0, "recall@20": 1}


def test_a_closed_book_measures_no_retrieval():
    nothing = {"retrieved": [], "prior": [], "posterior": []}
    summary = metrics.summarise([record(**nothing), record("q1", "Rome", **nothing)])
    assert (summary["em"], summary["questions"]) == (0.5, 2)
    for figures in (summary, summary["per_relation"]["capital"]):
        assert figures["recall@1"] is None
        assert figures["recall@5"] is None
    assert summary["mrr"] is None
    assert summary["posterior_mass"] is None


def test_a_question_without_hits_counts_as_a_miss_where_others_have_some():
    miss = record("q1", retrieved=[], prior=[], posterior=[])
    summary = metrics.summarise([record(), miss])
    assert summary["recall@5"] == 0.5
    assert summary["mrr"] == 0.25
    assert summary["posterior_mass"] == 0.375


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([], "no records"),
        ([record() | {"answers": []}], "no accepted answer"),
        ([record(), record()], "'q0' occurs twice"),
        ([record(em=0)], "records em 0, but its prediction scores 1"),
        ([record(f1=0.5)], "records f1 0.5"),
        ([record(posterior=[0.5])], "5 retrieved passages but 5 prior and 1 posterior"),
    ],
)
def test_summary_refuses_records_that_contradict_themselves(records, sentence):
    with pytest.raises(UserError, match=sentence):
        metrics.summarise(records)


def test_predictions_survive_writing_and_reading(tmp_path):
    path = tmp_path / "predictions.jsonl"
    records = [record(), record("q1", "Île-de-France\u2028\n“東京”", ("x",))]
    metrics.write_predictions(path, records)
    assert metrics.read_predictions(path) == records
    assert path.read_text(encoding="utf-8").count("\n") == 2
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "predictions.jsonl"
    metrics.write_predictions(path, [record()])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="float"):
        metrics.write_predictions(path, [record(), record("q1", probability=float("nan"))])
    assert path.read_bytes() == before
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(UserError, match="taken can't be written"):
        metrics.write_predictions(taken, [record()])
    with pytest.raises(UserError, match="can't be written"):
        metrics.write_predictions(path / "below_a_file", [record()])
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, "taken"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"id": "q1", "ques', "is not JSON"),
        ("[1]", "is not a JSON object"),
        (json.dumps({"id": "q1"}), "lacks the field 'question'"),
        (json.dumps(record(em=True)), "'em' of True, which is not a number"),
        (json.dumps(record(retrieved=[1])), "which is not a list of texts"),
        (json.dumps(record() | {"answers": "Paris"}), "which is not a list of texts"),
        (json.dumps(record(posterior=[None])), "which is not a list of numbers"),
        (json.dumps(record(probability=float("nan"))), "NaN is no number"),
        ("", "is not JSON"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, sentence):
    path = tmp_path / "predictions.jsonl"
    path.write_text(f"{json.dumps(record())}\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        metrics.read_predictions(path)
    message = str(caught.value)
    assert "predictions.jsonl line 2 " in message
    assert sentence in message
    assert "evaluate the run again" in message
    assert "\n" not in message


def test_a_missing_or_empty_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.jsonl can't be read"):
        metrics.read_predictions(tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match=r"empty\.jsonl is empty"):
        metrics.read_predictions(tmp_path / "empty.jsonl")


def test_tables_start_without_jax():
    program = "import sys, ragjax.evaluation.readme; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

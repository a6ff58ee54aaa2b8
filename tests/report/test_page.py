"""A page as a file: it holds all it needs, texts are no more than texts, equal runs give equal bytes."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from report_runs import HOSTILE, blocks_of, data_of, questions, write_questions_run

from ragjax.printing import visible
from ragjax.report.blocks import Page, Section, Words
from ragjax.report.page import data_text, page_html


class Elements(HTMLParser):
    """The elements of a page, as a browser finds them, and the text of each script and style."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.inner = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        if self.tags[-1:] and self.tags[-1] in ("script", "style") and data.strip():
            self.inner.append((self.tags[-1], data))


def hostile_page():
    return page_html(Page(HOSTILE[0], [Section(HOSTILE[1], [Words(HOSTILE)])]))


def test_no_text_breaks_out_of_the_data():
    page = hostile_page()
    elements, plain = Elements(page), Elements(page_html(Page("a", [])))
    assert elements.tags == plain.tags
    assert elements.tags.count("script") == 2
    data = data_of(page)
    assert data["sections"][0]["blocks"][0]["paragraphs"] == [visible(text) for text in HOSTILE]
    assert data["title"] == HOSTILE[0]
    body = page.partition('id="data">')[2].partition("</script>")[0]
    assert not set("<>&\u2028\u2029\u202e\x1b") & set(body)
    page.encode()  # no half of a character is left


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_null(value):
    assert data_text({"a": [value, 1.23456789, 12345678]}) == '{"a":[null,1.23457,12345678]}'


def test_nothing_is_asked_for_from_elsewhere():
    page = hostile_page()
    elements = Elements(page)
    addresses = [value for _, name, value in elements.attributes if name in ("src", "href")]
    assert addresses == ["data:,"]
    scripts = "".join(data for _, data in elements.inner)
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|WebSocket|innerHTML|eval)\b", scripts)
    assert "@import" not in scripts
    assert "url(" not in scripts.replace("url(#", "")
    # The name of a kind of elements, no address.
    assert set(re.findall(r"https?://[^\"'\s]+", page)) == {"http://www.w3.org/2000/svg"}


def test_the_policy_allows_the_page_s_own_script_and_style_alone():
    elements = Elements(hostile_page())
    (policy,) = [value for _, _, value in elements.attributes if value and "default-src" in value]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    style, _, script = [data for _, data in elements.inner]
    for text in (style, script):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_equal_runs_make_equal_pages(ragjax, tmp_path):
    run = write_questions_run(tmp_path / "run")
    pages = [tmp_path / "one.html", tmp_path / "two.html"]
    for page in pages:
        assert ragjax("report", run, "-o", page)[0] == 0
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert not list(tmp_path.glob(".*.tmp"))


def test_hostile_questions_reach_the_page_as_they_are(ragjax, tmp_path):
    records = questions(len(HOSTILE), wrong=())
    for record, text in zip(records, HOSTILE, strict=True):
        record["question"] = record["relation"] = text.encode("utf-8", "replace").decode()
    run = write_questions_run(tmp_path / "run", records=records)
    output = tmp_path / "page.html"
    assert ragjax("report", run, "-o", output)[0] == 0
    (explorer,) = blocks_of(data_of(output.read_text()), "explorer")
    place = explorer["columns"].index("question")
    shown = [row[place] for row in explorer["runs"][0]["rows"]]
    assert shown == [visible(record["question"]) for record in records]
    assert Elements(output.read_text()).tags.count("script") == 2


def test_a_page_is_said_and_measured(ragjax, tmp_path):
    run = write_questions_run(tmp_path / "run")
    code, out, err = ragjax("report", run, "-o", tmp_path / "page.html")
    size = (tmp_path / "page.html").stat().st_size
    assert (code, out, err) == (0, f"{tmp_path / 'page.html'}: {size / 1e6:.2f} MB\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "run"]
    _, again, _ = ragjax("report", run, "-o", tmp_path / "page.html")
    assert again == out.replace(" MB", " MB, in place of the one that was there")


def test_a_run_as_large_as_the_quickstart_s_makes_a_small_page(ragjax, tmp_path):
    run = write_questions_run(tmp_path / "run", records=questions(1565, depth=8))
    assert ragjax("report", run, "-o", tmp_path / "page.html")[0] == 0
    assert (tmp_path / "page.html").stat().st_size < 2_000_000
    (explorer,) = blocks_of(data_of((tmp_path / "page.html").read_text()), "explorer")
    assert len(explorer["runs"][0]["rows"]) == 1565

"""The page in a real browser: it filters, sorts and explores by keyboard, and nothing goes wrong."""

import pytest
from browser import FOUND, Browser
from report_runs import HOSTILE, questions, write_policy_run, write_questions_run
from toy_sweep import planned, toy, toy_sweep

from ragjax.printing import PlainConsole, visible
from ragjax.report.blocks import Decisions, Page, Section
from ragjax.report.contents import report_page
from ragjax.report.page import write_page
from ragjax.sweep.store import Store
from ragjax.sweep.worker import Worker

pytestmark = pytest.mark.skipif(FOUND is None, reason="there is no Chromium to look at pages with")

EPISODES = [
    {
        "label": f"episode {number}",
        "facts": [f"return {number}"],
        "right": None,
        "decisions": [
            {
                "taken": "left",
                "actions": [("left", 0.75), ("right", 0.25)],
                "facts": [],
                "passages": [("passage 3", "", 0.5, 0.9)],
            }
        ],
    }
    for number in range(3)
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser that is looked at by all tests of this file."""
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Name -> the file of a page: runs, a sweep, and texts that want to break out."""
    base = tmp_path_factory.mktemp("pages")
    runs = [write_questions_run(base / "text" / f"seed_{seed}", seed) for seed in (0, 1)]
    runs.append(write_policy_run(base / "policy"))
    records = questions(len(HOSTILE))
    for record, text in zip(records, HOSTILE, strict=True):
        for name in ("question", "relation", "prediction"):
            record[name] = text.encode("utf-8", "replace").decode()
        record.pop("em")
        record.pop("strict_em")
        record.pop("f1")
    store = Store(base / "sweep")
    store.begin(toy_sweep(12), planned)
    Worker(store, PlainConsole(quiet=True)).work(toy)
    console = PlainConsole(quiet=True)
    page = report_page(runs, 0, console)
    played = Section("Decisions", [Decisions(EPISODES)])
    found = {
        "runs": Page(page.title, [*page.sections, played]),
        "sweep": report_page([store.directory], 0, console),
        "hostile": report_page(
            [write_questions_run(base / HOSTILE[4][:20].strip(), records=_scored(records))],
            *(0, console),
        ),
    }
    for name, page in found.items():
        write_page(page, base / f"{name}.html")
    return {name: base / f"{name}.html" for name in found}


def _scored(records):
    """Records whose predictions were changed, with what they score now."""
    from ragjax.evaluation.matching import exact_match, strict_match, token_f1

    for record in records:
        said = record["prediction"], record["answers"]
        scores = {"em": exact_match(*said), "strict_em": strict_match(*said), "f1": token_f1(*said)}
        record |= scores
    return records


@pytest.fixture
def opened(browser, paths):
    """(name) -> the browser with that page, of which nothing is complained when the test ends."""

    def open_page(name="runs"):
        browser.open(paths[name])
        return browser

    yield open_page
    assert browser.complaints == []
    assert all(address.startswith("file:") for address in browser.requests)
    assert len(browser.requests) == 1


def choose(browser, label, option):
    """Chooses by keyboard what a filter is to be."""
    found = browser(
        f"""(() => {{
        const label = [...document.querySelectorAll(".filters label")]
          .find((each) => each.innerText.startsWith({label!r}));
        const select = label.querySelector("select");
        select.focus();
        return [[...select.options].map((each) => each.text), select.selectedIndex];
        }})()"""
    )
    options, now = found
    steps = options.index(option) - now
    browser.press(*["ArrowDown" if steps > 0 else "ArrowUp"] * abs(steps))


def listed(browser):
    return browser(
        "[...document.querySelectorAll('.explorer [role=option] bdi')].map((each) => each.textContent)"
    )


def detail(browser):
    return browser("document.querySelector('.explorer .detail').innerText")


@pytest.mark.parametrize("name", ["runs", "sweep", "hostile"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_drawn_without_a_complaint(name, scheme, opened, browser, tmp_path):
    browser.scheme(scheme)
    page = opened(name)
    assert page("document.querySelectorAll('main section').length") >= 3
    page("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page("document.documentElement.scrollWidth <= innerWidth")
    ink, ground = (
        page(f"getComputedStyle(document.querySelector('section')).{of}")
        for of in ("color", "backgroundColor")
    )
    brightness = [sum(map(int, each[4:-1].split(","))) for each in (ink, ground)]
    assert (brightness[0] > brightness[1]) == (scheme == "dark")
    assert abs(brightness[0] - brightness[1]) > 400
    page.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_no_text_of_a_run_is_run_or_drawn_as_markup(opened):
    page = opened("hostile")
    page("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page("document.querySelector('.explorer .list').focus()")
    page.press(*["ArrowDown"] * len(HOSTILE))
    assert page("window.harmed") is None
    assert page("document.querySelectorAll('img').length") == 0
    assert page("document.scripts.length") == 2
    assert listed(page)[0] == visible(HOSTILE[0])


def test_filters_choose_questions(opened):
    page = opened()
    assert len(listed(page)) == 6
    choose(page, "Answers", "wrong")
    assert listed(page) == ["Where is number 1?", "Where is number 4?"]
    choose(page, "Retrieval", "missed")
    assert listed(page) == ["Where is number 4?"]
    assert "missed: no gold passage was retrieved" in detail(page)
    assert page("document.querySelector('.explorer .count').textContent") == (
        "1 of 6 questions, 0 right"
    )
    choose(page, "Answers", "all")
    choose(page, "Retrieval", "all")
    choose(page, "Relation", "rare")
    assert listed(page) == ["Where is number 2?", "Where is number 5?"]
    choose(page, "Answers", "wrong")
    assert listed(page) == []
    assert detail(page) == "Nothing fits these filters."


def test_words_are_found_and_questions_ordered(opened):
    page = opened()
    page("document.querySelector('.filters input').focus()")
    page.press(*"town 3")
    assert listed(page) == ["Where is number 3?"]
    page("document.querySelector('.filters input').select()")
    page.press(*"number")
    choose(page, "Order", "least sure first")
    assert listed(page) == [f"Where is number {number}?" for number in (5, 4, 3, 2, 1, 0)]
    choose(page, "Order", "gold passage ranked worst first")
    assert listed(page)[0] == "Where is number 4?"


def test_keys_walk_through_questions_and_their_passages_are_shown(opened):
    page = opened()
    page("document.querySelector('.explorer .list').focus()")
    page.press("ArrowDown", "ArrowDown", "ArrowUp")
    shown = detail(page)
    assert shown.startswith("wrong Where is number 1?")
    assert "Nowhere with probability 0.89" in shown
    assert "Gold\nTown 1" in shown
    assert "Text of p1." in shown
    assert "80.0 %" in shown
    bars = page(
        "[...document.querySelectorAll('.explorer .passages li:first-child .fill')]"
        ".map((each) => each.style.width)"
    )
    assert bars == ["50%", "80%"]
    chosen = "document.querySelector('.explorer [aria-selected=true]').id"
    active = "document.querySelector('.explorer .list').getAttribute('aria-activedescendant')"
    assert page(chosen) == page(active)
    page.press("End")
    assert "number 5?" in detail(page)
    page.press("Home")
    assert "number 0?" in detail(page)
    page("document.querySelectorAll('.explorer [role=option]')[3].click()")
    assert "number 3?" in detail(page)


def test_each_run_has_its_own_questions(opened):
    page = opened()
    choose(page, "Run", "text, seed 1")
    assert len(listed(page)) == 6


def test_tables_are_sorted_by_click_and_by_key(opened):
    page = opened()
    page("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    find = (
        "[...document.querySelectorAll('table')].find((each) => "
        "each.tHead.innerText.startsWith('relation'))"
    )
    column = f"[...{find}.tBodies[0].rows].map((row) => row.cells[1].innerText)"
    head = f"{find}.tHead.rows[0].cells[1]"
    assert page(column) == ["4", "2"]
    page(f"{head}.querySelector('button').focus()")
    page.press("Enter")
    assert (page(f"{head}.ariaSort"), page(column)) == ("descending", ["4", "2"])
    page.press(" ")
    assert (page(f"{head}.ariaSort"), page(column)) == ("ascending", ["2", "4"])
    first = f"{find}.tHead.rows[0].cells[0]"
    page(f"{first}.querySelector('button').click()")
    assert (page(f"{first}.ariaSort"), page(f"{head}.ariaSort")) == ("ascending", "none")
    assert page(column) == ["4", "2"]


def test_charts_are_read_by_keys_and_as_numbers(opened):
    page = opened()
    chart = "document.querySelector('.chart:has(.line)')"
    page(f"{chart}.querySelector('.picture').focus()")
    page.press("Home")
    assert page(f"{chart}.querySelector('.readout').textContent") == "step 10: text 0.6, policy 0.1"
    page.press("ArrowRight")
    assert page(f"{chart}.querySelector('.readout').textContent").startswith("step 20: ")
    assert page(f"{chart}.querySelectorAll('.band').length") == 1
    page(f"{chart}.querySelector('details').open = true")
    page.send(
        "Runtime.evaluate", expression="new Promise(requestAnimationFrame)", awaitPromise=True
    )
    rows = page(f"[...{chart}.querySelector('tbody').rows].map((row) => row.innerText)")
    assert rows[0].split() == ["10", "0.6", "0.1"]
    said = page(f"{chart}.querySelector('.picture').getAttribute('aria-label')")
    assert said.startswith("loss, by step. text ends at 0.5333; policy ends at 0.03333.")


def test_trials_are_read_one_by_one(opened):
    page = opened("sweep")
    page("document.querySelector('.picture.wide').focus()")
    page.press("ArrowRight", "ArrowRight")
    told = page("document.querySelector('.chart:has(.wide) .readout').textContent")
    assert told.startswith("2 of 12: ")
    assert page("document.querySelector('.chosen').getAttribute('d')").startswith("M")
    assert page("document.querySelectorAll('.dot').length") == 24


def test_decisions_are_shown_with_their_probabilities(opened):
    page = opened()
    page("[...document.querySelectorAll('.list')].at(-1).focus()")
    page.press("ArrowDown")
    shown = page("[...document.querySelectorAll('.detail')].at(-1).innerText")
    assert shown.startswith("episode 1")
    assert "left\n75.0 %" in shown
    assert "passage 3" in shown


def test_everything_is_reached_by_the_tab_key(opened):
    """In the order of the page, with a ring about what has the focus, and every field has a name."""
    page = opened()
    reached = []
    for _ in range(80):
        page.press("Tab")
        reached.append(
            page(
                "(() => { const at = document.activeElement; const box = at.getBoundingClientRect();"
                "return [at.tagName, getComputedStyle(at).outlineStyle, scrollY + box.top]; })()"
            )
        )
    tags = [tag for tag, _, _ in reached]
    assert {"A", "BUTTON", "SUMMARY", "SELECT", "INPUT", "DIV", "svg"} <= set(tags)
    assert {style for tag, style, _ in reached if tag in ("A", "BUTTON", "SUMMARY", "svg")} <= {
        *("solid", "auto")
    }
    unnamed = page(
        "[...document.querySelectorAll('select, input, [role=img], [role=listbox], [role=region]')]"
        ".filter((each) => !(each.labels?.[0]?.innerText || each.getAttribute('aria-label'))).length"
    )
    assert unnamed == 0

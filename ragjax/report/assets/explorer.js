// Lists of which one item is looked at: questions with passages, episodes with decisions.

// A list box and, beside it, its chosen item. Arrow keys, Home, End, Page Up and Page Down choose.
function picker(label, line, detail) {
  const list = el("div", { role: "listbox", tabindex: 0, class: "list", "aria-label": label });
  const shown = el("article", {
    class: "detail",
    "aria-live": "polite",
    "aria-label": `chosen of ${label}`,
  });
  const name = newId("item");
  let items = [];
  let options = [];
  let now = -1;
  const choose = (place) => {
    if (options[now]) options[now].setAttribute("aria-selected", "false");
    now = Math.max(0, Math.min(items.length - 1, place));
    options[now].setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", options[now].id);
    // Within the list alone: the page stays where its reader is.
    const [low, high] = [
      options[now].offsetTop,
      options[now].offsetTop + options[now].offsetHeight,
    ];
    if (low < list.scrollTop) list.scrollTop = low;
    else if (high > list.scrollTop + list.clientHeight) list.scrollTop = high - list.clientHeight;
    shown.replaceChildren(...detail(items[now]));
  };
  list.addEventListener("keydown", (event) => {
    const moves = {
      ArrowDown: now + 1,
      ArrowUp: now - 1,
      PageDown: now + 10,
      PageUp: now - 10,
      Home: 0,
      End: items.length - 1,
    };
    if (event.key in moves && items.length) {
      event.preventDefault();
      choose(moves[event.key]);
    }
  });
  list.addEventListener("click", (event) => {
    const option = event.target.closest("[role=option]");
    if (option) choose(options.indexOf(option));
  });
  const lay = (found) => {
    items = found;
    now = -1;
    options = items.map((item, place) =>
      el("div", { role: "option", id: `${name}-${place}`, "aria-selected": "false" }, line(item)),
    );
    list.replaceChildren(...options);
    list.removeAttribute("aria-activedescendant");
    if (items.length) choose(0);
    else shown.replaceChildren(el("p", { class: "hint" }, "Nothing fits these filters."));
  };
  return { node: el("div", { class: "picker" }, list, shown), lay };
}

const badge = (kind, text) => el("span", { class: `badge ${kind}` }, text);
const verdict = (right) => (right ? badge("good", "right") : badge("bad", "wrong"));

function choice(label, options, change) {
  const select = el(
    "select",
    { onchange: change },
    options.map(([value, text]) => el("option", { value }, text)),
  );
  return { node: el("label", {}, el("span", {}, label), select), select };
}

// Questions

const ORDERS = {
  "as recorded": null,
  "least sure first": (row) => row.probability,
  "surest first": (row) => -row.probability,
  "gold passage ranked worst first": (row) => -(row.rank || Infinity),
  "least posterior on gold first": (row) => row.mass ?? Infinity,
};

function drawExplorer(block) {
  const runs = block.runs.map((run) => ({
    ...run,
    rows: run.rows.map((row) => Object.fromEntries(block.columns.map((name, k) => [name, row[k]]))),
  }));
  const told = el("p", { class: "count", "aria-live": "polite" });
  const note = el("p", { class: "note", role: "note" });
  const questions = picker("questions", questionLine, (row) => questionDetail(row, block.passages));
  const find = el("input", { type: "search", oninput: () => update(), autocomplete: "off" });
  const run = choice(
    "Run",
    runs.map((of, k) => [k, of.label]),
    () => restart(),
  );
  const answers = choice(
    "Answers",
    [
      ["", "all"],
      ["1", "right"],
      ["0", "wrong"],
    ],
    () => update(),
  );
  const relation = choice("Relation", [], () => update());
  const retrieval = choice(
    "Retrieval",
    [
      ["", "all"],
      ["1", "found"],
      ["0", "missed"],
    ],
    () => update(),
  );
  const order = choice(
    "Order",
    Object.keys(ORDERS).map((name) => [name, name]),
    () => update(),
  );
  function restart() {
    const { rows, note: said } = runs[run.select.value];
    const names = [...new Set(rows.map((row) => row.relation))].sort((a, b) =>
      a.localeCompare(b, "en"),
    );
    relation.select.replaceChildren(
      el("option", { value: "all" }, "all"),
      ...names.map((name) => el("option", { value: `=${name}` }, name || "(none)")),
    );
    note.textContent = said;
    note.hidden = !said;
    update();
  }
  function update() {
    const { rows } = runs[run.select.value];
    const words = find.value.trim().toLowerCase();
    const found = rows.filter(
      (row) =>
        (answers.select.value === "" || row.right === Number(answers.select.value)) &&
        (relation.select.value === "all" || relation.select.value === `=${row.relation}`) &&
        (retrieval.select.value === "" || row.found === Number(retrieval.select.value)) &&
        (!words ||
          [row.id, row.question, row.prediction, ...row.answers]
            .join("\n")
            .toLowerCase()
            .includes(words)),
    );
    const by = ORDERS[order.select.value];
    if (by) found.sort((one, other) => by(one) - by(other) || 0); // two infinities are equal
    const right = found.filter((row) => row.right).length;
    const share = `${formatted(found.length)} of ${plural(rows.length, "question")}`;
    told.textContent = `${share}, ${formatted(right)} right`;
    questions.lay(found);
  }
  run.node.hidden = runs.length < 2;
  const search = el("label", {}, el("span", {}, "Find"), find);
  const filters = [run.node, answers.node, retrieval.node, relation.node, order.node, search];
  const whole = el(
    "div",
    { class: "explorer" },
    el(
      "form",
      {
        class: "filters",
        role: "search",
        "aria-label": "filters of questions",
        onsubmit: (event) => event.preventDefault(),
      },
      filters,
    ),
    note,
    told,
    questions.node,
  );
  restart();
  return whole;
}

function questionLine(row) {
  const missed = row.found === 0 ? badge("warn", "missed") : null;
  return [verdict(row.right), el("bdi", {}, row.question), missed];
}

function questionDetail(row, passages) {
  const gold = new Set(row.gold);
  const facts = [
    [
      "Answer",
      [
        el("bdi", { class: "answer" }, row.prediction || "(empty)"),
        ` with probability ${formatted(row.probability)}`,
      ],
    ],
    ["Gold", [el("bdi", {}, row.answers.join(" or "))]],
    ["Token F1", [formatted(row.f1)]],
    ["Relation", [el("bdi", {}, row.relation || NONE)]],
    ["Retrieval", [retrievalOf(row)]],
    ["Id", [el("code", {}, row.id)]],
  ];
  const shown = row.passages.map((place, k) =>
    passageItem(
      passages[place],
      gold.has(place) ? [badge("good", "gold")] : [],
      k + 1,
      row.prior[k],
      row.posterior[k],
    ),
  );
  const missing = row.gold
    .filter((place) => !row.passages.includes(place))
    .map((place) =>
      passageItem(
        passages[place],
        [badge("warn", row.omitted[0] ? "gold, not among those shown" : "gold, not retrieved")],
        null,
        null,
        null,
      ),
    );
  const [left, mass] = row.omitted;
  return [
    el("h4", {}, verdict(row.right), " ", el("bdi", {}, row.question)),
    el(
      "dl",
      {},
      facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
    ),
    shown.length ? keyOfBars() : el("p", { class: "hint" }, "No passage was retrieved."),
    el("ol", { class: "passages" }, shown, missing),
    left
      ? el(
          "p",
          { class: "hint" },
          `${plural(left, "more passage")} with ${percent(mass)} of the posterior`,
        )
      : null,
  ].filter(Boolean);
}

function retrievalOf(row) {
  if (row.found === null) return "cannot be told";
  const what = row.gold.length ? "a gold passage" : "a passage that holds an answer";
  const mass = row.mass === null ? "" : `, ${percent(row.mass)} of the posterior on gold`;
  return row.found
    ? `${what} at rank ${row.rank}${mass}`
    : `missed: ${what.replace(/^a /, "no ")} was retrieved`;
}

function keyOfBars() {
  return el(
    "p",
    { class: "key", "aria-hidden": "true" },
    el("span", { class: "prior" }),
    "prior p(d|x)",
    el("span", { class: "posterior" }),
    "posterior p(d|x,y)",
  );
}

function passageItem([name, title, text], marks, rank, prior, posterior) {
  const bars =
    prior === null
      ? []
      : [
          ["prior", prior],
          ["posterior", posterior],
        ]
          .filter((pair) => pair[1] !== null)
          .map(([kind, value]) =>
            el(
              "div",
              { class: "bar" },
              el("span", { class: "visually-hidden" }, kind),
              meter(value, `var(--${kind})`),
              el("span", { class: "number" }, percent(value)),
            ),
          );
  return el(
    "li",
    { class: rank === null ? "unranked" : null },
    el(
      "div",
      { class: "head" },
      rank === null ? null : el("span", { class: "rank" }, `${rank}.`),
      el("bdi", { class: "title" }, title || name),
      marks,
    ),
    bars,
    text === ""
      ? null
      : el("p", { class: "text", dir: "auto" }, text ?? "(its text is not recorded)"),
  );
}

// Decisions

function drawDecisions(block) {
  const episodes = picker(
    "episodes",
    (episode) =>
      [
        episode.right === null ? null : verdict(episode.right),
        el("bdi", {}, episode.label),
        el("span", { class: "hint" }, plural(episode.decisions.length, "decision")),
      ].filter(Boolean),
    episodeDetail,
  );
  episodes.lay(block.episodes);
  return episodes.node;
}

function episodeDetail(episode) {
  return [
    el(
      "h4",
      {},
      episode.right === null ? null : verdict(episode.right),
      " ",
      el("bdi", {}, episode.label),
    ),
    el(
      "ul",
      { class: "facts" },
      episode.facts.map((fact) => el("li", {}, el("bdi", {}, fact))),
    ),
    el("ol", { class: "decisions" }, episode.decisions.map(decisionItem)),
  ];
}

function decisionItem(decision) {
  const bars = decision.actions.map(([name, value]) =>
    el(
      "div",
      { class: name === decision.taken ? "bar taken" : "bar" },
      el("span", { class: "name" }, name),
      meter(value, name === decision.taken ? "var(--accent)" : "var(--faint)"),
      el("span", { class: "number" }, percent(value)),
    ),
  );
  const passages = decision.passages.map(([title, text, prior, posterior], k) =>
    passageItem([title, title, text], [], k + 1, prior, posterior),
  );
  return el(
    "li",
    {},
    bars,
    decision.facts.map((fact) => el("p", { class: "hint" }, el("bdi", {}, fact))),
    passages.length ? el("ol", { class: "passages" }, passages) : null,
  );
}

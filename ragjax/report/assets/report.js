// The page: its heading, links to its sections, and their blocks.

const DRAWN = {
  words: (block) =>
    el(
      "div",
      { class: block.note ? "note" : "words", role: block.note ? "note" : null },
      block.paragraphs.map((text) => el("p", { dir: "auto" }, rich(text))),
    ),
  table: drawTable,
  folded: (block) => unfolded(block.title, () => block.blocks.map(draw)),
  grid: (block) => el("div", { class: "grid" }, block.blocks.map(draw)),
  chart: drawChart,
  bars: drawBars,
  parallel: drawParallel,
  explorer: drawExplorer,
  decisions: drawDecisions,
};
const draw = (block) => DRAWN[block.kind](block);

function drawPage(page) {
  const links = page.sections.map((section, k) =>
    el("a", { href: `#section-${k}` }, section.title),
  );
  const sections = page.sections.map((section, k) =>
    el(
      "section",
      { id: `section-${k}`, "aria-labelledby": `heading-${k}` },
      el("h2", { id: `heading-${k}`, dir: "auto" }, section.title),
      section.blocks.map(draw),
    ),
  );
  document.body.append(
    el("a", { class: "skip", href: "#main" }, "To the content"),
    el(
      "header",
      {},
      el("h1", { dir: "auto" }, page.title),
      el("nav", { "aria-label": "sections" }, links),
    ),
    el("main", { id: "main" }, sections),
  );
}

drawPage(JSON.parse(document.getElementById("data").textContent));

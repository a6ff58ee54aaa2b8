// Bars, and lines through parallel axes.

// Bars: those of one label lie, with names before them; those of several stand side by side.
function drawBars(block) {
  const numbers = () => ({
    title: "",
    note: "",
    columns: ["", ...block.labels],
    rows: block.names.map((name, k) => [name, ...block.values.map((of) => formatted(of[k]))]),
  });
  if (block.labels.length === 1) {
    const [values] = block.values;
    const most = Math.max(...values, 1e-9);
    const rows = block.names.map((name, k) =>
      el(
        "li",
        {},
        el("span", { class: "name" }, name),
        meter(values[k] / most, "var(--series-0)"),
        el("span", { class: "number" }, formatted(values[k])),
      ),
    );
    return frame(block, el("ul", { class: "bars" }, rows), null, null, null);
  }
  const y = scale([0, ...block.values.flat()], HEIGHT - BOTTOM, TOP, { padded: 0 });
  const width = (WIDTH - LEFT - RIGHT) / block.names.length;
  const each = Math.min(26, (0.8 * width) / block.labels.length);
  const middle = (k) => LEFT + width * (k + 0.5);
  const bar = (value, k, label) =>
    svg("rect", {
      x: middle(k) + each * (label - block.labels.length / 2),
      width: Math.max(1, each - 1),
      y: y(value),
      height: y(0) - y(value),
      style: { fill: colorOf(label) },
    });
  const shown = {
    names: block.names.map((name, k) => [k, name.replace(" and more", "")]),
    log: false,
  };
  const picture = svg(
    "svg",
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      tabindex: 0,
      class: "picture",
      "aria-label": `${block.title}: ${plural(block.names.length, "group")} of bars. ${KEYS}`,
    },
    gridlines(y, niceTicks(0, y.high, 5)),
    xTicks(shown, middle),
    block.values.map((of, label) => of.map((value, k) => bar(value, k, label))),
  );
  const readout = el("p", { class: "readout", "aria-live": "polite" });
  const tell = (k) => {
    const parts = block.labels.map(
      (label, place) => `${label} ${formatted(block.values[place][k])}`,
    );
    readout.textContent = `${block.names[k]}: ${parts.join(", ")}`;
  };
  readable(
    picture,
    block.names.map((_, k) => k),
    (k, at) => Math.abs(middle(k) - at[0]),
    tell,
  );
  return frame(
    block,
    picture,
    legendOf(block.labels.map((label, k) => [label, colorOf(k), null])),
    readout,
    numbers,
  );
}

function meter(share, color) {
  const width = `${100 * Math.max(0, Math.min(1, share))}%`;
  const bar = el("span", { class: "fill", style: { width, background: color } });
  return el("span", { class: "meter", "aria-hidden": "true" }, bar);
}

function drawParallel(block) {
  const [width, height, top, bottom] = [Math.max(1160, 170 * block.axes.length), 320, 34, 262];
  const x = (place) => 70 + (place * (width - 140)) / Math.max(1, block.axes.length - 1);
  const y = (share) => bottom - share * (bottom - top);
  const d = (line) =>
    line
      .map((share, place) =>
        share === null ? "" : `${x(place).toFixed(1)} ${y(share).toFixed(1)}`,
      )
      .filter(Boolean)
      .map((point, k) => `${k ? "L" : "M"}${point}`)
      .join("");
  const strength = (rank) => 0.9 - 0.75 * (rank / Math.max(1, block.lines.length - 1));
  const drawn = block.lines.map((line, rank) =>
    svg("path", { class: "line trial", d: d(line), "stroke-opacity": strength(rank) }),
  );
  const chosen = svg("path", { class: "line chosen" });
  const axes = block.axes.map(([label, low, high], place) =>
    svg(
      "g",
      {},
      svg("line", { class: "axis", x1: x(place), x2: x(place), y1: top, y2: bottom }),
      svg(
        "text",
        { class: "tick", x: x(place), y: top - 10, "text-anchor": "middle" },
        short(high),
      ),
      svg(
        "text",
        { class: "tick", x: x(place), y: bottom + 18, "text-anchor": "middle" },
        short(low),
      ),
      svg("text", { class: "label", x: x(place), y: bottom + 42, "text-anchor": "middle" }, label),
    ),
  );
  const picture = svg(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      tabindex: 0,
      class: "picture wide",
      "aria-label": `${block.title}: ${plural(block.lines.length, "trial")}. ${KEYS}`,
    },
    axes,
    [...drawn].reverse(),
    chosen,
  );
  const readout = el("p", { class: "readout", "aria-live": "polite" });
  let now = -1;
  const show = (rank) => {
    now = Math.max(0, Math.min(block.lines.length - 1, rank));
    chosen.setAttribute("d", d(block.lines[now]));
    readout.textContent = `${now + 1} of ${block.lines.length}: ${block.labels[now]}`;
  };
  drawn.forEach((line, rank) => line.addEventListener("pointerenter", () => show(rank)));
  picture.addEventListener("keydown", (event) => {
    const moves = {
      ArrowRight: now + 1,
      ArrowDown: now + 1,
      ArrowLeft: now - 1,
      ArrowUp: now - 1,
      Home: 0,
      End: Infinity,
    };
    if (event.key in moves) {
      event.preventDefault();
      show(moves[event.key]);
    }
  });
  return frame(block, picture, null, readout, null);
}

// Charts as inline SVG. Each can be read by pointer, by arrow keys, and as a table of its numbers.

const WIDTH = 440,
  HEIGHT = 260;
const LEFT = 62,
  RIGHT = 14,
  TOP = 10,
  BOTTOM = 42;
const COLORS = 8; // of the style sheet; from the ninth line on dashes tell lines apart, too
const FEW = 12; // points that are shown one by one

const KEYS = "Arrow keys read it."; // said of every picture
const LETTERS = 22; // of a name on an axis

const short = (name) => (name.length > LETTERS ? `${name.slice(0, LETTERS - 1)}\u2026` : name);
const colorOf = (number) => `var(--series-${number % COLORS})`;
const DASHES = { solid: null, dashed: "7 4", dotted: "2 3" };
const dashOf = (line) => DASHES[line.dash] ?? (line.color >= COLORS ? "7 4" : null);

function niceTicks(low, high, most) {
  const span = high - low || 1;
  const rough = span / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((of) => of * power).find((of) => of >= rough);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k += 1)
    ticks.push(k * step || 0); // never -0
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high * 1.0001; power += 1) {
    if (10 ** power >= low * 0.9999) ticks.push(Number(`1e${power}`));
  }
  return ticks.length > 1 ? ticks : [low, high];
}

// value -> place on the page, with some room at the ends where `padded`
function scale(values, from, to, { log = false, padded = 0 } = {}) {
  const known = values.filter((value) => value !== null && (!log || value > 0));
  let [low, high] = [Math.min(...known), Math.max(...known)];
  if (!known.length) [low, high] = [log ? 1 : 0, log ? 10 : 1];
  const change = log ? Math.log : Number;
  const back = log ? Math.exp : Number;
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
  const room = padded * (change(high) - change(low));
  const [a, b] = [change(low) - room, change(high) + room];
  const place = (value) => from + ((change(value) - a) / (b - a)) * (to - from);
  return Object.assign(place, { low: back(a), high: back(b) });
}

function legendOf(entries) {
  if (entries.length < 2) return null;
  return el(
    "ul",
    { class: "legend" },
    entries.map(([label, color, dash]) =>
      el(
        "li",
        {},
        svg(
          "svg",
          { width: 22, height: 10, "aria-hidden": "true" },
          svg("line", {
            x1: 1,
            x2: 21,
            y1: 5,
            y2: 5,
            style: { stroke: color },
            class: "key",
            "stroke-dasharray": dash,
          }),
        ),
        label,
      ),
    ),
  );
}

function frame(block, picture, legend, readout, numbers) {
  return el(
    "figure",
    { class: "chart" },
    el("figcaption", {}, block.title),
    legend,
    picture,
    readout,
    block.note ? el("p", { class: "hint" }, rich(block.note)) : null,
    numbers && unfolded("Numbers", () => [drawTable(numbers())], "numbers"),
  );
}

function gridlines(y, ticks) {
  return ticks.map((tick) =>
    svg(
      "g",
      {},
      svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }),
      svg(
        "text",
        { class: "tick", x: LEFT - 8, y: y(tick), "text-anchor": "end", dy: "0.32em" },
        formatted(tick),
      ),
    ),
  );
}

function xTicks(block, x) {
  const named = block.names.length > 0;
  const pairs = named
    ? block.names.map(([at, name]) => [at, short(name)])
    : (block.log ? logTicks(x.low, x.high) : niceTicks(x.low, x.high, 6)).map((at) => [
        at,
        formatted(at),
      ]);
  const most = Math.max(
    2,
    Math.floor((WIDTH - LEFT) / (12 + 7 * Math.max(...pairs.map((pair) => pair[1].length), 3))),
  );
  const every = Math.ceil(pairs.length / most);
  return pairs
    .filter((_, place) => place % every === 0)
    .map(([at, name]) =>
      svg(
        "text",
        { class: "tick", x: x(at), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" },
        name,
      ),
    );
}

// The path of a line, and of the band about it, with gaps where there is no number.
function pathOf(line, x, y) {
  let pen = "M";
  return line.x
    .map((at, k) => {
      if (line.y[k] === null) {
        pen = "M";
        return "";
      }
      const part = `${pen}${x(at).toFixed(1)} ${y(line.y[k]).toFixed(1)}`;
      pen = "L";
      return part;
    })
    .join("");
}

function bandOf(line, x, y) {
  const known = line.x
    .map((_, k) => k)
    .filter((k) => line.low[k] !== null && line.high[k] !== null);
  const point = (k, edge) => `${x(line.x[k]).toFixed(1)} ${y(edge[k]).toFixed(1)}`;
  const there = known.map((k) => point(k, line.high));
  const back = [...known].reverse().map((k) => point(k, line.low));
  return `M${[...there, ...back].join("L")}Z`;
}

const dots = (line, x, y, radius) =>
  line.x.map((at, k) =>
    line.y[k] === null
      ? null
      : svg("circle", {
          class: "dot",
          cx: x(at),
          cy: y(line.y[k]),
          r: radius,
          style: { fill: colorOf(line.color) },
        }),
  );

function drawChart(block) {
  const all = block.lines.flatMap((line) => [...line.y, ...(line.low || []), ...(line.high || [])]);
  const named = block.names.map((pair) => pair[0]);
  const x = scale(
    [...block.lines.flatMap((line) => line.x), ...named],
    LEFT + 6,
    WIDTH - RIGHT - 6,
    { log: block.log, padded: block.points ? 0.04 : 0 },
  );
  const y = scale(
    block.range || [...all, ...block.marks.map((mark) => mark[1])],
    HEIGHT - BOTTOM,
    TOP,
    { padded: block.range ? 0 : 0.04 },
  );
  const clip = newId("clip");
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, x1: -9, x2: -9 });
  const ring = svg("circle", { class: "ring", r: 6, cx: -9, cy: -9 });
  const last = block.lines
    .map((line) => `${line.label} ends at ${formatted(line.y.at(-1))}`)
    .join("; ");
  const what = block.points ? plural(block.lines[0].x.length, "point") : last;
  const picture = svg(
    "svg",
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      tabindex: 0,
      class: "picture",
      "aria-label": `${block.title}, by ${block.x_label}. ${what}. ${KEYS}`,
    },
    svg(
      "clipPath",
      { id: clip },
      svg("rect", {
        x: LEFT,
        y: TOP - 6,
        width: WIDTH - LEFT - RIGHT + 6,
        height: HEIGHT - BOTTOM - TOP + 12,
      }),
    ),
    gridlines(y, niceTicks(y.low, y.high, 5)),
    xTicks(block, x),
    svg(
      "text",
      { class: "label", x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" },
      block.x_label,
    ),
    block.y_label
      ? svg(
          "text",
          {
            class: "label",
            transform: `translate(12 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)`,
            "text-anchor": "middle",
          },
          block.y_label,
        )
      : null,
    svg(
      "g",
      { "clip-path": `url(#${clip})` },
      block.marks.map(([, at]) =>
        svg("line", { class: "mark", x1: LEFT, x2: WIDTH - RIGHT, y1: y(at), y2: y(at) }),
      ),
      block.lines.map((line) =>
        line.low
          ? svg("path", {
              class: "band",
              d: bandOf(line, x, y),
              style: { fill: colorOf(line.color) },
            })
          : null,
      ),
      block.lines.map((line) =>
        block.points
          ? null
          : svg("path", {
              class: "line",
              d: pathOf(line, x, y),
              style: { stroke: colorOf(line.color) },
              "stroke-dasharray": dashOf(line),
            }),
      ),
      block.lines.map((line) =>
        block.points || line.x.length <= FEW ? dots(line, x, y, block.points ? 4.5 : 3.5) : null,
      ),
      cursor,
      ring,
    ),
  );
  const readout = el("p", { class: "readout", "aria-live": "polite" });
  (block.points ? readPoints : readSteps)(block, picture, { x, y, cursor, ring, readout });
  const marks = block.marks.map(([label]) => [label, "var(--muted)", "8 3 2 3"]);
  const legend = legendOf([
    ...block.lines.map((line) => [line.label, colorOf(line.color), dashOf(line)]),
    ...marks,
  ]);
  return frame(block, picture, legend, readout, () => numbersOf(block));
}

const stepsOf = (block) =>
  [...new Set(block.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
const nameAt = (block, at) =>
  (block.names.find((pair) => pair[0] === at) || [at, formatted(at)])[1];

function numbersOf(block) {
  if (block.points) {
    const [line] = block.lines;
    const rows = line.x.map((at, k) => [nameAt(block, at), formatted(line.y[k])]);
    return { title: "", note: "", columns: [block.x_label, block.y_label], rows };
  }
  const maps = block.lines.map(
    (line) => new Map(line.x.map((at, k) => [at, formatted(line.y[k])])),
  );
  const rows = stepsOf(block).map((at) => [
    nameAt(block, at),
    ...maps.map((map) => map.get(at) ?? NONE),
  ]);
  return {
    title: "",
    note: "",
    columns: [block.x_label, ...block.lines.map((line) => line.label)],
    rows,
  };
}

// Lets a picture be read at stops: by the pointer, which takes the nearest one, and by arrow keys.
function readable(picture, stops, distance, tell) {
  let now = stops.length - 1;
  const show = (place) => {
    now = Math.max(0, Math.min(stops.length - 1, place));
    tell(stops[now]);
  };
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const at = [
      ((event.clientX - box.left) / box.width) * WIDTH,
      ((event.clientY - box.top) / box.height) * HEIGHT,
    ];
    let best = 0;
    stops.forEach((stop, place) => {
      if (distance(stop, at) < distance(stops[best], at)) best = place;
    });
    show(best);
  });
  picture.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: stops.length - 1 };
    if (event.key in moves) {
      event.preventDefault();
      show(moves[event.key]);
    }
  });
}

function readSteps(block, picture, { x, cursor, readout }) {
  const maps = block.lines.map((line) => new Map(line.x.map((at, k) => [at, line.y[k]])));
  const tell = (step) => {
    cursor.setAttribute("x1", x(step));
    cursor.setAttribute("x2", x(step));
    const parts = block.lines.map((line, k) =>
      maps[k].has(step)
        ? `${block.lines.length > 1 ? `${line.label} ` : ""}${formatted(maps[k].get(step))}`
        : null,
    );
    const values = parts.filter(Boolean).join(", ");
    readout.textContent = `${block.x_label} ${nameAt(block, step)}: ${values}`;
  };
  readable(picture, stepsOf(block), (step, at) => Math.abs(x(step) - at[0]), tell);
}

function readPoints(block, picture, { x, y, ring, readout }) {
  const [line] = block.lines;
  const points = line.x.map((at, k) => [at, line.y[k]]).sort((one, other) => one[0] - other[0]);
  const tell = ([at, value]) => {
    ring.setAttribute("cx", x(at));
    ring.setAttribute("cy", y(value));
    readout.textContent = `${block.x_label} ${nameAt(block, at)}: ${formatted(value)}`;
  };
  readable(
    picture,
    points,
    (point, at) => Math.hypot(x(point[0]) - at[0], y(point[1]) - at[1]),
    tell,
  );
}

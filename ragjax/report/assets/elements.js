"use strict";

// Elements, words, numbers and tables. Texts reach the page as text nodes alone, never as markup.

const NONE = "\u2013"; // in a cell without a figure
let count = 0;
const newId = (name) => `${name}-${(count += 1)}`;

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style")
      Object.assign(node.style, value); // the page's policy allows no text of it
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null));
  return node;
}

function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

// A text in which `code` and **strong** are told apart, as in Markdown.
function rich(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
    if (/^`.+`$/.test(part)) return el("code", {}, part.slice(1, -1));
    if (/^\*\*.+\*\*$/.test(part)) return el("strong", {}, part.slice(2, -2));
    return document.createTextNode(part);
  });
}

function formatted(value) {
  if (value === null || value === undefined) return NONE;
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e7) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

function percent(value) {
  return value !== 0 && value < 0.0005 ? "< 0.1 %" : `${(100 * value).toFixed(1)} %`;
}

const plural = (number, noun) =>
  `${number.toLocaleString("en-US")} ${noun}${number === 1 ? "" : "s"}`;

// Tables

const NUMBER = /^-?[\d,]*\.?\d+(e[+-]?\d+)?(?=$| )/i;
const isEmpty = (cell) => cell === "" || cell === NONE;
const numberOf = (cell) => Number(NUMBER.exec(cell)[0].replaceAll(",", ""));

function isNumeric(rows, column) {
  const cells = rows.map((row) => row[column]).filter((cell) => !isEmpty(cell));
  return cells.length > 0 && cells.every((cell) => NUMBER.test(cell));
}

function sorted(rows, column, numeric, down) {
  const sign = down ? -1 : 1;
  return [...rows].sort((one, other) => {
    const [a, b] = [one[column], other[column]];
    if (isEmpty(a) || isEmpty(b)) return isEmpty(a) - isEmpty(b); // last in either order
    return sign * (numeric ? numberOf(a) - numberOf(b) : a.localeCompare(b, "en"));
  });
}

function drawTable(block) {
  const numeric = block.columns.map((_, column) => isNumeric(block.rows, column));
  const body = el("tbody");
  const lay = (rows) =>
    body.replaceChildren(
      ...rows.map((row) =>
        el(
          "tr",
          {},
          row.map((cell, column) =>
            el(
              column === 0 ? "th" : "td",
              {
                scope: column === 0 ? "row" : null,
                class: column > 0 && numeric[column] ? "number" : null,
                dir: "auto",
              },
              cell,
            ),
          ),
        ),
      ),
    );
  const heads = block.columns.map((label, column) => {
    const head = el("th", {
      scope: "col",
      "aria-sort": "none",
      class: column > 0 && numeric[column] ? "number" : null,
    });
    const sort = () => {
      // Of numbers the largest come first, of words those that stand first in the alphabet.
      const now = head.getAttribute("aria-sort");
      const down = now === "none" ? numeric[column] : now === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      lay(sorted(block.rows, column, numeric[column], down));
    };
    head.append(el("button", { type: "button", onclick: sort }, label || "\u00a0"));
    return head;
  });
  lay(block.rows);
  const caption = block.title ? el("caption", {}, block.title) : null;
  const table = el("table", {}, caption, el("thead", {}, el("tr", {}, heads)), body);
  const region = {
    class: "scroll",
    tabindex: 0,
    role: "region",
    "aria-label": block.title || "table",
  };
  const note = block.note ? el("p", { class: "hint" }, rich(block.note)) : null;
  return el("div", { class: "table" }, el("div", region, table), note);
}

// What is drawn once its reader opens it.
function unfolded(title, draw, kind = "folded") {
  const details = el("details", { class: kind }, el("summary", {}, title));
  details.addEventListener("toggle", () => details.append(...draw()), { once: true });
  return details;
}

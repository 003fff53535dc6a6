"use strict";
const found = JSON.parse(document.getElementById("data").textContent);

// ------------------------------------------------------------------ plots

const config = {
  background: null,
  axis: { labelColor: "currentColor", titleColor: "currentColor", domainColor: "currentColor", tickColor: "currentColor",
          gridColor: "currentColor", gridOpacity: 0.15, titleFontWeight: "normal" },
  legend: { labelColor: "currentColor", titleColor: "currentColor" },
  title: { color: "currentColor", anchor: "start", fontSize: 13, fontWeight: 600 },
  header: { labelColor: "currentColor", titleColor: "currentColor" },
  text: { color: "currentColor" },
  rule: { color: "currentColor" },
  view: { stroke: null },
  range: { category: ["#3b82c4", "#e0662f", "#2f9e63", "#b07cc6", "#b8860b"] },
};

function rowsOf(columns) {
  const names = Object.keys(columns);
  const length = names.length ? columns[names[0]].length : 0;
  return Array.from({ length }, (_, row) => Object.fromEntries(names.map((name) => [name, columns[name][row]])));
}

/* A plot as wide as its place: views that stand above each other each take the whole width. */
function specification(plot, width) {
  const spec = structuredClone(found.templates[plot.spec]);
  if (plot.title) spec.title = plot.title;
  if (plot.height) spec.height = plot.height;
  spec.datasets = Object.fromEntries(Object.entries(plot.data).map(([name, columns]) => [name, rowsOf(columns)]));
  const inner = Math.max(width - 110, 160);
  if (spec.vconcat) for (const view of spec.vconcat) view.width = inner;
  else if (spec.facet) spec.spec.width = inner;
  else { spec.width = Math.max(width - 20, 160); spec.autosize = { type: "fit-x", contains: "padding" }; }
  return spec;
}

const drawn = new Map();

async function draw(place) {
  const width = place.clientWidth;
  if (!width || drawn.get(place.id)?.width === width) return;
  drawn.get(place.id)?.result?.finalize();
  drawn.set(place.id, { width });
  const options = { mode: "vega-lite", renderer: "svg", actions: false, config: { ...config, legend: { ...config.legend, columns: width < 600 ? 3 : 0 } }, ast: false, loader: { target: "_self" } };
  const result = await vegaEmbed(place, specification(found.plots[place.id], width), options);
  drawn.set(place.id, { width, result });
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) draw(entry.target).catch(console.error);
}, { rootMargin: "400px" });

for (const place of document.querySelectorAll(".plot")) {
  if (!(place.id in found.plots)) continue;
  place.style.display = "block";
  place.style.minHeight = "3rem";
  near.observe(place);
}

let pending;
addEventListener("resize", () => {
  clearTimeout(pending);
  pending = setTimeout(() => { for (const id of drawn.keys()) draw(document.getElementById(id)).catch(console.error); }, 150);
});

// ------------------------------------------------------------------ tables

function keyOf(row, column) {
  const cell = row.cells[column];
  if (!("key" in cell.dataset)) return (cell.querySelector("a") ?? cell).textContent.trim(); // without the ▶ of the first
  return cell.dataset.key === "" ? NaN : Number(cell.dataset.key);
}

function compare(one, other) {
  if (typeof one === "string") return one.localeCompare(other);
  return one - other;
}

for (const table of document.querySelectorAll("table.stages")) {
  const body = table.tBodies[0];
  const order = [...body.rows];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const next = { null: "ascending", ascending: "descending", descending: null }[head.getAttribute("aria-sort")];
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      if (next) head.setAttribute("aria-sort", next);
      const sign = next === "descending" ? -1 : 1;
      const keys = new Map(order.map((row) => [row, keyOf(row, column)]));
      const missing = (row) => Number.isNaN(keys.get(row));
      const sorted = next ? [...order].sort((a, b) =>
        missing(a) || missing(b) ? missing(a) - missing(b) : sign * compare(keys.get(a), keys.get(b))) : order;
      body.append(...sorted);
    });
  });
}

for (const form of document.querySelectorAll("form.filters")) {
  const rows = [...document.getElementById(form.dataset.table).tBodies[0].rows];
  const present = new Set(rows.map((row) => row.dataset.status));
  for (const box of form.querySelectorAll("input[type=checkbox]")) if (!present.has(box.value)) box.parentElement.remove();
  const filter = () => {
    const text = form.querySelector("input[type=search]").value.trim().toLowerCase();
    const wanted = new Set([...form.querySelectorAll("input:checked")].map((box) => box.value));
    for (const row of rows) {
      row.hidden = !wanted.has(row.dataset.status) || !row.cells[0].textContent.toLowerCase().includes(text);
    }
    const shown = rows.filter((row) => !row.hidden).length;
    form.querySelector("output").textContent = shown === rows.length ? `${rows.length} stages` : `${shown} of ${rows.length} stages`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  filter();
}

// ------------------------------------------------------------------ links into details

function reveal() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
    target.querySelector("summary").focus();
  }
}
addEventListener("hashchange", reveal);
reveal();

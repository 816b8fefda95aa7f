/* What both charts are made of: an SVG with axes, and lines and points in data coordinates. */
const SERIES = JSON.parse(document.getElementById("series").textContent);
const MARKED = new Set(["baseline", "promoted", "won"]);  // outcomes that are drawn one by one, whatever their number

/** An SVG or HTML element. Text is only ever text. */
function make(name, attributes = {}, ...children) {
  const html = ["div", "label", "input", "span", "strong", "fieldset", "legend", "select", "option", "output"].includes(name);
  const made = html ? document.createElement(name) : document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Round numbers between low and high, about n of them. */
function ticks(low, high, n) {
  const raw = (high - low) / Math.max(n, 1), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find(factor => factor * power >= raw * 0.999) * power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

/** 12300000 -> 12.3M */
function amount(value) {
  if (!value) return "0";
  const power = Math.min(Math.max(Math.floor(Math.log10(Math.abs(value)) / 3 + 1e-9), 0), 6);
  return `${Number((value / 1000 ** power).toPrecision(3))}${["", "k", "M", "G", "T", "P", "E"][power]}`;
}

const decimals = (value, digits = 4) => value.toFixed(digits).replace("-", "−");

/** Of the numbers beside an axis that is so long. */
const digits = span => span < 0.02 ? 4 : span < 0.2 ? 3 : span < 20 ? 2 : 0;

/** An arm by its name, and what it came on top of. */
const called = ({ arm, on }) => on ? `${arm} on top of ${on}` : arm;

/** Where a sorted list of numbers has a share of them below it. */
function quantile(sorted, share) {
  const at = (sorted.length - 1) * share, below = Math.floor(at);
  return sorted[below] + (at - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
}

/** An empty chart for x and y in these domains, as wide as its place; narrow ones get a lower shape. */
class Plot {
  constructor(place, { x, y, label, xTitle, yTitle, yDigits = 2, gutter = 0 }) {
    const width = Math.max(place.clientWidth - 20, 300), height = Math.min(Math.max(width * 0.42, 260), 460);
    this.left = 58; this.right = width - 16 - gutter; this.gutter = gutter; this.top = 18; this.bottom = height - 44;
    [this.x0, this.x1] = x;
    [this.y0, this.y1] = y;
    this.svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    this.clip = `clip-${place.id}`;
    const inside = { x: this.left, y: this.top, width: this.right - this.left, height: this.bottom - this.top };
    this.svg.append(make("clipPath", { id: this.clip }, make("rect", inside)));
    for (const tick of ticks(...y, height / 70)) {
      const at = this.y(tick);
      this.svg.append(make("line", { x1: this.left, x2: this.right, y1: at, y2: at, class: "grid" }));
      this.text(this.left - 8, at + 4, decimals(tick, yDigits), "end");
    }
    for (const tick of ticks(...x, width / 120)) this.text(this.x(tick), this.bottom + 18, amount(tick), "middle");
    this.text(this.right, height - 6, xTitle, "end");
    this.text(this.left, this.top - 7, yTitle, "start", "y-title");
    this.inside = make("g", { "clip-path": `url(#${this.clip})` });
    this.svg.append(this.inside);
  }
  x(value) { return this.left + (value - this.x0) / (this.x1 - this.x0) * (this.right - this.left); }
  y(value) { return this.bottom - (value - this.y0) / (this.y1 - this.y0) * (this.bottom - this.top); }
  text(x, y, content, anchor, kind = "") {
    this.svg.append(make("text", { x, y, "text-anchor": anchor, class: kind }, content));
  }
  path(points) { return points.map(([x, y], i) => `${i ? "L" : "M"}${this.x(x).toFixed(1)} ${this.y(y).toFixed(1)}`).join(""); }
  line(points, kind) {
    const made = make("path", { d: this.path(points), class: kind });
    this.inside.append(made);
    return made;
  }
  /** From a pointer event to pixels of the drawing. */
  where(event) {
    const box = this.svg.getBoundingClientRect(), scale = this.svg.viewBox.baseVal.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }
}

/** The box beside the pointer; screen readers hear the same words. */
class Tip {
  constructor(place) {
    this.place = place;
    this.box = make("div", { class: "tip", role: "status" });
    this.box.hidden = true;
    place.append(this.box);
  }
  show(plot, x, y, title, ...lines) {
    const box = plot.svg.getBoundingClientRect(), scale = box.width / plot.svg.viewBox.baseVal.width;
    this.box.replaceChildren(make("strong", {}, title), ...lines.map(line => make("div", {}, line)));
    this.box.hidden = false;
    const left = plot.svg.offsetLeft ?? 10, at = x * scale + 10;
    const over = at + this.box.offsetWidth + 14 > this.place.clientWidth;
    this.box.style.left = `${Math.max(4, over ? at - this.box.offsetWidth - 14 : at + 14)}px`;
    this.box.style.top = `${Math.max(4, y * scale - this.box.offsetHeight - 6)}px`;
  }
  hide() { this.box.hidden = true; }
}

/** A legend whose boxes choose the outcomes that are drawn. */
function legend(counts, hidden, redraw) {
  const entries = Object.entries(SERIES.outcomes).filter(([name]) => counts[name]).map(([name, [sign, words]]) => {
    const box = make("input", { type: "checkbox" });
    box.checked = !hidden.has(name);
    box.addEventListener("change", () => { box.checked ? hidden.delete(name) : hidden.add(name); redraw(); });
    return make("label", { class: name }, box, make("span", { "aria-hidden": "true" }, sign), `${words} (${counts[name]})`);
  });
  return make("div", { class: "legend", role: "group", "aria-label": "outcomes shown" }, ...entries);
}

/** How many of each outcome. */
function tally(items, outcome) {
  const counts = {};
  for (const item of items) counts[outcome(item)] = (counts[outcome(item)] ?? 0) + 1;
  return counts;
}

/** Draw now, and again when the width or the group changes. */
function keepDrawn(place, draw) {
  let width = place.clientWidth;
  GROUP.redraw.push(draw);
  draw();
  new ResizeObserver(() => {
    if (Math.abs(place.clientWidth - width) < 2) return;
    width = place.clientWidth;
    requestAnimationFrame(draw);  // not at once: a new height would be a change inside the observer
  }).observe(place);
}

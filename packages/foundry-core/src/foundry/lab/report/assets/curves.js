/* Loss curves over tokens or FLOPs: one by one where they are few, as bands where they are many. */
(() => {
  const figure = document.getElementById("curves-chart");
  if (!figure) return;
  if (!SERIES.curves.length || !GROUP.now) { figure.textContent = "No curve is recorded yet."; return; }
  const MANY = 8;  // curves of a group from which on it gets a band
  const UNITS = { expert_usage: "share of all", expert_unevenness: "nats" };  // of what is no loss
  const FEW = 8;  // curves up to which each carries its name
  const has = key => SERIES.curves.some(curve => key === "flops" ? curve.flops_per_token : curve[key].some(v => v !== null));
  const state = { x: "tokens", y: has("val_loss") ? "loss" : "train_loss", range: "end", generation: "" };
  const of = () => SERIES.curves.filter(curve => curve.budget === GROUP.now.budget);
  const hidden = new Set(), controls = make("div", { class: "switches" });
  const place = make("div", { class: "chart", tabindex: 0, id: "curves-plot" });
  const tip = new Tip(place);
  const generation = make("select", { "aria-label": "generation" });
  let plot, group, drawn = [], chosen = -1, keys;

  const counterpart = curve => of().find(c => c.outcome === "baseline" && c.generation === curve.generation && c.on === curve.on);

  /* Which loss: the one that was asked for; else the validation's, or the training's where nothing was validated. */
  const lossKey = () => state.y === "train_loss" ? state.y : GROUP.now.curves;
  const LOSSES = { val_loss: "validation loss, nats", train_loss: "training loss, nats" };
  const fallback = () => GROUP.now.curves === "train_loss" ? " (no run here was validated on its way)" : "";

  /* The generations that were trained in this group; at first the newest at which there is something to compare. */
  function offer() {
    if (group === GROUP.now) return;
    group = GROUP.now;
    const every = [...new Set(of().map(curve => curve.generation))].sort((a, b) => b - a);
    const telling = of().filter(curve => curve.outcome !== "baseline").map(curve => curve.generation);
    state.generation = telling.length ? String(Math.max(...telling)) : "";
    const options = [["", "every generation"], ...every.map(n => [String(n), `against generation ${n}`])];
    generation.replaceChildren(...options.map(([value, words]) => make("option", { value }, words)));
    generation.value = state.generation;
    generation.hidden = every.length < 2;
  }

  /* The points of a curve as they are drawn: [x, y], oldest first. */
  function points(curve) {
    const factor = state.x === "flops" ? curve.flops_per_token : 1;
    const plain = key => curve.tokens.map((n, i) => [n * factor, curve[key][i] ?? null]).filter(point => point[1] !== null && point[0]);
    if (state.y !== "difference") return plain(state.y === "loss" ? lossKey() : state.y);
    const base = counterpart(curve);
    if (!base) return [];
    const scale = state.x === "flops" ? base.flops_per_token : 1;
    const theirs = base.tokens.map((n, i) => [n * scale, base[lossKey()][i]]).filter(point => point[1] !== null);
    return plain(lossKey()).map(([x, y]) => [x, at(theirs, x)?.valueOf() - y]).filter(point => Number.isFinite(point[1]));
  }

  /* Where a curve is at x, on a straight line between its points; undefined outside. */
  function at(line, x) {
    const after = line.findIndex(point => point[0] >= x);
    if (after < 0) return undefined;
    if (line[after][0] === x || after === 0) return line[after][0] === x ? line[after][1] : undefined;
    const [x0, y0] = line[after - 1], [x1, y1] = line[after];
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0);
  }

  function select() {
    return of()
      .filter(curve => !state.generation || String(curve.generation) === state.generation)
      .filter(curve => !(state.y === "difference" && curve.outcome === "baseline"));
  }

  function draw() {
    offer();
    choose(-1);
    place.replaceChildren(tip.box);
    const all = select().map(curve => ({ curve, points: points(curve) })).filter(each => each.points.length > 1);
    drawn = all.filter(each => !hidden.has(each.curve.outcome));
    if (!all.length) return place.append("No curve of this budget shows that.");
    const xs = drawn.flatMap(each => each.points.map(point => point[0]));
    const x1 = Math.max(...xs, 1), x0 = state.range === "end" ? x1 * 0.3 : 0;
    const ys = drawn.flatMap(each => each.points.filter(point => point[0] >= x0).map(point => point[1])).sort((a, b) => a - b);
    const [low, high] = ys.length ? [quantile(ys, state.y === "difference" ? 0.03 : 0), quantile(ys, 0.985)] : [0, 1];
    const room = (high - low || 0.01) * 0.06, difference = state.y === "difference";
    const strong = drawn.filter(each => MARKED.has(each.curve.outcome));
    const named = [drawn, strong].find(curves => curves.length <= FEW) ?? [];
    plot = new Plot(place, {
      gutter: named.length && place.clientWidth > 600 ? 130 : 0,
      x: [x0, x1 * 1.005], y: [low - room, high + room], label: figure.dataset.label,
      xTitle: state.x === "flops" ? "training FLOPs" : "tokens",
      yTitle: yTitle(), yDigits: digits(high - low),
    });
    if (difference) plot.line([[x0, 0], [x1 * 1.005, 0]], "zero");
    const groups = Map.groupBy(drawn, each => each.curve.outcome);
    for (const name of Object.keys(SERIES.outcomes).reverse()) {
      const group = groups.get(name) ?? [];
      const strong = MARKED.has(name) ? " strong" : "";
      if (!strong && group.length >= MANY) band(group, name, x0, x1);
      for (const each of group) each.mark = plot.line(each.points, `curve ${name}${strong}`);
    }
    plot.svg.classList.toggle("crowded", drawn.length > FEW);
    if (named.length) name(named);
    place.prepend(plot.svg);
    place.append(legend(tally(all, each => each.curve.outcome), hidden, draw));
    plot.svg.addEventListener("pointermove", event => choose(nearest(...plot.where(event))));
    plot.svg.addEventListener("pointerleave", () => choose(-1));
  }

  function yTitle() {
    if (state.y in UNITS) return named(state.y, UNITS[state.y]);
    return (state.y === "difference" ? "better than the baseline by, in " : "") + LOSSES[lossKey()] + fallback();
  }

  /* Names at the ends of curves, far enough from each other to be read. */
  function name(curves) {
    let above = -Infinity;
    if (!plot.gutter) return;
    for (const { curve, points } of curves.toSorted((a, b) => b.points.at(-1)[1] - a.points.at(-1)[1])) {
      const whole = called(curve), arm = whole.length > 20 ? whole.slice(0, 19) + "…" : whole;
      above = Math.max(plot.y(points.at(-1)[1]), above + 15);
      plot.text(plot.right + 8, above + 4, arm, "start", `direct ${curve.outcome}`);
    }
  }

  /* The middle 80 % of a group, and its median. */
  function band(group, name, x0, x1) {
    const rows = [];
    for (let i = 0; i <= 60; i++) {
      const x = x0 + (x1 - x0) * i / 60;
      const values = group.map(each => at(each.points, x)).filter(value => value !== undefined).sort((a, b) => a - b);
      if (values.length >= group.length / 2) rows.push([x, ...[0.1, 0.5, 0.9].map(share => quantile(values, share))]);
    }
    if (rows.length < 2) return;
    const outline = [...rows.map(row => [row[0], row[3]]), ...rows.toReversed().map(row => [row[0], row[1]])];
    plot.inside.append(make("path", { d: plot.path(outline) + "Z", class: `band ${name}` }));
    plot.line(rows.map(row => [row[0], row[2]]), `median ${name}`);
  }

  function nearest(px, py) {
    const x = plot.x0 + (px - plot.left) / (plot.right - plot.left) * (plot.x1 - plot.x0);
    let found = -1, distance = 24;
    drawn.forEach((each, i) => {
      const y = at(each.points, x);
      if (y === undefined) return;
      const d = Math.abs(plot.y(y) - py);
      if (d < distance) { [found, distance] = [i, d]; each.x = x; each.y = y; }
    });
    return found;
  }

  function choose(index) {
    drawn[chosen]?.mark?.classList.remove("shown");
    chosen = index;
    const each = drawn[index];
    if (!each) return tip.hide();
    each.mark.classList.add("shown");
    each.mark.parentNode.append(each.mark);
    const { curve } = each;
    [each.x, each.y] = each.x === undefined || keys ? each.points.at(-1) : [each.x, each.y];
    const value = state.y === "difference" ? (each.y > 0 ? "+" : "") + decimals(each.y) : decimals(each.y);
    tip.show(plot, plot.x(each.x), plot.y(each.y), called(curve), `${value} at ${amount(each.x)} ${state.x}`,
      `${SERIES.outcomes[curve.outcome][1]}, against generation ${curve.generation}, ${curve.seeds} seed${curve.seeds > 1 ? "s" : ""}`);
  }

  place.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") choose(-1);
    if (!step || !drawn.length) return;
    event.preventDefault();
    keys = true;
    choose((chosen + step + drawn.length) % drawn.length);
    keys = false;
  });

  function segments(title, key, options) {
    const inputs = options.map(([value, words, enabled = true]) => {
      const input = make("input", { type: "radio", name: `curves-${key}`, value });
      input.checked = state[key] === value;
      input.disabled = !enabled;
      input.addEventListener("change", () => { state[key] = value; draw(); });
      return make("label", {}, input, make("span", {}, words));
    });
    controls.append(make("fieldset", { class: "segments" }, make("legend", {}, title), ...inputs));
  }

  segments("over", "x", [["tokens", "tokens"], ["flops", "FLOPs", has("flops")]]);
  const losses = [["loss", "validation", has("val_loss")], ["train_loss", "training", has("train_loss")], ["difference", "difference"]];
  const experts = [["expert_usage", "experts used"], ["expert_unevenness", "uneven use"]].filter(([key]) => has(key));
  segments("show", "y", [...losses, ...experts]);
  segments("range", "range", [["end", "end"], ["whole", "whole"]]);
  generation.addEventListener("change", () => { state.generation = generation.value; draw(); });
  controls.append(generation);
  figure.replaceChildren(controls, place);
  keepDrawn(place, draw);
})();

/* Progress: every run of a whole budget as a dot, the baseline as stairs. */
(() => {
  const figure = document.getElementById("progress-chart");
  if (!figure) return;
  const dots = SERIES.trials.map(([n, generation, loss, outcome, arm, on]) => ({ n, generation, loss, outcome, arm, on }));
  const finished = dots.filter(dot => dot.loss !== null);
  if (finished.length < 2) { figure.textContent = "There is too little to draw yet."; return; }

  const losses = finished.map(dot => dot.loss).sort((a, b) => a - b);
  const low = quantile(losses, SERIES.higher ? 0.04 : 0), high = quantile(losses, SERIES.higher ? 1 : 0.96);
  const room = (high - low || 0.01) * 0.08;
  const last = Math.max(...dots.map(dot => dot.n));
  const hidden = new Set(), place = make("div", { class: "chart", tabindex: 0, id: "progress-plot" });
  const tip = new Tip(place);
  let plot, seen = [], chosen = -1;

  /* A baseline's loss: as it was confirmed, else the mean of its own runs. */
  const measured = new Map();
  for (const [number, loss] of SERIES.generations) {
    const own = finished.filter(dot => dot.outcome === "baseline" && !dot.on && dot.generation === number).map(dot => dot.loss);
    measured.set(number, loss ?? (own.length ? own.reduce((a, b) => a + b) / own.length : null));
  }

  function draw() {
    plot?.svg.remove();
    plot = new Plot(place, {
      x: [0, last + 1], y: [low - room, high + room], label: figure.dataset.label, xTitle: "trial",
      yTitle: [SERIES.metric, SERIES.unit].filter(Boolean).join(", "), yDigits: high - low < 0.2 ? 3 : 2,
    });
    const stairs = [];
    for (const dot of dots) {
      const loss = measured.get(dot.generation);
      if (loss == null) continue;
      if (stairs.length && stairs.at(-1)[1] !== loss) stairs.push([dot.n, stairs.at(-1)[1]]);
      stairs.push([dot.n, loss]);
    }
    const now = measured.get(SERIES.generations.at(-1)?.[0]);  // promoted a moment ago: no trial has met it yet
    if (stairs.length && now != null) stairs.push([last + 0.5, stairs.at(-1)[1]], [last + 0.5, now], [last + 1, now]);
    const size = dots.length < 100 ? 4.5 : 3;
    seen = dots.filter(dot => !hidden.has(dot.outcome));
    for (const strong of [false, true]) {
      for (const dot of seen.filter(dot => (MARKED.has(dot.outcome) && dot.outcome !== "baseline") === strong)) {
        dot.x = plot.x(dot.n);
        dot.off = dot.loss === null || dot.loss > plot.y1;  // crosses at the top edge: crashed, or beyond the scale
        dot.y = dot.off ? plot.top + 8 : plot.y(dot.loss);
        const kind = `point ${dot.outcome}${strong ? " strong" : ""}`;
        dot.mark = dot.off
          ? make("path", { d: `M${dot.x - 3} ${dot.y - 3}l6 6m0 -6l-6 6`, class: `${kind} cross` })
          : make("circle", { cx: dot.x, cy: dot.y, r: strong ? size + 1 : size, class: kind });
        plot.inside.append(dot.mark);
      }
    }
    if (stairs.length && !hidden.has("baseline")) plot.line(stairs, "stairs");
    place.prepend(plot.svg);
    plot.svg.addEventListener("pointermove", event => {
      const [x, y] = plot.where(event);
      let nearest = -1, distance = 900;
      seen.forEach((dot, i) => {
        const d = (dot.x - x) ** 2 + (dot.y - y) ** 2;
        if (d < distance) [nearest, distance] = [i, d];
      });
      choose(nearest);
    });
    plot.svg.addEventListener("pointerleave", () => choose(-1));
  }

  function choose(index) {
    seen[chosen]?.mark.classList.remove("shown");
    chosen = index;
    const dot = seen[index];
    if (!dot) return tip.hide();
    dot.mark.classList.add("shown");
    const reached = dot.loss === null ? "no result" : `${SERIES.metric} ${decimals(dot.loss)}`;
    tip.show(plot, dot.x, dot.y, called(dot), reached, `trial ${dot.n}, ${SERIES.outcomes[dot.outcome][1]}, against generation ${dot.generation}`);
  }

  place.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") choose(-1);
    if (!step || !seen.length) return;
    event.preventDefault();
    choose((chosen + step + seen.length) % seen.length);
  });
  place.append(legend(tally(dots, dot => dot.outcome), hidden, draw));
  figure.replaceChildren(place);
  keepDrawn(place, draw);
})();

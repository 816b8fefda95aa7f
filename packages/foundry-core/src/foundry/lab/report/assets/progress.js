/* Progress: every run of a group as a dot, the baseline as stairs. */
(() => {
  const figure = document.getElementById("progress-chart");
  if (!figure) return;
  if (!GROUP.now) { figure.textContent = "There is too little to draw yet."; return; }
  const hidden = new Set(), place = make("div", { class: "chart", tabindex: 0, id: "progress-plot" });
  const tip = new Tip(place);
  let plot, group, dots, names, seen = [], chosen = -1;

  /* The baselines' own results, as stairs; where one has none here, the line is missing. */
  function stairs(last) {
    const measured = new Map(GROUP.now.baselines), found = [];
    const past = dots.map(dot => [dot.n, measured.get(dot.generation)]);
    const now = measured.get(SERIES.generations.at(-1));  // promoted a moment ago: no trial has met it yet
    if (now !== undefined) past.push([last + 0.5, now], [last + 1, now]);
    let before;
    for (const [n, value] of past) {
      if (value !== undefined && before === undefined) found.push([]);
      else if (value !== undefined && before !== value) found.at(-1).push([n, before]);
      if (value !== undefined) found.at(-1).push([n, value]);
      before = value;
    }
    return found;
  }

  /* From the best to the worst, less those few that are so bad that the rest would be squeezed. */
  function range(losses, higher, own) {
    const [best, most, worst] = (higher ? [1, 0.04, 0] : [0, 0.96, 1]).map(share => quantile(losses, share));
    const end = Math.abs(worst - best) <= 2 * Math.abs(most - best) ? worst : most;
    return [Math.min(best, end, ...own), Math.max(best, end, ...own)];
  }

  function draw() {
    const { metric, unit, higher, baselines } = GROUP.now;
    choose(-1);
    dots = GROUP.now.dots.map(([n, generation, loss, outcome, arm, on]) => ({ n, generation, loss, outcome, arm, on }));
    if (group !== GROUP.now) names = legend(tally(dots, dot => dot.outcome), hidden, draw);
    group = GROUP.now;
    plot?.svg.remove();
    place.replaceChildren(tip.box, names);
    const losses = dots.map(dot => dot.loss).filter(loss => loss !== null).sort((a, b) => a - b);
    if (!losses.length) { seen = []; return place.append("Nothing has a result here yet."); }
    const [low, high] = range(losses, higher, baselines.map(([, value]) => value));
    const room = (high - low || 0.01) * 0.08, first = dots[0].n, last = dots.at(-1).n;
    plot = new Plot(place, {
      x: [first - 1, last + 1], y: [low - room, high + room], label: figure.dataset.label, xTitle: "trial",
      yTitle: `${named(metric, unit)} (${higher ? "higher" : "lower"} is better)`, yDigits: digits(high - low),
    });
    const size = dots.length < 100 ? 4.5 : 3;
    seen = dots.filter(dot => !hidden.has(dot.outcome));
    for (const strong of [false, true]) {
      for (const dot of seen.filter(dot => (MARKED.has(dot.outcome) && dot.outcome !== "baseline") === strong)) {
        dot.x = plot.x(dot.n);
        // Crosses at the edge where it is worse: crashed, or beyond the scale.
        dot.off = dot.loss === null || (higher ? dot.loss < plot.y0 : dot.loss > plot.y1);
        dot.y = dot.off ? (higher ? plot.bottom - 8 : plot.top + 8) : plot.y(dot.loss);
        const kind = `point ${dot.outcome}${strong ? " strong" : ""}`;
        dot.mark = dot.off
          ? make("path", { d: `M${dot.x - 3} ${dot.y - 3}l6 6m0 -6l-6 6`, class: `${kind} cross` })
          : make("circle", { cx: dot.x, cy: dot.y, r: strong ? size + 1 : size, class: kind });
        plot.inside.append(dot.mark);
      }
    }
    if (!hidden.has("baseline")) for (const line of stairs(last)) plot.line(line, "stairs");
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
    const reached = dot.loss === null ? "no result" : `${GROUP.now.metric} ${decimals(dot.loss)}`;
    tip.show(plot, dot.x, dot.y, called(dot), reached, `trial ${dot.n}, ${SERIES.outcomes[dot.outcome][1]}, against generation ${dot.generation}`);
  }

  place.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") choose(-1);
    if (!step || !seen.length) return;
    event.preventDefault();
    choose((chosen + step + seen.length) % seen.length);
  });
  figure.replaceChildren(place);
  keepDrawn(place, draw);
})();

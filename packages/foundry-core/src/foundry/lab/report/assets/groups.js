/* The choice of a budget and a metric: what stands on one axis is of one group. */
const GROUP = { now: SERIES.groups[0], redraw: [] };
(() => {
  const form = document.getElementById("choice");
  const selects = form ? [...form.querySelectorAll("select")] : [];
  if (!selects.length) return;
  const [budget, metric] = selects, count = form.querySelector("output");
  const find = () => SERIES.groups.find(each => each.budget === budget.value && each.metric === metric.value);

  function show() {
    for (const option of metric.options)
      option.disabled = !SERIES.groups.some(each => each.budget === budget.value && each.metric === option.value);
    GROUP.now = find() ?? SERIES.groups.find(each => each.budget === budget.value);
    metric.value = GROUP.now.metric;
    const shown = String(SERIES.groups.indexOf(GROUP.now));
    for (const part of document.querySelectorAll("[data-group]")) part.hidden = part.dataset.group !== shown;
    const { dots, unit, higher } = GROUP.now;
    count.textContent = `${dots.length} runs${unit ? `, in ${unit}` : ""}; ${higher ? "higher" : "lower"} is better`;
    for (const draw of GROUP.redraw) draw();
  }

  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("change", show);
  for (const select of selects) select.parentElement.hidden = false;
  form.querySelector(".one").hidden = true;
  [budget.value, metric.value] = [GROUP.now.budget, GROUP.now.metric];  // what a browser may remember is not shown yet
  show();
})();

/** What stands beside an axis: a metric, and its unit. */
const named = (metric, unit) => [metric, unit].filter(Boolean).join(", ");

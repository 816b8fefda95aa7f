/* Long tables: sorted by their columns, filtered by their controls, some rows at first. */
for (const long of document.querySelectorAll(".long")) {
  const size = Number(long.dataset.page), what = long.dataset.what;
  const body = long.querySelector("tbody"), heads = [...long.querySelectorAll("th")];
  const controls = long.querySelector(".controls"), count = long.querySelector(".count"), more = long.querySelector(".more");
  const search = controls.querySelector("input"), choices = [...controls.querySelectorAll("select")];
  let rows = [...body.rows], limit = size;
  const written = new Map(rows.map(row => [row, row.textContent.toLowerCase()]));

  const value = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent;
  const matches = row =>
    search.value.toLowerCase().split(/\s+/).every(word => written.get(row).includes(word)) &&
    choices.every(({ name, value }) => !value || (row.dataset[name] ?? "").split(" ").includes(value));

  function show() {
    const found = rows.filter(matches);
    const shown = new Set(found.slice(0, limit));
    for (const row of rows) row.hidden = !shown.has(row);
    const rest = found.length - shown.size;
    const all = `${rows.length} ${rows.length === 1 ? what.replace(/s$/, "") : what}`;
    const total = found.length === rows.length ? all : `${found.length} of ${all}`;
    count.textContent = rest > 0 ? `the first ${shown.size} of ${total}` : total;
    more.hidden = rest <= 0;
    more.replaceChildren();
    if (rest > size) more.append(button(`${size} more`, () => { limit += size; show(); }), " ");
    if (rest > 0) more.append(button(rest > size ? `all ${found.length}` : `${rest} more`, () => { limit = Infinity; show(); }));
  }

  function button(label, act) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = label;
    made.addEventListener("click", act);
    return made;
  }

  function sort(column) {
    const head = heads[column], numeric = head.matches(".number, .figure");
    const first = numeric && column > 0 ? "descending" : "ascending";
    const other = { ascending: "descending", descending: "ascending" };
    const order = other[head.ariaSort] ?? first;
    for (const each of heads) each.ariaSort = each === head ? order : "none";
    const sign = order === "ascending" ? 1 : -1;
    const missing = text => text === "none";
    rows.sort((one, two) => {
      const a = value(one, column), b = value(two, column);
      if (missing(a) || missing(b)) return missing(a) - missing(b);  // last, whatever the order
      return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
    });
    body.append(...rows);
    show();
  }

  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sort(column)));
  controls.addEventListener("submit", event => event.preventDefault());
  controls.addEventListener("input", () => { limit = size; show(); });
  controls.hidden = false;
  show();
}

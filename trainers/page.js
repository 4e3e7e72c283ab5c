"use strict";
for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const data = JSON.parse(svg.dataset.chart), hair = svg.querySelector(".hair");
  const out = svg.parentElement.querySelector(".readout"), rest = out.textContent;
  svg.addEventListener("pointermove", event => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const at = Math.min(1, Math.max(0, (point.x - data.plot[0]) / data.plot[2]));
    let best = 0;
    data.x.forEach((x, i) => { if (Math.abs(x - at) < Math.abs(data.x[best] - at)) best = i; });
    const x = data.plot[0] + data.x[best] * data.plot[2];
    hair.setAttribute("x1", x); hair.setAttribute("x2", x); hair.style.visibility = "visible";
    const values = Object.entries(data.series).map(([name, ys]) => name + " " + (ys[best] === null ? "\u2013" : ys[best].toFixed(3)));
    out.textContent = data.xLabel + " " + data.x[best].toFixed(2) + ": " + values.join(" \u00b7 ");
  });
  svg.addEventListener("pointerleave", () => { hair.style.visibility = "hidden"; out.textContent = rest; });
}
for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const key = row => row.cells[column].dataset.v, words = [...body.rows].some(row => isNaN(key(row)));
    const now = head.getAttribute("aria-sort"), down = words ? now === "ascending" : now !== "descending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = words ? x.localeCompare(y) : x - y;
      return down ? -order : order;
    });
    body.append(...rows);
  }));
}
for (const input of document.querySelectorAll(".tabs input"))
  input.addEventListener("change", () => {
    for (const table of document.querySelectorAll(".heat[data-figure]")) table.hidden = table.dataset.figure !== input.value;
  });
for (const input of document.querySelectorAll(".keys input[type=checkbox]"))
  input.addEventListener("change", () => document.body.classList.toggle("no-" + input.value, !input.checked));
for (const figure of document.querySelectorAll("figure:has(.panel)")) {
  const enlarge = () => figure.classList.toggle("big");
  figure.querySelector(".panel").addEventListener("click", enlarge);
  figure.addEventListener("keydown", event => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); enlarge(); }
  });
}
for (const select of document.querySelectorAll(".stands-out"))
  select.addEventListener("change", () => {
    for (const line of select.closest(".box").querySelectorAll(".quiet")) line.classList.toggle("on", line.dataset.name === select.value);
  });
const show = role => {
  for (const figure of document.querySelectorAll("figure[data-role]"))
    figure.hidden = role !== "all" && figure.dataset.role !== role;
  document.body.classList.toggle("one-frame", role !== "all");
};
for (const input of document.querySelectorAll(".which input")) {
  if (input.checked) show(input.value);
  input.addEventListener("change", () => show(input.value));
}

"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
// The values of a chart where the pointer is, or where the arrow keys have led.
for (const svg of all("svg[data-chart]")) {
  const data = JSON.parse(svg.dataset.chart), hair = svg.querySelector(".hair");
  const out = svg.parentElement.querySelector(".readout"), rest = out.textContent;
  let at = -1;
  const tell = index => {
    at = index;
    const x = data.plot[0] + data.x[at] * data.plot[2];
    hair.setAttribute("x1", x); hair.setAttribute("x2", x); hair.style.visibility = "visible";
    const values = Object.entries(data.series).map(([name, ys]) => name + " " + (ys[at] === null ? "\u2013" : ys[at].toFixed(3)));
    out.textContent = data.xLabel + " " + data.x[at].toFixed(2) + ": " + values.join(" \u00b7 ");
  };
  const leave = () => { at = -1; hair.style.visibility = "hidden"; out.textContent = rest; };
  svg.addEventListener("pointermove", event => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const share = Math.min(1, Math.max(0, (point.x - data.plot[0]) / data.plot[2]));
    tell(data.x.reduce((best, x, i) => Math.abs(x - share) < Math.abs(data.x[best] - share) ? i : best, 0));
  });
  svg.addEventListener("keydown", event => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!step) return;
    event.preventDefault();
    tell(Math.min(data.x.length - 1, Math.max(0, at + step)));
  });
  svg.addEventListener("pointerleave", leave); svg.addEventListener("blur", leave);
}
for (const table of all("table.sorts")) {
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
for (const input of all(".tabs input"))
  input.addEventListener("change", () => {
    for (const table of all(".heat[data-figure]")) table.hidden = table.dataset.figure !== input.value;
  });
for (const input of all(".boxes input[type=checkbox]"))
  input.addEventListener("change", () => document.body.classList.toggle("no-" + input.value, !input.checked));
for (const figure of all("figure:has(.panel)")) {
  const enlarge = () => figure.classList.toggle("big");
  figure.querySelector(".panel").addEventListener("click", enlarge);
  figure.addEventListener("keydown", event => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); enlarge(); }
  });
}
for (const select of all(".stands-out"))
  select.addEventListener("change", () => {
    for (const line of all(".quiet", select.closest(".box"))) line.classList.toggle("on", line.dataset.name === select.value);
  });
const show = role => {
  for (const figure of all("figure[data-role]")) figure.hidden = role !== "all" && figure.dataset.role !== role;
};
for (const input of all(".which input")) {
  if (input.checked) show(input.value);
  input.addEventListener("change", () => show(input.value));
}
// Findings, by their state and by a word in them.
const words = document.querySelector("#words"), states = all(".states input[type=checkbox]");
function filter() {
  const on = new Set(states.filter(box => box.checked).map(box => box.value)), word = words.value.trim().toLowerCase();
  let shown = 0, listed = 0;
  for (const group of all(".group")) {
    const whole = !word || group.id.includes(word);
    let here = 0;
    for (const item of all(".found li", group)) {
      item.hidden = !on.has(item.className) || !(whole || item.textContent.toLowerCase().includes(word));
      here += !item.hidden; listed++;
    }
    group.hidden = !here; shown += here;
    for (const more of all("details", group)) {
      const found = more.querySelector("li:not([hidden])");
      more.hidden = !found;
      if (word && !whole && found) more.open = true;
    }
  }
  document.querySelector(".states output").textContent = shown + " of " + listed + " listed";
}
if (words) { for (const box of states) box.addEventListener("change", filter); words.addEventListener("input", filter); filter(); }
// On paper nothing can be opened.
addEventListener("beforeprint", () => { for (const more of all("details")) more.open = true; });

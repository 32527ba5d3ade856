"use strict";
const byId = (id) => document.getElementById(id);

function makeSortable(board) {
  const body = board.tBodies[0], rows = Array.from(body.rows);

  function key(row, column) {
    const cell = row.cells[column];
    const text = "sort" in cell.dataset ? cell.dataset.sort : cell.textContent.trim();
    const number = Number(text);
    return text === "" ? null : Number.isNaN(number) ? text.toLowerCase() : number;
  }

  function sortBy(column, header) {
    const up = header.getAttribute("aria-sort") === "descending";
    for (const other of board.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const compared = rows.map((row, index) => ({ row, index, key: key(row, column) }));
    compared.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.index - b.index;
      const order = typeof a.key === "number" && typeof b.key === "number" ? a.key - b.key : String(a.key).localeCompare(String(b.key));
      return (up ? order : -order) || a.index - b.index;
    });
    body.append(...compared.map((each) => each.row));
  }
  Array.from(board.tHead.rows[0].cells).forEach((header, column) =>
    header.querySelector("button").addEventListener("click", () => sortBy(column, header)));

  function filter() {
    const words = byId("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const standing = byId("standing").value.split(" ").filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const data = row.dataset;
      const fits = words.every((word) => data.text.includes(word))
        && (!byId("dataset").value || data.dataset === byId("dataset").value)
        && (!byId("method").value || data.method === byId("method").value)
        && (!standing.length || standing.some((each) => data.standing.split(" ").includes(each)));
      row.hidden = !fits;
      shown += fits;
    }
    byId("count").textContent = `${shown} of ${rows.length} rows`;
  }
  for (const id of ["text", "dataset", "method", "standing"]) byId(id).addEventListener("input", filter);
}
if (byId("board")) makeSortable(byId("board"));

const tip = byId("tip");
function show(point, x, y) {
  tip.textContent = point.dataset.tip;
  tip.style.display = "block";
  tip.style.left = Math.max(4, Math.min(x + 12, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = (y + 16 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 8 : y + 16) + "px";
}
function hide() { tip.style.display = "none"; }
for (const point of document.querySelectorAll("svg .point")) {
  const title = point.querySelector("title");
  point.dataset.tip = title.textContent;
  point.setAttribute("aria-label", title.textContent);
  point.setAttribute("role", "img");
  title.remove();
  point.addEventListener("pointermove", (event) => show(point, event.clientX, event.clientY));
  point.addEventListener("pointerdown", (event) => show(point, event.clientX, event.clientY));
  point.addEventListener("pointerleave", hide);
}
// A figure is one stop of the tab key; arrows go from point to point.
for (const svg of document.querySelectorAll("figure svg")) {
  const points = Array.from(svg.querySelectorAll(".point"));
  if (!points.length) continue;
  let at = -1;
  svg.setAttribute("tabindex", "0");
  svg.setAttribute("role", "group");
  svg.setAttribute("aria-label", `${svg.getAttribute("aria-label")}; arrow keys go through its ${points.length} points`);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    if (at >= 0) points[at].classList.remove("at");
    at = (at + step + points.length) % points.length;
    points[at].classList.add("at");
    const box = points[at].getBoundingClientRect();
    show(points[at], box.right, box.bottom);
  });
  svg.addEventListener("blur", () => { hide(); if (at >= 0) points[at].classList.remove("at"); });
}
addEventListener("hashchange", () => {
  const target = document.querySelector(location.hash || "#none");
  if (target && target.parentElement.tagName === "DETAILS") target.parentElement.open = true;
});
if (byId("download")) byId("download").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([byId("numbers").textContent], { type: "application/json" }));
  link.download = "findings.json";
  link.click();
});

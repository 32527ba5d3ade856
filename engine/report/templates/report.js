if (byId("board")) {
  makeSortable(byId("board"));
  makeFilters(document.querySelector(".filters"));
}

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
if (byId("download")) byId("download").addEventListener("click", () =>
  saveFile("findings.json", "application/json", byId("numbers").textContent));

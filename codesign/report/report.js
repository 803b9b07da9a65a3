"use strict";
// Hover shows a point, click or Enter selects it, arrows go along the frontier.
(() => {
  const points = [...document.querySelectorAll("[data-point]")];
  const rows = [...document.querySelectorAll("[data-row]")];
  const details = [...document.querySelectorAll("[data-detail]")];
  const tip = document.getElementById("tip");

  function select(index) {
    details.forEach((d) => { d.hidden = Number(d.dataset.detail) !== index; });
    points.forEach((p) => p.setAttribute("aria-pressed", Number(p.dataset.point) === index));
    rows.forEach((r) => r.setAttribute("aria-selected", Number(r.dataset.row) === index));
  }

  function showTip(point) {
    const box = point.querySelector(".dot").getBoundingClientRect();
    tip.textContent = point.dataset.tip;
    tip.hidden = false;
    const left = Math.min(box.right + 10, window.innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(left, 8)}px`;
    tip.style.top = `${Math.max(box.top - tip.offsetHeight - 8, 8)}px`;
  }

  points.forEach((point) => {
    const beside = points.filter((p) => p.ownerSVGElement === point.ownerSVGElement);
    const index = Number(point.dataset.point);
    point.addEventListener("mouseenter", () => showTip(point));
    point.addEventListener("focus", () => showTip(point));
    for (const leave of ["mouseleave", "blur"]) {
      point.addEventListener(leave, () => { tip.hidden = true; });
    }
    point.addEventListener("click", () => select(index));
    point.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (step) {
        const next = beside[beside.indexOf(point) + step];
        if (next) { next.focus(); select(Number(next.dataset.point)); }
      } else if (event.key === "Enter" || event.key === " ") {
        select(index);
      } else {
        return;
      }
      event.preventDefault();
    });
  });

  rows.forEach((row) => {
    const choose = () => select(Number(row.dataset.row));
    row.addEventListener("click", choose);
    row.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(); });
  });

  if (details.length) select(Math.floor((details.length - 1) / 2));
})();

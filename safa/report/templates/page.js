"use strict";
// Sorting: numbers by data-value, text by what is shown; unknown numbers go last either way.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if ("fixed" in head.dataset) return;
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const text = head.dataset.kind === "text";
      const key = (row) => text ? row.cells[column].textContent : Number(row.cells[column].dataset.value);
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (text) return x.localeCompare(y) * (up ? 1 : -1);
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return (x - y) * (up ? 1 : -1);
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}
for (const input of document.querySelectorAll("input[data-filter]")) {
  const rows = [...document.getElementById(input.dataset.filter).tBodies[0].rows];
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of rows) {
      const ids = row.querySelector("[title]")?.title ?? "";  // the text is short
      row.hidden = !`${row.textContent} ${ids}`.toLowerCase().includes(wanted);
    }
  });
}
// Controls lie over a picture, so they are there while a video is pointed at, or reached by the keyboard, and on
// screens without a pointer always.
if (matchMedia("(hover: hover)").matches) {
  for (const player of document.querySelectorAll(".player")) {
    const video = player.querySelector("video");
    const show = (wanted) => {
      video.controls = wanted;
      player.classList.toggle("still", !wanted && video.paused);
    };
    video.tabIndex = 0;
    player.addEventListener("pointerenter", () => show(true));
    player.addEventListener("pointerleave", () => show(player.contains(document.activeElement)));
    player.addEventListener("focusin", () => show(true));
    player.addEventListener("focusout", () => show(player.matches(":hover")));
    for (const change of ["play", "pause"]) video.addEventListener(change, () => show(video.controls));
    show(false);
  }
}
if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
  for (const video of document.querySelectorAll("video[autoplay]")) {
    video.autoplay = false;
    video.pause();
  }
}

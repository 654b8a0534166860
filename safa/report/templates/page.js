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
  const section = document.getElementById(input.dataset.filter);
  const rows = [...section.querySelectorAll("table.sortable tbody tr")];
  const nothing = section.querySelector("[data-nothing]");
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of rows) {
      const ids = row.querySelector("[title]")?.title ?? "";  // the text is short
      row.hidden = !`${row.cells[0].textContent} ${ids}`.toLowerCase().includes(wanted);
    }
    nothing.hidden = rows.some((row) => !row.hidden);
  });
}
// Controls lie over a picture, so a video shows its poster until it is pressed; then they are there while it is pointed
// at or reached by the keyboard, and on screens without a pointer always.
const points = matchMedia("(hover: hover)").matches;
for (const player of document.querySelectorAll(".player")) {
  const video = player.querySelector("video");
  let begun = video.autoplay;
  const show = (wanted) => {
    video.controls = begun && (wanted || !points);
    player.classList.toggle("still", !begun);
  };
  const begin = () => {
    if (begun) return;
    begun = true;
    show(true);
    video.play();
  };
  video.tabIndex = 0;
  video.addEventListener("click", begin);
  video.addEventListener("keydown", (event) => {
    if (begun || !["Enter", " "].includes(event.key)) return;
    event.preventDefault();
    begin();
  });
  player.addEventListener("pointerenter", () => show(true));
  player.addEventListener("pointerleave", () => show(player.contains(document.activeElement)));
  player.addEventListener("focusin", () => show(true));
  player.addEventListener("focusout", () => show(player.matches(":hover")));
  show(false);
}
if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
  for (const video of document.querySelectorAll("video[autoplay]")) {
    video.autoplay = false;
    video.pause();
  }
}

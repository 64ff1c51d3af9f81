"use strict";
// One of a row of buttons is chosen; the element that it controls is shown, the others are hidden.
for (const bar of document.querySelectorAll("[data-switch]")) {
  const buttons = [...bar.querySelectorAll("button")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) {
        other.setAttribute("aria-pressed", String(other === button));
        document.getElementById(other.getAttribute("aria-controls")).hidden = other !== button;
      }
    });
  }
}

// The legend: resting on a method, or pressing it, leaves only that method in the charts.
const legend = document.querySelector(".legend");
if (legend) {
  const shapes = [...document.querySelectorAll(".tradeoff [data-series]")];
  const pressed = () => legend.querySelector('[aria-pressed="true"]')?.dataset.method;
  const show = (method) => shapes.forEach((s) => s.classList.toggle("dim", Boolean(method) && s.dataset.series !== method));
  for (const button of legend.querySelectorAll("button")) {
    button.addEventListener("mouseenter", () => show(button.dataset.method));
    button.addEventListener("mouseleave", () => show(pressed()));
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      for (const other of legend.querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", String(on));
      show(pressed());
    });
  }
}

// The other columns of the table.
const all = document.querySelector("button.all");
all?.addEventListener("click", () => {
  const on = all.getAttribute("aria-pressed") !== "true";
  all.setAttribute("aria-pressed", String(on));
  document.getElementById(all.getAttribute("aria-controls")).classList.toggle("full-width", on);
});

// Sortable tables: a heading's button sorts by the figures in data-value; rows without a figure stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.querySelectorAll("thead th")];
  headings.forEach((heading, column) => {
    heading.querySelector("button")?.addEventListener("click", () => {
      const first = heading.dataset.first || "descending";
      const now = heading.getAttribute("aria-sort");
      const next = now === "none" || !now ? first : now === "ascending" ? "descending" : "ascending";
      headings.forEach((h) => h.querySelector("button") && h.setAttribute("aria-sort", h === heading ? next : "none"));
      const sign = next === "ascending" ? 1 : -1;
      const value = (row) => row.cells[column]?.dataset.value ?? "";
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = heading.dataset.kind === "text" ? x.localeCompare(y, "en", { numeric: true }) : Number(x) - Number(y);
        return sign * order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}

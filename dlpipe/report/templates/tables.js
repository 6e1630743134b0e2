
// Tables of class "sortable" get a button in each heading. Without this script they are plain tables.
"use strict";
const key = (row, column) => {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  return text === "" ? null : isNaN(text) ? text : Number(text);
};
const compare = (a, b) => {
  if (a === null || b === null) return (a === null) - (b === null); // what is absent stays below
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
};
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" };
      const order = next[heading.ariaSort ?? "none"];
      headings.forEach((other) => { other.ariaSort = "none"; });
      heading.ariaSort = order;
      const sign = order === "descending" ? -1 : 1;
      const rows = order === "none" ? original : [...original].sort((a, b) => {
        const [x, y] = [key(a, column), key(b, column)];
        return x === null || y === null ? compare(x, y) : sign * compare(x, y);
      });
      body.append(...rows);
    });
  });
}
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});

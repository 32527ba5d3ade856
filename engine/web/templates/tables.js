"use strict";
const byId = (id) => document.getElementById(id);

// A cell's value: its data-value, or its text; numbers as numbers, null where it is empty.
function cellText(cell) { return "value" in cell.dataset ? cell.dataset.value : cell.textContent.trim(); }
function cellKey(cell) {
  const text = cellText(cell), number = Number(text);
  return text === "" ? null : Number.isNaN(number) ? text.toLowerCase() : number;
}

// Buttons in the headings sort: first the largest on top, then the smallest; empty cells stay last.
function makeSortable(table) {
  const body = table.tBodies[0], rows = Array.from(body.rows);
  function sortBy(column, header) {
    const up = header.getAttribute("aria-sort") === "descending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const compared = rows.map((row, index) => ({ row, index, key: cellKey(row.cells[column]) }));
    compared.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.index - b.index;
      const order = typeof a.key === "number" && typeof b.key === "number" ? a.key - b.key : String(a.key).localeCompare(String(b.key));
      return (up ? order : -order) || a.index - b.index;
    });
    body.append(...compared.map((each) => each.row));
  }
  Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
    const button = header.querySelector("button");
    if (button) button.addEventListener("click", () => sortBy(column, header));
  });
}

// The fields of a form role=search hide rows: a text by its words, a select by the data attribute of its name.
function makeFilters(table, form) {
  const rows = Array.from(table.tBodies[0].rows), count = form.querySelector("[role=status]");
  const selects = Array.from(form.querySelectorAll("select")), text = form.querySelector("input[type=search]");
  function filter() {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      row.hidden = !(words.every((word) => row.dataset.text.includes(word))
        && selects.every((select) => !select.value || row.dataset[select.name].split(" ").includes(select.value)));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  }
  for (const field of [text, ...selects]) field.addEventListener("input", filter);
}

function saveFile(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
}

// The rows that are shown, in their order, as CSV (RFC 4180); a column without a heading is left out.
function tableAsCsv(table) {
  const quoted = (text) => /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const heads = Array.from(table.tHead.rows[0].cells), columns = heads.map((head, index) => index).filter((index) => heads[index].dataset.name);
  const lines = [columns.map((index) => heads[index].dataset.name)];
  for (const row of table.tBodies[0].rows) if (!row.hidden) lines.push(columns.map((index) => cellText(row.cells[index])));
  return lines.map((line) => line.map(quoted).join(",") + "\r\n").join("");
}

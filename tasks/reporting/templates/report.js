"use strict";
// Links to the sections, sorting and filtering of the tables. Without it the page only lacks these.

function fillNavigation() {
  const nav = document.querySelector("nav");
  for (const section of document.querySelectorAll("main > section")) {
    const link = document.createElement("a");
    link.href = "#" + section.id;
    link.textContent = section.querySelector("h2").textContent;
    nav.append(link);
  }
}

function keyOf(row, column) {
  const cell = row.cells[column];
  if (!cell.classList.contains("number")) return cell.textContent.trim().toLowerCase();
  return "value" in cell.dataset ? Number(cell.dataset.value) : NaN;
}

function compare(one, other) {
  if (typeof one === "string") return one.localeCompare(other);
  return one - other;
}

function isEmpty(key) {
  return Number.isNaN(key);
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.textContent) return;
    const button = document.createElement("span"); // a printer repeats the head on each page, but no button element
    button.setAttribute("role", "button");
    button.tabIndex = 0;
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      button.click();
    });
    button.addEventListener("click", () => {
      const numeric = head.classList.contains("number");
      const before = head.getAttribute("aria-sort");
      const falling = before ? before === "ascending" : numeric;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => [keyOf(row, column), row]);
      rows.sort(([one], [other]) => {
        if (isEmpty(one) || isEmpty(other)) return isEmpty(one) - isEmpty(other);
        return falling ? compare(other, one) : compare(one, other);
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

function makeChoice(table, column) {
  const values = new Set([...table.tBodies[0].rows].map((row) => row.cells[column].textContent));
  const choice = document.createElement("select");
  const name = table.tHead.rows[0].cells[column].textContent;
  choice.setAttribute("aria-label", name);
  choice.append(new Option(name + ": any", ""));
  [...values].sort().forEach((value) => choice.append(new Option(value, "=" + value)));
  return choice;
}

function makeFilter(table) {
  const tools = document.createElement("div");
  const search = document.createElement("input");
  const count = document.createElement("span");
  tools.className = "tools";
  search.type = "search";
  search.placeholder = "Find in " + table.dataset.filter;
  search.setAttribute("aria-label", search.placeholder);
  count.setAttribute("aria-live", "polite");
  const columns = (table.dataset.choose || "").split(" ").filter(Boolean).map(Number);
  const choices = columns.map((column) => makeChoice(table, column));
  const rows = [...table.tBodies[0].rows];
  function update() {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const fits = choices.every((choice, i) => !choice.value || choice.value === "=" + row.cells[columns[i]].textContent);
      row.hidden = !(fits && row.textContent.toLowerCase().includes(wanted));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = shown === rows.length ? rows.length + " rows" : shown + " of " + rows.length + " rows";
  }
  tools.append(search, ...choices, count);
  tools.addEventListener("input", update);
  table.parentElement.before(tools);
  update();
}

fillNavigation();
document.querySelectorAll("table[data-filter]").forEach(makeFilter);
document.querySelectorAll("table.sortable").forEach(makeSortable);

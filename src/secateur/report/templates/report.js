"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Contents: mark the section in view.
  const links = all(".contents a");
  const sections = links.map((link) => byId(link.hash.slice(1)));
  const markSection = () => {
    const line = innerHeight * 0.3;
    let current = 0;
    sections.forEach((section, index) => { if (section.getBoundingClientRect().top <= line) current = index; });
    // Short sections at the end never reach the line: there, believe the link that was followed.
    const bottom = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
    if (bottom) {
      const followed = links.findIndex((link) => link.hash === location.hash);
      const visible = followed >= 0 && sections[followed].getBoundingClientRect().top >= 0;
      current = visible && followed >= current ? followed : sections.length - 1;
    }
    links.forEach((link, index) => {
      if (index === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
  };
  addEventListener("scroll", markSection, { passive: true });
  addEventListener("resize", markSection);
  addEventListener("hashchange", markSection);
  markSection();

  // Printing shows what is folded away.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = all("details:not([open])");
    folded.forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => folded.forEach((part) => { part.open = false; }));

  const layers = byId("layer-table");
  if (layers) all("[name=scale]").forEach((input) => {
    input.addEventListener("change", () => { layers.dataset.scale = input.value; });
  });

  const steps = JSON.parse(byId("steps").textContent);
  const plots = byId("plots");
  if (!plots) return;
  const table = byId("iteration-table");
  const fields = all(".field", plots);
  const tip = byId("tip");
  const marks = all(".mark", plots);
  const at = new Map(marks.filter((mark) => mark.closest(".accuracy")).map((mark) => [+mark.dataset.iteration, parseFloat(mark.style.left)]));
  let chosen = -1;

  const outcome = (step) => (step.accepted ? "accepted" : "rejected");
  const cross = (index, kind) => all(".cross", plots).forEach((line) => {
    line.hidden = index < 0;
    if (index < 0) return;
    line.style.left = `${at.get(steps[index].iteration)}%`;
    line.classList.toggle("fixed", kind === "fixed");
  });
  const choose = (index) => {
    chosen = index;
    const step = steps[index];
    byId("details").hidden = false;
    byId("chosen").textContent = `Iteration ${step.iteration}`;
    byId("outcome").textContent = outcome(step);
    byId("outcome").className = outcome(step);
    all("[data-field]").forEach((place) => { place.textContent = step[place.dataset.field]; });
    [...marks, ...table.tBodies[0].rows].forEach((part) => {
      part.classList.toggle("chosen", +part.dataset.iteration === step.iteration);
    });
    plots.setAttribute("aria-valuenow", step.iteration);
    plots.setAttribute("aria-valuetext", `Iteration ${step.iteration}, ${step.group}, ${outcome(step)}, accuracy ${step.accuracy}`);
    cross(index, "fixed");
  };
  const nearest = (event) => {
    const box = fields[0].getBoundingClientRect();
    const x = (100 * (event.clientX - box.left)) / box.width;
    let best = 0;
    steps.forEach((step, index) => {
      if (Math.abs(at.get(step.iteration) - x) < Math.abs(at.get(steps[best].iteration) - x)) best = index;
    });
    return best;
  };
  const show = (event) => {
    const index = nearest(event);
    const step = steps[index];
    cross(index, "passing");
    tip.hidden = false;
    tip.textContent = `${step.iteration} · ${step.group} ${step.width} · ${outcome(step)} · ${step.accuracy}`;
    const box = plots.getBoundingClientRect();
    const left = event.clientX - box.left;
    tip.style.left = `${Math.max(0, Math.min(left - tip.offsetWidth / 2, box.width - tip.offsetWidth))}px`;
    tip.style.top = `${event.clientY - box.top - tip.offsetHeight - 14}px`;
  };
  plots.addEventListener("pointermove", show);
  plots.addEventListener("pointerleave", () => { tip.hidden = true; cross(chosen, "fixed"); });
  plots.addEventListener("click", (event) => choose(nearest(event)));
  plots.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 5, PageDown: -5, Home: -Infinity, End: Infinity };
    if (!(event.key in moves)) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(steps.length - 1, chosen + moves[event.key])));
  });
  const accepted = steps.map((step) => step.accepted).lastIndexOf(true);
  choose(accepted >= 0 ? accepted : steps.length - 1);

  // The table: choose, filter, sort.
  table.tBodies[0].addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    choose(steps.findIndex((step) => step.iteration === +row.dataset.iteration));
  });
  all("[name=shown]").forEach((input) => {
    input.addEventListener("change", () => { table.dataset.shown = input.value; });
  });
  const value = (row, column) => {
    const cell = row.cells[column];
    return "v" in cell.dataset ? +cell.dataset.v : cell.textContent.trim();
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => (down ? -1 : 1) * compare(value(a, column), value(b, column)));
    table.tBodies[0].append(...rows);
  }));
})();

"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const values = JSON.parse(byId("values").textContent);
  const list = byId("rows");
  const rows = all("li[data-layer]", list);
  const number = (value) => value.toLocaleString("en");
  const share = (value) => `${(100 * value).toFixed(1)} %`;
  let kept = 0;

  // A band that is pointed at stands out, else the one that was chosen.
  const light = (group) => {
    list.classList.toggle("lit", group > 0);
    all(".on", list).forEach((part) => part.classList.remove("on"));
    if (group > 0) all(`[data-g="${group}"]`, list).forEach((part) => part.classList.add("on"));
  };
  const groupAt = (event) => {
    const part = event.target.closest("[data-g]");
    return part ? +part.dataset.g : 0;
  };
  list.addEventListener("pointerover", (event) => light(groupAt(event) || kept));
  list.addEventListener("pointerleave", () => light(kept));

  const item = (said, name, more, group) => {
    const line = document.createElement("li");
    const verb = document.createElement("span");
    verb.textContent = said;
    const code = document.createElement("code");
    code.textContent = name;
    line.append(verb, " ", code, more ? ` ${more}` : "");
    if (group) {
      const button = document.createElement("button");
      button.textContent = `group ${group}`;
      button.addEventListener("click", () => chooseGroup(group));
      line.append(" ", button);
    }
    return line;
  };
  const facts = (pairs) => byId("facts").replaceChildren(...pairs.map(([name, value]) => {
    const line = document.createElement("div");
    const term = document.createElement("dt");
    const what = document.createElement("dd");
    term.textContent = name;
    what.textContent = value;
    line.append(term, what);
    return line;
  }));
  const mark = (layer) => rows.forEach((row) => row.classList.toggle("chosen", +row.dataset.layer === layer));
  const chooseGroup = (group) => {
    const one = values.groups[group - 1];
    kept = group;
    light(group);
    mark(-1);
    byId("chosen").textContent = `Group ${group}: ${one.name}`;
    byId("kind").textContent = one.kind;
    byId("why").textContent = one.why;
    facts([
      ["units", number(one.units)],
      ["a unit", `${number(one.parameters)} parameters, ${number(one.macs)} MACs`],
      ["all units", `${share(one.parameterShare)} of parameters, ${share(one.macShare)} of MACs`],
      ["exact", one.exact ? "yes: cutting equals not reading" : "no: a norm sees these channels"],
    ]);
    byId("members").replaceChildren(...one.members.map(([verb, name, block]) => item(verb, name, block > 1 ? `${block} positions a unit` : "", 0)));
  };
  const chooseLayer = (layer) => {
    const one = values.layers[layer];
    kept = 0;
    light(0);
    mark(layer);
    byId("chosen").textContent = one.name;
    byId("kind").textContent = one.kind;
    byId("why").textContent = one.fixed.length ? "" : "None of its channels is fixed.";
    facts([["parameters", number(one.parameters)], ["MACs", number(one.macs)]]);
    byId("members").replaceChildren(
      ...one.axes.map(([name, verb, group, units, block]) => item(verb, name, `${number(units)}${block > 1 ? ` × ${block}` : ""}`, group)),
      ...one.fixed.map(([name, count, reason]) => item("stays", name, `${number(count)}: ${reason}`, 0)),
    );
  };
  list.addEventListener("click", (event) => {
    const group = groupAt(event);
    const row = event.target.closest("li[data-layer]");
    if (group) chooseGroup(group);
    else if (row) chooseLayer(+row.dataset.layer);
  });
  const table = byId("group-table");
  if (table) table.tBodies[0].addEventListener("click", (event) => {
    if (event.target.closest("details")) return;
    chooseGroup(groupAt(event));
    byId("picture").scrollIntoView();
  });

  // The filter hides layers; the bands of those that stay go on.
  const words = byId("words");
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kind = document.querySelector("[name=shown]:checked").value;
    let shown = 0;
    rows.forEach((row) => {
      const own = values.layers[+row.dataset.layer].words;
      const fits = kind === "all" || kind in row.dataset;
      row.hidden = !(fits && wanted.every((word) => own.includes(word)));
      shown += row.hidden ? 0 : 1;
    });
    byId("count").textContent = shown === rows.length ? "" : `${shown} of ${rows.length} layers`;
  };
  words.addEventListener("input", filter);
  all("[name=shown]").forEach((input) => input.addEventListener("change", filter));

  let folded = [];
  addEventListener("beforeprint", () => {
    folded = all("details:not([open])");
    folded.forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => folded.forEach((part) => { part.open = false; }));
})();

"use strict";
// What a page adds where scripts run: sorting, one name lit up in every drawing and table, values under the pointer.
// Names and cells are compared and shown as text only. Without this, everything is there to be read.
(() => {
  const every = (query, root = document) => [...root.querySelectorAll(query)];
  const button = (text, parts) => {
    const made = document.createElement("button");
    made.type = "button";
    made.append(...parts);
    if (!made.textContent.trim()) made.setAttribute("aria-label", text);
    return made;
  };

  // Numbers before words, what is missing last in both directions; a value with an interval counts as the value.
  const BEYOND = {"<": -0.5, ">": 0.5};
  const valueOf = text => parseFloat(text.replace(/^[<>]/, "").replace("−", "-").replace("∞", "Infinity")) + (BEYOND[text[0]] || 0);
  const compare = (a, b, way) => {
    const [x, y] = [valueOf(a), valueOf(b)];
    return (a === "–") - (b === "–") || isNaN(x) - isNaN(y)
      || way * ((x - y) || a.localeCompare(b, undefined, {numeric: true}));
  };
  const WAYS = {none: "ascending", ascending: "descending", descending: "none"};
  for (const table of every("figure.table table")) {
    const body = table.tBodies[0], first = [...body.rows], heads = [...table.tHead.rows[0].cells];
    if (first.length < 2) continue;
    heads.forEach((head, column) => {
      head.setAttribute("aria-sort", "none");
      const sorts = button("sort", [...head.childNodes]);
      head.append(sorts);
      sorts.onclick = () => {
        const now = WAYS[head.getAttribute("aria-sort")];
        for (const other of heads) other.setAttribute("aria-sort", other === head ? now : "none");
        const text = row => row.cells[column].textContent, way = now === "ascending" ? 1 : -1;
        body.append(...(now === "none" ? first : [...first].sort((a, b) => compare(text(a), text(b), way))));
      };
    });
  }

  // Everything of a name: drawn parts, and the rows of tables that hold it as a whole cell.
  const parts = new Map();
  const own = (name, part) => parts.set(name, [...(parts.get(name) || []), part]);
  for (const part of every("[data-of]")) for (const name of part.dataset.of.split("\n")) own(name, part);
  const drawn = new Set(parts.keys());
  for (const body of every("figure.table tbody")) {
    let stop = 0;
    for (const cell of every("th:not(.number), td:not(.number)", body)) {
      const name = cell.textContent;
      if (!drawn.has(name)) continue;
      const presses = button(name, [...cell.childNodes]);
      presses.dataset.of = name;
      presses.tabIndex = stop--;
      cell.append(presses);
      cell.parentNode.dataset.of ||= name;
      own(name, cell.parentNode);
    }
  }
  for (const drawing of every("svg")) {
    const entries = every("[data-key]", drawing).filter(entry => entry.querySelector("text"));
    entries.forEach((entry, place) => {
      entry.setAttribute("role", "button");
      entry.setAttribute("tabindex", place ? -1 : 0);
      entry.setAttribute("aria-label", entry.dataset.of);
      drawing.setAttribute("role", "group");
    });
  }
  const presses = every("button[data-of], [data-key][role]");
  let pinned = "", over = "", shown = "";
  const show = () => {
    const name = over || pinned;
    for (const one of presses) one.setAttribute("aria-pressed", one.dataset.of === pinned);
    if (name === shown) return;
    shown = name;
    for (const part of every(".on, .some")) part.classList.remove("on", "some");
    for (const part of parts.get(name) || []) {
      part.classList.add("on");
      part.parentNode.closest("svg, .gallery, table")?.classList.add("some");
    }
  };
  show();
  const nameAt = place => {
    const name = place.closest?.("g[data-of], tr[data-of], button[data-of]")?.dataset.of || "";
    return name.includes("\n") ? "" : name;
  };
  const toggle = name => { pinned = name === pinned ? "" : name; over = ""; show(); };
  for (const kind of ["pointerover", "focusin"])
    document.addEventListener(kind, event => { over = nameAt(event.target); show(); });
  document.addEventListener("pointerout", event => { if (!event.relatedTarget) { over = ""; show(); } });
  document.addEventListener("focusout", () => { over = ""; show(); });
  document.addEventListener("click", event => {
    const name = nameAt(event.target);
    if (name && getSelection().isCollapsed) toggle(name);
  });
  document.addEventListener("keydown", event => {
    const at = event.target, group = at.closest?.("[aria-pressed]")?.closest("svg, tbody");
    if (event.key === "Escape") { pinned = over = ""; show(); tip.hidden = true; }
    if (!group) return;
    if (at.tagName !== "BUTTON" && (event.key === "Enter" || event.key === " ")) toggle(at.dataset.of);
    else {
      const step = {ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1}[event.key];
      const members = every("[aria-pressed]", group), next = members[members.indexOf(at) + step];
      if (!next) return;
      at.setAttribute("tabindex", -1);
      next.setAttribute("tabindex", 0);
      next.focus();
    }
    event.preventDefault();
  });

  // Values: the titles of drawn parts, shown at once; of points the nearest within reach.
  const REACH = 18, tip = document.createElement("div"), values = new Map(), points = new Map();
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  for (const title of every("svg title")) {
    const part = title.parentNode, drawing = part.closest("svg");
    if (part !== drawing) {
      values.set(part, title.textContent);
      if (part.tagName === "use") points.set(drawing, [...(points.get(drawing) || []), part]);
    }
    title.remove();
  }
  const nearest = (drawing, x, y) => {
    let best = null, least = REACH;
    for (const point of points.get(drawing) || []) {
      const box = point.getBoundingClientRect();
      const far = Math.hypot(box.x + box.width / 2 - x, box.y + box.height / 2 - y);
      if (far < least) [best, least] = [point, far];
    }
    return best;
  };
  const tell = event => {
    const drawing = event.target.closest?.("svg"), [x, y] = [event.clientX, event.clientY];
    let part = drawing && nearest(drawing, x, y);
    if (drawing && !part) {
      part = event.target;
      while (part !== drawing && !values.has(part)) part = part.parentNode;
    }
    tip.hidden = !values.has(part);
    if (tip.hidden) return;
    tip.textContent = values.get(part);
    const {width, height} = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - width - 8))}px`;
    tip.style.top = `${y > height + 16 ? y - height - 12 : y + 16}px`;
  };
  document.addEventListener("pointermove", tell);
  document.addEventListener("pointerdown", tell);
  document.addEventListener("scroll", () => { tip.hidden = true; }, true);

  // A link to what is folded opens it.
  const open = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (!target) return;
    for (let fold = target.closest("details"); fold; fold = fold.parentNode.closest("details")) fold.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  open();
})();

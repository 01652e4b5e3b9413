
"use strict";
(() => {
  const LETTERS = "bcdfghjklmnpqrstvwxz";
  const task = JSON.parse(document.getElementById("task").textContent);
  const store = "trimtab-listen-" + task.fingerprint;
  const by = (id) => document.getElementById(id);
  let kept = true, state = null, at = 0, since = 0, spent = 0, sent = "";

  // FNV-1a of 32 bits in letters that no spreadsheet takes for a number or a date.
  const check = (text) => {
    let hash = 0x811c9dc5;
    for (let k = 0; k < text.length; k++) hash = Math.imul(hash ^ text.charCodeAt(k), 0x01000193) >>> 0;
    let word = "";
    for (let k = 0; k < 8; k++, hash = Math.floor(hash / LETTERS.length)) word += LETTERS[hash % LETTERS.length];
    return word;
  };
  const draw = (n) => crypto.getRandomValues(new Uint32Array(1))[0] % n;
  const someone = () => {
    const named = new URLSearchParams(location.search).get("listener") || "";
    if (/^[A-Za-z][A-Za-z0-9_-]{0,63}$/.test(named)) return named;
    return Array.from({ length: 10 }, () => LETTERS[draw(LETTERS.length)]).join("");
  };
  const fresh = () => ({ listener: someone(), block: task.once ? draw(task.blocks) : null, begun: false, answers: [] });
  const mine = () => task.trials.filter((one) => state.block === null || one.block === state.block);
  const whole = (old) => {
    const blocks = old && (task.once ? Number.isInteger(old.block) && old.block >= 0 && old.block < task.blocks : old.block === null);
    if (!blocks || typeof old.listener !== "string" || !Array.isArray(old.answers)) return false;
    const asked = task.trials.filter((one) => old.block === null || one.block === old.block);
    return old.answers.length <= asked.length && old.answers.every((one, k) => one && one.trial === asked[k].id
      && asked[k].candidates.includes(one.choice) && Number.isInteger(one.milliseconds) && one.milliseconds >= 0);
  };

  const tell = (text) => { by("notice").textContent = text; by("notice").hidden = false; };
  const unkept = () => {
    kept = false;
    tell("This browser cannot keep your answers. Please do not close or reload this page before you have sent them.");
  };
  const save = () => {
    if (!kept) return;
    try { localStorage.setItem(store, JSON.stringify(state)); } catch (_) { unkept(); }
  };
  const load = () => {
    let text = null;
    try {
      text = localStorage.getItem(store);
      localStorage.setItem(store + "-test", "1");
      localStorage.removeItem(store + "-test");
    } catch (_) { unkept(); }
    try { state = text === null ? null : JSON.parse(text); } catch (_) { state = false; }
    if (state !== null && !whole(state)) {
      tell("Earlier answers on this device could not be read, so you begin anew.");
      state = null;
    }
    state = state || fresh();
  };

  const now = () => spent + (since ? performance.now() - since : 0);
  const resume = () => { since = document.hidden ? 0 : performance.now(); };
  document.addEventListener("visibilitychange", () => { spent = now(); resume(); });

  const show = (screen) => {
    for (const id of ["start", "trial", "end"]) by(id).hidden = id !== screen;
    window.scrollTo(0, 0);
  };
  const counted = (n) => n + (n === 1 ? " description" : " descriptions");

  const start = () => { by("count").textContent = counted(mine().length); show("start"); };

  const choice = (picture, k, chosen) => {
    const label = document.createElement("label"), input = document.createElement("input");
    const image = document.createElement("img"), number = document.createElement("span");
    label.className = "choice";
    Object.assign(input, { type: "radio", name: "choice", value: picture, checked: picture === chosen });
    input.setAttribute("aria-label", "Picture " + (k + 1));
    image.alt = "Picture " + (k + 1);
    image.onerror = () => tell("A picture is missing. Please tell the person who gave you this page.");
    image.src = task.pictures[picture];
    number.className = "number";
    number.setAttribute("aria-hidden", "true");
    number.textContent = k + 1;
    label.append(input, image, number);
    return label;
  };
  const ask = (place) => {
    const asked = mine(), one = asked[place], before = state.answers[place];
    at = place;
    spent = before ? before.milliseconds : 0;
    by("place").textContent = (place + 1) + " of " + asked.length;
    Object.assign(by("progress"), { max: asked.length, value: place });
    by("caption").textContent = one.caption;
    by("choices").className = task.small ? "small" : "";
    by("choices").replaceChildren(...one.candidates.map((picture, k) => choice(picture, k, before && before.choice)));
    by("next").disabled = !before;
    by("back").disabled = place === 0 || place < state.answers.length;
    show("trial");
    const tall = by("caption").scrollHeight > by("caption").clientHeight + 1;
    if (tall) by("caption").tabIndex = 0; else by("caption").removeAttribute("tabindex");
    by("caption").scrollTop = 0;
    by("legend").focus({ preventScroll: true });
    resume();
    if (place + 1 < asked.length) for (const picture of asked[place + 1].candidates) new Image().src = task.pictures[picture];
  };
  const picked = () => document.querySelector("#choices input:checked");

  const csv = () => {
    const rows = state.answers.map((one, k) => {
      const cells = [task.fingerprint, state.listener, k + 1, state.answers.length, one.trial, one.choice, one.milliseconds];
      return [...cells, check(cells.join("|"))].join(",");
    });
    return [task.columns.join(","), ...rows, ""].join("\r\n");
  };
  const end = () => {
    const asked = mine().length, given = state.answers.length;
    by("thanks").textContent = given === asked ? "Thank you. You are done." : "Stopped after " + given + " of " + asked + ".";
    by("todo").textContent = given ? "Please download the file, or copy the text, and send it to the person who gave you this page."
      : "There is nothing to send yet.";
    by("text").value = given ? csv() : "";
    for (const id of ["download", "copy", "change"]) by(id).disabled = !given;
    by("on").hidden = given === asked;
    by("done").textContent = "";
    show("end");
    by("thanks").focus({ preventScroll: true });
  };

  by("begin").addEventListener("click", () => { state.begun = true; save(); ask(state.answers.length); });
  by("choices").addEventListener("change", () => { by("next").disabled = !picked(); });
  by("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const chosen = picked();
    if (!chosen || by("trial").hidden) return;
    state.answers[at] = { trial: mine()[at].id, choice: chosen.value, milliseconds: Math.round(now()) };
    since = 0;
    save();
    if (state.answers.length < mine().length) ask(state.answers.length); else end();
  });
  by("back").addEventListener("click", () => ask(at - 1));
  by("change").addEventListener("click", () => ask(state.answers.length - 1));
  by("stop").addEventListener("click", end);
  by("on").addEventListener("click", () => ask(state.answers.length));
  by("download").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = "answers.csv";
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    sent = csv();
    by("done").textContent = "answers.csv is among your downloads.";
  });
  by("copy").addEventListener("click", async () => {
    let copied = true;
    try { await navigator.clipboard.writeText(csv()); } catch (_) {
      by("text").focus();
      by("text").select();
      copied = document.execCommand("copy");
    }
    if (copied) sent = csv();
    by("done").textContent = copied ? "Copied." : "Please select the text below and copy it.";
  });
  by("again").addEventListener("click", () => {
    const lost = "The answers on this page will be removed from this device, and they have not been saved. Go on?";
    const gone = "The answers on this page will be removed from this device. Go on?";
    if (!confirm(state.answers.length && sent !== csv() ? lost : gone)) return;
    state = fresh();
    save();
    start();
  });
  document.addEventListener("keydown", (event) => {
    if (by("trial").hidden || event.ctrlKey || event.altKey || event.metaKey || !/^[1-9]$/.test(event.key)) return;
    const input = document.querySelectorAll("#choices input")[Number(event.key) - 1];
    if (!input) return;
    input.checked = true;
    input.focus();
    by("next").disabled = false;
  });
  window.addEventListener("beforeunload", (event) => {
    if (!kept && state.answers.length && sent !== csv()) event.preventDefault();
  });

  load();
  save();
  if (!state.begun) start(); else if (state.answers.length < mine().length) ask(state.answers.length); else end();
})();

// Keeps a page up to date, and says so when it is not. All else works without it.
"use strict";

(() => {
  const source = document.body.dataset.live;
  const badge = document.getElementById("live");
  const page = () => document.getElementById("page");
  const LATE_MS = 12000; // two beats and a little
  const BETWEEN_MS = 1000;
  let seq = null;
  let asked = 0;
  let timer = null;
  let heard = 0;

  function say(state, words) {
    if (badge.dataset.state !== state) badge.dataset.state = state;
    const text = badge.querySelector("span");
    if (text.textContent !== words) text.textContent = words;
  }

  function renew() {
    timer = null;
    if (document.hidden || !page().hasAttribute("hx-get")) return;
    if (document.querySelector("details.act[open], details.act form:focus-within")) return; // a form is being filled in
    asked = Date.now();
    page().dispatchEvent(new CustomEvent("writ:news"));
  }

  function news(event) {
    const now = JSON.parse(event.data);
    heard = Date.now();
    if (now.faults.length) say("fault", now.faults[0].slice(0, 120));
    else if (now.lag > 0 && now.lag_s > 2) say("behind", `${now.lag.toLocaleString("en")} records behind`);
    else say("on", "live");
    // Also at the first: something may have come between the page and the stream.
    if (now.seq !== seq && timer === null) {
      timer = setTimeout(renew, Math.max(0, asked + BETWEEN_MS - Date.now()));
    }
    seq = now.seq;
  }

  function listen() {
    const stream = new EventSource(source);
    stream.onmessage = news;
    stream.onerror = () => {
      say("off", "not live: trying again");
      if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
    };
  }

  if (source && badge) {
    listen();
    setInterval(() => {
      if (heard && Date.now() - heard > LATE_MS) say("off", "not live: nothing was heard");
    }, 2000);
    document.addEventListener("visibilitychange", () => { if (!document.hidden) renew(); });
  }

  // A page that was asked for anew and could not be had stays as it is, and says so.
  document.addEventListener("htmx:response:error", () => say("fault", "not live: the page could not be renewed"));

  // The slider: says where it is, and stays there while the page is renewed.
  document.addEventListener("input", (event) => {
    const range = event.target;
    if (range.type !== "range") return;
    document.getElementById("slider").setAttribute("hx-morph-skip", "");
    document.getElementById("slider-at").textContent = `${Number(range.value) + 1} of ${range.dataset.steps}`;
  });

  // All of a page at once.
  function picking() {
    const all = document.getElementById("pick-all");
    if (all) all.hidden = false;
    const save = document.getElementById("save");
    if (save) save.hidden = !location.search;
    saved();
  }
  document.addEventListener("change", (event) => {
    if (event.target.id !== "pick-all") return;
    for (const each of document.querySelectorAll("input[name=job]")) each.checked = event.target.checked;
  });

  // Views that a person keeps, in this browser.
  const KEPT = "writ.views";
  const views = () => { try { return JSON.parse(localStorage.getItem(KEPT)) || {}; } catch { return {}; } };
  function saved() {
    const place = document.getElementById("saved");
    if (!place) return;
    place.replaceChildren();
    for (const [name, query] of Object.entries(views())) {
      const link = document.createElement("a");
      link.href = `${location.pathname}?${query}`;
      link.textContent = name;
      if (location.search === `?${query}`) link.setAttribute("aria-current", "page");
      const drop = document.createElement("button");
      drop.type = "button";
      drop.className = "plain drop";
      drop.textContent = "×";
      drop.setAttribute("aria-label", `Forget the view ${name}`);
      drop.addEventListener("click", () => { keep(name, null); });
      place.append(link, drop);
    }
  }
  function keep(name, query) {
    const all = views();
    if (query === null) delete all[name]; else all[name] = query;
    localStorage.setItem(KEPT, JSON.stringify(all));
    saved();
  }
  document.addEventListener("click", (event) => {
    if (event.target.id !== "save") return;
    const name = window.prompt("A name for this view");
    if (name) keep(name.slice(0, 60), location.search.slice(1));
  });

  // On a telephone what is looked for comes before the filters, unless there are some.
  const fold = document.getElementById("fold");
  if (fold && !location.search && matchMedia("(max-width: 560px)").matches) fold.open = false;

  picking();
  document.addEventListener("htmx:after:swap", picking);
})();

// Fills the page from what the server says: by server-sent events, and by polling where those fail.
(() => {
  "use strict";

  const POLL_MS = 2000; // between two polls while no events come
  const SILENCE_MS = 10000; // without a word on an open stream, after which it is polled as well
  const HIDDEN = 5; // times as rarely while nobody looks
  const ANNOUNCE_MS = 5000; // between two announcements to a screen reader
  const RELOAD_MS = 1000; // between two reloads at least; twice as long after each in a row
  const GOING = ["starting", "migrating", "application"];

  const given = JSON.parse(document.getElementById("automigrator").textContent);
  let told = given.told;
  let at = performance.now(); // when `told` was told
  let misses = 0; // polls in a row without an answer
  let leaving = false;

  // What the attributes of the page can name.

  const seconds = (s) => {
    const whole = Math.max(0, Math.floor(s));
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
    return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  };
  const since = () => (performance.now() - at) / 1000;
  const fields = () => ({
    phase: told.phase,
    done: told.done,
    total: told.total,
    one: told.total === 1,
    step: Math.min((told.done || 0) + 1, told.total || 1),
    elapsed: seconds(told.elapsed_s + (GOING.includes(told.phase) ? since() : 0)),
    statement: told.statement === null ? "" : String(told.statement),
    retry: told.retry_in_s === null ? "" : seconds(Math.ceil(told.retry_in_s - since())),
    waiting: told.waiting,
    failed: told.failed || "",
    details: told.details,
    reason: told.reason || "",
    offline: misses > 2,
    run: given.run,
  });

  const all = (name) => document.querySelectorAll(`[data-${name}]`);
  const seen = (name) => [...all(name)].filter((each) => !each.closest("[hidden]"));
  const put = (element, text) => {
    if (element.textContent !== text) element.textContent = text;
  };

  function fill() {
    const now = fields();
    const shown = (name) => (name[0] === "!" ? !now[name.slice(1)] : Boolean(now[name]));
    for (const each of all("phase")) each.hidden = !each.dataset.phase.split(" ").includes(now.phase);
    for (const each of all("if")) {
      const here = !each.dataset.phase || each.dataset.phase.split(" ").includes(now.phase);
      each.hidden = !here || !shown(each.dataset.if);
    }
    for (const each of all("field")) {
      const value = now[each.dataset.field];
      if (each instanceof HTMLProgressElement) {
        each.max = now.total || 1;
        each.value = value || 0;
      } else put(each, String(value ?? ""));
    }
    const title = seen("title").pop();
    const text = title && title.dataset.title.replace(/\{(\w+)\}/g, (_, name) => now[name] ?? "");
    if (text && document.title !== text) document.title = text;
    for (const each of all("began")) put(each, seconds((performance.now() - each.dataset.began) / 1000));
  }

  let announced = "";
  let announcedAt = -ANNOUNCE_MS;

  function announce() {
    const text = seen("say").map((each) => each.innerText.replace(/\s+/g, " ").trim()).join(" ");
    if (text === announced || performance.now() - announcedAt < ANNOUNCE_MS) return;
    announced = text;
    announcedAt = performance.now();
    for (const each of all("announce")) put(each, text);
  }

  // The targets, where details are told.

  function make(name, attributes = {}, ...inside) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...inside.filter((each) => each !== null && each !== ""));
    return element;
  }

  function draw(name, attributes) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }

  // Each row's lane, the lanes that pass it, those that lead into it, and whether its own goes on.
  // A lane belongs to a revision until the last of those that follow it was drawn.
  function lanes(revisions, before, after) {
    const rows = new Map(revisions.map((each) => [each.revision, each]));
    const parents = (each) => each.down_revision.filter((id) => rows.has(id));
    const followers = new Map(revisions.map((each) => [each.revision, []]));
    for (const each of revisions) for (const id of parents(each)) followers.get(id).push(each);
    const passed = (from, to) => from.state === "done" && to.some((each) => each.state !== "pending");
    const open = []; // { from: the revision, to: those that are yet to be drawn }
    return revisions.map((each, index) => {
      const into = [];
      for (const id of parents(each)) {
        const lane = open.findIndex((one) => one && one.from.revision === id);
        into.push({ lane, passed: passed(open[lane].from, [each]) });
        open[lane].to = open[lane].to.filter((one) => one !== each);
        if (open[lane].to.length === 0) open[lane] = null;
      }
      const freed = into.map((edge) => edge.lane).filter((lane) => !open[lane]);
      let lane = freed.length ? Math.min(...freed) : open.findIndex((one) => !one);
      if (lane < 0) lane = open.length;
      const passing = open.flatMap((one, at) => (one ? [{ lane: at, passed: passed(one.from, one.to) }] : []));
      if (before > 0 && into.length < each.down_revision.length) {
        into.push({ lane, passed: each.state !== "pending" });
      }
      const to = followers.get(each.revision);
      open[lane] = to.length ? { from: each, to: [...to] } : null;
      const goesOn = to.length > 0 || (after > 0 && index === revisions.length - 1);
      return { lane, into, passing, down: goesOn ? { passed: passed(each, to) } : null };
    });
  }

  const SHAPES = {
    done: (x, y, u) => [
      draw("circle", { class: "node done", cx: x, cy: y, r: 0.36 * u }),
      draw("path", { class: "tick", d: `M${x - 0.16 * u} ${y + 0.01 * u}l${0.12 * u} ${0.12 * u}l${0.21 * u} ${-0.24 * u}` }),
    ],
    running: (x, y, u) => [
      draw("circle", { class: "node running", cx: x, cy: y, r: 0.4 * u }),
      draw("circle", { class: "core", cx: x, cy: y, r: 0.17 * u }),
    ],
    pending: (x, y, u) => [draw("circle", { class: "node", cx: x, cy: y, r: 0.3 * u })],
    failed: (x, y, u) => [
      draw("path", { class: "node failed", d: `M${x} ${y - 0.44 * u}l${0.44 * u} ${0.44 * u}l${-0.44 * u} ${0.44 * u}l${-0.44 * u} ${-0.44 * u}z` }),
      draw("path", { class: "tick", d: `M${x - 0.12 * u} ${y - 0.12 * u}l${0.24 * u} ${0.24 * u}m0 ${-0.24 * u}l${-0.24 * u} ${0.24 * u}` }),
    ],
  };

  const rem = () => parseFloat(getComputedStyle(document.documentElement).fontSize);
  const gap = (width) => Math.min(1.15, 7 / width); // between two lanes, in rem

  function graph(row, width, state) {
    const u = rem();
    const x = (lane) => (lane * gap(width) + 0.575) * u;
    const y = 1.15 * u; // the middle of the first line of text
    const kind = (edge) => (edge.passed ? "edge passed" : "edge");
    const svg = draw("svg", { width: (width * gap(width) + 0.2) * u, "aria-hidden": "true", focusable: "false" });
    for (const each of row.passing) {
      svg.append(draw("line", { class: kind(each), x1: x(each.lane), y1: 0, x2: x(each.lane), y2: "100%" }));
    }
    for (const each of row.into) {
      const d = `M${x(each.lane)} 0C${x(each.lane)} ${0.65 * u} ${x(row.lane)} ${0.35 * u} ${x(row.lane)} ${y}`;
      svg.append(draw("path", { class: kind(each), d }));
    }
    if (row.down) {
      svg.append(draw("line", { class: kind(row.down), x1: x(row.lane), y1: y, x2: x(row.lane), y2: "100%" }));
    }
    svg.append(...SHAPES[state](x(row.lane), y, u));
    return svg;
  }

  const lasted = (s) => (s === null ? "" : s < 1 ? ` in ${Math.ceil(s * 1000)} ms` : ` in ${seconds(s)}`);
  const STATES = {
    done: (each) => `done${lasted(each.seconds)}`,
    running: () => "running",
    pending: () => "pending",
    failed: () => "failed",
  };

  function revisions(target) {
    const rows = lanes(target.revisions, target.before, target.after);
    const width = 1 + Math.max(...rows.map((row) => Math.max(row.lane, ...row.passing.map((p) => p.lane))));
    const list = make("ol", { class: "revisions", role: "list" });
    const add = (kind, ...inside) => {
      const item = make("li", { class: kind }, ...inside);
      item.style.paddingInlineStart = `${width * gap(width) + 0.55}rem`; // by CSSOM: the policy allows it
      list.append(item);
    };
    if (target.before) add("more", `${target.before} more before`);
    target.revisions.forEach((each, index) => {
      const same = each.doc === "" || each.doc === each.revision;
      const about = make("span", { class: "about" }, same ? null : make("code", {}, each.revision),
        make("span", { class: "state" }, STATES[each.state](each)));
      add(each.state, graph(rows[index], width, each.state),
        make("span", { class: "name" }, same ? make("code", {}, each.revision) : each.doc), about);
    });
    if (target.after) add("more", `${target.after} more to come`);
    return list;
  }

  function failure(target) {
    const { failure: why, strategies, notes } = target;
    const list = make("dl", { class: "failure" });
    const add = (term, text, kind = "") => text && list.append(make("dt", {}, term), make("dd", { class: kind }, text));
    const lines = (texts) => texts.length && make("ul", {}, ...texts.map((each) => make("li", {}, each)));
    add("What happened", why.message, "what");
    const where = why.revision ? `in revision ${why.revision}; ` : "";
    list.append(make("dd", { class: "where" }, `${where}the kind of failure is “${why.kind}”`));
    add("The database now", why.left);
    add("What was done about it", lines(strategies));
    add("Besides", lines(notes));
    add("What to do", why.advice);
    return list;
  }

  const OUTCOMES = { "not-run": "not tried", queued: "its turn comes later" };

  function section(target, number) {
    const busy = target.phase === "running" || target.phase === "waiting";
    const tally = target.total ? `${target.done} of ${target.total}` : "";
    const outcome = busy ? "" : target.outcome || (target.phase === "queued" && told.phase === "migrating" ? "queued" : "");
    const id = `automigrator-target-${number}`;
    const header = make("header", {}, make("h2", { id }, target.name),
      make("p", { class: "tally number" }, [tally, OUTCOMES[outcome] || outcome].filter(Boolean).join(", ")));
    const running = target.revisions.find((each) => each.state === "running");
    const doing = running && target.activity === running.revision
      ? `running revision ${running.revision}` : target.activity;
    const activity = doing && make("p", { class: "activity" }, `${doing}, `,
      make("span", { class: "number", "data-began": at - 1000 * target.activity_s }));
    const doings = !target.failure && target.strategies.length
      ? make("ul", { class: "doings" }, ...target.strategies.map((each) => make("li", {}, each))) : null;
    return make("section", { class: "target", "aria-labelledby": id }, header, activity || null,
      target.failure ? failure(target) : null,
      target.revisions.length ? revisions(target) : null, doings);
  }

  let drawn = "";

  function targets() {
    // what only says how long something takes is no reason to draw anew
    const shape = JSON.stringify([told.phase, told.targets || []], (key, value) =>
      key === "elapsed_s" || key === "activity_s" ? undefined : value);
    if (shape === drawn) return;
    drawn = shape;
    const sections = (told.targets || []).map(section);
    for (const each of all("targets")) each.replaceChildren(...sections);
  }

  function tick() {
    fill();
    announce();
  }

  function show(state) {
    told = state;
    at = performance.now();
    misses = 0;
    targets();
    tick();
    if (told.phase === "ready") leave();
  }

  // The application appears by itself; another worker may still migrate, so never in a fast loop.
  function leave() {
    if (leaving) return;
    leaving = true;
    let wait = RELOAD_MS;
    try {
      const [last, row] = JSON.parse(sessionStorage.getItem("automigrator") || "[0, 0]");
      const ago = Date.now() - last;
      const again = ago < 30 * RELOAD_MS ? row + 1 : 0;
      wait = again ? Math.max(0, RELOAD_MS * 2 ** Math.min(again - 1, 4) - ago) : 0;
      sessionStorage.setItem("automigrator", JSON.stringify([Date.now() + wait, again]));
    } catch {
      // no storage here: a second before each reload will do
    }
    setTimeout(() => {
      // to a URL with a fragment `replace` would only scroll
      if (location.href.includes("#")) location.reload();
      else location.replace(location.href);
    }, wait);
  }

  // Where the news comes from.

  let source = null;
  let heard = performance.now();

  function listen() {
    if (!window.EventSource) return;
    source = new EventSource(given.events);
    source.onmessage = (message) => {
      heard = performance.now();
      show(JSON.parse(message.data));
    };
  }

  async function poll() {
    heard = performance.now();
    try {
      const answer = await fetch(given.state, { cache: "no-store", headers: { Accept: "application/json" } });
      if (answer.status === 404) return leave(); // nobody guards the application any more
      if (!answer.ok) throw new Error(answer.statusText);
      show(await answer.json());
    } catch {
      misses += 1;
      tick();
    }
  }

  function watch() {
    const open = source && source.readyState === 1;
    const patience = (open ? SILENCE_MS : POLL_MS) * (document.hidden ? HIDDEN : 1);
    if (!leaving && performance.now() - heard >= patience) poll();
    tick();
  }

  // The button of development.

  for (const form of all("run")) {
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const button = form.querySelector("button");
      const refusal = form.querySelector("[data-refusal]");
      const token = form.querySelector("[data-token]").value.trim();
      button.disabled = true;
      put(refusal, "");
      try {
        const answer = await fetch(given.run, { method: "POST", headers: { "X-Automigrator-Token": token } });
        if (!answer.ok) {
          const text = await answer.text();
          let problem = {};
          try { problem = JSON.parse(text); } catch { /* it is plain text */ }
          put(refusal, problem.detail || problem.title || text || `Refused: ${answer.status}`);
        } else poll();
      } catch {
        put(refusal, "The server does not answer.");
      }
      button.disabled = false;
    });
  }

  targets();
  fill();
  if (told.phase === "ready") leave();
  listen();
  setInterval(watch, 1000);
  document.addEventListener("visibilitychange", watch);
})();

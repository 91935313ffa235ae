"use strict";
// Texts of records are untrusted. They enter the page through textContent only; there is no innerHTML, no eval
// and no address made from them. The security policy of the page forbids the rest.
(() => {
  const ROW = 56; // height of a row of the list, pixels; page.css has the same
  const MOST = 200000; // rows a browser can scroll over
  const LONG = 20000; // characters of a text shown at first
  const PAGE = 200; // rows of a table shown at once

  const byId = (id) => document.getElementById(id);

  /** Make an element; children are nodes or plain text. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  /** Show characters that are invisible or turn the direction of writing, as <U+202E>. */
  function visible(text) {
    return text.replace(
      /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g,
      (found) => "\u27e8U+" + found.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0") + "\u27e9",
    );
  }

  // Chunks: deflated JSON, read when needed and kept.
  const read = new Map();
  function chunk(id) {
    if (!read.has(id)) read.set(id, inflate(byId("chunk-" + id).textContent));
    return read.get(id);
  }
  async function inflate(text) {
    if (typeof DecompressionStream === "undefined") throw new Error("this browser cannot read compressed data");
    const raw = atob(text);
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).json();
  }

  // Tables: sort by a column, filter by words.
  function key(cell) {
    const given = cell.dataset.value;
    if (given !== undefined) return Number(given);
    const text = cell.textContent.trim();
    const found = /^[+\u2212-]?[\d\u202f ]+(\.\d+)?/.exec(text);
    return found ? Number(found[0].replace(/[\u202f ]/g, "").replace("\u2212", "-")) : text;
  }
  /** Order numbers before words, and missing cells last whichever way. */
  function compare(a, b, sign) {
    const lost = (value) => value === "" || value === "missing" || Number.isNaN(value);
    if (lost(a) || lost(b)) return lost(a) - lost(b);
    if (typeof a === typeof b) return sign * (typeof a === "number" ? a - b : a < b ? -1 : a > b ? 1 : 0);
    return typeof a === "number" ? -1 : 1;
  }
  function sortable(heads, sort) {
    for (const [place, head] of heads.entries()) {
      const button = make("button", { type: "button" });
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        sort(place, down ? -1 : 1);
      });
    }
  }
  function enhance(table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    sortable([...table.tHead.rows[0].cells], (place, sign) => {
      table.classList.add("sorted");
      for (const row of rows) row.classList.remove("first");
      body.append(...rows.map((row) => [key(row.cells[place]), row]).sort((a, b) => compare(a[0], b[0], sign)).map((pair) => pair[1]));
    });
    if (rows.length < 6) return;
    const input = make("input", { type: "search", placeholder: "words, all of them" });
    const tools = make("div", { class: "tools" }, make("label", {}, "Filter rows", input));
    table.parentElement.before(tools);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
  }

  function address(values) {
    return "#browse?" + new URLSearchParams(Object.entries(values).filter((pair) => pair[1])).toString();
  }
  /** Lead every number of a table of policies to the records behind it. */
  function trace(table) {
    const heads = [...table.tHead.rows[0].cells];
    let before = "";
    for (const row of table.tBodies[0].rows) {
      const [model, method] = [row.cells[0].textContent, row.cells[1].textContent];
      if (before && before !== model) row.classList.add("first");
      before = model;
      for (const [place, cell] of [...row.cells].entries()) {
        const { benchmark, metric } = heads[place].dataset;
        if (!benchmark || cell.dataset.value === undefined) continue;
        const link = make("a", { href: address({ model, a: method, b: table.dataset.reference, benchmark, metric }) });
        link.title = "Records behind " + cell.firstChild.textContent;
        link.append(...cell.childNodes);
        cell.append(link);
      }
    }
  }

  // All results: long tables from chunks, a page of rows at a time.
  async function results() {
    const view = byId("results-view");
    const pick = make("select", {}, make("option", { value: "results" }, "comparison.csv"), make("option", { value: "differences" }, "differences.csv"));
    const input = make("input", { type: "search", placeholder: "words, all of them" });
    const count = make("p", { class: "count", role: "status" });
    const scroll = make("div", { class: "scroll" });
    const more = make("button", { type: "button", class: "tool" }, "Show more rows");
    view.replaceChildren(make("div", { class: "tools" }, make("label", {}, "Table", pick), make("label", { class: "wide" }, "Filter rows", input)), count, scroll, more);
    const untraced = new Set(view.dataset.untraced.split(" "));
    let data, rows, body, shown;
    function grow() {
      const at = Object.fromEntries(data.columns.map((name, place) => [name, place]));
      const number = at.value ?? at.difference;
      for (const row of rows.slice(shown, shown + PAGE)) {
        const line = make("tr");
        for (const [place, text] of row.entries()) {
          const cell = make(place < 2 ? "th" : "td", place < 2 ? { scope: "row" } : {});
          if (place === number && text && !untraced.has(row[at.benchmark]))
            cell.append(make("a", { href: address({ model: row[at.model], a: row[at.method], b: at.reference === undefined ? "" : row[at.reference], benchmark: row[at.benchmark], metric: row[at.metric] }) }, make("span", {}, text)));
          else cell.append(visible(text));
          line.append(cell);
        }
        body.append(line);
      }
      shown = Math.min(rows.length, shown + PAGE);
      count.textContent = rows.length + " rows" + (shown < rows.length ? ", the first " + shown + " shown" : "");
      more.hidden = shown >= rows.length;
    }
    function draw() {
      body.replaceChildren();
      shown = 0;
      grow();
    }
    function filter() {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      rows = data.rows.filter((row) => {
        const text = row.join("\n").toLowerCase();
        return words.every((word) => text.includes(word));
      });
      draw();
    }
    async function load() {
      data = await chunk(pick.value);
      const heads = data.columns.map((name) => make("th", { scope: "col" }, name.replaceAll("_", " ")));
      body = make("tbody");
      scroll.replaceChildren(make("table", { class: "data" }, make("caption", {}, pick.selectedOptions[0].textContent), make("thead", {}, make("tr", {}, ...heads)), body));
      sortable(heads, (place, sign) => {
        const value = (text) => (text !== "" && !Number.isNaN(Number(text)) ? Number(text) : text);
        rows.sort((a, b) => compare(value(a[place]), value(b[place]), sign));
        draw();
      });
      filter();
    }
    pick.addEventListener("change", load);
    input.addEventListener("input", filter);
    more.addEventListener("click", grow);
    await load();
  }

  // Browser of records.
  const METRIC = /^([^[\]]+)(?:\[(level|category|novelty)=(.*)\])?$/;

  function browser(index) {
    const root = byId("browser");
    if (!index.models.length) {
      root.replaceChildren(make("p", {}, "There are no records."));
      return () => {};
    }
    const benchmarks = new Map(index.benchmarks.map((one) => [one.name, one]));
    const controls = {};
    const tools = make("div", { class: "tools" });
    function choice(name, title, options) {
      controls[name] = make("select", {});
      fill(name, options);
      tools.append(make("label", {}, title, controls[name]));
      controls[name].addEventListener("change", () => changed(name));
    }
    function fill(name, options, wanted = controls[name].value) {
      controls[name].replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
      const found = options.find((option) => option[0] === wanted) ?? options[0];
      controls[name].value = found[0];
    }
    const plain = (names) => names.map((name) => [name, name]);
    choice("model", "Model", plain(index.models));
    choice("a", "Method", [["", ""]]);
    choice("b", "Beside it", [["", ""]]);
    choice("seed", "Seed", [["", ""]]);
    choice("benchmark", "Benchmark", [[index.all, "all benchmarks"], ...plain(index.benchmarks.map((one) => one.name))]);
    choice("metric", "Metric", [["", ""]]);
    choice("category", "Category", [["", "any"], ...plain(index.categories), ["none", "no category (benign)"]]);
    choice("level", "Difficulty", [["", "any"]]);
    choice("novelty", "Novelty", [["", "any"]]);
    choice("verdict", "Verdict", [["", "any"]]);
    const search = make("input", { type: "search", placeholder: "in prompts, completions, ids" });
    tools.append(make("label", { class: "wide" }, "Search", search));
    const clear = make("button", { type: "button", class: "tool" }, "Clear filters");
    tools.append(clear);
    const count = make("p", { class: "count", role: "status", id: "browse-count" });
    const spacer = make("div", { class: "spacer" });
    const list = make("div", { class: "list", role: "listbox", tabindex: "0", "aria-label": "Records; arrow keys move, the chosen one is shown beside", id: "browse-list" }, spacer);
    const pane = make("div", { class: "record", id: "browse-record", "aria-live": "polite" });
    root.replaceChildren(tools, count, make("div", { class: "panes" }, list, pane));

    let rows = [];
    let chosen = -1;
    let turn = 0;

    const policies = () => index.policies[controls.model.value] ?? [];
    const chosenBenchmarks = () => (controls.benchmark.value === index.all ? index.benchmarks : [benchmarks.get(controls.benchmark.value)]);
    /** The metric looked at: the chosen one, or the first of the benchmark. */
    function metricOf(benchmark) {
      const place = benchmark.metrics.findIndex((metric) => metric.name === controls.metric.value);
      return place < 0 && !controls.metric.value ? 0 : place;
    }
    function verdict(metric, value) {
      if (value === null || value === undefined) return "missing";
      if (metric.labels && value === 0) return metric.labels[0];
      if (metric.labels && value === 1) return metric.labels[1];
      return metric.labels ? "between" : "score";
    }
    function offer() {
      const methods = index.methods.filter((name) => policies().some((policy) => policy[0] === name));
      fill("a", plain(methods));
      fill("b", [["", "nothing"], ...plain(methods.filter((name) => name !== controls.a.value))]);
      const seeds = [...new Set(policies().filter((policy) => [controls.a.value, controls.b.value].includes(policy[0])).map((policy) => String(policy[1])))];
      fill("seed", [["", "all"], ...plain(seeds)]);
      const found = chosenBenchmarks();
      const names = [...new Set(found.flatMap((one) => one.metrics.map((metric) => metric.name)))];
      fill("metric", found.length > 1 ? [["", "main score of each"], ...plain(names)] : plain(names));
      const words = new Set();
      for (const one of found) {
        const metric = one.metrics[metricOf(one)];
        for (const word of metric?.labels ?? []) words.add(word);
      }
      const extra = [["between", "between the two"], ["missing", "missing"], ["cut off", "cut off"]];
      if (controls.b.value) extra.push(["differ", "the two differ"]);
      fill("verdict", [["", "any"], ...plain([...words].reverse()), ...extra]);
    }
    let wanted = null; // values of level and novelty not yet known when an address asks for them
    async function update() {
      const mine = ++turn;
      offer();
      const model = controls.model.value;
      const of = (method) => new Map(policies().map((policy, place) => [policy, place]).filter(([policy]) => method && policy[0] === method).map(([policy, place]) => [policy[1], place]));
      const [first, second] = [of(controls.a.value), of(controls.b.value)];
      // A method with one policy (the base) stands beside every seed of the other.
      const at = (found, seed) => found.get(seed) ?? (found.size === 1 ? [...found.values()][0] : -1);
      const longer = first.size === 1 && second.size > 1 ? second : first;
      const pairs = [...longer.keys()].filter((seed) => controls.seed.value === "" || String(seed) === controls.seed.value).map((seed) => [seed, at(first, seed), at(second, seed)]);
      const parts = chosenBenchmarks().flatMap((benchmark) => benchmark.parts.filter((part) => part.records[model]).map((part) => [benchmark, part]));
      const levels = new Set();
      const novelties = new Set();
      const everything = [];
      for (const [number, [benchmark, part]] of parts.entries()) {
        if (!read.has(part.records[model])) count.textContent = "Reading " + (number + 1) + " of " + parts.length + " parts \u2026";
        const [items, records] = await Promise.all([chunk(part.items), chunk(part.records[model])]);
        if (mine !== turn) return;
        for (const level of items.level) levels.add(level);
        for (const novelty of items.novelty) novelties.add(novelty);
        everything.push([benchmark, items, records]);
      }
      const known = (found, all) => [["", "any"], ...plain([...found].filter(Boolean).sort(all))];
      const order = ["direct", "paraphrased", "disguised"];
      fill("level", known(levels, (a, b) => order.indexOf(a) - order.indexOf(b)), wanted?.level ?? controls.level.value);
      fill("novelty", known(novelties), wanted?.novelty ?? controls.novelty.value);
      wanted = null;
      const words = search.value.toLowerCase();
      const { category, level, novelty } = Object.fromEntries(["category", "level", "novelty"].map((name) => [name, controls[name].value]));
      const asked = controls.verdict.value;
      const sums = [new Map(), new Map()];
      rows = [];
      for (const [benchmark, items, records] of everything) {
        const place = metricOf(benchmark);
        if (place < 0) continue;
        const metric = benchmark.metrics[place];
        for (let i = 0; i < items.id.length; i++) {
          const name = index.categories[items.category[i]] ?? "none";
          if (category && name !== category) continue;
          if (level && items.level[i] !== level) continue;
          if (novelty && items.novelty[i] !== novelty) continue;
          for (const [seed, p, q] of pairs) {
            if (records.completion[p][i] < 0 && (q < 0 || records.completion[q][i] < 0)) continue;
            const value = records.values[place][p][i];
            const other = q < 0 ? null : records.values[place][q][i];
            const word = verdict(metric, value);
            if (asked === "cut off" ? !records.cut[p].includes(i) : asked === "differ" ? value === other || q < 0 : asked && word !== asked) continue;
            if (words && !hit(words, items, records, i, p, q)) continue;
            rows.push({ benchmark, metric, items, records, i, p, q, seed, value, other, word });
            add(sums[0], seed, value);
            if (q >= 0) add(sums[1], seed, other);
          }
        }
      }
      say(sums);
      chosen = -1;
      spacer.style.height = Math.min(rows.length, MOST) * ROW + "px";
      list.scrollTop = 0;
      drawn.clear();
      spacer.replaceChildren();
      draw();
      if (rows.length) select(0);
      else pane.replaceChildren(make("p", {}, "No record fits these filters."));
      remember();
    }
    function hit(words, items, records, i, p, q) {
      const texts = [items.id[i], items.prompt[i] ?? "", records.texts[records.completion[p][i]] ?? ""];
      if (q >= 0) texts.push(records.texts[records.completion[q][i]] ?? "");
      return texts.some((text) => text.toLowerCase().includes(words));
    }
    function add(sums, seed, value) {
      const sum = sums.get(seed) ?? [0, 0];
      if (value !== null) sums.set(seed, [sum[0] + value, sum[1] + 1]);
    }
    /** The mean over seeds of the means over prompts, as in the tables. */
    function mean(sums) {
      const means = [...sums.values()].map(([sum, n]) => sum / n);
      return means.length ? (means.reduce((a, b) => a + b, 0) / means.length) : null;
    }
    function say(sums) {
      const names = new Set(rows.map((row) => row.metric.name));
      const rate = rows.length && rows.every((row) => row.metric.labels);
      const show = (value) => (value === null ? "missing" : rate ? (100 * value).toFixed(1) + " %" : value.toFixed(3));
      let text = rows.length + " records of " + new Set(rows.map((row) => row.benchmark.name + "\n" + row.items.id[row.i])).size + " prompts";
      if (rows.length > MOST) text += ", the first " + MOST + " listed";
      if (names.size === 1 && rows.length) {
        text += "; mean " + [...names][0] + " of " + controls.a.value + ": " + show(mean(sums[0]));
        if (controls.b.value) text += ", of " + controls.b.value + ": " + show(mean(sums[1]));
      }
      count.textContent = text;
    }

    // The list: only the rows in sight exist.
    const drawn = new Map();
    function badge(row, value) {
      const word = verdict(row.metric, value);
      const text = word === "score" || word === "between" ? String(value) : word;
      const kind = !row.metric.labels ? "" : value === 1 ? " one" : value === 0 ? " zero" : "";
      return make("span", { class: "verdict" + kind }, (value === 1 ? "\u25cf " : value === 0 ? "\u25cb " : "") + text);
    }
    function draw() {
      const from = Math.max(0, Math.floor(list.scrollTop / ROW) - 6);
      const to = Math.min(rows.length, MOST, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 6);
      for (const [number, element] of drawn) {
        if (number < from || number >= to) {
          element.remove();
          drawn.delete(number);
        }
      }
      for (let number = from; number < to; number++) {
        if (drawn.has(number)) continue;
        const row = rows[number];
        const top = make("div", { class: "top line" }, badge(row, row.value));
        if (row.q >= 0) top.append(" | ", badge(row, row.other));
        const category = index.categories[row.items.category[row.i]] ?? row.items.kind[row.i];
        top.append("  seed " + row.seed + " \u00b7 " + [category, row.items.level[row.i]].filter(Boolean).join(" \u00b7 "));
        const text = row.items.prompt[row.i] ?? row.items.id[row.i];
        const element = make("div", { class: "row", role: "option", id: "row-" + number, "aria-selected": String(number === chosen), "aria-setsize": String(rows.length), "aria-posinset": String(number + 1) },
          top, make("div", { class: "line", dir: "auto" }, visible(text.slice(0, 300).replace(/\s+/g, " "))));
        element.style.top = number * ROW + "px";
        element.addEventListener("click", () => select(number));
        drawn.set(number, element);
        spacer.append(element);
      }
    }
    list.addEventListener("scroll", () => requestAnimationFrame(draw));
    list.addEventListener("keydown", (event) => {
      const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
      const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -rows.length, End: rows.length };
      if (!(event.key in steps) || !rows.length) return;
      event.preventDefault();
      select(Math.max(0, Math.min(Math.min(rows.length, MOST) - 1, chosen + steps[event.key])));
    });
    function select(number) {
      drawn.get(chosen)?.setAttribute("aria-selected", "false");
      chosen = number;
      const top = number * ROW;
      if (top < list.scrollTop) list.scrollTop = top;
      else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
      draw();
      drawn.get(number)?.setAttribute("aria-selected", "true");
      list.setAttribute("aria-activedescendant", "row-" + number);
      show(rows[number]);
    }

    function show(row) {
      const { items, i } = row;
      const about = [row.benchmark.name, "item " + items.id[i], index.categories[items.category[i]], items.kind[i], items.level[i], items.novelty[i] && "new " + items.novelty[i], items.cluster[i] && "intent " + items.cluster[i], "seed " + row.seed];
      pane.replaceChildren(
        make("h3", {}, "Prompt"), make("p", { class: "about" }, visible(about.filter(Boolean).join(" \u00b7 "))), written(items.prompt[i]),
        make("div", { class: "sides" }, side(row, row.p), ...(row.q >= 0 ? [side(row, row.q)] : [])));
    }
    function side(row, p) {
      const { records, i, benchmark } = row;
      const policy = policies()[p];
      const part = make("div", {}, make("h3", {}, policy[0] + ", seed " + policy[1]));
      const place = records.completion[p][i];
      if (place < 0) {
        part.append(make("p", { class: "missing" }, "missing: no record"));
        return part;
      }
      part.append(written(benchmark.shown ? records.texts[place] : null));
      if (records.cut[p].includes(i)) part.append(make("p", { class: "about" }, "Cut off at the longest completion allowed."));
      const lines = benchmark.metrics.map((metric, m) => {
        const value = records.values[m][p][i];
        const word = verdict(metric, value);
        return make("tr", {}, make("th", { scope: "row" }, metric.name), make("td", {}, value === null ? "missing" : String(value)), make("td", {}, word === "score" || word === "missing" ? "" : word), make("td", {}, visible(metric.judges.join(", "))));
      });
      part.append(make("div", { class: "scroll" }, make("table", {}, make("caption", {}, "Scores of this completion"), make("thead", {}, make("tr", {}, ...["Metric", "Score", "Verdict", "Judge"].map((name) => make("th", { scope: "col" }, name)))), make("tbody", {}, ...lines))));
      return part;
    }
    /** A text as written, its beginning only if it is very long. */
    function written(text) {
      if (text === null || text === undefined) return make("p", { class: "missing" }, "not in this page");
      const block = make("div", { class: "text", dir: "auto", tabindex: "0" }, visible(text.slice(0, LONG)));
      if (text === "") block.append(make("span", { class: "missing" }, "(empty)"));
      if (text.length <= LONG) return block;
      const all = make("button", { type: "button", class: "tool" }, "Show all " + text.length + " characters");
      all.addEventListener("click", () => {
        block.textContent = visible(text);
        all.remove();
      });
      return make("div", {}, block, all);
    }

    // Addresses: #browse?model=...&a=...&benchmark=...&metric=name[level=...]
    function remember() {
      const values = Object.fromEntries(Object.entries(controls).map(([name, control]) => [name, control.value]));
      try {
        if (opened) history.replaceState(null, "", address({ ...values, search: search.value }));
      } catch { /* some browsers refuse for files; the address is a comfort only */ }
    }
    let opened = false;
    function follow() {
      const [place, query] = location.hash.slice(1).split("?", 2);
      if (place !== "browse" || query === undefined) return false;
      opened = true;
      const values = Object.fromEntries(new URLSearchParams(query));
      const metric = METRIC.exec(values.metric ?? "");
      const set = (name, value) => {
        const option = [...controls[name].options].some((one) => one.value === value);
        controls[name].value = option ? value : controls[name].options[0].value;
      };
      set("model", values.model);
      set("benchmark", values.benchmark);
      offer();
      set("a", values.a);
      offer();
      set("b", values.b ?? "");
      set("metric", metric ? metric[1] : "");
      const by = metric?.[2] ? { [metric[2]]: metric[3] } : {};
      offer();
      set("seed", values.seed ?? "");
      set("category", by.category ?? values.category ?? "");
      set("verdict", values.verdict ?? "");
      wanted = { level: by.level ?? values.level ?? "", novelty: by.novelty ?? values.novelty ?? "" };
      search.value = values.search ?? "";
      update().catch(failed);
      byId("browse").scrollIntoView();
      byId("browse-title").focus({ preventScroll: true });
      return true;
    }
    function failed(problem) {
      count.textContent = "The records could not be read: " + problem.message;
    }
    function changed() {
      opened = true;
      update().catch(failed);
    }
    let waiting = 0;
    search.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(changed, 150);
    });
    clear.addEventListener("click", () => {
      for (const name of ["b", "seed", "category", "level", "novelty", "verdict"]) controls[name].value = "";
      search.value = "";
      changed();
    });
    window.addEventListener("hashchange", follow);
    if (follow()) return () => {};
    count.textContent = "";
    pane.replaceChildren(make("p", { class: "about" }, "Records are read when this part of the page comes into sight."));
    return () => {
      if (!opened) update().catch(failed);
    };
  }

  /** Run something once, when an element is about to come into sight. */
  function near(element, action) {
    const watch = new IntersectionObserver((seen) => {
      if (seen.some((one) => one.isIntersecting)) {
        watch.disconnect();
        action();
      }
    }, { rootMargin: "300px" });
    watch.observe(element);
  }

  for (const table of document.querySelectorAll("table.policies")) trace(table);
  for (const table of document.querySelectorAll("table.data")) enhance(table);
  near(byId("results"), () => results().catch((problem) => {
    byId("results-view").textContent = "The lines could not be read: " + problem.message;
  }));
  near(byId("browse"), browser(JSON.parse(byId("index").textContent)));
  document.documentElement.dataset.ready = "yes";
})();

// The trial table: all rows in memory, sorted and filtered here, a page of them in the document.

const PAGE = 50;
const STATES = ["complete", "pruned", "diverged", "stopped", "running", "failed"];
const MARKS = { complete: "●", running: "▶", pruned: "◇", diverged: "✕", stopped: "□", failed: "!" };

const duration = (s) => (s < 60 ? `${s.toFixed(1)} s` : s < 3600 ? `${Math.floor(s / 60)} min ${String(Math.round(s % 60)).padStart(2, "0")} s` : `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`);
const count = (n) => (n >= 1e9 ? `${(n / 1e9).toPrecision(3)} B` : n >= 1e6 ? `${(n / 1e6).toPrecision(3)} M` : n >= 1e3 ? `${(n / 1e3).toPrecision(3)} K` : n.toFixed(0));
const searched = (v) => (typeof v === "number" ? (Number.isInteger(v) ? v.toLocaleString("en") : String(Number(v.toPrecision(4)))) : String(v));

const first = (judge) => [
  { key: "number", title: "trial" },
  { key: "state", title: "state", text: true },
  { key: "score", title: judge, show: (v) => v.toFixed(4) },
  { key: "artifact_bytes", title: "artifact", show: (v) => `${(v / 1e6).toFixed(2)} MB` },
  { key: "streamed_val_bpb", title: "last streamed", show: (v) => v.toFixed(4) },
  { key: "progress", title: "progress", show: (v) => `${Math.round(100 * v)}%` },
];
const LAST = [
  { key: "tokens", title: "tokens", show: count },
  { key: "seconds", title: "training", show: duration },
  { key: "tokens_per_second", title: "tokens/s", show: count },
  { key: "reason", title: "reason", text: true },
];

export class TrialTable {
  constructor({ table, pager, states, search, trialPath, names, judge }) {
    Object.assign(this, { table, pager, states, search, trialPath, names, fixed: first(judge) });
    this.rows = new Map();
    this.index = {};
    this.columns = [];
    this.sort = { key: "number", ascending: false };
    this.state = "";
    this.page = 0;
    this.queued = false;
    search.addEventListener("input", () => this.#restart());
  }

  load({ columns, rows }) {
    this.index = Object.fromEntries(columns.map((name, i) => [name, i]));
    const known = new Set([...this.fixed, ...LAST].map((c) => c.key).concat(["infeasible", "attempt", "started_at", "ended_at", "device_name", "stop_requested"]));
    const paths = columns.filter((name) => !known.has(name));
    this.values = paths.map((path) => ({ key: path, title: this.names[path] ?? path, hint: path, show: searched }));
    this.rows = new Map(rows.map((row) => [row[0], row]));
    this.exported = false;
    this.#arrange();
    this.#watchExports(rows);
    this.#draw();
  }

  #arrange() {
    this.columns = [...this.fixed.filter((c) => c.key !== "artifact_bytes" || this.exported), ...this.values, ...LAST];
    this.#head();
  }

  // The column of sizes comes with the first of them.
  #watchExports(rows) {
    if (this.exported || rows.every((row) => row[this.index.artifact_bytes] === null)) return;
    this.exported = true;
    this.#arrange();
  }

  patch(rows) {
    for (const row of rows) this.rows.set(row[0], row);
    this.#watchExports(rows);
    if (this.queued || !rows.length) return;
    this.queued = true;
    requestAnimationFrame(() => {
      this.queued = false;
      this.#draw();
    });
  }

  #restart() {
    this.page = 0;
    this.#draw();
  }

  #head() {
    const head = document.createElement("thead");
    const line = head.insertRow();
    for (const column of this.columns) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.dataset.key = column.key;
      if (!column.text) cell.className = "number";
      const button = document.createElement("button");
      button.textContent = column.title;
      button.title = `Sort by ${column.hint ?? column.title}`;
      button.addEventListener("click", () => this.#sortBy(column));
      cell.append(button);
      line.append(cell);
    }
    this.body = document.createElement("tbody");
    this.table.replaceChildren(head, this.body);
  }

  #sortBy(column) {
    const again = this.sort.key === column.key;
    this.sort = { key: column.key, ascending: again ? !this.sort.ascending : column.key !== "number" };
    this.#restart();
  }

  #chosen() {
    const at = (row, key) => row[this.index[key]];
    const words = this.search.value.trim().toLowerCase();
    const hit = (row) => row.some((v, i) => v !== null && i !== this.index.state && searched(v).toLowerCase().includes(words)) || at(row, "state").includes(words);
    const rows = [...this.rows.values()].filter((row) => (!this.state || at(row, "state") === this.state) && (!words || hit(row)));
    const { key, ascending } = this.sort;
    const sign = ascending ? 1 : -1;
    return rows.sort((a, b) => {
      const [x, y] = [at(a, key), at(b, key)];
      if (x === y) return a[0] - b[0];
      if (x === null || x === undefined) return 1; // unknown last, in either direction
      if (y === null || y === undefined) return -1;
      return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
    });
  }

  #draw() {
    if (!this.body) return;
    const rows = this.#chosen();
    this.page = Math.min(this.page, Math.max(0, Math.ceil(rows.length / PAGE) - 1));
    const feasible = [...this.rows.values()].filter((row) => row[this.index.score] !== null && !row[this.index.infeasible]);
    const best = feasible.length ? feasible.reduce((a, b) => (b[this.index.score] < a[this.index.score] ? b : a))[0] : null;
    this.body.replaceChildren(...rows.slice(this.page * PAGE, (this.page + 1) * PAGE).map((row) => this.#row(row, best)));
    for (const cell of this.table.tHead.rows[0].cells) {
      const mine = cell.dataset.key === this.sort.key;
      if (mine) cell.setAttribute("aria-sort", this.sort.ascending ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    }
    this.#chips();
    this.#pages(rows.length);
  }

  #row(row, best) {
    const line = document.createElement("tr");
    if (row[0] === best) line.className = "best";
    for (const column of this.columns) {
      const cell = line.insertCell();
      const value = row[this.index[column.key]];
      if (!column.text) cell.className = "number";
      if (column.key === "number") {
        const link = document.createElement("a");
        link.href = this.trialPath(value);
        link.textContent = value;
        cell.append(link);
      } else if (column.key === "state") {
        const badge = document.createElement("span");
        badge.className = `badge ${value}`;
        badge.textContent = `${MARKS[value] ?? "•"} ${value}`;
        cell.append(badge);
        const over = row[this.index.infeasible];
        if (over) {
          const mark = Object.assign(document.createElement("span"), { className: "badge failed", textContent: "over limit", title: over });
          cell.append(" ", mark);
        }
      } else {
        cell.textContent = value === null || value === "" ? "–" : (column.show ?? String)(value);
        if (column.key === "reason") cell.classList.add("reason");
        if (column.key === "reason") cell.title = value;
      }
    }
    return line;
  }

  #chips() {
    const counts = {};
    for (const row of this.rows.values()) counts[row[this.index.state]] = (counts[row[this.index.state]] ?? 0) + 1;
    const wanted = [["", `all ${this.rows.size}`], ...STATES.filter((s) => counts[s]).map((s) => [s, `${s} ${counts[s]}`])];
    const key = JSON.stringify([wanted, this.state]);
    if (key === this.chipsKey) return;
    const focused = document.activeElement?.dataset?.state;
    const within = this.states.contains(document.activeElement);
    this.chipsKey = key;
    this.states.replaceChildren(
      ...wanted.map(([state, words]) => {
        const chip = document.createElement("button");
        chip.textContent = words;
        chip.dataset.state = state;
        chip.setAttribute("aria-pressed", String(this.state === state));
        chip.addEventListener("click", () => {
          this.state = state;
          this.#restart();
        });
        return chip;
      }),
    );
    if (within) this.states.querySelector(`[data-state="${focused}"]`)?.focus();
  }

  #pages(total) {
    const pages = Math.max(1, Math.ceil(total / PAGE));
    const words = document.createElement("span");
    const first = total ? this.page * PAGE + 1 : 0;
    words.textContent = total ? `${first}–${Math.min(total, first + PAGE - 1)} of ${total}` : this.rows.size ? "no trial matches the filter" : "no trial has started yet";
    const turn = (label, by, possible) => {
      const button = document.createElement("button");
      button.textContent = label;
      button.disabled = !possible;
      button.addEventListener("click", () => {
        this.page += by;
        this.#draw();
      });
      return button;
    };
    const buttons = pages > 1 ? [turn("Previous", -1, this.page > 0), turn("Next", 1, this.page < pages - 1)] : [];
    this.pager.replaceChildren(words, ...buttons);
  }
}

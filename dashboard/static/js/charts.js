// Figures: fetched when they come into view and again when their data changed; drawn by Plotly, loaded from
// this server. A container's data-figure names its figure, and may be filled by several plots.

const LEAST_MS_BETWEEN = 3000; // two fetches of one figure
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const CONFIG = {
  responsive: true,
  displaylogo: false,
  showTips: false,
  modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
};

let plotlyPromise = null;

function plotly(address) {
  plotlyPromise ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = address;
    script.async = true;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("plotly.min.js could not be loaded"));
    document.head.append(script);
  });
  return plotlyPromise;
}

export class Charts {
  // addressOf(key, theme) gives where a figure's JSON is; trialPath(number) where a click on a trial leads;
  // onAnswer(box, answer), where given, takes what else an answer says.
  constructor({ plotlyAddress, addressOf, trialPath, onAnswer }) {
    this.onAnswer = onAnswer;
    this.plotlyAddress = plotlyAddress;
    this.addressOf = addressOf;
    this.trialPath = trialPath;
    this.charts = new Map();
    const observer = new IntersectionObserver((entries) => this.#seen(entries), { rootMargin: "300px" });
    for (const box of document.querySelectorAll("[data-figure]")) {
      this.charts.set(box.dataset.figure, { box, visible: false, stale: true, busy: false, at: 0, tag: "", plots: new Map() });
      observer.observe(box);
    }
    dark.addEventListener("change", () => this.refresh([...this.charts.keys()]));
  }

  refresh(keys) {
    for (const key of keys) {
      const chart = this.charts.get(key);
      if (!chart) continue;
      chart.stale = true;
      this.#update(key);
    }
  }

  // At once, however short ago it was drawn: the reader asked.
  now(key) {
    this.charts.get(key).at = 0;
    this.refresh([key]);
  }

  #seen(entries) {
    for (const entry of entries) {
      const key = entry.target.dataset.figure;
      this.charts.get(key).visible = entry.isIntersecting;
      if (entry.isIntersecting) this.#update(key);
    }
  }

  async #update(key) {
    const chart = this.charts.get(key);
    if (!chart.visible || !chart.stale || chart.busy) return;
    const wait = chart.at + LEAST_MS_BETWEEN - Date.now();
    if (wait > 0) {
      clearTimeout(chart.timer);
      chart.timer = setTimeout(() => this.#update(key), wait);
      return;
    }
    chart.busy = true;
    chart.stale = false;
    chart.at = Date.now();
    try {
      await this.#fetchAndDraw(key, chart);
    } catch (error) {
      if (!chart.plots.size) this.#note(chart, `Could not be drawn: ${error.message}`);
      chart.stale = true;
      chart.timer = setTimeout(() => this.#update(key), 2 * LEAST_MS_BETWEEN);
    } finally {
      chart.busy = false;
    }
    if (chart.stale) this.#update(key);
  }

  async #fetchAndDraw(key, chart) {
    const address = this.addressOf(key, dark.matches ? "dark" : "light");
    const known = chart.address === address && chart.tag ? { "If-None-Match": chart.tag } : {};
    const answer = await fetch(address, { headers: known, cache: "no-store" });
    if (answer.status === 304) return;
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    const content = await answer.json();
    const { figures, note } = content;
    this.onAnswer?.(chart.box, content);
    chart.tag = answer.headers.get("ETag") ?? "";
    chart.address = address;
    const mine = chart.box.dataset.only ? { [chart.box.dataset.only]: figures[chart.box.dataset.only] } : figures;
    if (Object.keys(mine).length) await this.#draw(chart, mine);
    this.#note(chart, note);
  }

  async #draw(chart, figures) {
    const Plotly = await plotly(this.plotlyAddress);
    chart.box.querySelector(".empty")?.remove();
    const several = Object.keys(figures).length > 1;
    const fresh = Object.keys(figures).filter((name) => !chart.plots.has(name));
    for (const name of fresh) this.#place(chart, name, several); // all of them first: each takes its share of the width
    for (const [name, figure] of Object.entries(figures)) {
      await Plotly.react(chart.plots.get(name), figure.data, figure.layout, CONFIG);
      await new Promise((resolve) => setTimeout(resolve)); // between two plots the page may answer its reader
    }
    for (const name of fresh) {
      chart.plots.get(name).on("plotly_click", (event) => this.#open(event.points[0]?.customdata));
    }
    chart.box.dataset.drawn = String(Number(chart.box.dataset.drawn ?? 0) + 1);
  }

  #place(chart, name, several) {
    const plot = document.createElement("div");
    plot.className = "plot";
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", several ? `${chart.box.dataset.label} ${name}` : chart.box.dataset.label);
    chart.box.append(plot);
    chart.plots.set(name, plot);
  }

  #open(number) {
    if (Number.isInteger(number) && this.trialPath) window.location.href = this.trialPath(number);
  }

  #note(chart, words) {
    let note = chart.box.querySelector(".empty");
    if (!words) {
      note?.remove();
      return;
    }
    if (!note) {
      note = document.createElement("p");
      note.className = "empty";
      chart.box.append(note);
    }
    note.classList.toggle("remark", chart.plots.size > 0);
    note.textContent = words;
  }
}

// Figures: fetched when they come near the view, those in it first, and again when their data changed; drawn by
// Plotly, loaded from this server. A container's data-figure names its figure, and may be filled by several plots.

const LEAST_MS_BETWEEN = 3000; // two fetches of one figure
const MOST_AT_ONCE = 2; // figures under way: more would delay the one that the reader looks at
const AHEAD = 800; // pixels: how near to the view a figure must come
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
    script.onerror = () => reject(new Error("Plotly could not be loaded"));
    document.head.append(script);
  });
  return plotlyPromise;
}

// Pixels between a figure and the view; 0 inside it.
function distance(box) {
  const { top, bottom } = box.getBoundingClientRect();
  return Math.max(0, top - window.innerHeight, -bottom);
}

export class Charts {
  // addressOf(key, theme) gives where a figure's JSON is; trialPath(number) where a click on a trial leads;
  // onAnswer(box, answer), where given, takes what else an answer says. An answer that says it is `stale` is drawn, and
  // asked for again as `fresh` once all others near the view are drawn.
  constructor({ plotlyAddress, addressOf, trialPath, onAnswer }) {
    this.onAnswer = onAnswer;
    this.plotlyAddress = plotlyAddress;
    this.addressOf = addressOf;
    this.trialPath = trialPath;
    this.charts = new Map();
    const observer = new IntersectionObserver((entries) => this.#seen(entries), { rootMargin: `${AHEAD}px` });
    for (const box of document.querySelectorAll("[data-figure]")) {
      const visible = distance(box) < AHEAD; // the observer tells it after the first paint only
      const chart = { box, visible, stale: true, behind: false, busy: false, at: 0, tag: "", plots: new Map() };
      this.charts.set(box.dataset.figure, chart);
      observer.observe(box);
    }
    dark.addEventListener("change", () => this.refresh([...this.charts.keys()]));
    this.#update();
    // Read by the browser after the first paint, while the first figures are on their way; what fails is told when drawn.
    requestAnimationFrame(() => setTimeout(() => plotly(plotlyAddress).catch(() => {})));
  }

  refresh(keys) {
    for (const key of keys) {
      const chart = this.charts.get(key);
      if (!chart) continue;
      chart.stale = true;
      chart.behind = false;
    }
    this.#update();
  }

  // At once, however short ago it was drawn: the reader asked.
  now(key) {
    this.charts.get(key).at = 0;
    this.refresh([key]);
  }

  #seen(entries) {
    for (const entry of entries) {
      const chart = this.charts.get(entry.target.dataset.figure);
      chart.visible = entry.isIntersecting || (chart.visible && !chart.at); // passed by: drawn once all the same
    }
    this.#update();
  }

  // Begins as many as may be under way, the one nearest to the reader's eye first.
  #update() {
    let free = MOST_AT_ONCE - [...this.charts.values()].filter((chart) => chart.busy).length;
    const wanted = [...this.charts].filter(([, chart]) => chart.visible && chart.stale && !chart.busy);
    const far = new Map(wanted.map(([key, chart]) => [key, distance(chart.box)]));
    const order = ([a, one], [b, other]) => one.behind - other.behind || far.get(a) - far.get(b);
    for (const [key, chart] of wanted.sort(order)) {
      const wait = chart.at + LEAST_MS_BETWEEN - Date.now();
      if (wait > 0) {
        clearTimeout(chart.timer);
        chart.timer = setTimeout(() => this.#update(), wait);
      } else if (free-- > 0) this.#renew(key, chart);
    }
  }

  async #renew(key, chart) {
    chart.busy = true;
    chart.stale = false;
    chart.at = Date.now();
    try {
      await this.#fetchAndDraw(key, chart);
    } catch (error) {
      if (!chart.plots.size) this.#note(chart, `Could not be drawn: ${error.message}`);
      chart.stale = true;
      chart.at = Date.now() + LEAST_MS_BETWEEN; // not before twice that time
    } finally {
      chart.busy = false;
    }
    this.#update();
  }

  async #fetchAndDraw(key, chart) {
    const address = this.addressOf(key, dark.matches ? "dark" : "light") + (chart.behind ? "&fresh=true" : "");
    const known = chart.address === address && chart.tag ? { "If-None-Match": chart.tag } : {};
    const answer = await fetch(address, { headers: known, cache: "no-store" });
    if (answer.status === 304) return;
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    const content = await answer.json();
    const { figures, note } = content;
    chart.behind = Boolean(content.stale);
    this.onAnswer?.(chart.box, content);
    chart.tag = answer.headers.get("ETag") ?? "";
    chart.address = address;
    const mine = chart.box.dataset.only ? { [chart.box.dataset.only]: figures[chart.box.dataset.only] } : figures;
    if (Object.keys(mine).length) await this.#draw(chart, mine);
    this.#note(chart, note);
    if (!chart.behind) return;
    chart.stale = true;
    chart.at = 0;
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

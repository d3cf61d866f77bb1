// The scaling page: figures with what must be known to read them, and the table of laws.

import { Charts } from "./charts.js";

const page = document.getElementById("scaling").dataset;
const form = document.getElementById("conventions");
const chosen = () => new URLSearchParams(new FormData(form)).toString();
const MOST_LISTED = 12;
const NARROW = 640; // pixels

function item(list, text) {
  const line = document.createElement("li");
  line.textContent = text;
  list.append(line);
}

function details(about, title, lines) {
  if (!lines.length) return;
  const box = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = title;
  const list = document.createElement("ul");
  for (const text of lines.slice(0, MOST_LISTED)) item(list, text);
  if (lines.length > MOST_LISTED) item(list, `and ${lines.length - MOST_LISTED} more`);
  box.append(summary, list);
  about.append(box);
}

function paragraph(about, text) {
  if (!text) return;
  const line = document.createElement("p");
  line.className = "hint";
  line.textContent = text;
  about.append(line);
}

function tell(box, { figures, card, stale }) {
  const section = box.closest("[data-card]");
  section.classList.remove("waiting"); // its height was kept, so that cards far below are not fetched at once
  for (const figure of Object.values(figures)) stack(figure);
  box.classList.toggle("stacked", Object.values(figures).some((figure) => figure.layout.height));
  section.querySelector(".stale").textContent = stale ?? "";
  section.querySelector(".says").textContent = card.says;
  const link = section.querySelector("[data-csv]");
  link.hidden = !Object.keys(figures).length;
  link.href = `${page.path}/scaling/${section.dataset.card}.csv?${chosen()}`;
  const about = section.querySelector(".about");
  about.replaceChildren();
  paragraph(about, card.used && `Rests on ${card.used}.`);
  paragraph(about, card.method && `Intervals: ${card.method}.`);
  details(about, `Not identified (${card.missing.length})`, card.missing);
  details(about, "Left out", card.excluded);
}

async function readLaws() {
  const answer = await fetch(`${page.path}/scaling/laws?${chosen()}`, { cache: "no-store" });
  const box = document.getElementById("laws");
  if (answer.ok) box.innerHTML = await answer.text();
  else box.textContent = `The table could not be read: ${answer.status} ${answer.statusText}`;
  box.dataset.read = "yes";
}

// Two or three panels side by side are too narrow for a telephone: one above the other there.
function stack(figure) {
  const places = Object.keys(figure.layout).filter((name) => /^xaxis\d*$/.test(name));
  if (window.innerWidth >= NARROW || places.length < 2) return;
  const height = 1 / places.length;
  places.forEach((name, place) => {
    figure.layout[name].domain = [0, 1];
    const top = 1 - place * height;
    figure.layout[name.replace("x", "y")].domain = [top - height * 0.74, top];
    figure.layout[name.replace("x", "y")].title ??= {};
  });
  figure.layout.height = 250 * places.length;
}

const charts = new Charts({
  plotlyAddress: page.plotly,
  addressOf: (key, theme) => `${page.path}/scaling/figures/${key}?theme=${theme}&${chosen()}`,
  trialPath: (number) => (number < 0 ? `${page.path}/promotions/${-1 - number}` : `${page.path}/trials/${number}`),
  onAnswer: tell,
});
form.addEventListener("change", () => {
  history.replaceState(null, "", `?${chosen()}`);
  for (const box of document.querySelectorAll("[data-figure]")) charts.now(box.dataset.figure);
  if (document.getElementById("laws").dataset.read) readLaws();
});
const laws = new IntersectionObserver((entries) => {
  if (!entries.some((entry) => entry.isIntersecting)) return;
  laws.disconnect();
  readLaws();
}, { rootMargin: "300px" });
laws.observe(document.getElementById("laws"));

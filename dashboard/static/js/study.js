// The study page: pieces, table and figures kept up to date by the event stream.

import { listen, toast } from "./actions.js";
import { Charts } from "./charts.js";
import { follow, readPieces, replacePieces, tellTimes } from "./live.js";
import { TrialTable } from "./table.js";

const page = document.getElementById("study").dataset;
const trialPath = (number) => `${page.path}/trials/${number}`;
const TOPICS = {
  curves: ["curves"],
  scores: ["history", "parameters", "parallel", "importances"],
  promotions: ["promotions"],
};
let metric = "val_bpb";
let charts = null;

const table = new TrialTable({
  table: document.getElementById("trials"),
  pager: document.getElementById("pager"),
  states: document.getElementById("states"),
  search: document.getElementById("search"),
  trialPath,
  names: JSON.parse(page.names),
  judge: page.judge,
});

for (const button of document.querySelectorAll("[data-metric]")) {
  button.addEventListener("click", () => {
    metric = button.dataset.metric;
    for (const other of document.querySelectorAll("[data-metric]")) other.setAttribute("aria-pressed", String(other === button));
    charts?.now("curves");
  });
}

// Pause, resume and stop show only where they make sense; the badge of the summary says what the study is.
function offerActions() {
  const state = document.querySelector("#summary [data-study-state]")?.dataset.studyState ?? "running";
  for (const button of document.querySelectorAll("[data-when]")) button.hidden = !button.dataset.when.split(" ").includes(state);
}

async function loadTable() {
  const answer = await fetch(`${page.path}/table`, { cache: "no-store" });
  if (!answer.ok) throw new Error(`the trial table: ${answer.status} ${answer.statusText}`);
  const content = await answer.json();
  table.load(content);
  return content.cursor;
}

// The service was restarted, or another replica answers: what it has replaces what is here.
async function readAnew() {
  await Promise.all([readPieces(page.path), loadTable()]);
  offerActions();
  charts.refresh(Object.values(TOPICS).flat());
}

async function start() {
  listen();
  offerActions();
  tellTimes();
  const cursor = await loadTable(); // before the charts: Plotly keeps the browser busy for a second
  charts = new Charts({
    plotlyAddress: page.plotly,
    addressOf: (key, theme) => `${page.path}/figures/${key}?theme=${theme}${key === "curves" ? `&metric=${metric}` : ""}`,
    trialPath,
  });
  follow({
    path: page.path,
    cursor,
    onChange({ fragments, rows, topics }) {
      replacePieces(fragments);
      offerActions();
      table.patch(rows);
      charts.refresh(topics.flatMap((topic) => TOPICS[topic] ?? []));
    },
    onReset: () => readAnew().catch((error) => toast(`This page could not be read anew: ${error.message}`, "problem")),
  });
  fetch(`${page.path}/scaling/first`, { method: "POST" }).catch(() => {}); // drawn by the time that the reader goes there
}

start().catch((error) => toast(error.message, "problem"));

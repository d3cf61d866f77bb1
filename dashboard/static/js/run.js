// The page of one trial or promotion: when its row changes, its pieces are read anew.

import { listen } from "./actions.js";
import { Charts } from "./charts.js";
import { follow, replacePieces, tellTimes } from "./live.js";

const page = document.getElementById("run").dataset;
const charts = new Charts({
  plotlyAddress: page.plotly,
  addressOf: (_key, theme) => `${page.own}/figures?theme=${theme}`,
});

async function readAnew() {
  const answer = await fetch(page.own, { cache: "no-store" });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const pieces = [...fresh.querySelectorAll("[data-live]")].map((element) => [element.id, element.innerHTML]);
  replacePieces(Object.fromEntries(pieces));
  charts.refresh(["run", "throughput"]);
}

listen();
tellTimes();
follow({
  path: page.path,
  cursor: page.cursor,
  onChange({ rows, fragments, topics }) {
    const mine = page.kind === "trial" ? rows.some((row) => row[0] === Number(page.number)) : topics.includes("promotions");
    if (mine || ("running" in fragments && page.kind === "promotion")) readAnew();
  },
  onReset: readAnew,
});

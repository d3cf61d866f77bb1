// The page of one trial or promotion: when its row changes, its pieces are read anew.

import { listen, toast } from "./actions.js";
import { Charts } from "./charts.js";
import { follow, readPieces, tellTimes } from "./live.js";

const page = document.getElementById("run").dataset;
const charts = new Charts({
  plotlyAddress: page.plotly,
  addressOf: (_key, theme) => `${page.own}/figures?theme=${theme}`,
});

async function readAnew() {
  await readPieces(page.own).catch((error) => toast(`This page could not be read anew: ${error.message}`, "problem"));
  charts.refresh(["run", "throughput", "forecast"]);
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

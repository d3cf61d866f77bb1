// Buttons that change something: JSON to the API, the answer or the error as a message on the page.

export function toast(words, kind = "done") {
  const line = document.createElement("p");
  line.className = `toast ${kind}`;
  line.textContent = words;
  const close = document.createElement("button");
  close.textContent = "×";
  close.setAttribute("aria-label", "Dismiss");
  close.addEventListener("click", () => line.remove());
  line.append(close);
  document.getElementById("toasts").append(line);
  if (kind === "done") setTimeout(() => line.remove(), 6000);
}

export async function post(address, body) {
  let answer;
  try {
    answer = await fetch(address, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Error("The service does not answer. Is `sweeper launch` or `sweeper serve` still running?");
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(describe(content.detail) || `${answer.status} ${answer.statusText}`);
  return content;
}

function describe(detail) {
  if (Array.isArray(detail)) return detail.map((item) => `${(item.loc ?? []).join(".")}: ${item.msg}`).join("; ");
  return detail;
}

function confirmed(words) {
  const dialog = document.getElementById("confirm");
  dialog.querySelector("p").textContent = words;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

async function press(button) {
  if (button.dataset.confirm && !(await confirmed(button.dataset.confirm))) return;
  button.disabled = true;
  try {
    toast((await post(button.dataset.post, {})).message);
  } catch (error) {
    toast(error.message, "problem");
  } finally {
    button.disabled = false;
  }
}

function values(form) {
  const params = {};
  for (const field of form.querySelectorAll("[data-kind]")) {
    const text = field.value.trim();
    const value = field.dataset.kind === "json" ? JSON.parse(text) : Number(text);
    if (field.dataset.kind === "number" && (text === "" || !Number.isFinite(value))) {
      field.focus();
      throw new Error(`${field.name} must be a number, got “${text}”`);
    }
    params[field.name] = value;
  }
  return params;
}

async function enqueue(form) {
  toast((await post(form.dataset.enqueue, { params: values(form) })).message);
}

function request(form, planOnly, agreed = {}) {
  const trial = form.dataset.trial === undefined ? null : Number(form.dataset.trial);
  const asked = { trial, tokens: form.tokens.value.trim() || null, by: form.by.value || null };
  return post(form.dataset.promote, { ...asked, ...agreed, plan_only: planOnly });
}

async function plan(form) {
  const found = await request(form, true);
  const number = (count) => Math.round(count).toLocaleString("en");
  const hours = found.seconds / 3600;
  const time = hours >= 1 ? `${hours.toFixed(1)} hours` : `${Math.ceil(found.seconds / 60)} minutes`;
  const lines = [
    `Trial ${found.trial}, streamed on as promotion: ${number(found.tokens)} tokens in ${number(found.steps)} steps`,
    found.seconds === null ? "how long it takes is not known: nothing of this shape was measured yet" : `about ${time} at ${number(found.tokens_per_second)} tokens/s`,
    `the trial: ${number(found.trial_tokens)} tokens, ${found.judge.replaceAll("_", " ")} ${found.unit.metric} ${found.trial_val_bpb.toFixed(4)}${found.unit.suffix}`,
    ...(found.transfer ? [found.transfer.why] : []),
    ...(found.transfer?.because.length ? [`to be confirmed first: ${found.transfer.because.join("; ")}`] : []),
    ...found.notes,
  ];
  const list = document.createElement("ul");
  list.append(...lines.map((words) => Object.assign(document.createElement("li"), { textContent: words })));
  form.querySelector(".plan").replaceChildren(...candidates(found.transfer, found.unit), list);
  const start = form.querySelector("[type=submit]");
  start.disabled = false;
  // What was shown is what runs: another wish needs another plan, and a law that changed since is refused.
  form.agreed = found.transfer ? { by: found.transfer.chosen, data_hash: found.transfer.data_hash, why: found.transfer.why } : {};
  form.addEventListener("input", () => (start.disabled = true), { once: true });
}

const LAWS = { copied: "copied", prior: "prior law", fitted: "fitted law" };

function candidates(transfer, unit) {
  if (!transfer?.candidates.length) return [];
  const short = (value) => Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 });
  const score = (e) => (e ? `${e.value.toFixed(4)} (${e.low.toFixed(4)} to ${e.high.toFixed(4)})` : "none");
  const rows = [
    ["", ...transfer.candidates.map((one) => LAWS[one.by] + (one.by === transfer.chosen ? " (taken)" : ""))],
    ["matrix_lr", ...transfer.candidates.map((one) => short(one.learning_rate))],
    ["weight decay", ...transfer.candidates.map((one) => short(one.weight_decay))],
    ["batch", ...transfer.candidates.map((one) => one.batch_tokens.toLocaleString("en"))],
    ["steps", ...transfer.candidates.map((one) => one.steps.toLocaleString("en"))],
    [`foretold ${unit.metric}, 95 %`, ...transfer.candidates.map((one) => score(one.predicted))],
  ];
  const table = document.createElement("table");
  for (const [place, cells] of rows.entries()) {
    const tag = (column) => (place === 0 || column === 0 ? "th" : "td");
    const made = cells.map((text, column) => Object.assign(document.createElement(tag(column)), { textContent: text }));
    table.insertRow().append(...made);
  }
  const frame = Object.assign(document.createElement("div"), { className: "scroll" });
  frame.append(table);
  return [frame];
}

async function promote(form) {
  const found = await request(form, false, form.agreed);
  toast(`Promotion ${found.number} of trial ${found.trial} waits for a worker.`);
}

async function attempt(form, action, close) {
  const problem = form.querySelector(".problem");
  problem.textContent = "";
  try {
    await action(form);
    if (close) form.closest("dialog").close();
  } catch (error) {
    problem.textContent = error.message;
  }
}

export function listen() {
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.post) press(button);
    else if (button.dataset.dialog) document.getElementById(button.dataset.dialog).showModal();
    else if ("close" in button.dataset) button.closest("dialog").close();
    else if ("plan" in button.dataset) attempt(button.form, plan, false);
  });
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.enqueue === undefined && form.dataset.promote === undefined) return;
    event.preventDefault();
    attempt(form, form.dataset.enqueue !== undefined ? enqueue : promote, true);
  });
}

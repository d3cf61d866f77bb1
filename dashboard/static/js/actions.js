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

function request(form, planOnly) {
  const trial = form.dataset.trial === undefined ? null : Number(form.dataset.trial);
  return post(form.dataset.promote, { trial, tokens: form.tokens.value.trim() || null, plan_only: planOnly });
}

async function plan(form) {
  const found = await request(form, true);
  const number = (count) => Math.round(count).toLocaleString("en");
  const hours = found.seconds / 3600;
  const time = hours >= 1 ? `${hours.toFixed(1)} hours` : `${Math.ceil(found.seconds / 60)} minutes`;
  const lines = [
    `Trial ${found.trial}, streamed on as promotion: ${number(found.tokens)} tokens in ${number(found.steps)} steps`,
    found.seconds === null ? "how long it takes is not known: nothing of this shape was measured yet" : `about ${time} at ${number(found.tokens_per_second)} tokens/s`,
    `the trial: ${number(found.trial_tokens)} tokens, ${found.judge.replaceAll("_", " ")} val_bpb ${found.trial_val_bpb.toFixed(4)}`,
    ...found.notes,
  ];
  const list = document.createElement("ul");
  list.append(...lines.map((words) => Object.assign(document.createElement("li"), { textContent: words })));
  form.querySelector(".plan").replaceChildren(list);
  form.querySelector("[type=submit]").disabled = false;
}

async function promote(form) {
  const found = await request(form, false);
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

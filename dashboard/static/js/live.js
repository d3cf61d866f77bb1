// The event stream: one connection for a visible page, none for a hidden one (browsers allow six a host).

const RETRY_MS = 3000;

export function follow({ path, cursor, onChange, onReset }) {
  const light = document.getElementById("live");
  let source = null;
  let timer = null;

  function say(state, words) {
    light.dataset.state = state;
    light.textContent = words;
  }

  function open() {
    clearTimeout(timer);
    source?.close();
    source = new EventSource(`${path}/stream?after=${encodeURIComponent(cursor)}`);
    source.onopen = () => say("on", "live");
    source.onerror = () => {
      say("off", "reconnecting…");
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(open, RETRY_MS);
    };
    source.addEventListener("change", (event) => {
      cursor = event.lastEventId;
      onChange(JSON.parse(event.data));
    });
    source.addEventListener("reset", (event) => {
      cursor = event.lastEventId;
      onReset();
    });
  }

  function close() {
    clearTimeout(timer);
    source?.close();
    source = null;
    say("off", "asleep");
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", () => source?.close());
  window.addEventListener("pageshow", (event) => event.persisted && open());
  open();
}

// Put rendered pieces in place by element id; the focused button keeps its focus when it is still there.
export function replacePieces(pieces) {
  const key = document.activeElement?.dataset?.key;
  for (const [id, html] of Object.entries(pieces)) {
    const element = document.getElementById(id);
    if (element && element.innerHTML !== html) element.innerHTML = html;
  }
  if (key && document.activeElement?.dataset?.key !== key) {
    document.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
  }
  tellTimes();
}

// Read a page of this server again and put its live pieces in place.
export async function readPieces(address) {
  const answer = await fetch(address, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const pieces = [...fresh.querySelectorAll("[data-live]")].map((element) => [element.id, element.innerHTML]);
  replacePieces(Object.fromEntries(pieces));
}

const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "short" });

// Times as "3 min. ago", the full local time on hover.
export function tellTimes(root = document) {
  for (const element of root.querySelectorAll("time[data-ago]")) {
    const at = new Date(element.dateTime);
    const seconds = (at - Date.now()) / 1000;
    const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? ["second", 1];
    const words = Math.abs(seconds) < 5 ? "just now" : relative.format(Math.round(seconds / size), unit);
    if (element.textContent !== words) element.textContent = words;
    element.title = at.toLocaleString();
  }
}

setInterval(tellTimes, 5000);

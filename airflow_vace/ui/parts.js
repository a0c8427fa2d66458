// Parts that all screens of videos share: styles, requests, polling, times, buttons.
// Airflow provides React and, from 3.2 on, Chakra.

const { createElement: h, useEffect, useRef, useState } = globalThis.React;
const Chakra = globalThis.ChakraUI ?? {};
export const Badge = Chakra.Badge ?? "span";
export const Heading = Chakra.Heading ?? "h3";
export const Link = Chakra.Link ?? "a";

export const color = (name) => `var(--chakra-colors-${name})`;
export const STYLE = {
  page: { padding: "16px", color: color("fg"), overflowY: "auto", height: "100%" },
  summary: { margin: 0, color: color("fg-muted") },
  bar: { display: "flex", gap: "8px 16px", alignItems: "center", flexWrap: "wrap", marginBottom: "12px" },
  // Four columns beside Airflow's grid on a screen of 1440 pixels.
  gallery: {
    display: "grid",
    gap: "12px",
    gridTemplateColumns: "repeat(auto-fill, minmax(min(14rem, 100%), 1fr))",
    listStyle: "none",
    margin: 0,
    padding: 0,
  },
  // The browser draws a card below the screen only when a person scrolls to it.
  item: { contentVisibility: "auto", containIntrinsicSize: "auto 14rem" },
  single: { display: "grid", gap: "16px", listStyle: "none", margin: 0, padding: 0, maxWidth: "59rem" },
  row: { display: "flex", gap: "4px 12px", alignItems: "center", flexWrap: "wrap" },
  term: { color: color("fg-muted") },
  note: { color: color("fg-muted"), fontSize: "0.875rem", margin: "8px 0", overflowWrap: "anywhere" },
  error: {
    borderInlineStart: `3px solid ${color("fg-error")}`,
    paddingInlineStart: "10px",
    fontSize: "0.875rem",
    overflowWrap: "anywhere",
    whiteSpace: "pre-wrap",
    margin: 0,
  },
  link: { textDecoration: "underline", fontSize: "0.875rem", color: color("fg-info") },
  button: {
    alignItems: "center",
    border: `1px solid ${color("border")}`,
    borderRadius: "999px",
    background: "transparent",
    color: "inherit",
    cursor: "pointer",
    display: "inline-flex",
    fontSize: "0.875rem",
    gap: "6px",
    padding: "2px 12px",
  },
  pressed: { background: color("bg-emphasized"), borderColor: color("fg") },
  off: { cursor: "default", opacity: 0.4 },
  small: { fontSize: "0.75rem", padding: "0 8px", whiteSpace: "nowrap" },
};

// --- requests --------------------------------------------------------------------------------------

export const below = (path) => new URL(path, document.baseURI).href;
export const segment = encodeURIComponent;

export async function ask(path) {
  const answer = await fetch(below(path), { credentials: "same-origin" });
  if (answer.ok) return answer.json();
  const why = {
    401: "You are not logged in any more: reload this page.",
    403: "You may not read the XComs of this DAG, where its videos are named.",
  };
  throw new Error(why[answer.status] ?? `The API server answered with ${answer.status}.`);
}

const HIDDEN_MS = 15000;
const AFTER_ERROR_MS = 15000;

// Polls while the page is visible. `load` returns the value and the pause in milliseconds, null for no further poll.
// Responses may arrive out of order, so all but the latest request's are dropped.
export function usePolled(load) {
  const [state, setState] = useState({ value: null, error: null });
  const latest = useRef(0);
  useEffect(() => {
    let timer = null;
    let isGone = false;
    let isPolling = false;
    let isDone = false;
    const refresh = async () => {
      const mine = (latest.current += 1);
      try {
        const [value, pause] = await load();
        if (mine === latest.current) setState({ value, error: null });
        return pause;
      } catch (error) {
        if (mine === latest.current) setState((before) => ({ ...before, error: error.message }));
        return AFTER_ERROR_MS;
      }
    };
    const again = async () => {
      if (isGone || isPolling || isDone) return;
      clearTimeout(timer);
      isPolling = true;
      const pause = document.hidden ? HIDDEN_MS : await refresh();
      isPolling = false;
      isDone = pause === null;
      if (!isGone && !isDone) timer = setTimeout(again, pause);
    };
    const onVisible = () => !document.hidden && again();
    document.addEventListener("visibilitychange", onVisible);
    again();
    return () => {
      isGone = true;
      latest.current += 1;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", onVisible);
    };
  }, [load]);
  return state;
}

// Returns true from the moment at which the element is near the screen.
export function useNear(element, isWanted) {
  const [isNear, setNear] = useState(typeof IntersectionObserver === "undefined");
  useEffect(() => {
    if (isNear || !isWanted || !element.current) return undefined;
    const note = (changes) => changes.some((change) => change.isIntersecting) && setNear(true);
    const observer = new IntersectionObserver(note, { rootMargin: "400px", scrollMargin: "400px" });
    observer.observe(element.current);
    return () => observer.disconnect();
  }, [element, isNear, isWanted]);
  return isNear;
}

// Below some width Airflow's panel is wider than its visible part, so the page keeps within the window.
export function useFit(element) {
  const [width, setWidth] = useState(null);
  useEffect(() => {
    const fit = () => setWidth(document.documentElement.clientWidth - element.current.getBoundingClientRect().left);
    fit();
    const observer = new ResizeObserver(fit);
    observer.observe(document.documentElement);
    observer.observe(element.current);
    return () => observer.disconnect();
  }, [element]);
  return width > 0 ? { maxWidth: `${Math.floor(width)}px` } : {};
}

// --- words -----------------------------------------------------------------------------------------

// Airflow keeps the zone of its clock there, as JSON.
function zoneOfAirflow() {
  try {
    return JSON.parse(localStorage.getItem("timezone")) || undefined;
  } catch {
    return undefined;
  }
}

const formats = new Map();

function formatOf(timeZone) {
  if (!formats.has(timeZone)) {
    const two = "2-digit";
    const parts = { year: "numeric", month: two, day: two, hour: two, minute: two, second: two, hourCycle: "h23" };
    let format = null;
    try {
      format = new Intl.DateTimeFormat("en", { ...parts, timeZone });
    } catch {
      format = new Intl.DateTimeFormat("en", parts);
    }
    formats.set(timeZone, format);
  }
  return formats.get(timeZone);
}

// A moment in Airflow's zone and form, such as "2026-11-28 09:00:05"; null for other texts.
export function momentOf(text) {
  const moment = text ? new Date(text) : null;
  if (moment === null || Number.isNaN(moment.getTime())) return null;
  const parts = formatOf(zoneOfAirflow()).formatToParts(moment);
  const { year, month, day, hour, minute, second } = Object.fromEntries(parts.map((part) => [part.type, part.value]));
  return `${year}-${month}-${day} ${hour}:${minute}:${second}`;
}

export function lengthOf(seconds) {
  if (seconds === null || seconds === undefined) return null;
  return seconds < 90 ? `${Math.round(seconds)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

export const count = (number) => number.toLocaleString();

// --- buttons ---------------------------------------------------------------------------------------

// Browsers have `navigator.clipboard` only for https and for localhost.
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  return undefined;
}

export function Copy({ text, name }) {
  const [isCopied, setCopied] = useState(false);
  const onClick = () => copy(text).then(() => setCopied(true), () => setCopied(false));
  const style = { ...STYLE.button, ...STYLE.small, marginInlineStart: "8px" };
  const label = `Copy the ${name}`;
  return h("button", { type: "button", "aria-label": label, onClick, style }, isCopied ? "copied" : "copy");
}

// Buttons of which one is pressed: `[name, text]` each.
export function Choices({ label, choices, chosen, choose }) {
  return h(
    "div",
    { role: "group", "aria-label": label, style: STYLE.row },
    choices.map(([name, text]) => {
      const style = { ...STYLE.button, ...(chosen === name ? STYLE.pressed : {}) };
      const more = { type: "button", "aria-pressed": chosen === name, onClick: () => choose(name) };
      return h("button", { key: name, ...more, style }, text);
    }),
  );
}

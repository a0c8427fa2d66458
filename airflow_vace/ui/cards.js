// Cards of the video tab: a player, a progress bar, facts.
// Airflow provides React and, from 3.2 on, Chakra.

const { createElement: h, useEffect, useState } = globalThis.React;
const Chakra = globalThis.ChakraUI ?? {};
export const Badge = Chakra.Badge ?? "span";
export const Heading = Chakra.Heading ?? "h3";
const Link = Chakra.Link ?? "a";

export const color = (name) => `var(--chakra-colors-${name})`;
export const STYLE = {
  page: { padding: "16px", color: color("fg"), overflowY: "auto", height: "100%" },
  summary: { marginBottom: "12px", color: color("fg-muted") },
  gallery: {
    display: "grid",
    gap: "16px",
    gridTemplateColumns: "repeat(auto-fill, minmax(min(22rem, 100%), 1fr))",
    listStyle: "none",
    margin: 0,
    padding: 0,
  },
  single: { listStyle: "none", margin: 0, padding: 0, maxWidth: "60rem" },
  card: {
    border: `1px solid ${color("border")}`,
    borderRadius: "8px",
    background: color("bg-panel"),
    overflow: "hidden",
    height: "100%",
  },
  frame: { aspectRatio: "16 / 9", background: "#111", width: "100%", display: "block" },
  blank: {
    aspectRatio: "16 / 9",
    background: color("bg-subtle"),
    color: color("fg-muted"),
    display: "flex",
    flexDirection: "column",
    gap: "10px",
    alignItems: "center",
    justifyContent: "center",
    padding: "16px",
    textAlign: "center",
  },
  text: { padding: "12px 14px", display: "flex", flexDirection: "column", gap: "8px" },
  row: { display: "flex", gap: "12px", alignItems: "center", flexWrap: "wrap" },
  prompt: { fontWeight: 600, fontSize: "1rem", lineHeight: 1.35, overflowWrap: "anywhere", margin: 0 },
  facts: {
    display: "grid",
    gridTemplateColumns: "auto 1fr",
    columnGap: "12px",
    rowGap: "2px",
    fontSize: "0.875rem",
    margin: 0,
  },
  key: { fontSize: "0.875rem", overflowWrap: "anywhere" },
  term: { color: color("fg-muted") },
  error: {
    borderInlineStart: `3px solid ${color("fg-error")}`,
    paddingInlineStart: "10px",
    fontSize: "0.875rem",
    overflowWrap: "anywhere",
    whiteSpace: "pre-wrap",
    margin: 0,
  },
  track: { background: color("border"), borderRadius: "4px", height: "8px", width: "80%", overflow: "hidden" },
  bar: { background: color("blue-solid"), height: "100%", transition: "width 1s linear" },
  link: { textDecoration: "underline", fontSize: "0.875rem", color: color("fg-info") },
};

export const PALETTE = {
  succeeded: "green",
  reused: "teal",
  failed: "red",
  aborted: "red",
  canceled: "orange",
  unknown: "purple",
  processing: "blue",
  running: "blue",
};
const FINAL = ["succeeded", "failed", "canceled", "aborted"];

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

// The status on a card: the back-end's, or the task's state without a prediction.
const wordOf = (card, progress) => (card.is_open && progress?.status) || card.status || card.state || "unknown";
export const isRunning = (card) => card.is_open && !FINAL.includes(card.status);
export const nameOf = (card) => (card.map_index >= 0 ? `${card.task_id} [${card.map_index}]` : card.task_id);
// Items of a batch share a task instance, so the numbers of page and item distinguish them.
export const keyOf = (card) => (card.item ? `${card.instance}/${card.item}` : card.instance);

function lengthOf(seconds) {
  if (seconds === null || seconds === undefined) return null;
  return seconds < 90 ? `${Math.round(seconds)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

function momentOf(text) {
  const moment = text ? new Date(text) : null;
  return moment && !Number.isNaN(moment.getTime()) ? moment.toLocaleString() : null;
}

function sizeOf(bytes) {
  return typeof bytes === "number" ? `${(bytes / 1e6).toFixed(1)} MB` : null;
}

function Progress({ card, progress }) {
  const word = wordOf(card, progress);
  if (progress?.percent === null || progress?.percent === undefined) {
    return h("span", { role: "status" }, word === "starting" ? "starting: the model may have to be loaded" : word);
  }
  const left = progress.eta ? `, ${lengthOf(progress.eta)} left` : "";
  const text = `${progress.percent} %, step ${progress.step} of ${progress.steps}${left}`;
  return h(
    "div",
    { style: { ...STYLE.row, flexDirection: "column", width: "100%" } },
    h(
      "div",
      {
        role: "progressbar",
        "aria-label": `Progress of ${nameOf(card)}`,
        "aria-valuemin": 0,
        "aria-valuemax": 100,
        "aria-valuenow": progress.percent,
        "aria-valuetext": text,
        style: STYLE.track,
      },
      h("div", { style: { ...STYLE.bar, width: `${progress.percent}%` } }),
    ),
    h("span", null, text),
  );
}

function Player({ video, label, preload }) {
  const [isBroken, setBroken] = useState(false);
  const [isPointedAt, setPointedAt] = useState(false);
  useEffect(() => setBroken(false), [video.src]);
  if (isBroken) {
    const why =
      video.where === "saved"
        ? "This file could not be played here; the link below downloads it."
        : "The back-end does not send this file to a browser, or has deleted the file; save_to keeps videos.";
    return h("div", { style: STYLE.blank, role: "note" }, why);
  }
  const onError = () => setBroken(true);
  if (video.type?.startsWith("image/")) {
    const style = { ...STYLE.frame, objectFit: "contain" };
    return h("img", { src: video.src, alt: label, style, loading: "lazy", onError });
  }
  // Sixty first frames can be sixty megabytes, so a batch loads a frame only where somebody points.
  const loaded = preload === "pointed" ? (isPointedAt ? "metadata" : "none") : preload;
  const onPointerEnter = () => setPointedAt(true);
  const more = { controls: true, loop: true, playsInline: true, preload: loaded, onError, onPointerEnter };
  return h("video", { ...more, src: video.src, "aria-label": label, style: STYLE.frame });
}

function Facts({ card }) {
  const { seed, size, frame_num: frames, speed_mode: speed } = card.input;
  const facts = [
    ["For", card.label === card.key ? null : card.label],
    ["Seed", card.seed ?? seed],
    ["Size", size],
    ["Frames", frames],
    ["Speed", speed],
    ["Created", momentOf(card.created_at)],
    ["Finished", momentOf(card.completed_at)],
    ["Ran for", lengthOf(card.seconds)],
    ["Pass", card.loop_pass],
    ["Attempt", card.try_number > 1 ? card.try_number : null],
    ["File", sizeOf(card.videos[0]?.size)],
    ["Prediction", card.id],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h(
    "dl",
    { style: STYLE.facts },
    facts.flatMap(([name, value]) => [
      h("dt", { key: `${name}-name`, style: STYLE.term }, name),
      h("dd", { key: name, style: { overflowWrap: "anywhere", margin: 0 } }, String(value)),
    ]),
  );
}

export function Card({ card, progress, preload, taskPath }) {
  const word = wordOf(card, progress);
  const id = `vace-card-${keyOf(card)}`;
  const prompt = card.input.prompt || card.key || nameOf(card);
  const links = [
    ...card.videos.map((video, number) => {
      const text = card.videos.length > 1 ? `Download ${number + 1}` : "Download";
      const more = { download: "", target: "_blank", rel: "noreferrer" };
      return h(Link, { key: video.src, href: video.src, style: STYLE.link, ...more }, text);
    }),
    card.web && h(Link, { key: "web", href: card.web, target: "_blank", rel: "noreferrer", style: STYLE.link }, "At the vendor"),
    taskPath && h(Link, { key: "task", href: below(taskPath), style: STYLE.link }, `Task ${nameOf(card)}`),
  ].filter(Boolean);
  return h(
    "article",
    { style: STYLE.card, "aria-labelledby": id, "data-status": word },
    card.videos.length > 0
      ? card.videos.map((video) => h(Player, { key: video.src, video, label: `Video: ${prompt}`, preload }))
      : h("div", { style: STYLE.blank }, isRunning(card) ? h(Progress, { card, progress }) : (card.note ?? "No video")),
    h(
      "div",
      { style: STYLE.text },
      h(
        "div",
        { style: STYLE.row },
        h(Badge, { colorPalette: PALETTE[word] ?? "gray" }, word),
        card.key && h("strong", { style: STYLE.key }, card.key),
        card.state && card.state !== "success" && h("span", { style: STYLE.term }, `task ${card.state}`),
      ),
      h(Heading, { id, style: STYLE.prompt, size: "sm", as: "h3" }, prompt),
      card.error && h("p", { style: STYLE.error, role: "note" }, card.error),
      h(Facts, { card }),
      h("div", { style: STYLE.row }, links),
    ),
  );
}

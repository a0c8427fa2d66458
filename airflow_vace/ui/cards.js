// Cards of videos: a player, or the reason of its absence, a line of facts, and details on demand.

import { costOf } from "./costs.js";
import { Badge, below, color, Copy, Heading, lengthOf, Link, momentOf, segment, STYLE, useNear } from "./parts.js";

const { createElement: h, memo, useEffect, useRef, useState } = globalThis.React;

const GALLERY_HEIGHT = "15rem"; // largest height of a video in a gallery
const SINGLE_HEIGHT = "min(70vh, 34rem)";

const LOOK = {
  card: {
    border: `1px solid ${color("border")}`,
    borderRadius: "8px",
    background: color("bg-panel"),
    overflow: "hidden",
    height: "100%",
  },
  stage: { background: color("bg-subtle"), display: "flex", justifyContent: "center" },
  frame: { background: "#111", display: "block" },
  blank: {
    color: color("fg-muted"),
    display: "flex",
    flexDirection: "column",
    gap: "10px",
    alignItems: "center",
    justifyContent: "center",
    padding: "12px",
    textAlign: "center",
    fontSize: "0.875rem",
  },
  reason: {
    background: color("bg-subtle"),
    borderBlockEnd: `1px solid ${color("border")}`,
    fontSize: "0.8125rem",
    lineHeight: 1.4,
    margin: 0,
    maxHeight: "11rem",
    minHeight: "5rem",
    overflowWrap: "anywhere",
    overflowY: "auto",
    padding: "10px 12px",
    whiteSpace: "pre-wrap",
  },
  text: { padding: "6px 10px 8px", display: "flex", flexDirection: "column", gap: "3px" },
  title: { display: "flex", gap: "8px", alignItems: "center", minWidth: 0 },
  prompt: { fontWeight: 600, fontSize: "0.875rem", lineHeight: 1.4, margin: 0, minWidth: 0 },
  short: { overflow: "hidden", textOverflow: "ellipsis", whiteSpace: "nowrap" },
  whole: { overflowWrap: "anywhere", fontSize: "1rem" },
  line: { display: "flex", justifyContent: "space-between", gap: "8px", alignItems: "center", fontSize: "0.75rem" },
  facts: {
    display: "grid",
    gridTemplateColumns: "auto 1fr",
    columnGap: "12px",
    rowGap: "2px",
    fontSize: "0.875rem",
    margin: "4px 0",
  },
  hint: { fontSize: "0.8125rem", margin: 0, overflowWrap: "anywhere" },
  rejected: { fontSize: "0.75rem", color: color("fg-muted"), overflowWrap: "anywhere" },
  clips: { listStyle: "none", margin: "4px 0 0", padding: 0, display: "grid", gap: "4px" },
  track: { background: color("border"), borderRadius: "4px", height: "8px", width: "80%", overflow: "hidden" },
  bar: { background: color("blue-solid"), height: "100%", transition: "width 1s linear" },
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
  "saving …": "blue",
};
const FINAL = ["succeeded", "failed", "canceled", "aborted"];

// Between the prediction's success and the task's end the worker saves the file.
const isSaving = (card, progress) =>
  card.is_open &&
  (card.status === "succeeded" || progress?.status === "succeeded") &&
  !card.videos.some((video) => video.where === "saved");

// The status on a card: the back-end's, or the task's state without a prediction.
function wordOf(card, progress) {
  if (isSaving(card, progress)) return "saving …";
  return (card.is_open && progress?.status) || card.status || card.state || "unknown";
}

export const isRunning = (card) => card.is_open && (!FINAL.includes(card.status) || isSaving(card));
export const nameOf = (card) => (card.map_index >= 0 ? `${card.task_id} [${card.map_index}]` : card.task_id);
// Items of a batch share a task instance, so the numbers of page and item distinguish them.
export const keyOf = (card) => (card.item ? `${card.instance}/${card.item}` : card.instance);

// The three groups of the filter.
export function groupOf(card) {
  if (isRunning(card)) return "running";
  return card.videos.length > 0 || card.status === "succeeded" ? "ready" : "failed";
}

export function countsOf(cards) {
  const counts = { all: cards.length, ready: 0, failed: 0, running: 0 };
  for (const card of cards) counts[groupOf(card)] += 1;
  return counts;
}

export function summaryOf(cards) {
  const { all, ready, failed, running } = countsOf(cards);
  const parts = [`${ready} of ${all} ready`];
  if (running) parts.push(`${running} running`);
  if (failed) parts.push(`${failed} without a video`);
  return parts.join(", ");
}

// --- the upper part: player, progress, or reason ---------------------------------------------------

function Progress({ card, progress }) {
  const word = wordOf(card, progress);
  if (progress?.percent === null || progress?.percent === undefined || word === "saving …") {
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
        style: LOOK.track,
      },
      h("div", { style: { ...LOOK.bar, width: `${progress.percent}%` } }),
    ),
    h("span", null, text),
  );
}

// Width divided by height: measured, else the requested size, else that of most screens.
function ratioOf(card, video) {
  const { width, height } = video?.facts ?? {};
  if (width > 0 && height > 0) return width / height;
  const size = /^([1-9]\d{0,4})\*([1-9]\d{0,4})$/.exec(card.input.size ?? "");
  return size ? size[1] / size[2] : 16 / 9;
}

// A box of this shape, within the width of its card and a largest height.
function boxOf(ratio, isSingle) {
  const height = isSingle ? SINGLE_HEIGHT : GALLERY_HEIGHT;
  return { aspectRatio: `${ratio}`, width: `min(100%, calc(${height} * ${ratio}))` };
}

function Player({ card, video, label, preload, isSingle }) {
  const element = useRef(null);
  const isNear = useNear(element, Boolean(video.poster));
  const [isBroken, setBroken] = useState(false);
  const [isPointedAt, setPointedAt] = useState(false);
  const [seen, setSeen] = useState(null);
  useEffect(() => setBroken(false), [video.src]);
  if (isBroken) {
    const why =
      video.where === "saved"
        ? "This file could not be played here; the link in its details downloads it."
        : "The back-end does not send this file to a browser, or has deleted the file; save_to keeps videos.";
    return h("p", { style: LOOK.reason, role: "note" }, why);
  }
  const style = { ...LOOK.frame, ...boxOf(seen ?? ratioOf(card, video), isSingle) };
  const onError = () => setBroken(true);
  if (video.type?.startsWith("image/")) {
    const image = { src: video.src, alt: label, style: { ...style, objectFit: "contain" }, loading: "lazy", onError };
    return h("div", { style: LOOK.stage }, h("img", image));
  }
  // Sixty first frames can be sixty megabytes, so a batch loads a frame only where somebody points.
  const unposted = preload === "pointed" ? (isPointedAt ? "metadata" : "none") : preload;
  const more = {
    ...{ controls: true, loop: true, playsInline: true, preload: video.poster ? "none" : unposted, onError },
    onPointerEnter: () => setPointedAt(true),
    onLoadedMetadata: ({ target }) => target.videoHeight > 0 && setSeen(target.videoWidth / target.videoHeight),
  };
  const poster = (isNear && video.poster) || undefined;
  const player = h("video", { ...more, ref: element, poster, src: video.src, "aria-label": label, style });
  return h("div", { style: LOOK.stage }, player);
}

function Upper({ card, progress, preload, label, isSingle }) {
  if (card.videos.length > 0) {
    return card.videos.map((video) => h(Player, { key: video.src, card, video, label, preload, isSingle }));
  }
  if (isRunning(card)) {
    const style = { ...LOOK.blank, ...boxOf(ratioOf(card), isSingle) };
    return h("div", { style: LOOK.stage }, h("div", { style }, h(Progress, { card, progress })));
  }
  // A person can scroll in the box by keyboard, so the box takes the focus.
  const text = [card.error, card.note].filter(Boolean).join("\n\n") || "No video";
  const edge = card.error ? { borderInlineStart: `3px solid ${color("fg-error")}` } : {};
  const name = { role: "note", "aria-label": "Why there is no video", tabIndex: 0 };
  return h("p", { ...name, style: { ...LOOK.reason, ...edge } }, text);
}

// --- the lower part: facts -------------------------------------------------------------------------

function sizeOf(bytes) {
  return typeof bytes === "number" ? `${(bytes / 1e6).toFixed(1)} MB` : null;
}

// Size and length of the saved video, as the checks have measured them.
function measuredOf(card) {
  const { width, height, frames, fps, seconds } = card.videos[0]?.facts ?? {};
  if (!width || !height) return null;
  return `${width} x ${height}, ${frames} frames, ${fps} fps, ${Number(seconds).toFixed(1)} s`;
}

const problemsOf = (card) => card.videos.flatMap((video) => video.facts?.problems ?? []);

function checksOf(card) {
  const problems = problemsOf(card);
  if (problems.length > 0) return problems.join(" ");
  return card.videos.some((video) => video.facts) ? "No problems" : null;
}

// The most wanted facts in one line, such as "5.1 s, seed 7, $0.40".
function lineOf(card) {
  const { seconds } = card.videos[0]?.facts ?? {};
  const seed = card.seed ?? card.input.seed;
  return [
    seconds > 0 && `${Number(seconds).toFixed(1)} s`,
    seed !== null && seed !== undefined && `seed ${seed}`,
    costOf(card),
  ]
    .filter(Boolean)
    .join(", ");
}

// The name, the text, and for a fact worth copying what the button copies.
function factsOf(card) {
  const { seed, size, frame_num: frames, speed_mode: speed } = card.input;
  const known = card.seed ?? seed;
  return [
    ["For", card.label === card.key ? null : card.label],
    ["Seed", known, known],
    ["Prediction", card.id, card.id],
    ["Model", card.model],
    ["Size", size],
    ["Frames", frames],
    ["Speed", speed],
    ["Created", momentOf(card.created_at)],
    ["Finished", momentOf(card.completed_at)],
    ["Ran for", lengthOf(card.seconds)],
    ["Cost", costOf(card)],
    ["Pass", card.loop_pass],
    ["Attempt", card.try_number > 1 ? card.try_number : null],
    ["Measured", measuredOf(card)],
    ["Checks", checksOf(card)],
    ["File", sizeOf(card.videos[0]?.size)],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
}

// A saved file has its manifest beside it, and the routes of both differ in one word.
const manifestOf = (video) => video.src.replace(/\/files\/([^/]+\/\d+(?:\?|$))/, "/manifests/$1");

function linksOf(card, taskPath) {
  const many = card.videos.length > 1;
  const out = { target: "_blank", rel: "noreferrer" };
  const link = (text, href, more) => h(Link, { key: `${text}-${href}`, href, style: STYLE.link, ...more }, text);
  return [
    ...card.videos.flatMap((video, number) => [
      link(many ? `Download ${number + 1}` : "Download", video.src, { download: "", ...out }),
      video.where === "saved" && link(many ? `Manifest ${number + 1}` : "Manifest", manifestOf(video), out),
    ]),
    card.web && link("At the vendor", card.web, out),
    taskPath && link(`Task ${nameOf(card)}`, below(taskPath)),
  ].filter(Boolean);
}

function Details({ card, taskPath }) {
  const lines = factsOf(card).flatMap(([name, value, copied]) => [
    h("dt", { key: `${name}-name`, style: STYLE.term }, name),
    h(
      "dd",
      { key: name, style: { overflowWrap: "anywhere", margin: 0 } },
      String(value),
      copied !== undefined && h(Copy, { text: String(copied), name: name.toLowerCase() }),
    ),
  ]);
  return h("div", null, h("dl", { style: LOOK.facts }, lines), h("div", { style: STYLE.row }, linksOf(card, taskPath)));
}

// A video that is not in the deployment's roots is gone when the vendor deletes its file.
function Hint({ card }) {
  const { hint } = card;
  if (!hint) return null;
  const until = momentOf(hint.until)?.slice(11, 16);
  const plays = until ? `Plays from the vendor until ${until}. ` : "Plays from the vendor for an hour. ";
  const advice = hint.root
    ? `To play it here later, add ${hint.root} to Airflow's setting [vace] video_roots.`
    : "save_to keeps it.";
  return h("p", { role: "note", style: LOOK.hint }, plays + advice);
}

// The clips that the checks rejected before this one: paid, saved, and no result.
function Rejected({ clips, isSingle }) {
  if (!clips?.length) return null;
  const items = clips.map(({ id, seed, problems, src }) => {
    const name = seed === null ? `Prediction ${id}` : `Seed ${seed}`;
    const link = { href: src, target: "_blank", rel: "noreferrer", style: { ...STYLE.link, fontSize: "inherit" } };
    return h("li", { key: id }, src ? h(Link, link, name) : name, `: ${problems.join(" ") || "no reason is known"}`);
  });
  return h(
    "details",
    { style: LOOK.rejected, open: isSingle },
    h("summary", { style: { cursor: "pointer" } }, `${clips.length} rejected by checks`),
    h("ul", { style: LOOK.clips }, items),
  );
}

// React draws a card again only if a property has changed.
export const Card = memo(({ card, progress, preload, taskPath, isSingle }) => {
  const [isOpen, setOpen] = useState(Boolean(isSingle));
  const word = wordOf(card, progress);
  const id = `vace-card-${keyOf(card)}`;
  const prompt = card.input.prompt || card.label || card.key || nameOf(card);
  const problems = problemsOf(card);
  const state = card.state && card.state !== "success" && word !== card.state ? `task ${card.state}` : null;
  const label = isOpen ? "Hide details" : "Details";
  const small = { ...STYLE.button, ...STYLE.small };
  const toggle = {
    ...{ type: "button", "aria-expanded": isOpen, "aria-label": `${label} of ${prompt}` },
    ...{ onClick: () => setOpen(!isOpen), style: small },
  };
  return h(
    "article",
    { style: LOOK.card, "aria-labelledby": id, "data-status": word },
    h(Upper, { card, progress, preload, label: `Video: ${prompt}`, isSingle }),
    h(
      "div",
      { style: LOOK.text },
      h(
        "div",
        { style: { ...LOOK.title, flexWrap: isOpen ? "wrap" : "nowrap" } },
        h(Badge, { colorPalette: PALETTE[word] ?? "gray", flexShrink: 0 }, word),
        card.key && h("strong", { style: { fontSize: "0.875rem", overflowWrap: "anywhere" } }, card.key),
        h(
          Heading,
          { id, as: "h3", size: "sm", title: prompt, style: { ...LOOK.prompt, ...(isOpen ? LOOK.whole : LOOK.short) } },
          prompt,
        ),
      ),
      h(
        "div",
        { style: LOOK.line },
        h("span", { style: STYLE.term }, [state, lineOf(card)].filter(Boolean).join(", ")),
        !isSingle && h("button", toggle, label),
      ),
      card.videos.length > 0 && card.error && h("p", { style: STYLE.error, role: "note" }, card.error),
      !isOpen && problems.length > 0 && h("p", { style: STYLE.error, role: "note" }, problems.join(" ")),
      h(Hint, { card }),
      h(Rejected, { clips: card.rejected, isSingle }),
      isOpen && h(Details, { card, taskPath }),
    ),
  );
});

export const progressPathOf = (run) => (card) => `${run}/progress/${segment(card.instance)}`;

// The video tab: one component, the gallery of a DAG run or the video of a task instance.
// Airflow loads this file as it is, and brings React and, from 3.2 on, Chakra along.

const { createElement: h, useCallback, useEffect, useRef, useState } = globalThis.React;
const Chakra = globalThis.ChakraUI ?? {};
const Badge = Chakra.Badge ?? "span";
const Heading = Chakra.Heading ?? "h3";
const Link = Chakra.Link ?? "a";

const WATCH_MS = 5000; // while something runs, or is still to come
const IDLE_MS = 15000;
const MOST_WATCHED = 8; // predictions whose progress is asked for at once
const MOST_PRELOADED = 12; // videos whose first frame is fetched without a click

const color = (name) => `var(--chakra-colors-${name})`;
const LOOK = {
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

const PALETTE = { succeeded: "green", failed: "red", aborted: "red", canceled: "orange", processing: "blue" };
const FINAL = ["succeeded", "failed", "canceled", "aborted"];

const below = (path) => new URL(path, document.baseURI).href;
const segment = encodeURIComponent;

async function ask(path) {
  const answer = await fetch(below(path), { credentials: "same-origin" });
  if (answer.ok) return answer.json();
  const why = {
    401: "You are not logged in any more: load this page again.",
    403: "You may not read the XComs of this DAG, where its videos are named.",
  };
  throw new Error(why[answer.status] ?? `The API server answered with ${answer.status}.`);
}

// What a card says of its state: the back-end's word, or the task's where there is no prediction.
const wordOf = (card, told) => (card.is_open && told?.status) || card.status || card.state || "unknown";
const isRunning = (card) => card.is_open && !FINAL.includes(card.status);
const nameOf = (card) => (card.map_index >= 0 ? `${card.task_id} [${card.map_index}]` : card.task_id);
const keyOf = (card) => `${card.task_id}/${card.map_index}`;

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

function Progress({ card, told }) {
  const word = wordOf(card, told);
  if (told?.percent === null || told?.percent === undefined) {
    return h("span", { role: "status" }, word === "starting" ? "starting: the model may have to be loaded" : word);
  }
  const left = told.eta ? `, ${lengthOf(told.eta)} left` : "";
  const text = `${told.percent} %, step ${told.step} of ${told.steps}${left}`;
  return h(
    "div",
    { style: { ...LOOK.row, flexDirection: "column", width: "100%" } },
    h(
      "div",
      {
        role: "progressbar",
        "aria-label": `Progress of ${nameOf(card)}`,
        "aria-valuemin": 0,
        "aria-valuemax": 100,
        "aria-valuenow": told.percent,
        "aria-valuetext": text,
        style: LOOK.track,
      },
      h("div", { style: { ...LOOK.bar, width: `${told.percent}%` } }),
    ),
    h("span", null, text),
  );
}

function Player({ video, label, preload }) {
  const [isBroken, setBroken] = useState(false);
  useEffect(() => setBroken(false), [video.src]);
  if (isBroken) {
    const why =
      video.where === "saved"
        ? "This file could not be played here; the link below downloads it."
        : "The back-end does not give this file to a browser, or has deleted it; save_to keeps videos.";
    return h("div", { style: LOOK.blank, role: "note" }, why);
  }
  const onError = () => setBroken(true);
  if (video.type?.startsWith("image/")) {
    return h("img", { src: video.src, alt: label, style: { ...LOOK.frame, objectFit: "contain" }, onError });
  }
  const more = { controls: true, loop: true, playsInline: true, preload, onError };
  return h("video", { ...more, src: video.src, "aria-label": label, style: LOOK.frame });
}

function Facts({ card }) {
  const { seed, size, frame_num: frames, speed_mode: speed } = card.input;
  const facts = [
    ["For", card.label],
    ["Seed", card.seed ?? seed],
    ["Size", size],
    ["Frames", frames],
    ["Speed", speed],
    ["Created", momentOf(card.created_at)],
    ["Finished", momentOf(card.completed_at)],
    ["Ran for", lengthOf(card.seconds)],
    ["Attempt", card.try_number > 1 ? card.try_number : null],
    ["File", sizeOf(card.videos[0]?.size)],
    ["Prediction", card.id],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h(
    "dl",
    { style: LOOK.facts },
    facts.flatMap(([name, value]) => [
      h("dt", { key: `${name}-name`, style: LOOK.term }, name),
      h("dd", { key: name, style: { overflowWrap: "anywhere", margin: 0 } }, String(value)),
    ]),
  );
}

function Card({ card, number, told, preload, taskPath, isSingle }) {
  const word = wordOf(card, told);
  const id = `vace-card-${number}`;
  const prompt = card.input.prompt || nameOf(card);
  const links = [
    ...card.videos.map((video, number) => {
      const text = card.videos.length > 1 ? `Download ${number + 1}` : "Download";
      const more = { download: "", target: "_blank", rel: "noreferrer" };
      return h(Link, { key: video.src, href: video.src, style: LOOK.link, ...more }, text);
    }),
    card.web && h(Link, { key: "web", href: card.web, target: "_blank", rel: "noreferrer", style: LOOK.link }, "At the vendor"),
    !isSingle && h(Link, { key: "task", href: below(taskPath), style: LOOK.link }, `Task ${nameOf(card)}`),
  ].filter(Boolean);
  return h(
    "article",
    { style: LOOK.card, "aria-labelledby": id, "data-status": word },
    card.videos.length > 0
      ? card.videos.map((video) => h(Player, { key: video.src, video, label: `Video: ${prompt}`, preload }))
      : h("div", { style: LOOK.blank }, isRunning(card) ? h(Progress, { card, told }) : (card.note ?? "No video")),
    h(
      "div",
      { style: LOOK.text },
      h(
        "div",
        { style: LOOK.row },
        h(Badge, { colorPalette: PALETTE[word] ?? "gray" }, word),
        card.state && card.state !== "success" && h("span", { style: LOOK.term }, `task ${card.state}`),
      ),
      h(Heading, { id, style: LOOK.prompt, size: "sm", as: "h3" }, prompt),
      card.error && h("p", { style: LOOK.error, role: "note" }, card.error),
      h(Facts, { card }),
      h("div", { style: LOOK.row }, links),
    ),
  );
}

function summaryOf(cards) {
  const count = (test) => cards.filter(test).length;
  const ready = count((card) => card.videos.length > 0 || card.status === "succeeded");
  const running = count(isRunning);
  const failed = count((card) => !isRunning(card) && card.videos.length === 0 && card.status !== "succeeded");
  const parts = [`${ready} of ${cards.length} ready`];
  if (running) parts.push(`${running} running`);
  if (failed) parts.push(`${failed} without a video`);
  return parts.join(", ");
}

// Asks again while the page is seen; what an older question brings after a newer one is dropped.
function useAnswers(path, progressPath) {
  const [state, setState] = useState({ cards: null, told: {}, error: null });
  const asked = useRef(0);
  const refresh = useCallback(async () => {
    const mine = (asked.current += 1);
    try {
      const cards = await ask(path);
      const watched = cards.filter(isRunning).slice(0, MOST_WATCHED);
      const answers = await Promise.all(
        watched.map((card) => (card.id ? ask(progressPath(card)).catch(() => null) : null)),
      );
      const told = Object.fromEntries(watched.map((card, number) => [keyOf(card), answers[number]]));
      if (mine === asked.current) setState({ cards, told, error: null });
      return cards.length === 0 || cards.some(isRunning) ? WATCH_MS : IDLE_MS;
    } catch (error) {
      if (mine === asked.current) setState((before) => ({ ...before, error: error.message }));
      return IDLE_MS;
    }
  }, [path, progressPath]);
  useEffect(() => {
    let timer = null;
    let isGone = false;
    let isAsking = false;
    const again = async () => {
      if (isGone || isAsking) return;
      clearTimeout(timer);
      isAsking = true;
      const delay = document.hidden ? IDLE_MS : await refresh();
      isAsking = false;
      if (!isGone) timer = setTimeout(again, delay);
    };
    const onSeen = () => !document.hidden && again();
    document.addEventListener("visibilitychange", onSeen);
    again();
    return () => {
      isGone = true;
      asked.current += 1;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", onSeen);
    };
  }, [refresh]);
  return state;
}

function Gallery({ dagId, runId, taskId, mapIndex }) {
  const isSingle = taskId !== undefined;
  const index = mapIndex === undefined || mapIndex === "" ? -1 : mapIndex;
  const run = `vace/runs/${segment(dagId)}/${segment(runId)}`;
  const query = isSingle ? `?task_id=${segment(taskId)}&map_index=${segment(index)}` : "";
  const progressPath = useCallback(
    (card) => `${run}/progress/${segment(card.task_id)}/${card.map_index}`,
    [run],
  );
  const { cards, told, error } = useAnswers(`${run}/videos${query}`, progressPath);
  const taskPath = (card) => {
    const path = `dags/${segment(dagId)}/runs/${segment(runId)}/tasks/${segment(card.task_id)}`;
    return card.map_index >= 0 ? `${path}/mapped/${card.map_index}` : path;
  };
  let inside = null;
  if (error !== null) {
    inside = h("p", { role: "alert", style: LOOK.error }, error);
  } else if (cards === null) {
    inside = h("p", { role: "status" }, "Loading …");
  } else if (cards.length === 0) {
    const where = isSingle ? "This task has made no video" : "No task of this run has begun a video";
    inside = h("p", { role: "status" }, `${where} (yet).`);
  }
  return h(
    "section",
    { "aria-label": isSingle ? "Video" : "Videos of this run", style: LOOK.page, className: "vace-videos" },
    inside,
    cards !== null && cards.length > 0 && !isSingle && h("p", { role: "status", style: LOOK.summary }, summaryOf(cards)),
    cards !== null &&
      h(
        "ul",
        { style: isSingle ? LOOK.single : LOOK.gallery },
        cards.map((card, number) =>
          h(
            "li",
            { key: keyOf(card) },
            h(Card, {
              card,
              number,
              told: told[keyOf(card)],
              preload: number < MOST_PRELOADED ? "metadata" : "none",
              taskPath: taskPath(card),
              isSingle,
            }),
          ),
        ),
      ),
  );
}

// Airflow shows the same component with other properties when a person goes from task to task; nothing of the
// one before may stay.
const Videos = (properties) => h(Gallery, { key: JSON.stringify(properties), ...properties });

// By these names Airflow asks for the two tabs.
globalThis.Videos = Videos;
globalThis.Video = Videos;

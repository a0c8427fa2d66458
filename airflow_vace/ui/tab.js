// The screens of videos: the library of all runs, the gallery of a DAG run, the video of a task instance.
// Airflow loads this file unchanged, and provides React and, from 3.2 on, Chakra.

import { Batch, isBatch } from "./batch.js";
import { Card, countsOf, groupOf, isRunning, keyOf, progressPathOf, summaryOf } from "./cards.js";
import { totalsOf } from "./costs.js";
import { Library } from "./library.js";
import { ask, Choices, count, segment, STYLE, useFit, usePolled } from "./parts.js";

const { createElement: h, useCallback, useEffect, useRef, useState } = globalThis.React;

const WATCH_MS = 5000; // while a prediction runs, or before the first one
const IDLE_MS = 15000;
const MAX_WATCHED = 8; // concurrent requests for progress
const MORE_CARDS = 60; // drawn at once, some screens of them; the others follow in such parts
const PART_MS = 50;
const MAX_PRELOADED = 12; // videos with a first frame before any click

// A line about all cards, and about the money of the whole run.
function Summary({ cards, batches }) {
  const money = totalsOf([...batches, ...cards]);
  const text = cards.length > 0 ? summaryOf(cards) : "All batches";
  return h("p", { role: "status", style: STYLE.summary }, money ? `${text}, ${money}` : text);
}

// Returns heads and cards of a run or a task, and the progress of the running ones.
function useEntries(path, run) {
  const load = useCallback(async () => {
    const progressPath = progressPathOf(run);
    const entries = await ask(path);
    const watched = entries.filter((entry) => isRunning(entry) && !isBatch(entry)).slice(0, MAX_WATCHED);
    const answers = await Promise.all(
      watched.map((card) => (card.id ? ask(progressPath(card)).catch(() => null) : null)),
    );
    const progress = Object.fromEntries(watched.map((card, number) => [keyOf(card), answers[number]]));
    return [{ entries, progress }, entries.length === 0 || entries.some(isRunning) ? WATCH_MS : IDLE_MS];
  }, [path, run]);
  const { value, error } = usePolled(load);
  return { entries: value?.entries ?? null, progress: value?.progress ?? {}, error };
}

// Returns the number of cards to draw now. Drawing a thousand at once would block the page for a second.
function useDrawn(total) {
  const [drawn, setDrawn] = useState(MORE_CARDS);
  useEffect(() => {
    if (drawn >= total) return undefined;
    const timer = setTimeout(() => setDrawn(drawn + MORE_CARDS), PART_MS);
    return () => clearTimeout(timer);
  }, [drawn, total]);
  return drawn;
}

function Filter({ cards, group, setGroup }) {
  const counts = countsOf(cards);
  // A group without cards stays while it is chosen, since its last card may just have changed.
  const shown = ["all", "ready", "failed", "running"].filter((name) => counts[name] > 0 || name === group);
  const choices = shown.map((name) => [name, `${name} ${count(counts[name])}`]);
  return h(Choices, { label: "Filter of the videos", choices, chosen: group, choose: setGroup });
}

function messageOf(entries, error, isSingle) {
  if (error !== null) return h("p", { role: "alert", style: STYLE.error }, error);
  if (entries === null) return h("p", { role: "status" }, "Loading …");
  if (entries.length > 0) return null;
  const where = isSingle ? "Neither this task nor a task before it has made a video" : "No task of this run has started a video";
  return h("p", { role: "status" }, `${where} (yet).`);
}

// On a task without videos of its own: whose they are, and their cost for a person who decides about them.
function Upstream({ entries }) {
  const money = totalsOf(entries);
  const text = "These videos are from the tasks before this one.";
  const cost = money ? ` They have cost ${money}; after a rejection, another take is paid again.` : "";
  return h("p", { role: "note", style: STYLE.note }, text + cost);
}

function Gallery({ dagId, runId, taskId, mapIndex }) {
  const [group, setGroup] = useState("all");
  const element = useRef(null);
  const fit = useFit(element);
  const isTask = taskId !== undefined;
  const index = mapIndex === undefined || mapIndex === "" ? -1 : mapIndex;
  const run = `vace/runs/${segment(dagId)}/${segment(runId)}`;
  const query = isTask ? `?task_id=${segment(taskId)}&map_index=${segment(index)}` : "";
  const { entries, progress, error } = useEntries(`${run}/videos${query}`, run);
  const taskPath = (card) => {
    const path = `dags/${segment(dagId)}/runs/${segment(runId)}/tasks/${segment(card.task_id)}`;
    return card.map_index >= 0 ? `${path}/mapped/${card.map_index}` : path;
  };
  const batches = (entries ?? []).filter(isBatch);
  const cards = (entries ?? []).filter((entry) => !isBatch(entry));
  const isUpstream = (entries ?? []).some((entry) => entry.is_upstream);
  const isSingle = isTask && cards.length < 2;
  const shown = cards.filter((card) => group === "all" || groupOf(card) === group);
  const drawn = useDrawn(shown.length);
  return h(
    "section",
    {
      ...{ ref: element, className: "vace-videos", style: { ...STYLE.page, ...fit } },
      "aria-label": isTask ? "Video" : "Videos of this run",
    },
    messageOf(entries, error, isTask),
    isUpstream && h(Upstream, { entries }),
    batches.map((head, number) =>
      h(Batch, { key: keyOf(head), head, run, taskPath: isTask ? null : taskPath(head), isFirst: number === 0 }),
    ),
    (cards.length > 0 || batches.length > 1) &&
      !isSingle &&
      h(
        "div",
        { style: STYLE.bar },
        h(Summary, { cards, batches }),
        cards.length > 1 && h(Filter, { cards, group, setGroup }),
      ),
    h(
      "ul",
      { style: isSingle ? STYLE.single : STYLE.gallery },
      shown.slice(0, drawn).map((card, number) =>
        h(
          "li",
          { key: keyOf(card), style: isSingle ? undefined : STYLE.item },
          h(Card, {
            card,
            progress: progress[keyOf(card)],
            preload: number < MAX_PRELOADED ? "metadata" : "none",
            taskPath: isTask && !isUpstream ? null : taskPath(card),
            isSingle,
          }),
        ),
      ),
    ),
  );
}

// Airflow reuses the component with other properties when a person goes from task to task. The key discards the
// old state, so no video of the earlier task stays. The page in the navigation has no DAG.
const Videos = (properties) =>
  properties.dagId === undefined
    ? h(Library)
    : h(Gallery, { key: JSON.stringify(properties), ...properties });

// Airflow finds the screens by these names.
globalThis.Videos = Videos;
globalThis.Video = Videos;

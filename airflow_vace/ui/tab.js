// The video tab: one component, the gallery of a DAG run or the video of a task instance.
// Airflow loads this file unchanged, and provides React and, from 3.2 on, Chakra.

import { Batch, isBatch } from "./batch.js";
import { ask, below, Card, isRunning, keyOf, segment, STYLE } from "./cards.js";

const { createElement: h, useCallback, useEffect, useRef, useState } = globalThis.React;

const WATCH_MS = 5000; // while a prediction runs, or before the first one
const IDLE_MS = 15000;
const MAX_WATCHED = 8; // concurrent requests for progress
const MAX_PRELOADED = 12; // videos with a first frame before any click

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

// Polls while the page is visible. Responses may arrive out of order, so all but the latest request's are dropped.
function usePolling(path, progressPath) {
  const [state, setState] = useState({ entries: null, progress: {}, error: null });
  const latest = useRef(0);
  const refresh = useCallback(async () => {
    const mine = (latest.current += 1);
    try {
      const entries = await ask(path);
      const watched = entries.filter((entry) => isRunning(entry) && !isBatch(entry)).slice(0, MAX_WATCHED);
      const answers = await Promise.all(
        watched.map((card) => (card.id ? ask(progressPath(card)).catch(() => null) : null)),
      );
      const progress = Object.fromEntries(watched.map((card, number) => [keyOf(card), answers[number]]));
      if (mine === latest.current) setState({ entries, progress, error: null });
      return entries.length === 0 || entries.some(isRunning) ? WATCH_MS : IDLE_MS;
    } catch (error) {
      if (mine === latest.current) setState((before) => ({ ...before, error: error.message }));
      return IDLE_MS;
    }
  }, [path, progressPath]);
  useEffect(() => {
    let timer = null;
    let isGone = false;
    let isPolling = false;
    const again = async () => {
      if (isGone || isPolling) return;
      clearTimeout(timer);
      isPolling = true;
      const delay = document.hidden ? IDLE_MS : await refresh();
      isPolling = false;
      if (!isGone) timer = setTimeout(again, delay);
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
  }, [refresh]);
  return state;
}

function Gallery({ dagId, runId, taskId, mapIndex }) {
  const isSingle = taskId !== undefined;
  const index = mapIndex === undefined || mapIndex === "" ? -1 : mapIndex;
  const run = `vace/runs/${segment(dagId)}/${segment(runId)}`;
  const query = isSingle ? `?task_id=${segment(taskId)}&map_index=${segment(index)}` : "";
  const progressPath = useCallback(
    (card) => `${run}/progress/${segment(card.instance)}`,
    [run],
  );
  const { entries, progress, error } = usePolling(`${run}/videos${query}`, progressPath);
  const taskPath = (card) => {
    const path = `dags/${segment(dagId)}/runs/${segment(runId)}/tasks/${segment(card.task_id)}`;
    return card.map_index >= 0 ? `${path}/mapped/${card.map_index}` : path;
  };
  const batches = (entries ?? []).filter(isBatch);
  const cards = (entries ?? []).filter((entry) => !isBatch(entry));
  let inside = null;
  if (error !== null) {
    inside = h("p", { role: "alert", style: STYLE.error }, error);
  } else if (entries === null) {
    inside = h("p", { role: "status" }, "Loading …");
  } else if (entries.length === 0) {
    const where = isSingle ? "This task has made no video" : "No task of this run has started a video";
    inside = h("p", { role: "status" }, `${where} (yet).`);
  }
  return h(
    "section",
    { "aria-label": isSingle ? "Video" : "Videos of this run", style: STYLE.page, className: "vace-videos" },
    inside,
    batches.map((head, number) =>
      h(Batch, { key: keyOf(head), head, run, taskPath: isSingle ? null : taskPath(head), isFirst: number === 0 }),
    ),
    cards.length > 0 && !isSingle && h("p", { role: "status", style: STYLE.summary }, summaryOf(cards)),
    h(
      "ul",
      { style: isSingle ? STYLE.single : STYLE.gallery },
      cards.map((card, number) =>
        h(
          "li",
          { key: keyOf(card) },
          h(Card, {
            card,
            progress: progress[keyOf(card)],
            preload: number < MAX_PRELOADED ? "metadata" : "none",
            taskPath: isSingle ? null : taskPath(card),
          }),
        ),
      ),
    ),
  );
}

// Airflow reuses the component with other properties when a person goes from task to task. The key discards the
// old state, so no video of the earlier task stays.
const Videos = (properties) => h(Gallery, { key: JSON.stringify(properties), ...properties });

// Airflow finds the two tabs by these names.
globalThis.Videos = Videos;
globalThis.Video = Videos;

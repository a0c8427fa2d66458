// The library: the runs of all DAGs that have videos, newest first, some cards of each.
// A run's cards come from the route of its gallery, which checks the permission for its DAG.

import { Batch, isBatch } from "./batch.js";
import { Card, groupOf, isRunning, keyOf, summaryOf } from "./cards.js";
import { totalsOf } from "./costs.js";
import { ask, Badge, below, Choices, count, Heading, Link, momentOf, segment, STYLE, useNear, usePolled } from "./parts.js";

const { createElement: h, useCallback, useRef, useState } = globalThis.React;

const LIST_MS = 30000;
const RUNNING_MS = 15000;
const MAX_CARDS = 8; // of each run; its gallery has the others
const GROUPS = ["all", "ready", "failed", "running"];
const STATES = { success: "green", failed: "red", running: "blue", queued: "gray" };

const LOOK = {
  // Runs with few videos stand side by side.
  runs: { display: "flex", flexWrap: "wrap", gap: "20px 24px", alignItems: "flex-start" },
  run: { minHeight: "4rem" },
  head: { ...STYLE.row, marginBottom: "8px", fontSize: "0.875rem" },
  title: { fontWeight: 600, fontSize: "1rem", margin: 0, overflowWrap: "anywhere" },
  select: {
    background: "transparent",
    border: "1px solid var(--chakra-colors-border)",
    borderRadius: "6px",
    color: "inherit",
    maxWidth: "100%",
    padding: "3px 8px",
  },
  page: { fontWeight: 600, fontSize: "1.25rem", margin: 0 },
};

const pathOf = (run) => `runs/${segment(run.dag_id)}/${segment(run.run_id)}`;

function Cards({ entries, run, group }) {
  const gallery = below(`dags/${segment(run.dag_id)}/runs/${segment(run.run_id)}/plugin/vace_videos`);
  const batches = entries.filter(isBatch);
  const cards = entries.filter((entry) => !isBatch(entry));
  const wanted = cards.filter((card) => group === "all" || groupOf(card) === group);
  const rest = wanted.length - MAX_CARDS;
  return h(
    "div",
    null,
    batches.map((head) => h(Batch, { key: keyOf(head), head, run: `vace/${pathOf(run)}`, taskPath: null, isFirst: false })),
    wanted.length === 0 && cards.length > 0 && h("p", { style: STYLE.note }, `No video of this run is ${group}.`),
    h(
      "ul",
      { style: STYLE.gallery },
      wanted
        .slice(0, MAX_CARDS)
        .map((card) => h("li", { key: keyOf(card), style: STYLE.item }, h(Card, { card, preload: "pointed" }))),
    ),
    rest > 0 && h("p", { style: STYLE.note }, h(Link, { href: gallery, style: STYLE.link }, `${count(rest)} more in the run's gallery`)),
  );
}

// The width of as many columns as the run has cards; a batch takes the whole width.
function widthOf(entries) {
  if (entries?.some(isBatch)) return "100%";
  const columns = Math.min(Math.max(entries?.length ?? 1, 1), MAX_CARDS);
  return `min(100%, ${columns} * 15rem + ${columns - 1} * 12px)`;
}

function Run({ run, name, group }) {
  const element = useRef(null);
  const isNear = useNear(element, true);
  const load = useCallback(async () => {
    const entries = isNear ? await ask(`vace/${pathOf(run)}/videos`) : null;
    const isOpen = entries?.some(isRunning) || ["running", "queued"].includes(run.state);
    return [entries, isNear && isOpen ? RUNNING_MS : null];
  }, [run.dag_id, run.run_id, run.state, isNear]);
  const { value: entries, error } = usePolled(load);
  const cards = (entries ?? []).filter((entry) => !isBatch(entry));
  const parts = entries ? [cards.length > 0 && summaryOf(cards), totalsOf(entries)].filter(Boolean) : ["Loading …"];
  const gallery = below(`dags/${segment(run.dag_id)}/runs/${segment(run.run_id)}/plugin/vace_videos`);
  const id = `vace-run-${run.dag_id}-${run.run_id}`;
  return h(
    "section",
    { ref: element, "aria-labelledby": id, style: { ...LOOK.run, width: widthOf(entries) }, "data-run": run.run_id },
    h(
      "header",
      { style: LOOK.head },
      h(Heading, { id, as: "h2", size: "sm", style: LOOK.title }, h(Link, { href: gallery, title: run.run_id }, name)),
      h("span", { style: STYLE.term }, momentOf(run.run_after)),
      h(Badge, { colorPalette: STATES[run.state] ?? "gray" }, run.state),
      h("span", { role: "status", style: STYLE.term }, parts.join(", ")),
    ),
    error !== null && h("p", { role: "alert", style: STYLE.error }, error),
    entries && h(Cards, { entries, run, group }),
  );
}

function Pager({ cursors, setCursors, older }) {
  const step = (text, to) => {
    const style = { ...STYLE.button, ...(to === null ? STYLE.off : {}) };
    return h("button", { type: "button", disabled: to === null, onClick: () => setCursors(to), style }, text);
  };
  return h(
    "nav",
    { "aria-label": "Pages of the library", style: STYLE.bar },
    step("Newest", cursors.length > 1 ? [null] : null),
    step("Newer", cursors.length > 1 ? cursors.slice(0, -1) : null),
    h("span", { role: "status" }, `Page ${cursors.length}`),
    step("Older", older ? [...cursors, older] : null),
  );
}

function DagChoice({ dags, of, setOf }) {
  const option = ([id, name]) => h("option", { key: id, value: id }, name);
  const onChange = (event) => setOf(event.target.value);
  return h(
    "label",
    { style: STYLE.row },
    "DAG",
    h("select", { "aria-label": "DAG", value: of, onChange, style: LOOK.select }, option(["", "all DAGs"]), Object.entries(dags).map(option)),
  );
}

export function Library() {
  const [of, setOf] = useState("");
  const [group, setGroup] = useState("all");
  // The cursors of the pages up to the shown one.
  const [cursors, setCursors] = useState([null]);
  const before = cursors.at(-1);
  const load = useCallback(async () => {
    const query = new URLSearchParams([...(of ? [["of", of]] : []), ...(before ? [["before", before]] : [])]);
    return [await ask(`vace/library?${query}`), LIST_MS];
  }, [of, before]);
  const { value, error } = usePolled(load);
  const { dags = {}, runs = [], older = null } = value ?? {};
  const choose = (dagId) => {
    setOf(dagId);
    setCursors([null]);
  };
  const choices = GROUPS.map((name) => [name, name]);
  const empty = value && runs.length === 0;
  const pager = (older || cursors.length > 1) && h(Pager, { cursors, setCursors, older });
  return h(
    "section",
    { "aria-label": "Videos of all runs", style: STYLE.page, className: "vace-videos vace-library" },
    h(
      "div",
      { style: STYLE.bar },
      h(Heading, { as: "h1", size: "lg", style: LOOK.page }, "Videos"),
      h(DagChoice, { dags, of, setOf: choose }),
      h(Choices, { label: "Filter of the videos", choices, chosen: group, choose: setGroup }),
    ),
    error !== null && h("p", { role: "alert", style: STYLE.error }, error),
    !value && error === null && h("p", { role: "status" }, "Loading …"),
    empty && h("p", { role: "status" }, "No run that you may read has videos (yet)."),
    pager,
    h(
      "div",
      { style: LOOK.runs },
      runs.map((run) => h(Run, { key: `${run.dag_id}/${run.run_id}`, run, name: dags[run.dag_id] ?? run.dag_id, group })),
    ),
    pager,
  );
}

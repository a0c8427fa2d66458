// A batch of the video tab: one head line with counts and a bar, then the cards of one screen.
// A batch may have many thousand items, so a screen loads only the stored pages that hold its items.

import { Card, isRunning, keyOf, nameOf, PALETTE } from "./cards.js";
import { totalsOf } from "./costs.js";
import { ask, Badge, below, color, count, Heading, segment, STYLE } from "./parts.js";

const { createElement: h, useEffect, useMemo, useRef, useState } = globalThis.React;

const MAX_PAGES = 20; // stored pages for one screen: rare outcomes are spread over many pages
const MAX_REQUESTS = 4; // concurrent requests for pages
const MAX_WATCHED = 4; // concurrent requests for progress

// The letters of a head's `states`, in the order of the chips and of the bar.
const LETTERS = {
  succeeded: "s",
  reused: "u",
  failed: "f",
  canceled: "c",
  unknown: "k",
  skipped: "x",
  running: "r",
  waiting: "w",
};

const LOOK = {
  batch: { marginBottom: "24px" },
  head: { display: "flex", flexDirection: "column", gap: "10px", marginBottom: "16px" },
  name: { fontWeight: 600, fontSize: "1.125rem", overflowWrap: "anywhere", margin: 0 },
  title: { textDecoration: "underline", textDecorationColor: color("border"), textUnderlineOffset: "4px" },
  bar: { display: "flex", height: "12px", borderRadius: "6px", overflow: "hidden", background: color("border") },
  dot: { borderRadius: "50%", display: "inline-block", height: "10px", width: "10px" },
  pager: { display: "flex", gap: "12px", alignItems: "center", flexWrap: "wrap", margin: "12px 0" },
};
// Items that wait have the colour of an empty bar.
const solid = (outcome) => color(outcome === "waiting" ? "border" : `${PALETTE[outcome] ?? "gray"}-solid`);

export const isBatch = (entry) => typeof entry.states === "string";

// The screens of all items, or of the items with one outcome: their positions, and the stored pages that hold them.
export function screensOf(states, pageSize, letter) {
  const screens = [];
  let screen = null;
  for (let position = 0; position < states.length; position += 1) {
    if (letter !== null && states[position] !== letter) continue;
    const page = Math.floor(position / pageSize);
    const isNewPage = screen === null || screen.pages.at(-1) !== page;
    const isFull = screen?.positions.length === pageSize || (isNewPage && screen?.pages.length === MAX_PAGES);
    if (screen === null || isFull) screens.push((screen = { positions: [], pages: [] }));
    if (screen.pages.at(-1) !== page) screen.pages.push(page);
    screen.positions.push(position);
  }
  return screens;
}

// Loads pages whose stamp has changed, few at a time. `cache` has the pages by number, `loading` those on their way.
async function loadPages(head, numbers, cache, loading, pagePath, keep) {
  const isOld = (number) => head.stamps[number] !== null && cache[number]?.stamp !== head.stamps[number];
  const queue = numbers.filter((number) => isOld(number) && !loading.has(number));
  for (const number of queue) loading.add(number);
  const work = async () => {
    while (queue.length > 0) {
      const number = queue.shift();
      try {
        keep(number, { ...(await ask(pagePath(number))), stamp: head.stamps[number] });
      } catch (error) {
        // The stamp stays old, so the next poll asks again.
        keep(number, { cards: cache[number]?.cards ?? [], note: error.message });
      }
      loading.delete(number);
    }
  };
  await Promise.all(Array.from({ length: MAX_REQUESTS }, work));
}

// Returns the loaded pages of a screen and the progress of its first running items; each new head refreshes both.
function useScreen(head, screen, run) {
  const [pages, setPages] = useState({});
  const [progress, setProgress] = useState({});
  const shown = useRef({ wanted: [], cache: {}, loading: new Set() }).current;
  useEffect(() => {
    let isCurrent = true;
    const path = `${run}/pages/${segment(head.instance)}`;
    shown.wanted = screen?.pages ?? [];
    // Pages of other screens would fill the memory of the browser.
    shown.cache = Object.fromEntries(shown.wanted.filter((n) => n in shown.cache).map((n) => [n, shown.cache[n]]));
    setPages(shown.cache);
    const keep = (number, page) => {
      // A slow page may arrive after the next poll, and still counts unless the person has left its screen.
      if (!shown.wanted.includes(number)) return;
      shown.cache = { ...shown.cache, [number]: page };
      setPages(shown.cache);
    };
    const refresh = async () => {
      await loadPages(head, shown.wanted, shown.cache, shown.loading, (number) => `${path}/${number}`, keep);
      if (!isCurrent) return;
      const cards = cardsOf(screen, shown.cache, head.page_size);
      const watched = cards.filter((card) => card.id && isRunning(card)).slice(0, MAX_WATCHED);
      const item = (card) => `${segment(card.instance)}?item=${segment(card.item)}`;
      const answers = await Promise.all(watched.map((card) => ask(`${run}/progress/${item(card)}`).catch(() => null)));
      if (isCurrent) setProgress(Object.fromEntries(watched.map((card, number) => [keyOf(card), answers[number]])));
    };
    refresh();
    return () => {
      isCurrent = false;
    };
  }, [head, screen, run, shown]);
  return { pages, progress };
}

function cardsOf(screen, pages, pageSize) {
  return (screen?.positions ?? [])
    .map((position) => pages[Math.floor(position / pageSize)]?.cards[position % pageSize])
    .filter(Boolean);
}

// One sentence for each page of a screen that has no cards.
function notesOf(screen, pages, head) {
  return (screen?.pages ?? []).flatMap((page) => {
    const last = Math.min((page + 1) * head.page_size, head.states.length);
    const items = `Items ${count(page * head.page_size + 1)} to ${count(last)}`;
    if (head.stamps[page] === null) return [`${items}: The task has not reported these items yet.`];
    if (pages[page] === undefined) return [`${items}: Loading …`];
    return pages[page].note ? [`${items}: ${pages[page].note}`] : [];
  });
}

function Bar({ head }) {
  const shares = Object.keys(LETTERS).filter((outcome) => head.counts[outcome] > 0);
  const label = shares.map((outcome) => `${count(head.counts[outcome])} ${outcome}`).join(", ");
  return h(
    "div",
    { role: "img", "aria-label": `Items by outcome: ${label || "none"}`, style: LOOK.bar },
    shares.map((outcome) =>
      // A single failure among thousands must stay visible, so each share has at least three pixels.
      h("div", {
        key: outcome,
        title: `${count(head.counts[outcome])} ${outcome}`,
        style: { background: solid(outcome), flexGrow: head.counts[outcome], flexBasis: 0, minWidth: "3px" },
      }),
    ),
  );
}

function Chips({ head, outcome, setOutcome }) {
  const chip = (name, number) =>
    h(
      "button",
      {
        key: name ?? "all",
        type: "button",
        "aria-pressed": outcome === name,
        "data-outcome": name ?? "all",
        onClick: () => setOutcome(outcome === name ? null : name),
        style: { ...STYLE.button, ...(outcome === name ? STYLE.pressed : {}) },
      },
      name && h("span", { "aria-hidden": true, style: { ...LOOK.dot, background: solid(name) } }),
      `${name ?? "all"} ${count(number)}`,
    );
  // A chip without items stays while it is pressed, since the last running item may just have ended.
  const shown = Object.keys(LETTERS).filter((name) => head.counts[name] > 0 || name === outcome);
  return h(
    "div",
    { role: "group", "aria-label": `Filter of ${nameOf(head)} by outcome`, style: STYLE.row },
    chip(null, head.states.length),
    shown.map((name) => chip(name, head.counts[name] ?? 0)),
  );
}

function Pager({ screens, number, setNumber, total, name }) {
  const first = screens.slice(0, number).reduce((sum, screen) => sum + screen.positions.length, 0);
  const step = (text, to) => {
    const isOff = to < 0 || to >= screens.length;
    const style = { ...STYLE.button, ...(isOff ? STYLE.off : {}) };
    return h("button", { type: "button", disabled: isOff, onClick: () => setNumber(to), style }, text);
  };
  const items = `${count(first + 1)} to ${count(first + screens[number].positions.length)} of ${count(total)}`;
  return h(
    "nav",
    { "aria-label": `Pages of ${name}`, style: LOOK.pager },
    step("First", number === 0 ? -1 : 0),
    step("Previous", number - 1),
    h("span", { role: "status" }, `Page ${number + 1} of ${screens.length}: ${items}`),
    step("Next", number + 1),
    step("Last", number === screens.length - 1 ? -1 : screens.length - 1),
  );
}

function Items({ head, run, outcome }) {
  const [wanted, setNumber] = useState(0);
  const letter = outcome === null ? null : LETTERS[outcome];
  const screens = useMemo(() => screensOf(head.states, head.page_size, letter), [head.states, head.page_size, letter]);
  // A screen that keeps its identity between two polls keeps its cards.
  const number = Math.max(Math.min(wanted, screens.length - 1), 0);
  const screen = screens[number];
  const { pages, progress } = useScreen(head, screen, run);
  if (screen === undefined) return h("p", { role: "status", style: STYLE.note }, `No item is ${outcome ?? "here"} now.`);
  const total = screens.reduce((sum, one) => sum + one.positions.length, 0);
  const pager = screens.length > 1 && h(Pager, { screens, number, setNumber, total, name: nameOf(head) });
  return h(
    "div",
    null,
    pager,
    notesOf(screen, pages, head).map((note) => h("p", { key: note, role: "note", style: STYLE.note }, note)),
    h(
      "ul",
      { style: STYLE.gallery },
      cardsOf(screen, pages, head.page_size).map((card) =>
        h("li", { key: keyOf(card), style: STYLE.item }, h(Card, { card, progress: progress[keyOf(card)], preload: "pointed" })),
      ),
    ),
    pager,
  );
}

export function Batch({ head, run, taskPath, isFirst }) {
  // A run may have many batches, so only the first one loads its cards unasked.
  const [isOpen, setOpen] = useState(isFirst);
  const [outcome, setOutcome] = useState(null);
  const name = nameOf(head);
  const id = `vace-batch-${keyOf(head)}`;
  const ready = (head.counts.succeeded ?? 0) + (head.counts.reused ?? 0);
  const word = head.is_open ? "running" : (head.state ?? "unknown");
  const palette = { success: "green", failed: "red", running: "blue" }[word] ?? "gray";
  const toggle = { type: "button", "aria-expanded": isOpen, onClick: () => setOpen(!isOpen), style: STYLE.button };
  const title = taskPath ? h("a", { href: below(taskPath), style: LOOK.title }, name) : name;
  return h(
    "section",
    { "aria-labelledby": id, style: LOOK.batch, className: "vace-batch" },
    h(
      "header",
      { style: LOOK.head },
      h(
        "div",
        { style: STYLE.row },
        h(Heading, { id, as: "h2", size: "md", style: LOOK.name }, title),
        h(Badge, { colorPalette: palette }, word),
        h("span", { role: "status" }, `${count(ready)} of ${count(head.states.length)} ready`),
        totalsOf([head]) && h("span", { className: "vace-cost" }, totalsOf([head])),
        head.try_number > 1 && h("span", { style: STYLE.term }, `attempt ${head.try_number}`),
        head.loop_pass && h("span", { style: STYLE.term }, `pass ${head.loop_pass}`),
        h("button", toggle, isOpen ? "Hide videos" : "Show videos"),
      ),
      h(Bar, { head }),
      isOpen && h(Chips, { head, outcome, setOutcome }),
      head.error && h("p", { style: STYLE.error, role: "note" }, head.error),
      head.manifest && h("p", { style: { ...STYLE.note, margin: 0 } }, `Manifest: ${head.manifest}`),
    ),
    // The key starts each filter on its first page.
    isOpen && h(Items, { key: outcome ?? "all", head, run, outcome }),
  );
}

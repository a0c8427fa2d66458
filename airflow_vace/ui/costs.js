// Costs of the video tab. Amounts are decimal texts, so sums are made of whole millionths.

const MILLION = 1000000n;

function millionths(text) {
  const match = /^(\d{1,12})(?:\.(\d{1,6}))?$/.exec(text ?? "");
  return match ? BigInt(match[1]) * MILLION + BigInt((match[2] ?? "").padEnd(6, "0")) : 0n;
}

function shownAmount(amount, currency) {
  const fraction = String(amount % MILLION).padStart(6, "0").replace(/0{1,4}$/, "");
  const text = `${amount / MILLION}.${fraction}`;
  return currency === "USD" ? `$${text}` : `${currency} ${text}`;
}

// Without a price by the run, the cost of a prediction is known only after the end.
const isKnown = (cost) => Boolean(cost?.currency) && (cost.amount !== null || Boolean(cost.task));

// What all predictions of a card's task have cost, such as "$0.80 in all" beside a card's own "$0.40".
export function costOf(card) {
  const { cost } = card;
  if (!isKnown(cost)) return null;
  const own = cost.amount === null ? "unknown" : shownAmount(millionths(cost.amount), cost.currency);
  const parts = [own];
  if (cost.reserved) parts.push("reserved");
  if (cost.saved) parts.push(`saved ${shownAmount(millionths(cost.saved), cost.currency)}`);
  if (cost.task && cost.task !== cost.amount) {
    parts.push(`${shownAmount(millionths(cost.task), cost.currency)} with earlier attempts`);
  }
  if (cost.has_unknown) parts.push("an earlier create is unknown");
  return parts.join(", ");
}

// The sums of cards and heads of batches by currency, such as "$4.80", "3 reused, saved $1.20" and "2 without a price".
export function totalsOf(entries) {
  const paid = new Map();
  const saved = new Map();
  let reused = 0;
  let unpriced = 0;
  for (const { cost, counts } of entries) {
    if (!isKnown(cost)) continue;
    const add = (sums, text) => sums.set(cost.currency, (sums.get(cost.currency) ?? 0n) + millionths(text));
    add(paid, cost.task ?? cost.amount);
    unpriced += cost.unpriced ?? 0;
    if (cost.saved) {
      add(saved, cost.saved);
      reused += counts?.reused ?? 1;
    }
  }
  const shown = (sums) => [...sums].map(([currency, sum]) => shownAmount(sum, currency)).join(" + ");
  const parts = paid.size > 0 ? [shown(paid)] : [];
  if (reused > 0) parts.push(`${reused} reused, saved ${shown(saved)}`);
  if (unpriced > 0) parts.push(`${unpriced} without a price`);
  return parts.join("; ") || null;
}

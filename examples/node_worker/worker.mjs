// A worker in Node.js that keeps to docs/worker-protocol.md, in one page; it needs no packages.
//
//   eval "$(writ env)"; WRIT_QUEUE=billing node examples/node_worker/worker.mjs
//   python -m writ.conformance node examples/node_worker/worker.mjs
//
// Its tasks are those of the conformance kit; put yours in their place. One attempt runs at a time.

import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

import { connect, NoAnswer } from "./wire.mjs";

const { NATS_URL, NATS_NKEY, WRIT_TENANT, WRIT_PRINCIPAL, WRIT_QUEUE } = process.env;
if (!NATS_URL || !WRIT_QUEUE) {
  console.error('set the variables of `eval "$(writ env)"`, and WRIT_QUEUE to the queue to work on');
  process.exit(2);
}
const worker = `node-${process.pid}`;
const request = await connect(NATS_URL, NATS_NKEY);

class Failed extends Error {
  constructor(kind, type, text) {
    super(text);
    Object.assign(this, { kind, type });
  }
}

const tasks = {
  "conformance.echo": async (input) => input,
  "conformance.fail": async () => {
    throw new Failed("application", "Planned", "as asked");
  },
  "conformance.refuse": async () => {
    throw new Failed("policy", "Refused", "as asked");
  },
  "conformance.asset": async ({ name }, attempt) => ({ said: await attempt.secret(name) }),
  "conformance.sleep": async ({ seconds }, attempt) => {
    await sleep(seconds * 1000, undefined, { signal: attempt.signal });
    return null;
  },
};

// --- the protocol -----------------------------------------------------------------------------------------

const secrets = new Set();

// Every message leaves without the secrets that were read.
function clean(value) {
  if (typeof value === "string") return [...secrets].reduce((text, secret) => text.replaceAll(secret, "[redacted]"), value);
  if (Array.isArray(value)) return value.map(clean);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [clean(name), clean(each)]));
}

// One request, asked again until there is a verdict: no answer is none, and neither is `try_later`.
async function ask(verb, message, { timeoutMs = 5000, until = () => false } = {}) {
  const subject = `writ.lease.${WRIT_TENANT}.${WRIT_PRINCIPAL}.${verb}.${WRIT_QUEUE}`;
  for (;;) {
    try {
      const answer = await request(subject, { worker, ...clean(message) }, timeoutMs);
      if (answer.error?.kind !== "try_later") return answer;
    } catch (error) {
      if (!(error instanceof NoAnswer)) throw error;
    }
    if (until()) return null;
    await sleep(100 + 200 * Math.random());
  }
}

async function run(lease) {
  const held = { id: lease.id, token: lease.token };
  const stopping = new AbortController();
  let stop = null; // why the work shall end: "lost", "cancel", "timeout" or "lapsed"
  let over = false;
  const end = (why) => {
    if (stop === null || why === "lost") stop = why;
    stopping.abort();
  };

  // A strict lease ends by this clock; log time may run a twentieth faster than it.
  let lapse;
  const prolong = (fromMs, seconds) => {
    clearTimeout(lapse);
    if (lease.strict) lapse = setTimeout(() => end("lapsed"), fromMs + (seconds * 20_000) / 21 - performance.now());
  };
  const lease_s = lease.lease_s ?? 30; // what is as always is left out of messages
  prolong(lease.askedMs, lease_s + (lease.parked_s ?? 0));

  const began = performance.now();
  const late = setTimeout(() => end("timeout"), (lease.attempt_timeout_s ?? 900) * 1000);
  const second = setTimeout(() => ask("start", { leases: [held] }, { until: () => over }), 1000);
  const beats = (async () => {
    while (!over) {
      await sleep((lease_s * 1000) / 3, undefined, { signal: done.signal }).catch(() => {});
      if (over) return;
      const askedMs = performance.now();
      const answer = await ask("renew", { leases: [held] }, { timeoutMs: (lease_s * 1000) / 3, until: () => true });
      if (answer === null || answer.error) continue;
      const lost = (answer.lost ?? []).at(0);
      if (lost && lost.kind !== "try_later") return end("lost");
      if (!lost) prolong(askedMs, lease_s);
      if (answer.cancel?.includes(lease.id)) end("cancel");
    }
  })();
  const attempt = {
    signal: stopping.signal,
    secret: async (name) => {
      const told = await ask("read_asset", { ...held, name, secret: true });
      if (told.error) throw new Failed("policy", "AssetRefused", told.error.reason);
      const value = Buffer.from(told.value, "base64").toString();
      secrets.add(value);
      return value;
    },
  };

  let verb = "complete", report;
  try {
    const output = (await tasks[lease.task](lease.input, attempt)) ?? null;
    if (Buffer.byteLength(JSON.stringify(output)) > 256 * 1024) throw new Failed("application", "OutputTooLarge", "over 256 KiB");
    report = { output };
  } catch (error) {
    const failed = error instanceof Failed ? error : new Failed("application", error.name, String(error.stack));
    verb = "fail";
    report = { class: failed.kind, type: failed.type, text: failed.message.slice(0, 10_000) };
  }
  if (stop === "cancel") [verb, report] = ["fail", { class: "cancelled", type: "Cancelled", text: "cancelled" }];
  if (stop === "timeout") [verb, report] = ["fail", { class: "timeout", type: "AttemptTimeout", text: "it ran too long" }];
  const run_ms = Math.round(performance.now() - began);
  const message = stop === "lapsed" ? { leases: [held] } : { reports: [{ ...held, ...report, run_ms }] };
  // The lease is renewed until the report is answered; one that is void is refused, which settles it, too.
  if (stop !== "lost") await ask(stop === "lapsed" ? "release" : verb, message, { until: () => stop === "lost" });
  over = true;
  done.abort();
  for (const timer of [lapse, late, second]) clearTimeout(timer);
  await beats;
}

let draining = false;
let done = new AbortController(); // of the attempt at hand
for (const name of ["SIGTERM", "SIGINT"]) {
  process.on(name, () => {
    draining = true;
    ask("withdraw", {}, { until: () => true }); // so that no lease is granted to nobody
  });
}
console.error(`worker ${worker} works on ${WRIT_QUEUE}`);
let again = false; // an acquire was not answered, and may have brought a lease all the same
while (!draining) {
  const askedMs = performance.now();
  const about = { host: hostname(), version: "node", slots: 1, queues: [WRIT_QUEUE] };
  const wanted = again ? { again } : { count: 1, wait_s: 5, tasks: Object.keys(tasks), about };
  const answer = await ask("acquire", wanted, { timeoutMs: 15_000, until: () => true });
  again = answer === null;
  if (again) await sleep(100 + 200 * Math.random());
  if (answer?.error) {
    console.error(answer.error.reason);
    process.exit(1);
  }
  for (const lease of answer?.leases ?? []) {
    if (draining) await ask("release", { leases: [{ id: lease.id, token: lease.token }] });
    else {
      done = new AbortController();
      await run({ ...lease, askedMs });
    }
  }
}
process.exit(0);

// A NATS client in Node.js with nothing but what Node.js brings: no npm, nothing of Writ's but an example's login.
//
//   node client.mjs QUEUE COUNT BODY...
//
// publishes each BODY to the submit subject of the principal that NATS_URL, NATS_NKEY, WRIT_TENANT and
// WRIT_PRINCIPAL name: the first without asking for an acknowledgement, the others with. Then it watches the
// feed until COUNT jobs of the queue have completed, and prints what it saw, one JSON document a line.

import { connect } from "node:net";

import { login } from "../../../examples/node_worker/nkey.mjs";

const [queue, count, ...bodies] = process.argv.slice(2);
const { NATS_URL, NATS_NKEY, WRIT_TENANT, WRIT_PRINCIPAL } = process.env;
const subject = `writ.submit.${WRIT_TENANT}.${WRIT_PRINCIPAL}.${queue}`;

const identify = login(NATS_NKEY);
const { hostname, port } = new URL(NATS_URL);
const socket = connect(Number(port), hostname);
const inbox = `_INBOX.${process.pid}${Date.now()}`;
let buffer = Buffer.alloc(0);
let acks = 0, completed = 0;

function fail(why) {
  console.error(why);
  process.exit(1);
}

let greeted = false;

function start(info) {
  if (greeted) return; // further INFO lines only bring news
  greeted = true;
  const about = { verbose: false, pedantic: false, lang: "js", version: "0", protocol: 1, headers: true };
  socket.write(`CONNECT ${JSON.stringify({ ...about, ...identify(info.nonce) })}\r\n`);
  socket.write(`SUB writ.feed.${WRIT_TENANT}.job.* 1\r\nSUB ${inbox}.* 2\r\nPING\r\n`);
}

function publish() {
  bodies.forEach((body, index) => {
    const reply = index === 0 ? "" : ` ${inbox}.${index}`;
    socket.write(`PUB ${subject}${reply} ${Buffer.byteLength(body)}\r\n${body}\r\n`);
  });
}

function message(sid, body) {
  if (sid === "2") {
    acks++;
    console.log(JSON.stringify({ stored: JSON.parse(body).seq }));
  } else {
    const record = JSON.parse(body);
    const done = record.events.find((event) => event.type === "job_completed");
    if (done && record.key.startsWith(`${queue}~`)) {
      completed++;
      const id = record.key.slice(queue.length + 1);
      console.log(JSON.stringify({ completed: id, output: done.data.output.plain }));
    }
  }
  if (acks === bodies.length - 1 && completed === Number(count)) socket.end();
}

socket.on("error", (error) => fail(String(error)));
socket.on("close", () => completed === Number(count) || fail("the server closed the connection"));
socket.on("data", (data) => {
  buffer = Buffer.concat([buffer, data]);
  for (;;) {
    const end = buffer.indexOf("\r\n");
    if (end < 0) return;
    const line = buffer.subarray(0, end).toString();
    const [verb, ...rest] = line.split(" ");
    let used = end + 2;
    if (verb === "MSG" || verb === "HMSG") {
      const total = Number(rest.at(-1));
      if (buffer.length < used + total + 2) return;
      const head = verb === "HMSG" ? Number(rest.at(-2)) : 0;
      message(rest[1], buffer.subarray(used + head, used + total).toString());
      used += total + 2;
    } else if (verb === "INFO") start(JSON.parse(line.slice(5)));
    else if (verb === "PING") socket.write("PONG\r\n");
    else if (verb === "PONG") publish(); // the subscriptions stand
    else if (verb === "-ERR") fail(line);
    buffer = buffer.subarray(used);
  }
});

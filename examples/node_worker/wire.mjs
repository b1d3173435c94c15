// Requests over NATS with nothing but what Node.js brings. A worker of your own would take the package `nats`
// in its place: all that it needs of one is `request`.

import { connect as dial } from "node:net";

import { login } from "./nkey.mjs";

export class NoAnswer extends Error {}

// Resolves with `request(subject, value, timeoutMs)`, which resolves with the answer, both JSON, or rejects with
// NoAnswer; that may be said again. A connection that breaks is made anew.
export function connect(url, keyFile) {
  const { hostname, port } = new URL(url);
  const identify = login(keyFile);
  const inbox = `_INBOX.${process.pid}x${Date.now()}`;
  const waiting = new Map();
  let socket, asked = 0, up = false;

  function request(subject, value, timeoutMs) {
    const body = JSON.stringify(value);
    const number = String(++asked);
    return new Promise((resolve, reject) => {
      const over = setTimeout(() => {
        waiting.delete(number);
        reject(new NoAnswer(`no answer from ${subject} within ${timeoutMs} ms`));
      }, timeoutMs);
      waiting.set(number, (answer) => {
        clearTimeout(over);
        waiting.delete(number);
        resolve(answer);
      });
      if (up) socket.write(`PUB ${subject} ${inbox}.${number} ${Buffer.byteLength(body)}\r\n${body}\r\n`);
    });
  }

  return new Promise((ready) => {
    function open() {
      let buffer = Buffer.alloc(0), greeted = false;
      socket = dial(Number(port), hostname);
      socket.on("error", (error) => console.error(`the broker: ${error.message}`));
      socket.on("close", () => {
        up = false;
        setTimeout(open, 500);
      });
      socket.on("data", (data) => {
        buffer = Buffer.concat([buffer, data]);
        for (let end; (end = buffer.indexOf("\r\n")) >= 0; ) {
          const line = buffer.subarray(0, end).toString();
          const [verb, ...rest] = line.split(" ");
          let used = end + 2;
          if (verb === "MSG" || verb === "HMSG") {
            const total = Number(rest.at(-1));
            if (buffer.length < used + total + 2) return;
            const head = verb === "HMSG" ? Number(rest.at(-2)) : 0;
            // A header without a body is the broker's word that nobody listens: no answer, as a time-out is.
            const body = buffer.subarray(used + head, used + total).toString();
            if (body) waiting.get(rest[0].slice(inbox.length + 1))?.(JSON.parse(body));
            used += total + 2;
          } else if (verb === "INFO" && !greeted) {
            greeted = true;
            const about = { verbose: false, pedantic: false, lang: "js", version: "0", protocol: 1, headers: true };
            socket.write(`CONNECT ${JSON.stringify({ ...about, ...identify(JSON.parse(line.slice(5)).nonce) })}\r\n`);
            socket.write(`SUB ${inbox}.* 1\r\nPING\r\n`);
          } else if (verb === "PING") socket.write("PONG\r\n");
          else if (verb === "PONG") {
            up = true;
            ready(request);
          } else if (verb === "-ERR") console.error(line);
          buffer = buffer.subarray(used);
        }
      });
    }
    open();
  });
}

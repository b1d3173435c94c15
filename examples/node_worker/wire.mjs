// Requests over NATS with nothing but what Node.js brings. A worker of your own would take the package `nats`
// in its place: all that it needs of one is `request`.

import { createPrivateKey, createPublicKey, sign } from "node:crypto";
import { readFileSync } from "node:fs";
import { connect as dial } from "node:net";

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

function fromBase32(text) {
  let bits = 0, value = 0;
  const out = [];
  for (const letter of text.trim()) {
    value = ((value << 5) | ALPHABET.indexOf(letter)) & 0xffff;
    bits += 5;
    if (bits >= 8) out.push((value >> (bits -= 8)) & 0xff);
  }
  return Buffer.from(out);
}

function toBase32(bytes) {
  let bits = 0, value = 0, out = "";
  for (const byte of bytes) {
    value = ((value << 8) | byte) & 0xffff;
    bits += 8;
    while (bits >= 5) out += ALPHABET[(value >> (bits -= 5)) & 31];
  }
  return bits > 0 ? out + ALPHABET[(value << (5 - bits)) & 31] : out;
}

function crc16(bytes) {
  let crc = 0;
  for (const byte of bytes) {
    crc ^= byte << 8;
    for (let i = 0; i < 8; i++) crc = (crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1) & 0xffff;
  }
  return crc;
}

// The key in a file is two prefix bytes, the 32 bytes of an Ed25519 seed and a checksum, in base32.
function login(file) {
  const seed = fromBase32(readFileSync(file, "utf8")).subarray(2, 34);
  const der = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]);
  const key = createPrivateKey({ key: der, format: "der", type: "pkcs8" });
  const half = createPublicKey(key).export({ format: "der", type: "spki" }).subarray(-32);
  const prefixed = Buffer.concat([Buffer.from([20 << 3]), half]);
  const checksum = Buffer.alloc(2);
  checksum.writeUInt16LE(crc16(prefixed));
  const nkey = toBase32(Buffer.concat([prefixed, checksum]));
  return (nonce) => ({ nkey, sig: sign(null, Buffer.from(nonce), key).toString("base64url") });
}

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

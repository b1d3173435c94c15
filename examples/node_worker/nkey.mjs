// A login to NATS by NKey, with nothing but what Node.js brings.

import { createPrivateKey, createPublicKey, sign } from "node:crypto";
import { readFileSync } from "node:fs";

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

// The answer to a broker's nonce, by the key in a file: two prefix bytes, the 32 bytes of an Ed25519 seed and a
// checksum, in base32.
export function login(file) {
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

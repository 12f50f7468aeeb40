// Checks a proof with @sigstore/verify of npm: verifyCheckpoint and verifyMerkleInclusion.
//
//     node sigstore.cjs VKEY inclusion PROOF
//
// NODE_PATH names the directory of its packages.
const fs = require("fs");
const path = require("path");
const crypto = require("crypto");

const base = path.join(process.env.NODE_PATH, "@sigstore", "verify", "dist", "tlog");
const { verifyCheckpoint } = require(path.join(base, "checkpoint.js"));
const { verifyMerkleInclusion } = require(path.join(base, "merkle.js"));

const ED25519 = Buffer.from("302a300506032b6570032100", "hex"); // the start of such a key in DER
const decoded = (text) => Buffer.from(text, "base64");

const [vkey, , file] = process.argv.slice(2);
const [, name, id, key] = /^([^+]*)\+([^+]*)\+(.*)$/.exec(vkey);
const der = Buffer.concat([ED25519, decoded(key).subarray(1)]);
const log = {
  logID: Buffer.from(id, "hex"),
  baseURL: name,
  publicKey: crypto.createPublicKey({ key: der, format: "der", type: "spki" }),
};

const text = fs.readFileSync(file, "utf8");
const end = text.indexOf("\n\n");
const [, extra, index, ...hashes] = text.slice(0, end).split("\n");
const entry = {
  canonicalizedBody: decoded(extra.replace("extra ", "")),
  inclusionProof: {
    logIndex: index.replace("index ", ""),
    hashes: hashes.map(decoded),
    checkpoint: { envelope: text.slice(end + 2) },
  },
};
verifyMerkleInclusion(entry, verifyCheckpoint(entry, [log]));

// Reads `.env` documents with npm `dotenv`, Node.js and Next.js.
//
// usage: node readers.mjs PACKAGES < DOCUMENTS
//
// The input is a JSON array of documents. The output is an object of the Node.js version and the results: one object
// of names and values for each reader and document, or `null` if the reader fails.

import fs from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { parseEnv } from "node:util";

const require = createRequire(path.join(process.argv[2], "readers.mjs"));
const dotenv = require("dotenv");
const next = require("@next/env");

const directory = fs.mkdtempSync(path.join(os.tmpdir(), "readers-"));
const environment = { HOME: "/home/user", SET: "x" };
const silent = { info() {}, error() {} };

function readWithNext(document) {
  fs.writeFileSync(path.join(directory, ".env"), document);
  process.env = { ...environment };
  next.updateInitialEnv(environment);
  const { loadedEnvFiles } = next.loadEnvConfig(directory, false, silent, true);
  return Object.assign({}, ...loadedEnvFiles.map((file) => file.env));
}

function read(reader, document) {
  try {
    return { ...reader(document) };
  } catch {
    return null;
  }
}

const documents = JSON.parse(fs.readFileSync(0, "utf8"));
const readers = { dotenv: dotenv.parse, node: parseEnv, next: readWithNext };
const results = documents.map((document) =>
  Object.fromEntries(Object.entries(readers).map(([name, reader]) => [name, read(reader, document)])),
);
fs.rmSync(directory, { recursive: true });
console.log(JSON.stringify({ version: process.version, results }));

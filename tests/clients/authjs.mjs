// Reads one command per line, runs it with the packages, and prints one line as the result.
import { createInterface } from "node:readline";

import { Auth } from "@auth/core";
import Credentials from "@auth/core/providers/credentials";
import * as core from "@auth/core/jwt";
import * as v4 from "next-auth-4/jwt";
import * as v5 from "next-auth/jwt";

import { options } from "./options.mjs";

const jwt = { "@auth/core": core, "next-auth@4": v4, "next-auth@5": v5 };

const silent = { error() {}, warn() {}, debug() {} };

const actions = {
  encode: ({ by, token, secret, salt }) => jwt[by].encode({ token, secret, salt }),
  decode: ({ by, token, secret, salt }) => jwt[by].decode({ token, secret, salt }),
  // A request to a server that has only @auth/core.
  async request({ secret, url, ...request }) {
    const config = { ...options(Credentials, secret, "/auth"), logger: silent };
    const answer = await Auth(new Request(url, request), config);
    const headers = [...answer.headers];
    return { status: answer.status, headers, body: await answer.text() };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { action, ...question } = JSON.parse(line);
  let answer;
  try {
    answer = { value: await actions[action](question) };
  } catch (error) {
    answer = { error: error.message };
  }
  console.log(JSON.stringify(answer));
}

// Reads one command per line, runs it with Better Auth, and prints one line as the result.
import { createInterface } from "node:readline";

import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { createEndpoint, serializeSignedCookie } from "better-call";
import { getCookieCache } from "better-auth/cookies";
import { jwt } from "better-auth/plugins";

const databases = {};

// The tables of a database that lives as long as this process.
const database = (name) =>
  memoryAdapter((databases[name] ??= { user: [], session: [], account: [], verification: [], jwks: [] }));

const reader = createEndpoint("/", { method: "GET" }, (context) =>
  context.getSignedCookie(context.context.name, context.context.secret),
);

const actions = {
  // The Set-Cookie header of a signed cookie.
  sign: ({ name, value, secret }) => serializeSignedCookie(name, value, secret, { path: "/" }),
  // The value of a signed cookie in a Cookie header: text, null without a cookie, false for a wrong signature.
  read: ({ cookies, name, secret }) =>
    reader({ headers: new Headers({ cookie: cookies }), context: { name, secret } }),
  // The session in the cookie cache, for another service: `strategy`, `secret`, `isSecure`, …
  cache: ({ cookies, ...options }) => getCookieCache(new Headers({ cookie: cookies }), options),
  // A request to an instance with these options. Instances with the same `database` share their sessions.
  async request({ database: name, plugins, options, url, ...request }) {
    const instance = betterAuth({
      ...options,
      ...(name && { database: database(name) }),
      ...(plugins && { plugins: [jwt(plugins.jwt)] }),
      emailAndPassword: { enabled: true },
      logger: { disabled: true },
    });
    const response = await instance.handler(new Request(url, request));
    return { status: response.status, headers: [...response.headers], body: await response.text() };
  },
  // The keys of the JWT plugin end now, so that the next token has a new key.
  expireKeys({ database: name }) {
    for (const key of databases[name].jwks) key.expiresAt = new Date(Date.now() - 1000);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { action, ...question } = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await actions[action](question)) ?? null };
  } catch (error) {
    answer = { error: error.message };
  }
  console.log(JSON.stringify(answer));
}

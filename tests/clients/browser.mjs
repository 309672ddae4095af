// Reads one command per line, runs it in Chromium, and prints one line as the result. The browser resolves every name
// below example.test to this machine, and accepts any certificate.
//
// A user is a browser context: an own set of cookies. The debugging protocol uses two pipes, so that no package and no
// port are necessary. The browser exits when they are closed.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

const options = [
  "--headless=new",
  "--no-sandbox",
  "--no-first-run",
  "--disable-gpu",
  "--disable-dev-shm-usage",
  "--disable-background-networking",
  "--disable-component-update",
  "--ignore-certificate-errors",
  "--host-resolver-rules=MAP *.example.test 127.0.0.1",
  "--remote-debugging-pipe",
];

let toBrowser;
let lastId = 0;
const replies = new Map();
const listeners = new Set();

async function receive(pipe) {
  let rest = "";
  for await (const part of pipe.setEncoding("utf8")) {
    const parts = (rest + part).split("\0");
    rest = parts.pop();
    for (const message of parts.map((each) => JSON.parse(each))) {
      if (message.id) replies.get(message.id)(message);
      else for (const listener of listeners) listener(message);
    }
  }
}

async function send(method, params = {}, sessionId = undefined) {
  const id = ++lastId;
  const reply = new Promise((resolve) => replies.set(id, resolve));
  toBrowser.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
  const { result, error } = await reply;
  replies.delete(id);
  if (error) throw new Error(`${method}: ${error.message}`);
  return result;
}

// Opens a page, and returns the status and the text of the last document.
async function navigate(tab, url) {
  let status;
  const loaded = new Promise((resolve) => {
    const listener = ({ method, params, sessionId }) => {
      if (sessionId !== tab.sessionId) return;
      if (method === "Network.responseReceived" && params.type === "Document") {
        status = params.response.status;
      }
      if (method === "Page.loadEventFired") {
        listeners.delete(listener);
        resolve();
      }
    };
    listeners.add(listener);
  });
  const { errorText } = await send("Page.navigate", { url }, tab.sessionId);
  if (errorText) throw new Error(`${url}: ${errorText}`);
  await loaded;
  return { status, ...(await evaluate(tab, "({ url: location.href, body: document.body.innerText })")) };
}

async function evaluate(tab, expression) {
  const params = { expression, awaitPromise: true, returnByValue: true };
  const { result, exceptionDetails } = await send("Runtime.evaluate", params, tab.sessionId);
  if (exceptionDetails) throw new Error(result.description ?? exceptionDetails.text);
  return result.value;
}

async function openTab(browserContextId) {
  const { targetId } = await send("Target.createTarget", { url: "about:blank", browserContextId });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  await send("Page.enable", {}, sessionId);
  await send("Network.enable", {}, sessionId);
  return { sessionId };
}

// The tabs of each user: one to visit pages, and one for each origin whose scripts send requests.
const users = new Map();

async function tab(user, origin) {
  const tabs = users.get(user);
  if (!tabs.has(origin)) tabs.set(origin, await openTab(user));
  return tabs.get(origin);
}

const actions = {
  async start({ program, profile }) {
    const stdio = ["ignore", "ignore", "ignore", "pipe", "pipe"];
    const chromium = spawn(program, [...options, `--user-data-dir=${profile}`], { stdio });
    let fromBrowser;
    [, , , toBrowser, fromBrowser] = chromium.stdio;
    receive(fromBrowser);
    return send("Browser.getVersion");
  },
  async open() {
    const { browserContextId } = await send("Target.createBrowserContext");
    users.set(browserContextId, new Map());
    return browserContextId;
  },
  visit: async ({ user, url }) => navigate(await tab(user, "visits"), url),
  // A script of `page` sends a request.
  async fetch({ user, page, url, init }) {
    const { origin } = new URL(page);
    const isNew = !users.get(user).has(origin);
    const from = await tab(user, origin);
    if (isNew) await navigate(from, page);
    return evaluate(
      from,
      `fetch(${JSON.stringify(url)}, ${JSON.stringify({ credentials: "include", ...init })})
        .then(async (response) => ({ status: response.status, url: response.url, body: await response.text() }))`,
    );
  },
  async cookies({ user }) {
    return (await send("Storage.getCookies", { browserContextId: user })).cookies;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { action, ...command } = JSON.parse(line);
  let result;
  try {
    result = { value: await actions[action](command) };
  } catch (error) {
    result = { error: error.message };
  }
  console.log(JSON.stringify(result));
}
if (toBrowser) await send("Browser.close");

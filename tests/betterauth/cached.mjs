// Checks `cached.js` of the guide with a clock that the check moves.
import assert from "node:assert/strict";
import { mock } from "node:test";

import { cachedSecret } from "./cached.js";

mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000 });
console.error = () => {};

const settled = async () => {
  for (let turn = 0; turn < 5; turn += 1) await new Promise((resolve) => setImmediate(resolve));
};
const pass = async (milliseconds) => {
  mock.timers.tick(milliseconds);
  await settled();
};

let calls = 0, next;
const load = () => {
  calls += 1;
  return next();
};
const secret = cachedSecret(load, { ttl: 100, retry: 10, timeout: 50 });
const callers = () => Array.from({ length: 100 }, () => secret());

// A first failure is returned to all callers, and forgotten at once.
next = () => {
  throw new Error("the source is down");
};
await Promise.all(callers().map((caller) => assert.rejects(caller, /the source is down/)));
assert.equal(calls, 1);
await assert.rejects(secret(), /the source is down/);
assert.equal(calls, 2);

// A source that hangs is a failure as well.
next = () => new Promise(() => {});
const hanging = assert.rejects(secret(), /no result after 50 ms/);
await pass(50);
await hanging;

// 100 callers query the source once, and get the same object.
next = async () => ({ current: "a" });
const [first, ...others] = await Promise.all(callers());
assert.equal(calls, 4);
assert.ok(others.every((other) => other === first));
await pass(99);
assert.equal(await secret(), first);
assert.equal(calls, 4);

// The object stays the same while the content does.
await pass(1);
assert.equal(await secret(), first);
await settled();
assert.equal(calls, 5);
assert.equal(await secret(), first);

// A change is served as soon as the refresh in the background has ended.
next = async () => ({ current: "b" });
await pass(100);
await Promise.all(callers());
await settled();
assert.equal((await secret()).current, "b");
assert.equal(calls, 6);

// An outage keeps the last good value, and is retried. A source that hangs does not block the next refresh.
const outages = [() => Promise.reject(new Error("the source is down")), () => new Promise(() => {})];
await pass(100);
for (const outage of outages) {
  next = outage;
  const before = calls;
  assert.equal((await secret()).current, "b");
  await settled();
  assert.equal(calls, before + 1);
  await pass(60);
}
next = async () => ({ current: "c" });
await pass(10);
await secret();
await settled();
assert.equal((await secret()).current, "c");

// Checks the function `cachedSecret` of docs/guides/nextjs.md. The clock is advanced by the checks.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { mock } from "node:test";

mock.timers.enable({ apis: ["Date", "setTimeout"] });
console.warn = (text) => warnings.push(text);
const warnings = [];

const file = join(import.meta.dirname, "guides/next-auth-5/cached-secret.js");
const source = encodeURIComponent(readFileSync(file, "utf8"));
const { cachedSecret } = await import(`data:text/javascript,${source}`);

// A source with a number of reads. `next` is its next result.
function newSource() {
  const source = { reads: 0, next: () => ({ current: "alpha", previous: [] }) };
  source.secret = cachedSecret(
    async () => {
      source.reads += 1;
      return source.next();
    },
    { ttl: 60_000, retryAfter: 5_000, timeout: 10_000 },
  );
  return source;
}

const settle = () => new Promise((resolve) => setImmediate(resolve));

const checks = {
  async "concurrent callers share one read"() {
    const source = newSource();
    const found = await Promise.all(Array.from({ length: 100 }, () => source.secret()));
    assert.equal(source.reads, 1);
    assert.equal(new Set(found).size, 1);
    mock.timers.tick(59_999);
    assert.equal(await source.secret(), found[0]);
    assert.equal(source.reads, 1);
  },

  async "a failure is forgotten at once"() {
    const source = newSource();
    for (const failure of [
      () => Promise.reject(new Error("down")),
      () => {
        throw new Error("down");
      },
    ]) {
      source.next = failure;
      const found = await Promise.allSettled(Array.from({ length: 100 }, () => source.secret()));
      assert.ok(found.every(({ reason }) => reason?.message === "down"));
    }
    assert.equal(source.reads, 2);
    source.next = () => ({ current: "alpha", previous: [] });
    assert.equal((await source.secret()).current, "alpha");
  },

  async "the last valid value is kept through an outage"() {
    const source = newSource();
    const first = await source.secret();
    for (let failure = 0; failure < 3; failure += 1) {
      source.next = () => Promise.reject(new Error("down"));
      mock.timers.tick(60_000);
      const reads = source.reads;
      for (let call = 0; call < 10; call += 1) assert.equal(await source.secret(), first);
      await settle();
      assert.equal(await source.secret(), first);
      assert.equal(source.reads, reads + 1);
    }
    assert.equal(warnings.length, 3);
    assert.ok(warnings.every((warning) => !warning.includes("alpha")));
    source.next = () => ({ current: "beta", previous: ["alpha"] });
    mock.timers.tick(5_000);
    assert.equal(await source.secret(), first, "no caller waits");
    await settle();
    assert.deepEqual(await source.secret(), { current: "beta", previous: ["alpha"] });
  },

  async "the object changes only with the secret"() {
    const source = newSource();
    const first = await source.secret();
    mock.timers.tick(60_000);
    await source.secret();
    await settle();
    assert.equal(source.reads, 2);
    assert.equal(await source.secret(), first);
    source.next = () => ({ current: "alpha", previous: ["omega"] });
    mock.timers.tick(60_000);
    await source.secret();
    await settle();
    assert.notEqual(await source.secret(), first);
  },

  async "a source that never responds does not block later reads"() {
    const source = newSource();
    source.next = () => new Promise(() => {});
    const waiting = assert.rejects(source.secret(), /does not respond/);
    await settle();
    mock.timers.tick(10_000);
    await waiting;
    source.next = () => ({ current: "alpha", previous: [] });
    const first = await source.secret();
    source.next = () => new Promise(() => {});
    mock.timers.tick(60_000);
    assert.equal(await source.secret(), first);
    await settle();
    mock.timers.tick(10_000);
    await settle();
    source.next = () => ({ current: "beta", previous: [] });
    mock.timers.tick(5_000);
    await source.secret();
    await settle();
    assert.equal((await source.secret()).current, "beta");
  },
};

for (const [name, check] of Object.entries(checks)) {
  warnings.length = 0;
  await check();
  console.log(name);
}
console.log("all checks passed");

// Checks that `parseSecrets` of the guide is as strict as the package, and that both read the same secrets.
import assert from "node:assert/strict";

import { betterAuth } from "better-auth";

import { options } from "./options.js";

process.env.BETTER_AUTH_SECRET = "0123456789abcdefghijklmnopqrstuvwxyz";
const { parseSecrets } = await import("./secret.js");

const A = "a-secret-0123456789abcdefghijklmn", B = "b-secret:9876543210zyxwvutsrqpon";
const DEFAULT = "better-auth-secret-12345678901234567890";
const lists = [
  `1:${A}`, `2:${B},1:${A}`, `1:${A},2:${B}`, ` 2 : ${B} , 1:${A}`, `0:${A}`, `01:${A}`, `10:${A},9:${B}`,
  `1:${A},`, `,1:${A}`, `1:${A},,2:${B}`, `1:`, `1: `, `:${A}`, A, `-1:${A}`, `x:${A}`, `1.9:${A}`, `2abc:${A}`,
  `1:${A},1:${B}`, `1:${DEFAULT}`, `1:${A},2:${DEFAULT}`, "", ",", ":", undefined,
];
const singles = [undefined, "", A, DEFAULT];

const config = async (given) => {
  const context = await betterAuth({ ...options, ...given, logger: { disabled: true } }).$context;
  const { secret, secretConfig } = context;
  if (typeof secretConfig === "string") return { secret, secretConfig };
  const { keys, currentVersion, legacySecret } = secretConfig;
  return { secret, keys: [...keys], currentVersion, legacySecret };
};
const attempt = async (work) => {
  try {
    return { value: await work() };
  } catch (error) {
    return { error: error.message };
  }
};

let accepted = 0;
for (const list of lists) {
  for (const single of singles) {
    const values = { BETTER_AUTH_SECRETS: list, BETTER_AUTH_SECRET: single };
    for (const [name, value] of Object.entries(values)) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
    const expected = await attempt(() => config({}));
    delete process.env.BETTER_AUTH_SECRETS;
    delete process.env.BETTER_AUTH_SECRET;
    const parsed = await attempt(() => parseSecrets(values));
    const what = JSON.stringify(values);
    if (parsed.error) {
      assert.ok([A, B, DEFAULT].every((secret) => !parsed.error.includes(secret)), parsed.error);
      continue;
    }
    accepted += 1;
    assert.deepEqual({ value: await config(parsed.value.options) }, expected, what);
    assert.equal(parsed.value.current, expected.value.secret, what);
    assert.ok(!parsed.value.others.includes(parsed.value.current), what);
  }
}
assert.ok(accepted > 12, String(accepted));

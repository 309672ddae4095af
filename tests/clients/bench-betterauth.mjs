// Reads the session of a request with better-auth, and encodes one with the same content, for a benchmark. The variable
// COOKIES has `{strategy: cookies}`, for each strategy of the cookie cache.
import { getCookieCache } from "better-auth/cookies";
import { constantTimeEqual, makeSignature, signJWT, symmetricEncodeJWT } from "better-auth/crypto";
import { serve } from "./bench-turns.mjs";

const { COOKIES: cookies, SECRET: secret } = process.env;

// The signature of the token, which the reader of the cache does not verify.
async function verified(cookie) {
  const [value, signature] = decodeURIComponent(cookie.split("better-auth.session_token=")[1].split(";")[0]).split(".");
  if (!constantTimeEqual(signature, await makeSignature(value, secret))) throw new Error("the signature");
}

async function compact(content) {
  const expiresAt = Date.now() + 300_000;
  const signature = await makeSignature(JSON.stringify({ ...content, expiresAt }), secret);
  return Buffer.from(JSON.stringify({ session: content, expiresAt, signature })).toString("base64url");
}

const encoders = {
  compact,
  jwt: (content) => signJWT(content, secret, 300),
  jwe: (content) => symmetricEncodeJWT(content, secret, "better-auth-session", 300),
};

const operations = {};
for (const [strategy, cookie] of Object.entries(JSON.parse(cookies))) {
  const headers = new Headers({ cookie });
  const options = { secret, strategy, isSecure: false };
  const content = await getCookieCache(headers, options);
  if (!content) throw new Error(`${strategy} cannot be read`);
  operations[`${strategy}-read`] = async () => {
    await verified(cookie);
    await getCookieCache(headers, options);
  };
  operations[`${strategy}-encode`] = () => encoders[strategy](content);
}
await serve(operations);

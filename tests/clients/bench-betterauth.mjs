// Measures in nanoseconds how long better-auth takes to read the session of a request, and to encode one with the same
// content, in each strategy of the cookie cache. Reads `{strategy: cookies}` from the variable COOKIES.
import { getCookieCache } from "better-auth/cookies";
import { constantTimeEqual, makeSignature, signJWT, symmetricEncodeJWT } from "better-auth/crypto";

const { COOKIES: cookies, SECRET: secret } = process.env;

async function measure(work) {
  const rounds = [];
  for (let round = 0; round < 11; round += 1) {
    const calls = 300;
    const start = process.hrtime.bigint();
    for (let call = 0; call < calls; call += 1) await work();
    rounds.push(Number(process.hrtime.bigint() - start) / calls);
  }
  return Math.round(rounds.sort((a, b) => a - b)[5]);
}

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

for (const [strategy, cookie] of Object.entries(JSON.parse(cookies))) {
  const headers = new Headers({ cookie });
  const options = { secret, strategy, isSecure: false };
  const content = await getCookieCache(headers, options);
  if (!content) throw new Error(`${strategy} cannot be read`);
  const decode = async () => {
    await verified(cookie);
    await getCookieCache(headers, options);
  };
  console.log(strategy, "decode", await measure(decode));
  console.log(strategy, "encode", await measure(() => encoders[strategy](content)));
}

// Measures in nanoseconds how long @auth/core takes to decode a token and to encode one with the same claims.
import { decode, encode } from "@auth/core/jwt";

const { TOKEN: token, SECRET: secret, SALT: salt } = process.env;
const claims = await decode({ token, secret, salt });

async function measure(work) {
  const rounds = [];
  for (let round = 0; round < 11; round += 1) {
    const calls = 300;
    const start = process.hrtime.bigint();
    for (let call = 0; call < calls; call += 1) await work();
    rounds.push(Number(process.hrtime.bigint() - start) / calls);
  }
  return rounds.sort((a, b) => a - b)[5];
}

console.log("decode", Math.round(await measure(() => decode({ token, secret, salt }))));
console.log("encode", Math.round(await measure(() => encode({ token: claims, secret, salt }))));

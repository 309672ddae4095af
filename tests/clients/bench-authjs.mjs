// Decodes a token and encodes one with the same claims, for a benchmark. jose only decrypts the token, with a key that was
// derived in advance.
import { webcrypto } from "node:crypto";
import { decode, encode } from "@auth/core/jwt";
import { jwtDecrypt } from "jose";
import { serve } from "./bench-turns.mjs";

const { TOKEN: token, SECRET: secret, SALT: salt } = process.env;
const claims = await decode({ token, secret, salt });

const bytes = (text) => new TextEncoder().encode(text);
const info = bytes(`Auth.js Generated Encryption Key (${salt})`);
const material = await webcrypto.subtle.importKey("raw", bytes(secret), "HKDF", false, ["deriveBits"]);
const derivation = { name: "HKDF", hash: "SHA-256", salt: bytes(salt), info };
const key = new Uint8Array(await webcrypto.subtle.deriveBits(derivation, material, 512));

await serve({
  decode: () => decode({ token, secret, salt }),
  encode: () => encode({ token: claims, secret, salt }),
  decrypt: () => jwtDecrypt(token, key),
});

// An Effect program that needs AUTH_SECRET and prints a session token that it encodes with it. With either version
// of Effect, it reads the secret from the environment, or waits until Infisical has it.
import { encode } from "@auth/core/jwt";
import { Effect, Redacted, Schedule } from "effect";
import * as Effect4 from "effect-4";

import { fromEnvironment, fromInfisical, listed } from "./secret.mjs";

const secret4 = Effect4.Config.Redacted("AUTH_SECRET");

const fromInfisical4 = Effect4.Effect.flatMap(Effect4.Effect.tryPromise(listed), (pairs) =>
  secret4.parse(Effect4.ConfigProvider.fromUnknown(Object.fromEntries(pairs))),
);

const run4 = async (effect) =>
  Redacted.make(Effect4.Redacted.value(await Effect4.Effect.runPromise(effect)));

const programs = {
  environment: () => Effect.runPromise(fromEnvironment),
  "environment, Effect 4": () => run4(secret4),
  infisical: () => Effect.runPromise(Effect.retry(fromInfisical, Schedule.spaced("50 millis"))),
  "infisical, Effect 4": () =>
    run4(Effect4.Effect.retry(fromInfisical4, Effect4.Schedule.spaced("50 millis"))),
};

console.log("started");
const secret = await programs[process.argv[2]]();
const salt = "authjs.session-token";
console.log(await encode({ token: { name: "Ada" }, secret: Redacted.value(secret), salt }));

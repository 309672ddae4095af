// A program by Effect that needs AUTH_SECRET: makes a session with it, which it prints. Reads the secret
// with either version of Effect, from the environment at once, or from Infisical as soon as it is there.
import { encode } from "@auth/core/jwt";
import { Effect, Redacted, Schedule } from "effect";
import * as Effect4 from "effect-4";

import { fromEnvironment, fromInfisical } from "./secret.mjs";

const programs = {
  environment: () => Effect.runPromise(fromEnvironment),
  "environment, Effect 4": () =>
    Effect4.Effect.runPromise(
      Effect4.Effect.gen(function* () {
        return Redacted.make(Effect4.Redacted.value(yield* Effect4.Config.Redacted("AUTH_SECRET")));
      }),
    ),
  infisical: () => Effect.runPromise(Effect.retry(fromInfisical, Schedule.spaced("50 millis"))),
};

console.log("started");
const secret = await programs[process.argv[2]]();
const salt = "authjs.session-token";
console.log(await encode({ token: { name: "Ada" }, secret: Redacted.value(secret), salt }));

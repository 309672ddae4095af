// AUTH_SECRET as in the story: by Effect, from the environment or else from Infisical.
import { InfisicalSDK } from "@infisical/sdk";
import { Config, ConfigProvider, Effect, Option, Redacted } from "effect";

const { URL, PROJECT, ENVIRONMENT, FOLDER, CLIENT_ID, CLIENT_SECRET } = process.env;

const infisical = Effect.tryPromise(async () => {
  const client = new InfisicalSDK({ siteUrl: URL });
  await client.auth().universalAuth.login({ clientId: CLIENT_ID, clientSecret: CLIENT_SECRET });
  const { secrets } = await client.secrets().listSecrets({
    projectId: PROJECT,
    environment: ENVIRONMENT,
    secretPath: FOLDER,
  });
  return ConfigProvider.fromMap(new Map(secrets.map((each) => [each.secretKey, each.secretValue])));
});

const authSecret = Config.redacted("AUTH_SECRET");

export const fromEnvironment = Effect.withConfigProvider(authSecret, ConfigProvider.fromEnv());

export const fromInfisical = Effect.flatMap(infisical, (provider) =>
  Effect.withConfigProvider(authSecret, provider),
);

// What a module that is loaded now gets: nothing, as long as the secret is not there.
export async function secretNow() {
  const secret = await Effect.runPromise(
    Effect.option(URL ? fromInfisical : fromEnvironment),
  );
  return Option.getOrUndefined(Option.map(secret, Redacted.value));
}

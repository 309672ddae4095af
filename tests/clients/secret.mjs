// Reads AUTH_SECRET with Effect from the environment, or from Infisical if it is not set there.
import { InfisicalSDK } from "@infisical/sdk";
import { Config, ConfigProvider, Effect, Option, Redacted } from "effect";

const { URL, PROJECT, ENVIRONMENT, FOLDER, CLIENT_ID, CLIENT_SECRET } = process.env;

// All secrets of the Infisical folder, by name.
export async function listed() {
  const client = new InfisicalSDK({ siteUrl: URL });
  await client.auth().universalAuth.login({ clientId: CLIENT_ID, clientSecret: CLIENT_SECRET });
  const { secrets } = await client.secrets().listSecrets({
    projectId: PROJECT,
    environment: ENVIRONMENT,
    secretPath: FOLDER,
  });
  return secrets.map((each) => [each.secretKey, each.secretValue]);
}

const environment = Effect.succeed(ConfigProvider.fromEnv());

const infisical = Effect.map(Effect.tryPromise(listed), (pairs) =>
  ConfigProvider.fromMap(new Map(pairs)),
);

const read = (name, source) =>
  Effect.flatMap(source, (provider) => Effect.withConfigProvider(Config.redacted(name), provider));

export const fromEnvironment = read("AUTH_SECRET", environment);

export const fromInfisical = read("AUTH_SECRET", infisical);

const now = async (name) => {
  const secret = await Effect.runPromise(Effect.option(read(name, URL ? infisical : environment)));
  return Option.getOrUndefined(Option.map(secret, Redacted.value));
};

// The secret at the time when a module is loaded. It is undefined until the secret exists.
export const secretNow = () => now("AUTH_SECRET");

// The list of secrets for a package that accepts several.
export async function secretsNow() {
  const [secret, other] = [await secretNow(), await now("OTHER_AUTH_SECRET")];
  return secret && other ? [secret, other] : secret;
}

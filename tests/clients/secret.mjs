// AUTH_SECRET as in the story: by Effect, from the environment or else from Infisical.
import { InfisicalSDK } from "@infisical/sdk";
import { Config, ConfigProvider, Effect, Option, Redacted } from "effect";

const { URL, PROJECT, ENVIRONMENT, FOLDER, CLIENT_ID, CLIENT_SECRET } = process.env;

// All secrets that are in Infisical, by their names.
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

// What a module that is loaded now gets: nothing, as long as the secret is not there.
export const secretNow = () => now("AUTH_SECRET");

// The same for a package that takes several, when there is another.
export async function secretsNow() {
  const [secret, other] = [await secretNow(), await now("OTHER_AUTH_SECRET")];
  return secret && other ? [secret, other] : secret;
}

// Reads a folder with the official client for Node, and prints it as one JSON object.
import { InfisicalSDK } from "@infisical/sdk";

const { URL, PROJECT, ENVIRONMENT, FOLDER, CLIENT_ID, CLIENT_SECRET } = process.env;

const client = new InfisicalSDK({ siteUrl: URL });
await client.auth().universalAuth.login({ clientId: CLIENT_ID, clientSecret: CLIENT_SECRET });
const { secrets, imports = [] } = await client.secrets().listSecrets({
  projectId: PROJECT,
  environment: ENVIRONMENT,
  secretPath: FOLDER,
  expandSecretReferences: true,
  includeImports: true,
});
const found = {};
for (const secret of [...imports.flatMap((each) => each.secrets), ...secrets]) {
  found[secret.secretKey] = secret.secretValue;
}
console.log(JSON.stringify(found));

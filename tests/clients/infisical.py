"""Reads a folder with the official client for Python, and prints it as one JSON object."""

import json
from os import environ

from infisical_sdk import InfisicalSDKClient

client = InfisicalSDKClient(host=environ["URL"])
client.auth.universal_auth.login(environ["CLIENT_ID"], environ["CLIENT_SECRET"])
answer = client.secrets.list_secrets(
    project_id=environ["PROJECT"],
    environment_slug=environ["ENVIRONMENT"],
    secret_path=environ["FOLDER"],
    expand_secret_references=True,
    include_imports=True,
)
# The client returns imported secrets in the form in which the server sent them.
found = {
    secret["secretKey"]: secret["secretValue"]
    for each in answer.imports or []
    for secret in each.secrets
}
found |= {secret.secretKey: secret.secretValue for secret in answer.secrets}
print(json.dumps(found))

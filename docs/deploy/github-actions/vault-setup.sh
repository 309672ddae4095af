#!/bin/sh
# Creates the login with identities of GitHub Actions, the policy and the role in Vault or OpenBao.
#
# An administrator runs it once, with VAULT_ADDR and a login of the `vault` command:
#   GITHUB_REPOSITORY=owner/name sh vault-setup.sh
#
# Arguments replace the setting with which Vault finds the public keys of GitHub. A Vault that cannot reach GitHub needs
# this: sh vault-setup.sh jwt_validation_pubkeys=@github.pem
set -eu
: "${GITHUB_REPOSITORY:?must be the owner and the name of the repository}"
here=$(dirname "$0")
issuer=https://token.actions.githubusercontent.com
[ $# -gt 0 ] || set -- "oidc_discovery_url=$issuer"

methods=$(vault auth list -format=json)
case $methods in
  *'"jwt/"'*) ;;
  *) vault auth enable jwt ;;
esac
vault write auth/jwt/config "bound_issuer=$issuer" "$@"
vault policy write deploy "$here/policy.hcl"
# The subject contains the repository and the environment of the job. Other branches and pull requests have another one.
vault write auth/jwt/role/deploy \
  role_type=jwt user_claim=sub bound_audiences=vault \
  "bound_subject=repo:$GITHUB_REPOSITORY:environment:production" \
  token_policies=deploy token_ttl=10m token_max_ttl=30m

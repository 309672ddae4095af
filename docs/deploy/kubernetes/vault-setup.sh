#!/bin/sh
# Creates the Kubernetes login, the policy and the role of the application in Vault or OpenBao.
#
# An administrator runs it once, with VAULT_ADDR and a login of the `vault` command:
#   KUBERNETES_HOST=https://kubernetes.default.svc sh vault-setup.sh
#
# A Vault outside of the cluster needs further settings of the login, which are passed on as they are:
#   sh vault-setup.sh kubernetes_ca_cert=@ca.crt token_reviewer_jwt=@reviewer.jwt disable_local_ca_jwt=true
set -eu
: "${KUBERNETES_HOST:?must be the address at which Vault reaches the Kubernetes API}"
here=$(dirname "$0")

methods=$(vault auth list -format=json)
case $methods in
  *'"kubernetes/"'*) ;;
  *) vault auth enable kubernetes ;;
esac
vault write auth/kubernetes/config "kubernetes_host=$KUBERNETES_HOST" "$@"
vault policy write app "$here/policy.hcl"
# The command renews its token, and logs in again before the maximum lifetime ends.
vault write auth/kubernetes/role/app \
  bound_service_account_names=app bound_service_account_namespaces=app audience=vault \
  token_policies=app token_ttl=20m token_max_ttl=24h

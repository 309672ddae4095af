# The policy `deploy`: it can read the secret of the deployment, and nothing else.
path "secret/data/deploy" {
  capabilities = ["read"]
}

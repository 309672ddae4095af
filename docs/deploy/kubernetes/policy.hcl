# The policy `app`: it can read the secret of the application, and nothing else. Listing is not needed, because the
# manifest names the keys with --only. For a mount with KV version 1, the path is `secret/app`.
path "secret/data/app" {
  capabilities = ["read"]
}

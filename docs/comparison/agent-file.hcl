vault { address = "http://127.0.0.1:8200" }
auto_auth {
  method {
    type   = "token_file"
    config = { token_file_path = "token" }
  }
}
template_config { exit_on_retry_failure = true }
template {
  contents             = "{{ with secret \"secret/data/app\" }}{{ .Data.data.TLS_KEY }}{{ end }}"
  destination          = "tls.key"
  perms                = "0400"
  error_on_missing_key = true
}

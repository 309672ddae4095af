vault { address = "http://127.0.0.1:8200" }
auto_auth {
  method {
    type   = "token_file"
    config = { token_file_path = "token" }
  }
}
template_config {
  exit_on_retry_failure         = true
  static_secret_render_interval = "1s"
}
env_template "DATABASE_URL" {
  contents             = "{{ with secret \"secret/data/app\" }}{{ .Data.data.DATABASE_URL }}{{ end }}"
  error_on_missing_key = true
}
exec { command = ["./app"] }

vault { address = "http://127.0.0.1:8200" }
auto_auth {
  method {
    type   = "token_file"
    config = { token_file_path = "token" }
  }
}
env_template "DATABASE_URL" {
  contents = "{{ with secret \"secret/data/app\" }}{{ .Data.data.DATABASE_URL }}{{ end }}"
}
exec { command = ["./app"] }

//! The tasks and the commands of `docs/comparison.md`.

use super::{RIGHT, ROTATED};

/// A task, and the tools that can do it or that are expected to refuse it.
pub(super) struct Task {
    /// The heading in the document.
    pub(super) heading: &'static str,
    /// Prepares the input of each run.
    pub(super) setup: &'static str,
    /// Changes the secret during the run.
    pub(super) change: Option<&'static str>,
    /// The value that the program must have.
    pub(super) right: &'static str,
    /// Whether the task is a check that starts no program.
    pub(super) checks: bool,
    /// Texts of messages, the most exact first, and their descriptions.
    pub(super) messages: &'static [(&'static str, &'static str)],
    pub(super) cases: &'static [Case],
}

/// The commands of one tool.
pub(super) struct Case {
    pub(super) tool: &'static str,
    /// Configuration files from `docs/comparison`.
    pub(super) files: &'static [&'static str],
    /// The last command is measured.
    pub(super) commands: &'static [&'static str],
}

/// The programs that are started. They record their secret and, for a file, its permissions.
pub(super) const PROGRAMS: &str = r#"
cat > app <<'END'
#!/bin/sh
printf %s "${DATABASE_URL-unset}" > seen.new
mv seen.new seen
END
cat > app-file <<'END'
#!/bin/sh
path=${1:-$TLS_KEY}
printf '%s %s' "$(stat -Lc %a "$path")" "$path" > place
cat "$path" > seen.new
mv seen.new seen
END
chmod 700 app app-file
printf root > token
printf -- '-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n-----END PRIVATE KEY-----\n' > tls.pem
umask 077
# A document that was not written just now, as on a server. secretwell waits for one that has just been written.
echo "AUTH_SECRET='FAgXw4y5rNq0S1vJ7bKcZ2mTtQ8hPdLu'" > .env
touch -d '1 minute ago' .env"#;

const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n-----END PRIVATE KEY-----\n";

const WITH_SECRET: &str =
    "echo 'DATABASE_URL=postgres://app:one@db/app' >> .env; touch -d '1 minute ago' .env";
const STORED: &str = "bao kv put -mount=secret app DATABASE_URL=postgres://app:one@db/app \
     AUTH_SECRET=FAgXw4y5rNq0S1vJ7bKcZ2mTtQ8hPdLu TLS_KEY=@tls.pem >/dev/null";
const STORED_WITHOUT: &str = "bao kv put -mount=secret app \
     AUTH_SECRET=FAgXw4y5rNq0S1vJ7bKcZ2mTtQ8hPdLu TLS_KEY=@tls.pem >/dev/null";

const NAMES_KEY: &[(&str, &str)] = &[("DATABASE_URL", "names the key")];
const NAMES_LINE: &[(&str, &str)] = &[
    ("line 2", "names the line"),
    ("nterminated", "names the quote, but another line"),
];

const DOTENVX: Case = Case {
    tool: "`dotenvx`",
    files: &[],
    commands: &["dotenvx run --strict -- ./app"],
};

const DOTENV_CLI: Case = Case {
    tool: "`dotenv-cli`",
    files: &[],
    commands: &["dotenv -- ./app"],
};

const SECRETSPEC: Case = Case {
    tool: "`secretspec`",
    files: &["secretspec.toml"],
    commands: &["secretspec run --provider dotenv:.env -- ./app"],
};

/// The commands for a `.env` document, whatever is in it.
const ENV_DOCUMENT: &[Case] = &[
    Case {
        tool: "`secretwell`",
        files: &[],
        commands: &["secretwell run --from file:.env -- ./app"],
    },
    DOTENVX,
    DOTENV_CLI,
    Case {
        tool: "`direnv`",
        files: &[],
        commands: &[
            r"printf 'strict_env\ndotenv\n' > .envrc",
            "direnv allow",
            "direnv exec . ./app",
        ],
    },
    SECRETSPEC,
    Case {
        tool: "shell",
        files: &[],
        commands: &["set -a; . ./.env; exec ./app"],
    },
];

/// The commands for a secret in OpenBao.
const OPENBAO: &[Case] = &[
    Case {
        tool: "`secretwell`",
        files: &[],
        commands: &[
            "secretwell run --from vault+http://127.0.0.1:8200/secret/app --only DATABASE_URL -- ./app",
        ],
    },
    Case {
        tool: "`bao agent`",
        files: &["agent.hcl"],
        commands: &["bao agent -config=agent.hcl"],
    },
    Case {
        tool: "`bao agent`",
        files: &["agent-defaults.hcl"],
        commands: &["bao agent -config=agent-defaults.hcl"],
    },
    Case {
        tool: "`secretspec`",
        files: &["secretspec-openbao.toml"],
        commands: &["secretspec --file secretspec-openbao.toml run -- ./app"],
    },
    Case {
        tool: "`direnv`",
        files: &[],
        commands: &[
            "echo 'export DATABASE_URL=$(bao kv get -mount=secret -field=DATABASE_URL app)' > .envrc",
            "direnv allow",
            "direnv exec . ./app",
        ],
    },
    Case {
        tool: "`direnv`",
        files: &[],
        commands: &[
            r"printf 'strict_env\nDATABASE_URL=$(bao kv get -mount=secret -field=DATABASE_URL app)\nexport DATABASE_URL\n' > .envrc",
            "direnv allow",
            "direnv exec . ./app",
        ],
    },
    Case {
        tool: "`bao kv get`",
        files: &[],
        commands: &[
            "DATABASE_URL=$(bao kv get -mount=secret -field=DATABASE_URL app) && export DATABASE_URL && exec ./app",
        ],
    },
];

const TASK: Task = Task {
    heading: "",
    setup: "",
    change: None,
    right: RIGHT,
    checks: false,
    messages: &[],
    cases: &[],
};

pub(super) const TASKS: &[Task] = &[
    Task {
        heading: "A `.env` document",
        setup: WITH_SECRET,
        cases: ENV_DOCUMENT,
        ..TASK
    },
    Task {
        heading: "A quote that is not closed",
        setup: r#"echo 'DATABASE_URL="postgres://app:one@db/app' >> .env; echo 'LAST=1' >> .env; touch -d '1 minute ago' .env"#,
        messages: NAMES_LINE,
        cases: ENV_DOCUMENT,
        ..TASK
    },
    Task {
        heading: "A name that occurs twice",
        setup: "for n in one two; do echo DATABASE_URL=postgres://app:$n@db/app >> .env; done; touch -d '1 minute ago' .env",
        right: "",
        messages: NAMES_KEY,
        cases: ENV_DOCUMENT,
        ..TASK
    },
    Task {
        heading: "A required secret that is missing",
        setup: "",
        messages: NAMES_KEY,
        cases: &[
            Case {
                tool: "`secretwell`",
                files: &[],
                commands: &[
                    "secretwell run --from file:.env --only DATABASE_URL,AUTH_SECRET -- ./app",
                ],
            },
            DOTENVX,
            DOTENV_CLI,
            Case {
                tool: "`direnv`",
                files: &[],
                commands: &[
                    r"printf 'dotenv\nenv_vars_required DATABASE_URL\n' > .envrc",
                    "direnv allow",
                    "direnv exec . ./app",
                ],
            },
            Case {
                tool: "`direnv`",
                files: &[],
                commands: &[
                    r"printf 'strict_env\ndotenv\nenv_vars_required DATABASE_URL\n' > .envrc",
                    "direnv allow",
                    "direnv exec . ./app",
                ],
            },
            SECRETSPEC,
            Case {
                tool: "shell",
                files: &[],
                commands: &["set -a; . ./.env; : ${DATABASE_URL:?}; exec ./app"],
            },
        ],
        ..TASK
    },
    Task {
        heading: "A check before deployment",
        setup: "",
        checks: true,
        messages: NAMES_KEY,
        cases: &[
            Case {
                tool: "`secretwell`",
                files: &[],
                commands: &[
                    "secretwell check --format json --from file:.env --require DATABASE_URL,AUTH_SECRET",
                ],
            },
            Case {
                tool: "`secretspec`",
                files: &["secretspec.toml"],
                commands: &["secretspec check --json --provider dotenv:.env"],
            },
            Case {
                tool: "`dotenvx`",
                files: &[],
                commands: &["dotenvx get AUTH_SECRET >/dev/null && dotenvx get DATABASE_URL"],
            },
            Case {
                tool: "`direnv`",
                files: &[],
                commands: &[
                    r"printf 'strict_env\ndotenv\nenv_vars_required DATABASE_URL AUTH_SECRET\n' > .envrc",
                    "direnv allow",
                    "direnv exec . true",
                ],
            },
        ],
        ..TASK
    },
    Task {
        heading: "A secret from OpenBao",
        setup: STORED,
        cases: OPENBAO,
        ..TASK
    },
    Task {
        heading: "A field that OpenBao does not have",
        setup: STORED_WITHOUT,
        messages: NAMES_KEY,
        cases: OPENBAO,
        ..TASK
    },
    Task {
        heading: "A secret that is five seconds late",
        setup: "bao kv metadata delete -mount=secret app >/dev/null",
        change: Some(STORED),
        cases: &[
            Case {
                tool: "`secretwell`",
                files: &[],
                commands: &[
                    "secretwell run --from vault+http://127.0.0.1:8200/secret/app --only DATABASE_URL --wait 1m -- ./app",
                ],
            },
            Case {
                tool: "`bao agent`",
                files: &["agent.hcl"],
                commands: &["bao agent -config=agent.hcl"],
            },
            Case {
                tool: "`secretspec`",
                files: &["secretspec-openbao.toml"],
                commands: &["secretspec --file secretspec-openbao.toml run -- ./app"],
            },
            Case {
                tool: "`bao kv get`",
                files: &[],
                commands: &[
                    "until DATABASE_URL=$(bao kv get -mount=secret -field=DATABASE_URL app); do sleep 1; done; export DATABASE_URL; exec ./app",
                ],
            },
        ],
        ..TASK
    },
    Task {
        heading: "A rotation",
        setup: "bao kv put -mount=secret app DATABASE_URL=postgres://app:one@db/app >/dev/null; echo 'exec sleep 60' >> app",
        change: Some(
            "bao kv put -mount=secret app DATABASE_URL=postgres://app:two@db/app >/dev/null",
        ),
        right: ROTATED,
        cases: &[
            Case {
                tool: "`secretwell`",
                files: &[],
                commands: &[
                    "secretwell run --from vault+http://127.0.0.1:8200/secret/app --watch --ttl 1s -- ./app",
                ],
            },
            Case {
                tool: "`bao agent`",
                files: &["agent.hcl"],
                commands: &["bao agent -config=agent.hcl"],
            },
            Case {
                tool: "`secretspec`",
                files: &["secretspec-openbao.toml"],
                commands: &["secretspec --file secretspec-openbao.toml run -- ./app"],
            },
        ],
        ..TASK
    },
    Task {
        heading: "A program that reads a file",
        setup: STORED,
        right: KEY,
        cases: &[
            Case {
                tool: "`secretwell`",
                files: &[],
                commands: &[
                    "secretwell run --from vault+http://127.0.0.1:8200/secret/app --file TLS_KEY=TLS_KEY -- ./app-file",
                ],
            },
            Case {
                tool: "`bao agent`",
                files: &["agent-file.hcl"],
                commands: &[
                    "bao agent -config=agent-file.hcl -exit-after-auth && ./app-file tls.key",
                ],
            },
            Case {
                tool: "`secretspec`",
                files: &["secretspec-file.toml"],
                commands: &["secretspec --file secretspec-file.toml run -- ./app-file"],
            },
            Case {
                tool: "`sops`",
                files: &[],
                commands: &[
                    "age-keygen -o age.key",
                    "sops encrypt --age $(age-keygen -y age.key) tls.pem > tls.enc",
                    "sops exec-file tls.enc './app-file {}'",
                ],
            },
        ],
        ..TASK
    },
    Task {
        heading: "Secrets that are encrypted in git",
        setup: WITH_SECRET,
        cases: &[
            Case {
                tool: "`dotenvx`",
                files: &[],
                commands: &["dotenvx encrypt", "dotenvx run --strict -- ./app"],
            },
            Case {
                tool: "`sops`",
                files: &[],
                commands: &[
                    "age-keygen -o age.key",
                    "sops encrypt --age $(age-keygen -y age.key) .env > secrets.env",
                    "sops exec-env secrets.env ./app",
                ],
            },
            Case {
                tool: "`secretwell`",
                files: &[],
                commands: &[
                    "age-keygen -o age.key",
                    "sops encrypt --age $(age-keygen -y age.key) .env > secrets.env",
                    "sops exec-env secrets.env 'secretwell run --from env:// --only DATABASE_URL -- ./app'",
                ],
            },
        ],
        ..TASK
    },
    Task {
        heading: "An encrypted value without its key",
        setup: WITH_SECRET,
        messages: &[
            ("encrypted by dotenvx", "names the key and dotenvx"),
            ("encrypted by SOPS", "names the document and SOPS"),
            ("DATABASE_URL", "names the key"),
            ("age1", "names the recipient whose key is missing"),
        ],
        cases: &[
            Case {
                tool: "`dotenvx`",
                files: &[],
                commands: &["dotenvx encrypt", "rm .env.keys", "dotenvx run -- ./app"],
            },
            Case {
                tool: "`dotenvx`",
                files: &[],
                commands: &[
                    "dotenvx encrypt",
                    "rm .env.keys",
                    "dotenvx run --strict -- ./app",
                ],
            },
            Case {
                tool: "`dotenv-cli`",
                files: &[],
                commands: &["dotenvx encrypt", "rm .env.keys", "dotenv -- ./app"],
            },
            Case {
                tool: "`secretspec`",
                files: &["secretspec.toml"],
                commands: &[
                    "dotenvx encrypt",
                    "rm .env.keys",
                    "secretspec run --provider dotenv:.env -- ./app",
                ],
            },
            Case {
                tool: "`secretwell`",
                files: &[],
                commands: &[
                    "dotenvx encrypt",
                    "rm .env.keys",
                    "secretwell run --from file:.env -- ./app",
                ],
            },
            Case {
                tool: "`sops`",
                files: &[],
                commands: &[
                    "age-keygen -o age.key",
                    "sops encrypt --age $(age-keygen -y age.key) .env > secrets.env",
                    "rm age.key",
                    "sops exec-env secrets.env ./app",
                ],
            },
            Case {
                tool: "`secretwell`",
                files: &[],
                commands: &[
                    "age-keygen -o age.key",
                    "sops encrypt --age $(age-keygen -y age.key) .env > secrets.env",
                    "secretwell run --from file:secrets.env -- ./app",
                ],
            },
        ],
        ..TASK
    },
];

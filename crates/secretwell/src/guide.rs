//! The guides and reference pages of Secretwell.
//!
//! These pages are part of the documentation only. They contain no items.
//!
//! | page | content |
//! | --- | --- |
//! | [`getting_started`] | from an empty crate to a service that follows a rotation |
//! | [`which_type`] | which type of the library fits which task |
//! | [`field_types`] | the types of fields and the texts that they accept |
//! | [`testing`] | tests of a service: memory, outages, a fake Infisical, leaks |
//! | [`clients`] | database pools, Redis, HTTP requests and TLS whose credentials follow a rotation |
//! | [`configuration`] | the crates config and figment beside Secretwell |
//! | [`migration`] | from `dotenvy`, secret-vault, vaultrs and the Infisical SDK |
//! | [`writing_a_backend`] | a backend for another source, and its conformance tests |
//! | [`notifications`] | webhooks of Infisical and signed requests of other senders |
//! | [`frameworks`] | sessions in actix-web, poem, tonic and plain tower |
//! | [`services`] | whole services with actix-web, poem, tonic and hyper, a Lambda function and a worker |
//! | [`nextjs`] | a Next.js application with a late and rotating secret, alone or with a Rust service |
//! | [`better_auth_application`] | an application with Better Auth whose secret is late or rotates |
//! | [`faq`] | answers to common questions |
//! | [`resolver`] | keys, watches, rejected values, restored backups, chains and runtimes |
//! | [`recipes`] | encrypted and signed cookies, JSON Web Tokens, tower-sessions |
//! | [`authjs`] | sessions that a Rust service shares with Auth.js and NextAuth |
//! | [`better_auth`] | sessions that a Rust service shares with Better Auth |
//! | [`backends`] | environment variables, files, Infisical, Vault |
//! | [`cli`] | the command for programs in any language |
//! | [`comparison`] | the command and other tools on the same tasks |
//! | [`deploy`] | files for Docker, Kubernetes, systemd, GitHub Actions, Docker Compose and a Procfile |
//! | [`architecture`], [`contract`], [`features`] | how the library is built |
//! | [`security`], [`reliability`], [`performance`], [`logging`], [`metrics`], [`dashboard`], [`audit`] | operation |
//! | [`versioning`], [`changelog`], [`contributing`], [`security_policy`], [`decisions`] | the project |

#[doc = include_str!("../docs/guides/getting-started.md")]
pub mod getting_started {}

#[doc = include_str!("../docs/guides/testing.md")]
pub mod testing {}

#[doc = include_str!("../docs/guides/writing-a-backend.md")]
pub mod writing_a_backend {}

#[doc = include_str!("../docs/guides/which-type.md")]
pub mod which_type {}

#[doc = include_str!("../docs/guides/field-types.md")]
pub mod field_types {}

// The features of clients are not part of `full`.
#[cfg(any(doc, all(feature = "deadpool-postgres", feature = "sqlx")))]
#[doc = include_str!("../docs/guides/clients.md")]
pub mod clients {}

#[doc = include_str!("../docs/guides/configuration.md")]
pub mod configuration {}

#[doc = include_str!("../docs/guides/migration.md")]
pub mod migration {}

#[doc = include_str!("../docs/guides/notifications.md")]
pub mod notifications {}

#[doc = include_str!("../docs/guides/better-auth.md")]
pub mod better_auth_application {}

#[doc = include_str!("../docs/guides/frameworks.md")]
pub mod frameworks {}

#[doc = include_str!("../docs/guides/services.md")]
pub mod services {}

#[doc = include_str!("../docs/guides/nextjs.md")]
pub mod nextjs {}

#[doc = include_str!("../docs/guides/faq.md")]
pub mod faq {}

#[doc = include_str!("../docs/architecture.md")]
pub mod architecture {}

#[doc = include_str!("../docs/contract.md")]
pub mod contract {}

#[doc = include_str!("../docs/authjs.md")]
pub mod authjs {}

#[doc = include_str!("../docs/better-auth.md")]
pub mod better_auth {}

#[doc = include_str!("../docs/resolver.md")]
pub mod resolver {}

#[doc = include_str!("../docs/recipes.md")]
pub mod recipes {}

#[doc = include_str!("../docs/cli.md")]
pub mod cli {}

#[doc = include_str!("../docs/comparison.md")]
#[doc = "\n### agent.hcl\n```text"]
#[doc = include_str!("../docs/comparison/agent.hcl")]
#[doc = "```"]
#[doc = "\n### agent-defaults.hcl\n```text"]
#[doc = include_str!("../docs/comparison/agent-defaults.hcl")]
#[doc = "```"]
#[doc = "\n### agent-file.hcl\n```text"]
#[doc = include_str!("../docs/comparison/agent-file.hcl")]
#[doc = "```"]
#[doc = "\n### secretspec.toml\n```text"]
#[doc = include_str!("../docs/comparison/secretspec.toml")]
#[doc = "```"]
#[doc = "\n### secretspec-openbao.toml\n```text"]
#[doc = include_str!("../docs/comparison/secretspec-openbao.toml")]
#[doc = "```"]
#[doc = "\n### secretspec-file.toml\n```text"]
#[doc = include_str!("../docs/comparison/secretspec-file.toml")]
#[doc = "```"]
pub mod comparison {}

#[doc = include_str!("../docs/deploy/README.md")]
pub mod deploy {
    #[doc = include_str!("../docs/deploy/docker/README.md")]
    #[doc = "\n## Dockerfile\n```text"]
    #[doc = include_str!("../docs/deploy/docker/Dockerfile")]
    #[doc = "```"]
    #[doc = "\n## .dockerignore\n```text"]
    #[doc = include_str!("../docs/deploy/docker/.dockerignore")]
    #[doc = "```"]
    #[doc = "\n## server.js\n```text"]
    #[doc = include_str!("../docs/deploy/docker/server.js")]
    #[doc = "```"]
    pub mod docker {}

    #[doc = include_str!("../docs/deploy/docker-compose/README.md")]
    #[doc = "\n## compose.yaml\n```text"]
    #[doc = include_str!("../docs/deploy/docker-compose/compose.yaml")]
    #[doc = "```"]
    #[doc = "\n## .gitignore\n```text"]
    #[doc = include_str!("../docs/deploy/docker-compose/.gitignore")]
    #[doc = "```"]
    pub mod docker_compose {}

    #[doc = include_str!("../docs/deploy/github-actions/README.md")]
    #[doc = "\n## deploy.yml\n```text"]
    #[doc = include_str!("../docs/deploy/github-actions/deploy.yml")]
    #[doc = "```"]
    #[doc = "\n## vault-setup.sh\n```text"]
    #[doc = include_str!("../docs/deploy/github-actions/vault-setup.sh")]
    #[doc = "```"]
    #[doc = "\n## policy.hcl\n```text"]
    #[doc = include_str!("../docs/deploy/github-actions/policy.hcl")]
    #[doc = "```"]
    pub mod github_actions {}

    #[doc = include_str!("../docs/deploy/kubernetes/README.md")]
    #[doc = "\n## vault.yaml\n```text"]
    #[doc = include_str!("../docs/deploy/kubernetes/vault.yaml")]
    #[doc = "```"]
    #[doc = "\n## vault-setup.sh\n```text"]
    #[doc = include_str!("../docs/deploy/kubernetes/vault-setup.sh")]
    #[doc = "```"]
    #[doc = "\n## policy.hcl\n```text"]
    #[doc = include_str!("../docs/deploy/kubernetes/policy.hcl")]
    #[doc = "```"]
    #[doc = "\n## infisical.yaml\n```text"]
    #[doc = include_str!("../docs/deploy/kubernetes/infisical.yaml")]
    #[doc = "```"]
    pub mod kubernetes {}

    #[doc = include_str!("../docs/deploy/procfile/README.md")]
    #[doc = "\n## Procfile\n```text"]
    #[doc = include_str!("../docs/deploy/procfile/Procfile")]
    #[doc = "```"]
    #[doc = "\n## secretwell.toml\n```text"]
    #[doc = include_str!("../docs/deploy/procfile/secretwell.toml")]
    #[doc = "```"]
    pub mod procfile {}

    #[doc = include_str!("../docs/deploy/systemd/README.md")]
    #[doc = "\n## app.service\n```text"]
    #[doc = include_str!("../docs/deploy/systemd/app.service")]
    #[doc = "```"]
    #[doc = "\n## app-vault.service\n```text"]
    #[doc = include_str!("../docs/deploy/systemd/app-vault.service")]
    #[doc = "```"]
    pub mod systemd {}
}

#[doc = include_str!("../docs/features.md")]
pub mod features {}

#[doc = include_str!("../docs/logging.md")]
pub mod logging {}

#[doc = include_str!("../docs/operations/metrics.md")]
pub mod metrics {}

#[doc = include_str!("../docs/operations/dashboard.md")]
#[doc = "\n## Pictures\n### Sources\n"]
#[doc = include_str!("../docs/operations/grafana/sources.svg")]
#[doc = "\n### Logins\n"]
#[doc = include_str!("../docs/operations/grafana/logins.svg")]
#[doc = "\n### Auth\n"]
#[doc = include_str!("../docs/operations/grafana/auth.svg")]
pub mod dashboard {
    #[doc = "The alert rules for Prometheus, and their tests.\n\n## alerts.yml\n```text"]
    #[doc = include_str!("../docs/operations/prometheus/alerts.yml")]
    #[doc = "```\n## alerts_test.yml\n```text"]
    #[doc = include_str!("../docs/operations/prometheus/alerts_test.yml")]
    #[doc = "```"]
    pub mod alert_rules {}

    #[doc = "The dashboard for Grafana.\n\n## secretwell.json\n```text"]
    #[doc = include_str!("../docs/operations/grafana/secretwell.json")]
    #[doc = "```"]
    pub mod dashboard_file {}
}

#[doc = include_str!("../docs/operations/audit.md")]
pub mod audit {}

#[doc = include_str!("../docs/security.md")]
pub mod security {}

#[doc = include_str!("../docs/reliability.md")]
#[doc = ""]
#[doc = include_str!("../docs/fleet.svg")]
pub mod reliability {}

#[doc = include_str!("../docs/performance.md")]
#[doc = ""]
#[doc = include_str!("../docs/performance-reads.svg")]
#[doc = ""]
#[doc = include_str!("../docs/performance-scale.svg")]
pub mod performance {}

#[doc = include_str!("../docs/contributing.md")]
pub mod contributing {}

#[doc = include_str!("../docs/security-policy.md")]
pub mod security_policy {}

#[doc = include_str!("../docs/versioning.md")]
pub mod versioning {}

#[doc = include_str!("../docs/changelog.md")]
pub mod changelog {}

/// One page for each backend.
pub mod backends {
    #[doc = include_str!("../docs/backends/dotenv.md")]
    pub mod dotenv {}

    #[doc = include_str!("../docs/backends/env.md")]
    pub mod env {}

    #[doc = include_str!("../docs/backends/file.md")]
    pub mod file {}

    #[doc = include_str!("../docs/backends/infisical.md")]
    pub mod infisical {}

    #[doc = include_str!("../docs/backends/vault.md")]
    pub mod vault {}
}

/// The decisions about the design, with their reasons.
pub mod decisions {
    #[doc = include_str!("../docs/decisions/0001-retry-intervals.md")]
    pub mod retry_intervals {}

    #[doc = include_str!("../docs/decisions/0002-ready-path.md")]
    pub mod ready_path {}

    #[doc = include_str!("../docs/decisions/0003-resolver-cache-map.md")]
    pub mod resolver_cache_map {}

    #[doc = include_str!("../docs/decisions/0004-parsers.md")]
    pub mod parsers {}

    #[doc = include_str!("../docs/decisions/0005-few-dependencies.md")]
    pub mod few_dependencies {}

    #[doc = include_str!("../docs/decisions/0006-degraded-state.md")]
    pub mod degraded_state {}

    #[doc = include_str!("../docs/decisions/0007-msrv.md")]
    pub mod msrv {}

    #[doc = include_str!("../docs/decisions/0008-http.md")]
    pub mod http {}

    #[doc = include_str!("../docs/decisions/0009-infisical.md")]
    pub mod infisical {}

    #[doc = include_str!("../docs/decisions/0010-authjs.md")]
    pub mod authjs {}

    #[doc = include_str!("../docs/decisions/0011-the-command.md")]
    pub mod the_command {}

    #[doc = include_str!("../docs/decisions/0012-time.md")]
    pub mod time {}

    #[doc = include_str!("../docs/decisions/0013-principal.md")]
    pub mod principal {}

    #[doc = include_str!("../docs/decisions/0014-links.md")]
    pub mod links {}

    #[doc = include_str!("../docs/decisions/0015-scale.md")]
    pub mod scale {}

    #[doc = include_str!("../docs/decisions/0016-connections.md")]
    pub mod connections {}

    #[doc = include_str!("../docs/decisions/0017-logins.md")]
    pub mod logins {}

    #[doc = include_str!("../docs/decisions/0018-notifications.md")]
    pub mod notifications {}

    #[doc = include_str!("../docs/decisions/0019-dialects.md")]
    pub mod dialects {}

    #[doc = include_str!("../docs/decisions/0020-rewritten-files.md")]
    pub mod rewritten_files {}

    #[doc = include_str!("../docs/decisions/0021-strength.md")]
    pub mod strength {}

    #[doc = include_str!("../docs/decisions/0022-sessions.md")]
    pub mod sessions {}

    #[doc = include_str!("../docs/decisions/0023-metrics.md")]
    pub mod metrics {}

    #[doc = include_str!("../docs/decisions/0024-blocking.md")]
    pub mod blocking {}

    #[doc = include_str!("../docs/decisions/0025-postgresql-pools.md")]
    pub mod postgresql_pools {}

    #[doc = include_str!("../docs/decisions/0026-clients.md")]
    pub mod clients {}

    #[doc = include_str!("../docs/decisions/0027-services.md")]
    pub mod services {}

    #[doc = include_str!("../docs/decisions/0028-soak.md")]
    pub mod soak {}

    #[doc = include_str!("../docs/decisions/0029-fleet.md")]
    pub mod fleet {}

    #[doc = include_str!("../docs/decisions/0030-memory.md")]
    pub mod memory {}

    #[doc = include_str!("../docs/decisions/0031-benchmarks.md")]
    pub mod benchmarks {}

    #[doc = include_str!("../docs/decisions/0032-instruction-counts.md")]
    pub mod instruction_counts {}

    #[doc = include_str!("../docs/decisions/0033-mutants-and-coverage.md")]
    pub mod mutants_and_coverage {}

    #[doc = include_str!("../docs/decisions/0034-bill-of-materials.md")]
    pub mod bill_of_materials {}

    #[doc = include_str!("../docs/decisions/0035-text-of-keys.md")]
    pub mod text_of_keys {}
}

//! Tests that use several crates together.
//!
//! | module | content |
//! | --- | --- |
//! | `conformance` | the contract of a provider, for every provider |
//! | `resolver` | caching, refresh and watches of a resolver over time |
//! | `model` | a resolver in random schedules, compared with a reference model |
//! | `auth_model` | `LazyAuth` in random schedules, compared with a reference model |
//! | `aws` | an imitation of AWS that checks the signatures of logins |
//! | `outages` | a resolver whose provider fails, hangs or refuses |
//! | `blocking` | blocking reads of sockets and files |
//! | `chains` | chains of sources: ttl, failures, versions and waits of each source, with every adapter |
//! | `changes` | change notifications and watches, in every state of a key and every order of use |
//! | `notify` | change notifications over the network: signed requests, replays, floods, several resolvers |
//! | `chromium` | a real browser, for tests of sessions on several subdomains |
//! | `operations` | metrics, spans and callbacks: what is reported about a service, and never a value |
//! | `hostile` | panics, wrong counts, code of others that uses the resolver, many callers at once |
//! | `freshness` | no value is stale, reverted or of another key without a sign |
//! | `lazy` | `LazyAuth`: start, rotation, failures and its log |
//! | `rotation` | the key ring during rotations, with time steps and several runtimes |
//! | `gateways` | gateways and sign-in pages that respond in the place of OpenBao and Infisical |
//! | `simulation` | a small fleet of instances in a simulation of hours |
//! | `values` | values of files, documents and variables to the letter, and the strength of secrets |
//! | `transport` | connections that become silent, proxies and plain HTTP |
//! | `restart` | a process that starts during a rotation, with a real OpenBao and Infisical |
//! | `previous` | a process that starts during a rotation, with files and environment variables |
//! | `sessions` | sessions that are shared with Auth.js, in a whole service |
//! | `web` | layers and extractors: who is let in, and what happens without a build, a layer or a working principal |
//! | `reporting` | errors, states and reports as text, fields and JSON |
//! | `ready` | the ready path does not allocate |
//! | `e2e` | whole services on real sockets |
//! | `process` | tests that need a process of their own, such as tests of its environment |
//! | `infisical` | the Infisical backend, with a fake server that is checked against recorded exchanges |
//! | `authjs` | Auth.js sessions with the real packages, in a Next.js application |
//! | `betterauth` | Better Auth with the real package: the programs of its guide, and a service beside them |
//! | `vault` | the Vault backend, with a real OpenBao |
//! | `pools` | database pools that follow a rotation, with a real OpenBao and PostgreSQL |
//! | `redis` | a Redis connection that follows a rotation, with a real OpenBao, Redis and Valkey |
//! | `soak` | a service with all backends under constant requests, in a seeded schedule of faults |
//! | `matrix` | both modes, all states of a secret and four backends: states, responses, log |
//! | `cli` | the command, with files, real servers and terminals |
//! | `examples` | the programs of the README and the guides, in fresh crates |
//! | `memory` | copies of secrets in the memory of a process after they were dropped |
//! | `packaging` | the dependencies of each feature |

// A panic during the setup of a test fails that test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod auth_model;
mod authjs;
mod aws;
mod betterauth;
mod blocking;
mod chains;
mod changes;
mod chromium;
mod cli;
mod conformance;
mod e2e;
mod examples;
mod freshness;
mod gateways;
mod hostile;
mod infisical;
mod lazy;
mod matrix;
mod memory;
mod model;
mod notify;
mod operations;
mod outages;
mod packaging;
mod pools;
mod previous;
mod process;
mod ready;
mod redis;
mod reporting;
mod resolver;
mod restart;
mod rotation;
mod schedules;
mod sessions;
mod simulation;
mod soak;
mod subdomains;
mod support;
mod transport;
mod values;
mod vault;
mod web;

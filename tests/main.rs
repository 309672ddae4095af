//! Tests of the crates together.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `conformance` | the contract of a provider, for every provider |
//! | `resolver` | what passes between a resolver and its provider as time goes by |
//! | `trouble` | a resolver whose provider fails, hangs or refuses |
//! | `lazy` | the lazily built auth: starts, rotations, failures, its log |
//! | `rotation` | the key ring, when time and runtimes are not kind to it |
//! | `restart` | a process that starts in the middle of a rotation, on a real OpenBao and Infisical |
//! | `sessions` | sessions shared with Auth.js, in a whole service |
//! | `ready` | the ready path allocates nothing |
//! | `e2e` | whole services on real sockets |
//! | `process` | what only a process of its own can show |
//! | `infisical` | the Infisical backend, on a fake that is held to recorded exchanges |
//! | `authjs` | the same with the real packages, in an application of Next.js |
//! | `vault` | the Vault backend, on a real OpenBao |
//! | `matrix` | both modes, all that can happen to a secret, four backends: states, answers, log |
//! | `cli` | the command, on files, real servers and terminals |
//! | `packaging` | what the features pull in |

// A test that cannot set its stage has failed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod authjs;
mod cli;
mod conformance;
mod e2e;
mod infisical;
mod lazy;
mod matrix;
mod packaging;
mod process;
mod ready;
mod resolver;
mod restart;
mod rotation;
mod sessions;
mod support;
mod trouble;
mod vault;

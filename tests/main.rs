//! Tests of the crates together.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `resolver` | time and trouble between a resolver and its provider, under paused time |
//! | `lazy` | the lazily built auth: starts, rotations, failures, its log |
//! | `e2e` | whole services on real sockets |
//! | `packaging` | what the features pull in |

mod e2e;
mod lazy;
mod packaging;
mod resolver;
mod support;

//! What the benchmarks share: how they measure and report.
//!
//! Alternatives are measured in turns, because the speed of a machine changes within seconds. A ratio compares
//! only times of the same round.

pub mod clock;
pub mod fakes;
pub mod figures;
pub mod node;
pub mod server;
pub mod turns;
pub mod user;

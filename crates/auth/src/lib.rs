//! Draft docs.

#[cfg(feature = "tower")]
mod answer;
#[cfg(feature = "axum")]
mod axum;
mod built;
mod config;
mod context;
mod driver;
mod lazy;
mod mode;
mod preflight;
mod recipe;
mod ring;
mod state;
mod strength;
#[cfg(feature = "tower")]
mod tower;

#[cfg(feature = "tower")]
pub use answer::Answer;
#[cfg(feature = "axum")]
pub use axum::{Auth, Principal};
pub use built::{Guard, Handle};
pub use config::LazyAuthBuilder;
pub use context::{BuildContext, BuildError};
pub use lazy::{LazyAuth, StateWatch};
pub use mode::Mode;
pub use preflight::{Finding, Report, Verdict};
pub use ring::KeyRing;
pub use state::{Generation, NotReady, State};
pub use strength::Strength;
#[cfg(feature = "tower")]
pub use tower::{AuthLayer, LazyService, WithAuth};

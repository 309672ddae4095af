//! The fingerprint of bytes.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

/// Returns a hash whose key is random for each process.
pub(crate) fn fingerprint(bytes: &[u8]) -> u64 {
    static KEYED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEYED.hash_one(bytes)
}

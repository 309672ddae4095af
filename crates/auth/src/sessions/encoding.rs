//! Base64 of tokens and caches.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use std::sync::LazyLock;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use base64::engine::Simd;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use base64::engine::general_purpose::NO_PAD;
#[cfg(all(
    feature = "betterauth",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
use base64::engine::general_purpose::PAD;
#[cfg(all(
    feature = "betterauth",
    not(any(target_arch = "x86_64", target_arch = "aarch64"))
))]
pub(super) use base64::engine::general_purpose::STANDARD;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Base64 for URLs, without padding. Vector instructions make it several times faster, where they exist.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) static URL_SAFE_NO_PAD: LazyLock<Simd> = LazyLock::new(|| Simd::url_safe(NO_PAD));

/// Base64 with padding.
#[cfg(all(
    feature = "betterauth",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(super) static STANDARD: LazyLock<Simd> = LazyLock::new(|| Simd::standard(PAD));

//! Key rings: secrets, and the keys that are derived from them.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::sources::Place;
use super::{Needles, Program, canary};

/// Adds a secret, and the keys that Auth.js or Better Auth derive from it.
pub(super) fn with_keys(
    needles: Needles,
    name: &str,
    secret: &str,
    salt: &str,
    info: &str,
) -> Needles {
    let mac = |key: &[u8], parts: &[&[u8]]| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().to_vec()
    };
    // HKDF (RFC 5869).
    let extracted = mac(salt.as_bytes(), &[secret.as_bytes()]);
    let first = mac(&extracted, &[info.as_bytes(), &[1]]);
    let second = mac(&extracted, &[&first, info.as_bytes(), &[2]]);
    needles
        .text(&format!("{name} secret"), secret)
        .bytes(&format!("{name} key of the derivation"), &extracted)
        .bytes(&format!("{name} key, first half"), &first)
        .bytes(&format!("{name} key, second half"), &second)
}

pub(super) fn authjs_keys(needles: Needles, name: &str, secret: &str, salt: &str) -> Needles {
    let info = format!("Auth.js Generated Encryption Key ({salt})");
    with_keys(needles, name, secret, salt, &info)
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux has /proc/PID/mem")]
fn key_ring_keeps_no_copy_after_the_grace_period() {
    let (place, old, new) = (Place::directory(), canary(), canary());
    place.write(&old);
    let old_needles = authjs_keys(Needles::default(), "old", &old, "session");
    let new_needles = authjs_keys(Needles::default(), "new", &new, "session");
    let mut program = Program::start(&["ring", &place.url]);
    program.reach("alive");
    program.assert_found(&old_needles, "old secret");
    program.assert_found(&old_needles, "old key, first half");
    program.assert_found(&old_needles, "old key, second half");
    place.write(&new);
    program.go_on("rotated");
    program.assert_found(&old_needles, "old secret");
    program.assert_found(&new_needles, "new key, second half");
    program.go_on("expired");
    program.assert_found(&new_needles, "new secret");
    program.assert_clean(&old_needles, "the previous secret after its grace period");
    program.go_on("dropped");
    program.assert_clean(&new_needles, "a ring that was dropped");
}

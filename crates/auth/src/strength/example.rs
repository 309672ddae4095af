//! Examples and placeholders, as documentation and templates of projects contain them.

use zeroize::Zeroizing;

use super::keyboard::is_walk;
use super::pattern::is_pattern;
use super::words::words;

/// Examples of well-known documentation that consist of random characters.
const PUBLIC: &[&str] = &[
    // NextAuth, the option `jwt.secret`.
    "INp8IvdIyeMcoGAgFGoA61DdBglwwSqnXJZkgz8PSnw",
    // The tutorial of FastAPI.
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    // Tutorials of Spring Boot.
    "404E635266556A586E3272357538782F413F4428472B4B6250645367566B5970",
    // RFC 7515, appendix A.1.
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    // UUIDs of many manuals.
    "123e4567-e89b-12d3-a456-426614174000",
    "550e8400-e29b-41d4-a716-446655440000",
];

/// The default secrets of Better Auth 1.7 and 1.4. Everybody knows them.
const BETTER_AUTH: [&str; 2] = [
    "better-auth-secret-12345678901234567890",
    "better-auth-secret-123456789",
];

/// The mark of secrets that Django generates for development.
const DJANGO: &[u8] = b"django-insecure-";

/// The words of examples. A value that hardly has other words is an example.
///
/// No word consists of hexadecimal digits, which random values contain by chance.
const WORDS: &str = "\
    access actual admin aes algorithm always an and any anything api app application are at auth \
    authentication authjs authorization awesome aws azure backend bar base baz before begin \
    better bits blank but by bytes change changed changing characters chars client commit config \
    configuration consumer cookie cookies default demo deploy deploying deployment dev developer \
    development django do docker does dont dummy edit empty encrypt encrypted encryption end \
    enter env environment example express facebook fake fallback false fastapi fill fix fixme \
    flask foo for from frontend function generate generated generator github goes google guess \
    hardcoded hash hello helm here hidden hmac hs https id in insecure insert internal into ipsum \
    is it java jsonwebtoken jwt keep key keys knows laravel least length letters live local \
    localhost long lorem make masked master max me mega min minimum missing mock more must my \
    name nan native needed nest never new next nextauth nextjs nil no nobody node nodejs none not \
    nothing null number oauth object of on one only openssl or our own pass passphrase passwd \
    password passwords paste pending phrase pk placeholder please postgres private prod \
    production project promise provide public put python qux rails rand random randomly react \
    real redacted redis refresh replace replaced root rs rsa rust safe salt sample sandbox secret \
    secrets secure self sensitive server service session sessions set sha share shared should \
    sign signature signing site sk some something spring staging starter strict string strong \
    super supposed sure symbols temp template temporary test tester testing tests that the then \
    this tmp to todo token tokens totally tutorial type ultra undefined unguessable unique \
    unknown unsafe up update use used user users using valid value values var variable very want \
    web website whatever with without world xxx xyz you your yours";

/// Longer values are not checked for words. Examples are short.
const MAX_BYTES: usize = 512;
/// Values with this many random digits and letters are not examples, whatever words they contain.
const MIN_RANDOM: usize = 16;

/// Returns whether the value is a text that examples and templates use in place of a secret, such as
/// `your-super-secret-jwt-key-min-32-chars`.
pub(super) fn is_example(value: &[u8]) -> bool {
    let is_public = |example: &&str| example.as_bytes().eq_ignore_ascii_case(value);
    value.starts_with(DJANGO)
        || is_default_of_better_auth(value)
        || PUBLIC.iter().any(is_public)
        || has_example_words(value)
}

/// Returns whether the value is a default secret that Better Auth has published.
pub(crate) fn is_default_of_better_auth(value: &[u8]) -> bool {
    let value = value.trim_ascii();
    BETTER_AUTH.iter().any(|known| known.as_bytes() == value)
}

/// Returns whether at least 80 percent of the words are those of examples, and these have at least a fifth of the
/// bytes. Of five words or more, one can be another word, such as the name of a project. Of six random words,
/// five are those of examples with a probability of 1 in 10⁸.
fn has_example_words(value: &[u8]) -> bool {
    if value.len() > MAX_BYTES {
        return false;
    }
    let (mut known, mut all, mut known_bytes) = (0, 0, 0);
    // Without the final capacity, growing would leave copies of the secret in freed memory.
    let mut rest = Zeroizing::new(Vec::with_capacity(value.len()));
    rest.extend(value.iter().filter(|byte| byte.is_ascii_digit()));
    for word in words(value) {
        let is_known = word.len() > 1 && consists_of_example_words(word);
        known += usize::from(is_known);
        all += usize::from(word.len() > 1);
        known_bytes += if is_known { word.len() } else { 0 };
        if !is_known {
            rest.extend_from_slice(word);
        }
    }
    // Random printable characters can have `is` as their only word.
    let is_text = known > 0 && known_bytes * 5 >= value.len();
    is_text && known * 5 >= all * 4 && !is_random(&rest)
}

/// Returns whether `rest`, the digits and other letters of a value, looks random.
fn is_random(rest: &[u8]) -> bool {
    rest.len() >= MIN_RANDOM && !is_walk(rest) && !is_pattern(rest)
}

/// Returns whether `word` is one of [`WORDS`] or several of them without a space, such as
/// `mysupersecret`.
fn consists_of_example_words(word: &[u8]) -> bool {
    let mut can_end_at = vec![false; word.len() + 1];
    can_end_at[0] = true;
    for start in 0..word.len() {
        if !can_end_at[start] {
            continue;
        }
        for known in WORDS.split_ascii_whitespace().map(str::as_bytes) {
            let part = word[start..].get(..known.len());
            if part.is_some_and(|part| part.eq_ignore_ascii_case(known)) {
                can_end_at[start + known.len()] = true;
            }
        }
    }
    can_end_at[word.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_digits_beside_example_words_are_accepted() {
        assert!(is_example(b"secret-key-12345678901234567890"));
        assert!(is_example(b"jwt_secret_2024"));
        assert!(!is_example(b"secret-83160497250961438275"));
        assert!(!is_example(b"prod_auth_key_a8f3c1d97b2e4056"));
        assert!(!is_example(b"prod_api_auth_secret_key_8a3f1c9ff7d2e6b4"));
    }

    #[test]
    fn words_are_compared_as_a_whole() {
        assert!(!is_example(
            b"exchange melon anthem yourself placenta testify"
        ));
        assert!(!is_example(b"passwordless"));
        assert!(is_example(b"CHANGE-ME"));
        assert!(is_example(b"ChangeMePlease"));
        assert!(is_example(b"thisismysupersecretkey"));
        assert!(is_example(b"change this acme secret in production"));
        assert!(!is_example(b"change this acme secret"));
    }

    #[test]
    fn values_without_words_and_long_values_are_no_examples() {
        assert!(!is_example(b""));
        assert!(!is_example(b"1-2-3"));
        assert!(!is_example(b"a b c d"));
        assert!(!is_example(b"7%(q;8}]0~is#4!?[=9-K+2/:x3<>1&^"));
        assert!(!is_example("secret ".repeat(100).as_bytes()));
    }

    #[test]
    fn no_example_word_is_hexadecimal() {
        let is_hex = |word: &&str| word.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert_eq!(WORDS.split_ascii_whitespace().find(is_hex), None);
    }
}

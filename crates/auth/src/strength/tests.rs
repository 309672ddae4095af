//! Samples of each kind of weak secret, and random secrets of each encoding.

use std::fmt::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use diceware_wordlists::EFF_LONG_WORDLIST;

use super::*;
use crate::policy::SecretPolicy;

/// A kind of weak secret: its name in the documentation, the expected result, and values of at least 32
/// bytes, except where the kind is the length.
struct Category {
    name: &'static str,
    weakness: Weakness,
    samples: &'static [&'static str],
}

const CATEGORIES: &[Category] = &[
    Category {
        name: "too short",
        weakness: Weakness::TooShort,
        samples: &[
            "short",
            "hunter2",
            "K7gNU3sdo+OL0wNhqoVW",
            "8f14e45fceea167a",
            "8f14e45fceea167a5a36dedd4bea254",
            "Tr0ub4dor&3",
            "correct horse battery staple",
            "4f2a9c1e-7b3d-4e8f",
            "00000a",
            "s3cr3t-p4ssw0rd",
        ],
    },
    Category {
        name: "templates, variables and commands that were not expanded",
        weakness: Weakness::Template,
        samples: &[
            "dev-secret-$(openssl rand -hex 32)",
            "${NEXTAUTH_SECRET:?set it in your shell}",
            "${AUTH_SECRET_OF_THE_PRODUCTION_SITE}",
            "process.env.NEXTAUTH_SECRET_PRODUCTION",
            "<generate with openssl rand -base64 32>",
            "<your-nextauth-secret-of-32-characters>",
            "&lt;your-nextauth-secret-of-32-chars&gt;",
            "[paste the output of the generator here]",
            "${{ secrets.AUTH_SECRET_OF_PRODUCTION }}",
            "{{ .Values.auth.secret | b64enc | quote }}",
            "{{ lookup('env', 'AUTH_SECRET_OF_THE_APP') }}",
            "{% if prod %}{{ auth_secret }}{% endif %}",
            "<%= ENV.fetch('AUTH_SECRET_OF_THE_APP') %>",
            "os.environ['AUTH_SECRET_OF_PRODUCTION']",
            "import.meta.env.VITE_AUTH_SECRET_PRODUCTION",
            "%AUTH_SECRET_OF_THE_PRODUCTION_SITE%",
            "%env(base64:AUTH_SECRET_OF_PRODUCTION)%",
            "$AUTH_SECRET_OF_THE_PRODUCTION_SITE",
            "$(AUTH_SECRET_OF_THE_PRODUCTION_SITE)",
            "$env:AUTH_SECRET_OF_THE_PRODUCTION_SITE",
            "#{AuthSecretOfTheProductionSite.Value}",
            "__AUTH_SECRET_OF_THE_PRODUCTION_SITE__",
            "@AUTH_SECRET_OF_THE_PRODUCTION_SITE@",
            "((auth_secret_of_the_production_site))",
            "`head -c 32 /dev/urandom | base64 -w0`",
            "$[variables.AuthSecretOfProduction.Value]",
            "crypto.randomBytes(32).toString('base64')",
            "openssl rand -base64 32 | tr -d '\\n='",
            "#{AuthSecretOfTheProductionSite}#",
            "%{lookup('auth_secret_of_production')}",
            "${file(\"/etc/auth_secret_of_the_app\")}",
            "%AuthSecretOfTheProductionSites%",
            "auth-${Token[AuthSecret.Value.123]}",
        ],
    },
    Category {
        name: "references that were not resolved",
        weakness: Weakness::Reference,
        samples: &[
            "op://Production/auth-service/credential",
            "ref+vault://secret/data/app#/AUTH_SECRET",
            "ref+awsssm://production/app/AUTH_SECRET",
            "vault:secret/data/production/app#AUTH_SECRET",
            "arn:aws:secretsmanager:eu-west-1:123456789012:secret:auth-a1b2c3",
            "arn:aws:ssm:eu-west-1:123456789012:parameter/auth",
            "{{resolve:secretsmanager:auth:SecretString:secret}}",
            "@Microsoft.KeyVault(SecretUri=https://app.vault.azure.net/secrets/auth)",
            "projects/123456789/secrets/auth-secret/versions/latest",
            "sm://production-project/auth-secret-of-the-app",
            "awsssm:/production/app/auth-secret-of-the-app",
            "secretref:auth-secret-of-the-production-app",
            "/run/secrets/auth_secret_of_the_production_app",
            "file:///run/secrets/auth_secret_of_the_app",
            "infisical://project/production/AUTH_SECRET",
            "https://vault.example.com/v1/secret/data/app",
            "{{ op://Production/auth-service/credential }}",
            "<path:secret/data/app#auth_secret>",
            "[parameters('authSecretOfProduction')]",
        ],
    },
    Category {
        name: "examples, placeholders and printed nothing",
        weakness: Weakness::Example,
        samples: &[
            "your-super-secret-jwt-key-min-32-chars",
            "INSECURE-DO-NOT-USE-IN-PRODUCTION!!",
            "anything-you-want-but-keep-secret",
            "your-secret-here-0123456789-0123456789",
            "change-me-in-production-please-change-me",
            "replace_this_with_a_long_random_string",
            "a-string-secret-at-least-256-bits-long",
            "better-auth-secret-12345678901234567890",
            "mysupersecretkeythatyoushouldchange",
            "your-default-secret-change-in-production",
            "fallback-secret-for-local-development",
            "this-is-the-acme-shop-secret-change-it-in-production",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----",
            "this is a secret key for testing only",
            "ThisIsMyVeryVeryLongSecretForTestingOnly",
            "placeholder-placeholder-placeholder-1",
            "TODO: generate a new secret before deployment",
            "development-secret-key-min-32-characters",
            "undefined-undefined-null-undefined-null",
            "[object Promise][object Object][object Null]",
            "django-insecure-8h#2k$v9q!x3m@7w^b5n&c1z*r4t",
            "INp8IvdIyeMcoGAgFGoA61DdBglwwSqnXJZkgz8PSnw",
            "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
            "404e635266556a586e3272357538782f413f4428472b4b6250645367566b5970",
            "123e4567-e89b-12d3-a456-426614174000",
        ],
    },
    Category {
        name: "repetition and few different bytes",
        weakness: Weakness::Pattern,
        samples: &[
            "passwurtpasswurtpasswurtpasswurt",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "abababababababababababababababab",
            "0123456789abcdef0123456789abcdef",
            "deadbeefdeadbeefdeadbeefdeadbeef",
            "K7gNU3sdo+OL0wNhK7gNU3sdo+OL0wNh",
            "********************************",
            "01010101110001010101110001010111",
            "                               a",
            "00112233445566778899aabbccddeeff",
            "passwurtpasswurtpasswurtpasswurt-2026",
            "K7gNU3sdK7gNU3sdK7gNU3sdK7gNU3sd!1",
            "abcd1abcd2abcd3abcd4abcd5abcd6abcd7",
            "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ],
    },
    Category {
        name: "keyboard walks and sequences",
        weakness: Weakness::KeyboardWalk,
        samples: &[
            "qwertyuiopasdfghjklzxcvbnm123456",
            "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,",
            "abcdefghijklmnopqrstuvwxyz012345",
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
            "0011233455677899abbccdeefgghijkl",
            "azertyuiopqsdfghjklmwxcvbn123456",
            "qwertzuiopasdfghjklyxcvbnm123456",
            "zyxwvutsrqponmlkjihgfedcba987654",
            "1234567890qwertyuiopasdfghjklzxc",
            "!@#$%^&*()_+qwertyuiop[]asdfghjk",
            "asdfghjkl;'zxcvbnm,./qwertyuiop[",
        ],
    },
];

/// Secrets of generators, and passphrases, that must be accepted.
const ACCEPTED: &[&str] = &[
    "exchange melon anthem yourself placenta testify",
    "the first secret, thirty-two bytes or more",
    "correct horse battery staple, at length",
    "K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=",
    "b2f1c0d9e8a7b6c5d4e3f2a1b0c9d8e7",
    "{\"kty\":\"oct\",\"k\":\"q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA\"}",
    "[\"nB3vX9qLm2Rt7Yw4\",\"Zk8sPd1Jf6Hc0Ga5\"]",
    "1:nB3vX9qLm2Rt7Yw4Zk8sPd1Jf6Hc0Ga5,2:Qe7uTi3oYp9a",
    "base64:nB3vX9qLm2Rt7Yw4Zk8sPd1Jf6Hc0Ga5Qe7uTi3oYp8=",
    "sk_live_51nB3vX9qLm2Rt7Yw4Zk8sPd1Jf6Hc0Ga5",
    "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg",
    "f47ac10b-58cc-4372-a567-0e02b2c3d479 9b2d1c6e-0f3a-4d85-b1e7-6a5c4f3e2d10",
    "p@$$w0rd-nB3vX9qLm2Rt7Yw4Zk8sPd1",
    "  nB3vX9qLm2Rt7Yw4Zk8sPd1Jf6Hc0  ",
];

#[test]
fn weak_secrets_are_refused_for_the_expected_reason() {
    for category in CATEGORIES {
        assert!(category.samples.len() >= 10);
        for sample in category.samples {
            let assessment = assess(sample.as_bytes(), &Refused::default());
            assert_eq!(
                assessment,
                Assessment::Weak(category.weakness),
                "{sample:?}"
            );
            let is_short = category.weakness == Weakness::TooShort;
            assert_eq!(sample.len() < MIN_BYTES, is_short, "{sample}");
            let text = category.weakness.describe(sample.as_bytes());
            assert!(!text.contains(sample), "{text}");
        }
    }
}

#[test]
fn quotes_and_white_space_around_a_value_hide_nothing() {
    for category in CATEGORIES.iter().filter(|category| {
        let texts = [Weakness::Template, Weakness::Reference, Weakness::Example];
        texts.contains(&category.weakness)
    }) {
        for sample in category.samples {
            for value in [
                format!("\"{sample}\""),
                format!("'{sample}'\n"),
                format!(" {sample}\r\n"),
                format!("\u{feff}{sample}\u{a0}"),
                format!("\u{201c}{sample}\u{201d}"),
            ] {
                let assessment = assess(value.as_bytes(), &Refused::default());
                assert_eq!(assessment, Assessment::Weak(category.weakness), "{value:?}");
            }
        }
    }
    assert_eq!(text(b"\""), b"\"");
    assert_eq!(text(b"\"a'"), b"\"a'");
}

#[test]
fn strong_secrets_are_accepted() {
    for secret in ACCEPTED {
        let assessment = assess(secret.as_bytes(), &Refused::default());
        assert_eq!(assessment, Assessment::Strong, "{secret}");
    }
}

#[test]
fn encrypted_values_are_refused_like_everywhere_else() {
    let weakness = |value: &str| SecretPolicy::SigningKey.weakness(&value.into());
    for value in [
        "encrypted:BDqDBibm4wsYqMpVkAFNLpHk4bwjWGhZ",
        "$ANSIBLE_VAULT;1.1;AES256\n6162",
    ] {
        assert_eq!(weakness(value), Some(Weakness::Encrypted), "{value}");
        assert_eq!(SecretPolicy::Unchecked.weakness(&value.into()), None);
    }
}

/// The resolver decides about them.
#[test]
fn accepted_ciphertexts_are_measured_only() {
    for (value, expected) in [
        ("vault:v1:8SDd3WHDOjf7mq69CyCqYjBXAiQQ", Assessment::Strong),
        (
            "ENC[AES256_GCM,data:aaaaaaaaaaaaaaaaaaaa]",
            Assessment::Strong,
        ),
        ("vault:v1:8SDd", Assessment::Weak(Weakness::TooShort)),
    ] {
        assert_eq!(assess(value.as_bytes(), &Refused::default()), expected);
    }
}

#[cfg(feature = "refuse-list")]
#[test]
fn secrets_on_the_refuse_list_are_refused() {
    let list = RefuseList::parse(ACCEPTED[3].as_bytes()).unwrap();
    let refused = Refused { list };
    let assessment = |value: &str| assess(value.as_bytes(), &refused);
    let expected = Assessment::Weak(Weakness::Refused);
    assert_eq!(assessment(ACCEPTED[3]), expected);
    assert_eq!(assessment(&format!("{}\n", ACCEPTED[3])), expected);
    assert_eq!(assessment(&format!("\"{}\" ", ACCEPTED[3])), expected);
    assert_eq!(assessment(&format!("{}=", ACCEPTED[3])), Assessment::Strong);
}

/// An encoding of random secrets: its name in the documentation, and a generator.
type Encoding = (&'static str, fn(&mut fastrand::Rng) -> Vec<u8>);

const ENCODINGS: &[Encoding] = &[
    ("base64 of 32 bytes", |random| {
        STANDARD.encode(bytes(random)).into()
    }),
    ("base64url of 32 bytes", |random| {
        URL_SAFE_NO_PAD.encode(bytes(random)).into()
    }),
    ("64 hexadecimal digits", |random| {
        crate::hex::hex(&bytes(random)).into()
    }),
    ("two UUIDs", |random| {
        format!("{}-{}", uuid(random), uuid(random)).into()
    }),
    ("six diceware words", passphrase),
    ("32 letters and digits", |random| {
        (0..32)
            .map(|_| u8::try_from(random.alphanumeric()).unwrap())
            .collect()
    }),
    ("32 bytes", |random| bytes(random).into()),
    ("32 hexadecimal digits", |random| {
        crate::hex::hex(&bytes(random)[..16]).into()
    }),
    ("64 printable characters", |random| {
        (0..64).map(|_| random.u8(33..127)).collect()
    }),
];

fn bytes(random: &mut fastrand::Rng) -> [u8; 32] {
    std::array::from_fn(|_| random.u8(..))
}

fn uuid(random: &mut fastrand::Rng) -> String {
    let mut bits = random.u128(..);
    bits = bits & !(0xf << 76) | 0x4 << 76;
    bits = bits & !(0x3 << 62) | 0x2 << 62;
    let digits = format!("{bits:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
    parts.join("-")
}

/// Returns six words with blanks or hyphens between them, or without any but with capital letters. A
/// passphrase below the minimum length is drawn again.
fn passphrase(random: &mut fastrand::Rng) -> Vec<u8> {
    loop {
        let mut word = || EFF_LONG_WORDLIST[random.usize(..EFF_LONG_WORDLIST.len())];
        let words: Vec<&str> = (0..6).map(|_| word()).collect();
        let passphrase = match random.u8(..3) {
            0 => words.join(" "),
            1 => words.join("-"),
            _ => words
                .iter()
                .map(|word| word[..1].to_ascii_uppercase() + &word[1..])
                .collect(),
        };
        if passphrase.len() >= MIN_BYTES {
            return passphrase.into();
        }
    }
}

/// The number of random secrets of each encoding.
fn samples() -> usize {
    let variable = std::env::var("SECRETWELL_STRENGTH_SAMPLES");
    variable.map_or(5_000, |samples| samples.parse().unwrap())
}

/// The results for all samples of one encoding.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    refused: usize,
    warnings: usize,
}

fn count(generate: fn(&mut fastrand::Rng) -> Vec<u8>) -> Counts {
    let mut random = fastrand::Rng::with_seed(17);
    let mut counts = Counts::default();
    for _ in 0..samples() {
        let secret = generate(&mut random);
        match assess(&secret, &Refused::default()) {
            Assessment::Strong => continue,
            Assessment::Suspicious(_) => counts.warnings += 1,
            Assessment::Weak(_) => counts.refused += 1,
        }
        eprintln!("{}", String::from_utf8_lossy(&secret));
    }
    counts
}

/// The documentation contains the tables that the rules result in. With `SECRETWELL_PRINT_TABLE=1`, the
/// tables are printed.
#[test]
fn random_secrets_are_accepted_and_the_tables_of_the_documentation_are_current() {
    let mut table = String::from(
        "| weak secrets | samples | refused | accepted |\n| --- | --- | --- | --- |\n",
    );
    for Category { name, samples, .. } in CATEGORIES {
        let is_refused = |sample: &&&str| {
            matches!(
                assess(sample.as_bytes(), &Refused::default()),
                Assessment::Weak(_)
            )
        };
        let refused = samples.iter().filter(is_refused).count();
        let accepted = samples.len() - refused;
        writeln!(
            table,
            "| {name} | {} | {refused} | {accepted} |",
            samples.len()
        )
        .unwrap();
    }
    table += "\n| random secrets | refused | warnings |\n| --- | --- | --- |\n";
    for (name, generate) in ENCODINGS {
        let counts = count(*generate);
        assert_eq!(counts, Counts::default(), "{name}");
        let Counts { refused, warnings } = counts;
        writeln!(table, "| {name} | {refused} | {warnings} |").unwrap();
    }
    if std::env::var_os("SECRETWELL_PRINT_TABLE").is_some() {
        eprintln!("{table}");
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/security.md");
    let page = std::fs::read_to_string(page).unwrap();
    for part in table.split("\n\n") {
        assert!(
            page.contains(part.trim_end()),
            "docs/security.md has other tables than\n{table}"
        );
    }
}

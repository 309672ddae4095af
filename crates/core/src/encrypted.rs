//! Recognition of values and documents that a tool left encrypted.

use std::fmt;

use crate::json::Json;
use crate::{Error, ErrorKind, Secret};

/// Returns the tool that left `value` encrypted, such as `SOPS`, or that left a pointer in its place, such as
/// `Git LFS`. A byte order mark, white space and quotes around the value do not hide it.
///
/// In a JSON object or array, each text is checked, because a list or a table of a document is returned as JSON. A
/// value can also be a whole document of SOPS or Sealed Secrets.
///
/// Only forms with a fixed beginning are recognized. A password or a random value cannot have such a form by accident.
/// An encrypted private key (`-----BEGIN ENCRYPTED PRIVATE KEY-----`) is not refused, because programs load it with a
/// passphrase.
pub fn encrypted_by(value: &[u8]) -> Option<&'static str> {
    find_in_value(value).map(|remains| remains.tool())
}

/// Returns `secret`, whose value is not encrypted, or which [accepts](Secret::accept_encrypted) encrypted values.
///
/// # Errors
/// Returns [`ErrorKind::Invalid`] with the name of the tool that left the value encrypted. The error is permanent.
pub fn refuse_encrypted(secret: Secret) -> Result<Secret, Error> {
    match find_in_value(secret.value.expose_bytes()) {
        Some(remains) if !secret.accepts_encrypted => Err(invalid("value", remains)),
        _ => Ok(secret),
    }
}

/// Returns the tool that left a whole document encrypted. The keys of such a document are those of the tool, and its
/// values are ciphertexts.
pub fn encrypted_document(document: &[u8]) -> Option<&'static str> {
    find_in_document(document).map(|remains| remains.tool())
}

/// Checks that no tool left `document` encrypted.
///
/// # Errors
/// Returns [`ErrorKind::Invalid`] with the name of the tool. The error is permanent.
pub fn refuse_encrypted_document(document: &[u8]) -> Result<(), Error> {
    match find_in_document(document) {
        Some(remains) => Err(invalid("document", remains)),
        None => Ok(()),
    }
}

/// What a tool left in the place of the content.
#[derive(Debug, Clone, Copy)]
enum Remains {
    Ciphertext(&'static str),
    /// The content is stored elsewhere.
    Pointer(&'static str),
}

use Remains::{Ciphertext, Pointer};

impl Remains {
    fn tool(self) -> &'static str {
        let (Ciphertext(tool) | Pointer(tool)) = self;
        tool
    }
}

impl fmt::Display for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ciphertext(tool) => write!(f, "is encrypted by {tool}"),
            Pointer(tool) => write!(f, "is a pointer of {tool} to its content"),
        }
    }
}

fn invalid(what: &str, remains: Remains) -> Error {
    let hint = match remains {
        Ciphertext(_) => "decrypt it before it is deployed, or read it through the tool",
        Pointer(_) => "fetch the content before it is deployed",
    };
    Error::new(ErrorKind::Invalid, format!("the {what} {remains}")).with_hint(hint)
}

/// Beginnings that no other text has.
const BEGINNINGS: [(&[u8], Remains); 18] = [
    (b"$ANSIBLE_VAULT;", Ciphertext("Ansible Vault")),
    (b"age-encryption.org/v1", Ciphertext("age")),
    (b"-----BEGIN AGE ENCRYPTED FILE-----", Ciphertext("age")),
    (b"-----BEGIN PGP MESSAGE-----", Ciphertext("PGP")),
    (b"{cipher}", Ciphertext("Spring Cloud Config")),
    (b"EJ[1:", Ciphertext("ejson")),
    (b"\0GITCRYPT\0", Ciphertext("git-crypt")),
    // `Salted__`, as bytes and in base64.
    (b"Salted__", Ciphertext("OpenSSL")),
    (b"U2FsdGVkX1", Ciphertext("OpenSSL")),
    // `{"iv":"` in base64.
    (b"eyJpdiI6I", Ciphertext("Laravel")),
    // The provider GUID of the data protection API, as bytes, in hexadecimal digits and in base64.
    (DPAPI, Ciphertext("the data protection API of Windows")),
    (
        b"01000000d08c9ddf0115d1118c7a00c04fc297eb",
        Ciphertext("the data protection API of Windows"),
    ),
    (
        b"AQAAANCMnd8BFdERjHoAwE/Cl+s",
        Ciphertext("the data protection API of Windows"),
    ),
    // The header that `ConvertFrom-SecureString` writes if it has a key.
    (
        b"76492d1116743f0423413b16050a5345",
        Ciphertext("PowerShell"),
    ),
    // The version and the length of the nonce in base64.
    (b"{AQAAABAAAAA", Ciphertext("Jenkins")),
    (b"# STRONGBOX ENCRYPTED RESOURCE", Ciphertext("Strongbox")),
    (
        b"version https://git-lfs.github.com/spec/",
        Pointer("Git LFS"),
    ),
    (b"/annex/objects/", Pointer("git-annex")),
];

/// Schemes of application servers, with base64 after them.
const SCHEMES: [(&[u8], &str); 5] = [
    (b"{AES}", "WebLogic"),
    (b"{AES256}", "WebLogic"),
    (b"{3DES}", "WebLogic"),
    (b"{aes}", "WebSphere"),
    (b"{xor}", "WebSphere"),
];

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const DPAPI: &[u8] = b"\x01\0\0\0\xd0\x8c\x9d\xdf\x01\x15\xd1\x11\x8c\x7a\0\xc0\x4f\xc2\x97\xeb";

/// Searches a value, which can be a whole document.
fn find_in_value(value: &[u8]) -> Option<Remains> {
    let in_document = || find_encryption_of_all_values(std::str::from_utf8(value).ok()?);
    find(value).or_else(in_document)
}

/// Searches a value, or each text of a value that is JSON.
fn find(value: &[u8]) -> Option<Remains> {
    let value = value.strip_prefix(BYTE_ORDER_MARK).unwrap_or(value);
    let value = value.trim_ascii();
    let in_quotes = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    let unquoted = in_quotes(b"\"").or_else(|| in_quotes(b"'"));
    let found = find_beginning(unquoted.unwrap_or(value));
    if found.is_some() || !matches!(value, [b'{' | b'[', ..]) {
        return found;
    }
    find_in_json(&Json::parse(std::str::from_utf8(value).ok()?).ok()?)
}

fn find_in_json(json: &Json<'_>) -> Option<Remains> {
    match json {
        Json::Null | Json::Literal(_) => None,
        Json::Text(text) => find(text.as_bytes()),
        Json::List(items) => items.iter().find_map(find_in_json),
        Json::Object(object) => object.iter().find_map(|(_, value)| find_in_json(value)),
    }
}

/// Searches a value without white space around it.
fn find_beginning(value: &[u8]) -> Option<Remains> {
    let beginning = BEGINNINGS
        .iter()
        .find(|(beginning, _)| value.starts_with(beginning));
    if let Some((_, remains)) = beginning {
        return Some(*remains);
    }
    if let Some(rest) = value.strip_prefix(b"encrypted:") {
        return is_base64(rest).then_some(Ciphertext("dotenvx"));
    }
    for (scheme, tool) in SCHEMES {
        if let Some(rest) = value.strip_prefix(scheme) {
            return is_base64(rest).then_some(Ciphertext(tool));
        }
    }
    if let Some(rest) = value.strip_prefix(b"ENC[") {
        return bracketed(rest).map(Ciphertext);
    }
    if let Some(rest) = value.strip_prefix(b"ENC(") {
        let inner = rest.strip_suffix(b")")?;
        return is_base64(inner).then_some(Ciphertext("Jasypt"));
    }
    if let Some(rest) = value.strip_prefix(b"![") {
        let inner = rest.strip_suffix(b"]")?;
        return (inner.len() >= 12 && is_base64(inner)).then_some(Ciphertext("Mule"));
    }
    if let Some(rest) = value.strip_prefix(b"vault:v") {
        let (version, text) = split_once(rest, b':')?;
        let is_version = !version.is_empty() && version.iter().all(u8::is_ascii_digit);
        return (is_version && is_base64(text))
            .then_some(Ciphertext("the transit engine of Vault"));
    }
    is_kms(value).then_some(Ciphertext("AWS KMS"))
}

/// Returns whether `value` is a ciphertext of AWS KMS in base64. Its first bytes are fixed, and it is longer than common
/// generated secrets.
fn is_kms(value: &[u8]) -> bool {
    const MIN_LENGTH: usize = 180;
    value.len() >= MIN_LENGTH
        && matches!(value, [b'A', b'Q', b'I', b'C', b'A', b'H', b'g'..=b'j', ..])
        && is_base64(value)
}

/// Returns the tool that writes `ENC[METHOD,…]`. `rest` begins with the method.
fn bracketed(rest: &[u8]) -> Option<&'static str> {
    const MAX_METHOD: usize = 32;
    let (method, _) = split_once(&rest[..rest.len().min(MAX_METHOD)], b',')?;
    let is_method = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    match method {
        b"AES256_GCM" => Some("SOPS"),
        // Plugins add methods to `PKCS7` and `GPG`.
        _ if !method.is_empty() && method.iter().all(is_method) => Some("hiera-eyaml"),
        _ => None,
    }
}

/// Returns whether `text` begins like base64, in the standard alphabet or in that of URLs. Only its beginning counts,
/// because long texts are broken into lines.
fn is_base64(text: &[u8]) -> bool {
    const CHECKED: usize = 64;
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_=".contains(byte);
    !text.is_empty() && text[..text.len().min(CHECKED)].iter().all(is_digit)
}

fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn find_in_document(document: &[u8]) -> Option<Remains> {
    let document = document.strip_prefix(BYTE_ORDER_MARK).unwrap_or(document);
    if let Some(remains) = find_beginning(document.trim_ascii()) {
        return Some(remains);
    }
    let text = std::str::from_utf8(document).ok()?;
    if let Some(remains) = find_encryption_of_all_values(text) {
        return Some(remains);
    }
    let mut lines = text.lines().map(str::trim_start);
    let is_content = |line: &str| !line.is_empty() && !line.starts_with('#');
    let mut content = lines.by_ref().filter(|line| is_content(line)).peekable();
    let is_vault = content.peek().is_some() && content.all(|line| line.starts_with("DOTENV_VAULT"));
    is_vault.then_some(Ciphertext("dotenv-vault"))
}

/// Recognizes a tool that encrypts all values of a document, and leaves its names readable.
fn find_encryption_of_all_values(text: &str) -> Option<Remains> {
    // SOPS adds an authentication code of all values, which is encrypted in the same form as a value.
    let is_sops = text.contains("ENC[AES256_GCM,")
        && text.contains("sops")
        && ["mac", "sops_mac"]
            .iter()
            .any(|name| has_entry(text, name, "ENC[AES256_GCM,"));
    if is_sops {
        return Some(Ciphertext("SOPS"));
    }
    if has_entry(text, "kind", "SealedSecret") && text.contains("encryptedData") {
        return Some(Ciphertext("Sealed Secrets"));
    }
    None
}

/// Returns whether a YAML, JSON or `.env` document has an entry `name` whose value begins with `value`.
fn has_entry(document: &str, name: &str, value: &str) -> bool {
    let is_between = |c: char| matches!(c, ' ' | '\t' | '"' | '\'' | ':' | '=');
    document.match_indices(value).any(|(at, _)| {
        let before = document[..at].trim_end_matches(is_between);
        let outer = before.strip_suffix(name);
        outer.is_some_and(|outer| !outer.ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            && document[before.len()..at].contains([':', '='])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretValue;

    #[test]
    fn value_of_each_tool_is_recognized() {
        let armored = "-----BEGIN AGE ENCRYPTED FILE-----\nYWdlLWVuY3J5cHRpb24ub3JnL3Yx\n";
        for (value, tool) in [
            (
                "encrypted:BDqDBibm4wsYqMpCjTQ6BsDHmMadg9K3dAt+Z9HPMfLEIRVz50hmLXPXRuDBXaJi",
                "dotenvx",
            ),
            ("encrypted:BDqDBibm4w==", "dotenvx"),
            (
                "ENC[AES256_GCM,data:p673w==,iv:YY=,tag:c3A==,type:str]",
                "SOPS",
            ),
            (
                "ENC[PKCS7,MIIBeQYJKoZIhvcNAQcDoIIBajCCAWYCAQAxggEhMIIBHQIBADAFMAACAQEw]",
                "hiera-eyaml",
            ),
            ("ENC[GPG,hQIMA6KYqVxJyl0aAQ//]", "hiera-eyaml"),
            ("ENC[GKMS,CiQA]\n", "hiera-eyaml"),
            ("ENC(nrmZtkF7T0kjG/VodDvBw93Ct8EgjCA+)", "Jasypt"),
            ("ENC(nrmZtkF7T0kjG/VodDvBw93Ct8EgjCA+)\n", "Jasypt"),
            ("{cipher}AQA8BmYWl0Oj", "Spring Cloud Config"),
            ("EJ[1:kEzqYhx8gM5lGDbEj1nlrV:u7ElX:8Iqk]", "ejson"),
            ("$ANSIBLE_VAULT;1.1;AES256\n6638643965", "Ansible Vault"),
            ("  $ANSIBLE_VAULT;1.2;AES256;prod\n66", "Ansible Vault"),
            ("age-encryption.org/v1\n-> X25519 TEiF0yp", "age"),
            (armored, "age"),
            ("-----BEGIN PGP MESSAGE-----\n\nhQEMA", "PGP"),
            ("\0GITCRYPT\0\x12\x34", "git-crypt"),
            (
                "vault:v1:8SDd3WHDOjf7mq69CyCqYjBXAiQQAVZRkFM13ok481zoCmHnSeDX9vyf7w==",
                "the transit engine of Vault",
            ),
            ("vault:v12:8SDd", "the transit engine of Vault"),
            ("U2FsdGVkX18kY2hhbmdlIG1l", "OpenSSL"),
            ("Salted__abcdefgh", "OpenSSL"),
            ("eyJpdiI6IkRJZ2pFcEhpcDg9PSIsInZhbHVlIjoi", "Laravel"),
            (
                "01000000d08c9ddf0115d1118c7a00c04fc297eb0100",
                "the data protection API of Windows",
            ),
            (
                "AQAAANCMnd8BFdERjHoAwE/Cl+sBAAAA",
                "the data protection API of Windows",
            ),
            ("![nNj6f1v8p2+zIc9uKg1TQA==]", "Mule"),
            ("{AQAAABAAAAAQ1wo0zkV9xq==}", "Jenkins"),
            ("76492d1116743f0423413b16050a5345MgB8AGYAdAB1", "PowerShell"),
            ("{AES}wjcqoUuX8P4=", "WebLogic"),
            ("{AES256}wjcqoUuX8P4=", "WebLogic"),
            ("{xor}Lz4sLChvLTs=", "WebSphere"),
            (
                "# STRONGBOX ENCRYPTED RESOURCE ; See https://example.com\nAQID\n",
                "Strongbox",
            ),
            (
                "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
                "Git LFS",
            ),
            ("/annex/objects/SHA256E-s5--5891b5.txt\n", "git-annex"),
        ] {
            assert_eq!(encrypted_by(value.as_bytes()), Some(tool), "{value}");
        }
        assert!(encrypted_by(DPAPI).is_some());
        let kms = format!("AQICAHhJ{}=", "x9+/".repeat(50));
        assert_eq!(encrypted_by(kms.as_bytes()), Some("AWS KMS"));
        assert_eq!(encrypted_by(&kms.as_bytes()[..44]), None);
    }

    #[test]
    fn quotes_and_byte_order_mark_do_not_hide_a_ciphertext() {
        for cipher in [
            "encrypted:BDqDBibm4w==",
            "ENC(nrmZtkF7T0kjG/VodDvBw93Ct8EgjCA+)",
            "$ANSIBLE_VAULT;1.1;AES256\n66",
            "![nNj6f1v8p2+zIc9uKg1TQA==]",
        ] {
            for value in [
                format!("\"{cipher}\""),
                format!("'{cipher}'\n"),
                format!("\u{feff}{cipher}"),
                format!(" {cipher} \r\n"),
            ] {
                assert!(encrypted_by(value.as_bytes()).is_some(), "{value}");
            }
        }
    }

    #[test]
    fn ciphertext_in_a_list_or_a_table_is_recognized() {
        for value in [
            r#"{"password": "ENC[AES256_GCM,data:p673w==,iv:YY=,tag:c3A==,type:str]"}"#,
            r#" {"a": 1, "db": {"hosts": [null, {"p": "ENC[AES256_GCM,data:x]"}]}}"#,
            r#"["plain", "ENC[AES256_GCM,data:x]"]"#,
            r#"["\u0045NC[AES256_GCM,data:x]"]"#,
            r#"{"inner": "{\"p\": \"ENC[AES256_GCM,data:x]\"}"}"#,
            "a: ENC[AES256_GCM,data:x]\nsops:\n    mac: ENC[AES256_GCM,data:x]\n",
        ] {
            assert_eq!(encrypted_by(value.as_bytes()), Some("SOPS"), "{value}");
        }
        for value in [
            r#"{"ENC[AES256_GCM,data:x]": 1}"#,
            r#"{"note": "see ENC[AES256_GCM,data:x]"}"#,
            r#"["ENC[AES256_GCM,data:x]""#,
            "[ENC[AES256_GCM,data:x]]",
            "a: ENC[AES256_GCM,data:x]\n",
        ] {
            assert_eq!(encrypted_by(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn other_values_are_not_recognized() {
        for value in [
            "",
            " ",
            "encrypted",
            "encrypted:",
            "encrypted: at rest",
            "ENC",
            "ENC[",
            "ENC[1",
            "ENC[a list, of words]",
            "ENC(",
            "ENC(a password!)",
            "![short]",
            "![a template]",
            "vault:secret/data/app#PASSWORD",
            "vault:v:abc",
            "vault:v1",
            "vault:version:abc",
            "{\"cipher\":\"aes\"}",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIFLTBXBgkqhkiG9w0B",
            "-----BEGIN PGP PRIVATE KEY BLOCK-----",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n",
            "AGE-SECRET-KEY-1QYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQ",
            "eyJhbGciOiJIUzI1NiJ9.e30.x",
            "U2FsdGVk",
            "version 1",
        ] {
            assert_eq!(encrypted_by(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn document_of_each_tool_is_recognized() {
        let mac = "ENC[AES256_GCM,data:qU==,iv:c=,tag:x==,type:str]";
        let sops_yaml = format!("a: plain\nsops:\n    age:\n        - enc: x\n    mac: {mac}\n");
        let sops_json =
            format!("{{\"a\":\"plain\",\"sops\":{{\"version\":\"3.9\",\"mac\":\"{mac}\"}}}}");
        let sops_env = format!("A=plain\nsops_version=3.9.0\nsops_mac={mac}\n");
        let sealed = "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nspec:\n  encryptedData:\n    a: AgBy3i\n";
        let sealed_json =
            "{\"kind\": \"SealedSecret\", \"spec\": {\"encryptedData\": {\"a\": \"AgBy3i\"}}}";
        let vault =
            "#/---\n\nDOTENV_VAULT=\"vlt_1\"\nDOTENV_VAULT_CI=\"x\"\nDOTENV_VAULT_CI_VERSION=1\n";
        for (document, tool) in [
            (sops_yaml.as_str(), "SOPS"),
            (&sops_json, "SOPS"),
            (&sops_env, "SOPS"),
            (sealed, "Sealed Secrets"),
            (sealed_json, "Sealed Secrets"),
            (vault, "dotenv-vault"),
            ("\u{feff}$ANSIBLE_VAULT;1.1;AES256\n66", "Ansible Vault"),
            ("eyJpdiI6IkRJZ2pFcEhpcDg9PSIs", "Laravel"),
        ] {
            assert_eq!(
                encrypted_document(document.as_bytes()),
                Some(tool),
                "{document}"
            );
        }
        assert_eq!(
            encrypted_document(b"\0GITCRYPT\0\xff\xfe"),
            Some("git-crypt")
        );
    }

    #[test]
    fn other_documents_are_not_recognized() {
        for document in [
            "",
            "# only a comment\n",
            "A=1\nDOTENV_VAULT_CI=x\n",
            "A=ENC[AES256_GCM,data:x]\nB=plain\n",
            "sops: none\nmac: 00:1b:44\n",
            "imac: ENC[AES256_GCM,data:x]\nsops: 1\n",
            "kind: Secret\nencryptedData: no\n",
            "kind: SealedSecret\n",
            "note: not a SealedSecret with encryptedData\n",
        ] {
            assert_eq!(encrypted_document(document.as_bytes()), None, "{document}");
        }
    }

    #[test]
    fn error_names_the_tool_and_contains_no_value() {
        let refused = |value: &str| refuse_encrypted(Secret::new(value)).unwrap_err();
        let error = refused("encrypted:c4n4ryc4n4ry");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(!error.is_temporary());
        assert_eq!(
            error.to_string(),
            "invalid: the value is encrypted by dotenvx; decrypt it before it is deployed, or read it through the tool",
        );
        let pointer = refused("version https://git-lfs.github.com/spec/v1\noid sha256:c4n4ry");
        assert!(
            pointer
                .to_string()
                .contains("is a pointer of Git LFS to its content")
        );
        assert!(!format!("{error:#?} {pointer:#?}").contains("c4n4ry"));
        let document = refuse_encrypted_document(b"$ANSIBLE_VAULT;1.1").unwrap_err();
        assert!(
            document
                .to_string()
                .contains("the document is encrypted by Ansible Vault")
        );
    }

    #[test]
    fn accepted_ciphertext_is_returned_unchanged() {
        let secret = Secret::new("encrypted:abcd").accept_encrypted();
        let value = refuse_encrypted(secret).unwrap().value;
        assert_eq!(value, SecretValue::from("encrypted:abcd"));
    }

    #[test]
    fn long_values_are_compared_at_their_ends_only() {
        // Quadratic work would take minutes here.
        let long = "ENC[AES256_GCM,".repeat(100_000);
        assert_eq!(encrypted_document(long.as_bytes()), Some("SOPS"));
        let long = "kind: SealedSecret\n".repeat(100_000);
        assert_eq!(encrypted_document(long.as_bytes()), None);
        let long = format!("{}SealedSecret", " ".repeat(1_000_000));
        assert_eq!(encrypted_document(long.as_bytes()), None);
    }
}

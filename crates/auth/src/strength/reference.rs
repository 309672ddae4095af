//! References to a secret, which a tool should have replaced by the secret.

/// The beginnings of references other than URLs.
const PREFIXES: &[&str] = &[
    // Amazon: names of resources, dynamic references and functions of CloudFormation.
    "arn:aws:",
    "arn:aws-cn:",
    "arn:aws-us-gov:",
    "{{resolve:",
    "{{op://",
    "{{ op://",
    "!GetAtt ",
    "!ImportValue ",
    "!Ref ",
    "!Sub ",
    // Azure: App Service, App Configuration, Container Apps, and functions of its templates.
    "@Microsoft.KeyVault(",
    "@Microsoft.AppConfiguration(",
    "keyvaultref:",
    "secretref:",
    "[concat(",
    "[listKeys(",
    "[parameters(",
    "[reference(",
    "[variables(",
    // Tools that replace references when a program or a container starts.
    "awssm:",
    "awsssm:",
    "gcpsm:",
    "vault:",
    ">>vault:",
    "<path:",
    "!vault ",
    // Files of a container.
    "/etc/secrets/",
    "/mnt/secrets-store/",
    "/run/secrets/",
    "/var/run/secrets/",
];

/// Returns whether the whole value is a reference or a URL, such as `op://vault/item/field`.
pub(super) fn is_reference(value: &[u8]) -> bool {
    let has_prefix = |prefix: &&str| value.starts_with(prefix.as_bytes());
    PREFIXES.iter().any(has_prefix) || is_url(value) || is_google_name(value)
}

fn is_url(value: &[u8]) -> bool {
    let is_scheme_byte =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+.-".contains(byte);
    let scheme = value.iter().take_while(|byte| is_scheme_byte(byte)).count();
    scheme >= 2 && value[0].is_ascii_lowercase() && value[scheme..].starts_with(b"://")
}

/// Returns whether the value is `projects/PROJECT/secrets/NAME`.
fn is_google_name(value: &[u8]) -> bool {
    let Some(rest) = value.strip_prefix(b"projects/") else {
        return false;
    };
    let project = rest.iter().take_while(|byte| **byte != b'/').count();
    project > 0 && rest[project..].starts_with(b"/secrets/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_values_are_references() {
        for reference in [
            "op://prod/auth/secret",
            "ref+vault://kv/app#/key",
            "a+b.c-1://x",
            "{{ op://prod/auth/secret }}",
            "<path:secret/data/app#auth | base64encode>",
            "[parameters('authSecret')]",
            ">>vault:secret/data/app#key",
        ] {
            assert!(is_reference(reference.as_bytes()), "{reference}");
        }
        for other in [
            "",
            "://",
            "x://y",
            "1password://y",
            "op:/prod/auth",
            "projects/p/locations/l",
            "projects//secrets/s",
            "see op://prod/auth/secret",
            "Vault:kv/app#key",
        ] {
            assert!(!is_reference(other.as_bytes()), "{other}");
        }
    }
}

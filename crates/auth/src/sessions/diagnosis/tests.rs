use super::*;

const SECRET: &str = "a secret of thirty-two bytes or more";

#[tokio::test(start_paused = true)]
async fn limit_counts_requests_and_is_due_once_in_five_minutes() {
    let limit = Limit::default();
    assert_eq!(limit.count(), Some(1));
    for _ in 0..1000 {
        assert_eq!(limit.count(), None);
    }
    tokio::time::advance(WARNING_INTERVAL - Duration::from_millis(1)).await;
    assert_eq!(limit.count(), None);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(limit.count(), Some(1002));
    assert_eq!(limit.count(), None);
}

#[tokio::test(start_paused = true)]
async fn budget_limits_the_checked_bytes_in_each_second() {
    let budget = Budget::default();
    let allowed = |length| {
        let token = "t".repeat(length);
        (0..1000).filter(|_| budget.try_spend(&token)).count()
    };
    for _ in 0..3 {
        assert_eq!(allowed(1), MAX_CHECKS);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(allowed(SHORT_TOKEN * 10), MAX_CHECKS / 10);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(allowed(400_000), 2);
        // A token that is too long does not use up what is left.
        assert_eq!(
            allowed(1),
            (MAX_CHECKS * SHORT_TOKEN - 800_000) / SHORT_TOKEN
        );
        tokio::time::advance(Duration::from_secs(1)).await;
    }
}

#[test]
fn white_space_variants_differ_from_the_secret_and_keep_its_middle() {
    for (before, after) in [
        ("", ""),
        ("", "\n"),
        ("", "\r\n"),
        (" ", ""),
        ("\t", "\n\n"),
    ] {
        let secret = SecretValue::from(format!("{before}{SECRET}{after}"));
        let variants = white_space_variants(&secret);
        assert!(variants.iter().all(|(_, variant)| *variant != secret));
        for (description, text) in [
            ("has no white space at its ends", SECRET.to_owned()),
            ("ends with a line feed", format!("{SECRET}\n")),
            (
                "ends with a carriage return and a line feed",
                format!("{SECRET}\r\n"),
            ),
            ("begins with a space", format!(" {SECRET}")),
        ] {
            let variant = SecretValue::from(text);
            let found = variants.iter().find(|(_, found)| *found == variant);
            let is_same = variant == secret;
            assert_eq!(
                found.map(|found| found.0),
                (!is_same).then_some(description)
            );
        }
    }
    assert!(white_space_variants(&SecretValue::from(" \n")).is_empty());
}

#[test]
fn names_are_compared_without_prefix_and_chunk() {
    for (name, bare) in [
        ("authjs.session-token", "authjs.session-token"),
        ("__Secure-authjs.session-token.0", "authjs.session-token"),
        ("__Host-authjs.session-token.17", "authjs.session-token"),
        ("authjs.session-token.x", "authjs.session-token.x"),
        ("authjs.session-token.", "authjs.session-token."),
        (
            "__secure-authjs.session-token",
            "__secure-authjs.session-token",
        ),
        ("", ""),
    ] {
        assert_eq!(without_prefix(without_chunk(name)), bare);
    }
}

#[test]
fn uuids_are_recognized() {
    for (text, expected) in [
        ("3f2504e0-4f89-41d3-9a0c-0305e82c3301", true),
        ("3F2504E0-4F89-41D3-9A0C-0305E82C3301", true),
        ("3f2504e0-4f89-41d3-9a0c-0305e82c330", false),
        ("3f2504e0-4f89-41d3-9a0c-0305e82c330g", false),
        ("3f2504e04f8941d39a0c0305e82c3301", false),
        ("a.b.c.d.e", false),
        ("", false),
    ] {
        assert_eq!(is_uuid(text), expected, "{text}");
    }
}

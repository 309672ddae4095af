use proptest::prelude::*;

use super::*;

pub(super) const DIALECTS: [Dialect; 4] = [
    Dialect::Strict,
    Dialect::Node,
    Dialect::Docker,
    Dialect::Shell,
];

/// Returns the readable value of `K`, or the message of its problem.
pub(super) fn read(text: &str, dialect: Dialect) -> Result<String, &'static str> {
    let entries = parse(text, dialect).map_err(|error| error.problem)?;
    let entry = entries.into_iter().rfind(|entry| entry.name == "K");
    match entry.ok_or("no entry")?.value {
        Ok(value) => Ok(value.to_string()),
        Err(problem) => Err(problem.message),
    }
}

pub(super) fn variables(text: &str) -> Variables {
    Variables::parse(text, Dialect::Strict).unwrap()
}

pub(super) fn get(variables: &Variables, key: &str) -> Result<Option<String>, ErrorKind> {
    let value = variables.get(&SecretKey::parse(key).unwrap());
    match value {
        Ok(value) => Ok(value.map(|value| value.expose_text().unwrap().to_owned())),
        Err(error) => Err(error.kind()),
    }
}

fn shown(variables: &Variables) -> Vec<String> {
    let notices = variables.notices(&KeyPrefix::root());
    notices.iter().map(|notice| notice.to_string()).collect()
}

#[test]
fn strict_accepts_what_common_readers_agree_on() {
    for (text, value) in [
        ("K=v", "v"),
        ("K = v ", "v"),
        ("export K=v", "v"),
        ("  export\tK=v\r\n", "v"),
        ("K=", ""),
        ("K=\n# end", ""),
        ("K=\nB=c", ""),
        ("K=a b # comment", "a b"),
        ("K= # comment", ""),
        ("# before\n\nK=v\n", "v"),
        ("K='a # \"b\" \\n $c'", "a # \"b\" \\n $c"),
        ("K=\"a # 'b'\\n$c \\x\" # comment", "a # 'b'\n$c \\x"),
        ("K='two\nlines'\r\n", "two\nlines"),
        ("K=$(id) `id` $HOME", "$(id) `id` $HOME"),
        ("K=a=b==", "a=b=="),
        ("K=it's", "it's"),
        ("K={\"a\":1}", "{\"a\":1}"),
        ("K=1\nK=2", "2"),
        ("K=p@$$w0rd", "p@$$w0rd"),
        ("K=\"-----BEGIN\nx\n-----END\"", "-----BEGIN\nx\n-----END"),
    ] {
        assert_eq!(
            read(text, Dialect::Strict).as_deref(),
            Ok(value),
            "{text:?}"
        );
    }
    let entries = parse("export=1", Dialect::Strict).unwrap();
    assert_eq!(entries[0].name, "export");
}

#[test]
fn strict_refuses_what_common_readers_disagree_on() {
    for text in [
        "K=a#b",
        "K=#b",
        "K= #b",
        "K=#FF0000",
        "K=a\t#b",
        "K=`a b`",
        "K=a\\b",
        "K=a\\$b",
        "K=a${H}b",
        "K='a${H}b'",
        "K=\"a\\tb\"",
        "K=\"a\\\\b\"",
        "K='a\\\\b'",
        "K=\"a\\\"b\"",
        "K='a\\'b'",
        "K=\"a\\$b\"",
        "K=\"a\\`b\"",
        "K=\"a\\fb\"",
        "K=\"a\\\nb\"",
        "K='a'b",
        "K=\"a\"b",
        "K='a' 'b'",
        "K=$'a'",
        "K=x\u{a0}",
        "K=x\u{85}",
        "K=\u{feff}x",
        "K=\tx",
        "K=x\t",
        "K+=2",
        "K: v",
        "K",
        "K=\n'x'",
        "K=-----BEGIN PRIVATE KEY-----",
    ] {
        let line = format!("A=1\n{text}\nB=2\n");
        let document = variables(&line);
        assert_eq!(get(&document, "K"), Err(ErrorKind::Malformed), "{text:?}");
        assert_eq!(get(&document, "A"), Ok(Some("1".into())), "{text:?}");
        assert_eq!(get(&document, "B"), Ok(Some("2".into())), "{text:?}");
        let keys = document.keys(&KeyPrefix::root());
        assert!(!keys.contains(&SecretKey::from_static("K")), "{text:?}");
        assert!(shown(&document)[0].starts_with("K: line 2: "), "{text:?}");
    }
}

#[test]
fn lines_that_shells_write_are_read() {
    for (text, value) in [
        ("K='hey'\\''string'", "hey'string"),
        ("K='I'\"'\"'m'", "I'm"),
        ("K=\"foo\"\"bar\" # comment", "foobar"),
        ("K=''\\'''", "'"),
        ("K='two\nit'\\''s\nlines'", "two\nit's\nlines"),
    ] {
        assert_eq!(
            read(text, Dialect::Strict).as_deref(),
            Ok(value),
            "{text:?}"
        );
        assert_eq!(read(text, Dialect::Shell).as_deref(), Ok(value), "{text:?}");
    }
    for text in ["K=\"foo\"bar", "K=a\\ b", "K='a'\\''b'c", "K='a'\\''b'#c"] {
        let error = variables(text)
            .get(&SecretKey::from_static("K"))
            .unwrap_err();
        assert!(error.to_string().contains("dialect=shell"), "{error}");
    }
}

#[test]
fn value_of_several_pieces_is_not_moved_while_it_grows() {
    let pieces = r"'0123456789'\''0123456789'";
    let entries = parse(&format!("K={pieces}"), Dialect::Strict).unwrap();
    let value = entries[0].value.as_ref().unwrap();
    assert_eq!((value.len(), value.capacity()), (10 + 1 + 10, pieces.len()));
}

#[test]
fn line_that_could_change_the_lines_after_it_fails_the_document() {
    for (text, line) in [
        ("A=1\nB='c4n4ry\n\n", 2),
        ("A=1\nB=\"c4n4ry\\\"\nC=\"x\"", 2),
        ("A=`c4n4ry\n", 1),
        ("MY KEY=\"c4n4ry\nA=1", 1),
        ("A='c4n4ry\nb'c\nB=1", 1),
        ("A=1\rB=c4n4ry", 1),
        ("A=1\n# c4n4ry\u{2028}B=2", 2),
        ("c4n4ry:\n  A=1", 1),
    ] {
        for dialect in [Dialect::Strict, Dialect::Node] {
            let error = parse(text, dialect).unwrap_err();
            assert_eq!(error.line, line, "{text:?}");
            assert!(!format!("{error} {error:?}").contains("c4n4ry"));
        }
    }
}

#[test]
fn pieces_over_several_lines_that_cannot_be_read_fail_the_document() {
    let error = parse("A='x'\"c4n4ry\n$x\"\n", Dialect::Strict).unwrap_err();
    assert_eq!(error.line, 1);
}

#[test]
fn later_malformed_line_hides_the_earlier_value() {
    assert_eq!(
        get(&variables("K=1\nK=a#b"), "K"),
        Err(ErrorKind::Malformed)
    );
    assert_eq!(get(&variables("K=1\nK"), "K"), Err(ErrorKind::Malformed));
    assert_eq!(get(&variables("K=a#b\nK=1"), "K"), Ok(Some("1".into())));
    // Node.js combines the line without `=` with the next one, and keeps the first value.
    assert_eq!(
        get(&variables("K=1\nHOST\nK=2"), "K"),
        Err(ErrorKind::Malformed)
    );
}

#[test]
fn variable_inside_of_a_value_over_several_lines_is_refused() {
    let document = variables("K='x\nB='\nC=1");
    assert_eq!(get(&document, "K"), Err(ErrorKind::Malformed));
    assert_eq!(get(&document, "B"), Err(ErrorKind::Malformed));
    assert_eq!(get(&document, "C"), Ok(Some("1".into())));
}

#[test]
fn notices_name_a_variable_only_if_the_name_is_no_secret() {
    let long = "c4n4ry".repeat(11);
    let text = format!(
        "HOSTVAR\nghp_c4n4ryc4n4ryc4n4ry\npostgres://user:c4n4ry@host/db?sslmode=require\nc4n4ry==\n\
         c4/n4ry=\nmy c4n4ry=x\n{long}=a#b\n=c4n4ry\n; c4n4ry\nA/B=x\nOK=1\n"
    );
    let document = variables(&text);
    let notices = shown(&document);
    assert_eq!(notices.len(), 10, "{notices:#?}");
    assert!(
        !notices
            .concat()
            .replace("c4/n4ry", "c4n4ry")
            .contains("c4n4ry"),
        "{notices:#?}"
    );
    assert_eq!(
        notices[0],
        "HOSTVAR: line 1: no `=` after a name; write `NAME=value`"
    );
    assert!(notices[9].starts_with("A/B: line 10: the name cannot be a key"));
    let keys = document.keys(&KeyPrefix::root());
    assert_eq!(keys.len(), 1);
    assert!(keys.contains(&SecretKey::from_static("OK")));
}

#[test]
fn notices_are_below_their_prefix() {
    let document = variables("db_USER=a#b\ndb_NAME=x\nOTHER=a#b\n");
    let db = KeyPrefix::parse("db").unwrap();
    let notices = document.notices(&db);
    assert_eq!(notices.len(), 1);
    assert_eq!(notices[0].key, Some(SecretKey::from_static("db/USER")));
    assert_eq!(notices[0].kind, NoticeKind::Unreadable);
    let keys: Vec<SecretKey> = document.keys(&db).into_iter().collect();
    assert_eq!(keys, [SecretKey::from_static("db/NAME")]);
}

#[test]
fn values_that_other_programs_read_differently_are_reported() {
    let reported = |text: &str| {
        let notices = variables(text).notices(&KeyPrefix::root());
        let differs = |notice: &Notice| notice.kind == NoticeKind::ReadDifferently;
        assert!(notices.iter().all(differs), "{notices:?}");
        notices
            .iter()
            .map(|notice| notice.message.to_string())
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(reported("K=plain\nexport B=a.b/c==\n"), "");
    assert!(reported("K='a$b'").contains("line 1: Next.js returns another value"));
    assert!(reported("K=a$b").contains("Next.js returns, Docker Compose returns another value"));
    assert!(reported("K=a$b$").contains("line 1: Docker Compose returns another value"));
    assert!(reported("K= # comment").contains("line 1: Docker Compose returns"));
    assert!(reported("K='a\r\nb'").contains("npm `dotenv` and Node.js return"));
    let summary = reported("A='x'\nB='y'\nC=z\n");
    assert_eq!(
        summary,
        "line 1: `docker run --env-file` returns another value here and for 1 other variables"
    );
    assert!(reported("A=two words").contains("a shell returns another value here"));
}

#[test]
fn node_reads_what_dotenv_and_node_agree_on() {
    for (text, value) in [
        ("K=a#b", "a"),
        ("K=`a\"b'c`", "a\"b'c"),
        ("K=`a\nb`", "a\nb"),
        ("K=\"a\\nb\\t\"", "a\nb\\t"),
        ("K=\"a\\\\nb\"", "a\\\nb"),
        ("K='a\r\nb'", "a\nb"),
        ("K=a${H}b", "a${H}b"),
    ] {
        assert_eq!(read(text, Dialect::Node).as_deref(), Ok(value), "{text:?}");
    }
    for text in [
        "K='a'b",
        "K=\"a\"b",
        "K=\"a\\\"b\"",
        "K=\"a\\rb\"",
        "K=x\u{a0}",
        "K: v",
        "K\t\u{b}=v",
    ] {
        assert!(read(text, Dialect::Node).is_err(), "{text:?}");
    }
    assert!(parse("\u{e9}=v", Dialect::Node).unwrap()[0].value.is_err());
}

#[test]
fn docker_keeps_every_character() {
    for (text, value) in [
        ("K= 'a' # b ", " 'a' # b "),
        ("  K=v\r\n", "v"),
        ("K=1\rB=2", "1\rB=2"),
        ("K=\"a\nb\"", "\"a"),
        ("# K=x\nK=#b", "#b"),
    ] {
        assert_eq!(
            read(text, Dialect::Docker).as_deref(),
            Ok(value),
            "{text:?}"
        );
    }
    for text in ["export K=v", "K =v", "K", "export K"] {
        let entries = parse(text, Dialect::Docker).unwrap();
        assert_eq!(entries[0].name, "K");
        assert!(entries[0].value.is_err(), "{text:?}");
    }
    // A line without `=` can be a secret.
    for (text, is_printable) in [("AUTH_SECRET", true), ("c2VjcmV0LXZhbHVl", false)] {
        let entries = parse(text, Dialect::Docker).unwrap();
        assert_eq!(entries[0].is_printable, is_printable, "{text}");
    }
    let entries = parse("A=1\n\n# K\nB=2", Dialect::Docker).unwrap();
    let lines: Vec<_> = entries.iter().map(|entry| entry.line).collect();
    assert_eq!(lines, [1, 4]);
}

#[test]
fn shell_reads_words_without_expansions() {
    for (text, value) in [
        ("K=\"foo\"bar", "foobar"),
        ("K=a\\ b", "a b"),
        ("K=a\\\nb", "ab"),
        ("K=\"a\\$b\\`\\\"\\\\\\x\\\nc\"", "a$b`\"\\\\xc"),
        ("K='a\r\nb'", "a\r\nb"),
        ("export A=1 K=v # c", "v"),
        ("K=v\nexport K\n", "v"),
        ("K=#b", "#b"),
        ("K=a$", "a$"),
        ("K=*", "*"),
        ("A=x~ K=a~b", "a~b"),
    ] {
        assert_eq!(read(text, Dialect::Shell).as_deref(), Ok(value), "{text:?}");
    }
    for text in [
        "K=$X",
        "K=\"$X\"",
        "K=${X}",
        "K=$(id)",
        "K=`id`",
        "K=\"`id`\"",
        "K=~/x",
        "K=a:~/x",
        "K=a;b",
        "K=a&b",
        "K=a|b",
        "K=a>b",
        "K=(a)",
        "K=a b",
        "K=$'a'",
        "K=v\r\n",
        "export K=*",
        "K = v",
    ] {
        let text = format!("A=1\n{text}\nB=2\n");
        let entries = parse(&text, Dialect::Shell).unwrap();
        let values: Vec<bool> = entries.iter().map(|entry| entry.value.is_ok()).collect();
        assert_eq!(values, [true, false, true], "{text:?}");
    }
    for text in [
        "K",
        "exit",
        "K='a",
        "K=\"a",
        "K=$(id\n)",
        "cat <<E\nK=1\nE\n",
        "if true; then K=1; fi",
    ] {
        assert!(
            parse(&format!("A=1\n{text}"), Dialect::Shell).is_err(),
            "{text:?}"
        );
    }
}

#[test]
fn nothing_is_substituted_in_any_dialect() {
    let text = "A=$HOME\nB=${HOME}\nC=$(id)\nD=`id`\nE=\"$HOME\"\nF='$HOME'\nG=~\n";
    let home = std::env::var("HOME").unwrap_or_default();
    for dialect in DIALECTS {
        for entry in parse(text, dialect).unwrap() {
            let value = entry
                .value
                .map(|value| value.to_string())
                .unwrap_or_default();
            assert!(
                value.is_empty() || !value.contains(&home),
                "{dialect:?} {}",
                entry.name
            );
            assert!(!value.contains("uid="));
        }
    }
}

#[test]
fn document_that_is_encrypted_by_sops_is_refused() {
    let text = "K=ENC[AES256_GCM,data:x]\nsops_version=3.9.0\nsops_mac=ENC[AES256_GCM,data:y]\n";
    let error = Variables::parse(text, Dialect::Strict).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("SOPS"));
}

#[test]
fn allocation_is_linear_in_document_size() {
    let line = |n: usize| format!("A{n}=\"a\\nb\"\nB{n}='c'\\''d'\nC{n}=it's\nD{n}='x'\\'\n");
    let text: String = (0..2_500).map(line).collect();
    for dialect in DIALECTS {
        let mut count = 0;
        let cost =
            allocation_counter::measure(|| count = parse(&text, dialect).unwrap_or_default().len());
        assert!(
            matches!(dialect, Dialect::Shell) || count == 10_000,
            "{dialect:?} {count}"
        );
        let limit = 60 * u64::try_from(text.len()).unwrap();
        assert!(cost.bytes_total < limit, "{} of {limit}", cost.bytes_total);
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics_and_has_one_reading(pieces in prop::collection::vec(piece(), 0..12)) {
        let text = pieces.concat();
        for dialect in DIALECTS {
            prop_assert_eq!(parse(&text, dialect), parse(&text, dialect));
        }
    }

    #[test]
    fn quoted_values_are_read_back(value in "[ -&(-_a-~äß\n]{0,40}") {
        let single = format!("K='{value}'\n");
        let strict = read(&single, Dialect::Strict);
        let is_common = !value.contains("\\\\") && !value.contains("${") && !value.ends_with('\\');
        if is_common && !value.contains('=') {
            prop_assert_eq!(&strict, &Ok(value.clone()));
        }
        if let Ok(strict) = strict {
            prop_assert_eq!(strict, &*value);
        }
        prop_assert_eq!(read(&single, Dialect::Shell), Ok(value.clone()));
        if !value.contains('\n') {
            let line = format!("K={value}\n");
            prop_assert_eq!(read(&line, Dialect::Docker), Ok(value.clone()));
        }
        if !value.contains(['=', '\\']) {
            prop_assert_eq!(read(&single, Dialect::Node), Ok(value.clone()));
        }
    }

    #[test]
    fn values_in_pieces_are_read_back(value in "[ -_a-~äß\n]{0,40}") {
        let quoted = format!("K='{}'\n", value.replace('\'', "'\\''"));
        prop_assert_eq!(read(&quoted, Dialect::Shell), Ok(value.clone()));
        if let Ok(strict) = read(&quoted, Dialect::Strict) {
            prop_assert_eq!(strict, value);
        }
    }
}

fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "A", "=", "'", "\"", "`", "\\", "#", "\n", "\r", "\r\n", " ", "\t", "export ", "ß", "$",
        "{", "}", "(", ":", ";", "&", "\u{feff}", "\u{a0}", "\u{2028}", "A=", "\nB='", "+",
    ])
}

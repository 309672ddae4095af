//! Documents in which readers find variables in different places, and documents that are expensive to read.

use super::tests::{DIALECTS, get, read, variables};
use super::*;

/// Node.js takes blanks before a name, and lines without `=`, for a part of the name. It keeps the first value.
#[test]
fn repeated_name_that_a_reader_does_not_find_is_refused() {
    for between in [
        "\t",
        "\t\n",
        " \n",
        "  # comment\n",
        "\t# comment\n",
        "export\t",
        "export  ",
        "HOST\n",
        "=x\nB=2\n",
    ] {
        for dialect in [Dialect::Strict, Dialect::Node] {
            let text = format!("K=1\n{between}K=2\n");
            assert!(read(&text, dialect).is_err(), "{text:?}");
            assert_eq!(read(&text[4..], dialect).as_deref(), Ok("2"), "{text:?}");
        }
    }
    assert!(read("K=1\nK\t=2", Dialect::Strict).is_err());
    for text in ["K=1\n\n# comment\n  export K = 2", "K=1\r\n\r\nK=2\r\n"] {
        assert_eq!(read(text, Dialect::Strict).as_deref(), Ok("2"), "{text:?}");
    }
}

#[test]
fn names_that_only_one_reader_finds_are_refused() {
    for line in [
        "'K'=v",
        "export 'K'=v",
        "export K: v",
        "export\tK: v",
        "\u{c}K: v",
        "\u{1680}K: v",
        "K:\u{a0}v",
        "\u{feff}K=v",
        "K\u{a0}=v",
        "K#x",
        "K # x",
    ] {
        for dialect in [Dialect::Strict, Dialect::Node] {
            let document = Variables::parse(&format!("A=1\n{line}\nB=2"), dialect).unwrap();
            assert_eq!(get(&document, "K"), Err(ErrorKind::Malformed), "{line:?}");
            assert_eq!(get(&document, "B"), Ok(Some("2".into())), "{line:?}");
        }
    }
    // npm `dotenv` reads `K` inside of the first value.
    assert!(parse("A:B='x\nK=1\n'", Dialect::Strict).is_err());
    let document = variables("A='''x\nK=1'\n");
    assert_eq!(get(&document, "K"), Err(ErrorKind::Malformed));
}

#[test]
fn shell_refuses_all_variables_that_a_line_could_set() {
    for line in [
        "A=1 K=$X",
        "K=2 B=$X",
        "K=2 B=x|C",
        "B=$X K=2",
        "K=two words",
        "A=two K=2 words",
        "A=two words K=2",
        "export A=1 b! \"K=2\"",
        "export A=1 \"K=2\"",
        "B=~ 'K'=2",
        "K=1 \r",
        "K=a\r",
        "A=1; K=2",
        "A=postgres://host/db?a=1&K=2",
        "A=<x K=2>",
    ] {
        let text = format!("K=0\n{line}\nZ=1\n");
        let document = Variables::parse(&text, Dialect::Shell);
        let document = document.unwrap_or_else(|error| panic!("{line:?}: {error}"));
        assert_eq!(get(&document, "K"), Err(ErrorKind::Malformed), "{line:?}");
        assert_eq!(get(&document, "Z"), Ok(Some("1".into())), "{line:?}");
    }
    for line in [
        "A=x unset K",
        "K=1 export X=2",
        "A=$X; unset K",
        "A=$X && . ./other",
        "A=x | \nK=1",
        "A=${K:=1}",
        "A=$((K=1))",
        "A=$'\\''K=1'",
        "\rK=1",
    ] {
        assert!(parse(line, Dialect::Shell).is_err(), "{line:?}");
    }
    for text in [
        "A=$X # it's set; K=2\nK=1",
        "\r\nK=1\n\r\n",
        "A=${X:-y}\nK=1",
    ] {
        assert_eq!(read(text, Dialect::Shell).as_deref(), Ok("1"), "{text:?}");
    }
}

/// A shell removes a backslash before a line end before it reads a `$` or a `~`.
#[test]
fn shell_refuses_expansions_after_a_line_continuation() {
    for text in [
        "K=$\\\nX",
        "K=$\\\n\\\n{X}",
        "K=\"$\\\nX\"",
        "K=\\\n~/x",
        "K=a:\\\n~/x",
        "K=$\\\n'x'",
    ] {
        let refused = match parse(text, Dialect::Shell) {
            Ok(entries) => entries.iter().all(|entry| entry.value.is_err()),
            Err(_) => true,
        };
        assert!(refused, "{text:?}");
    }
}

#[test]
fn number_of_notices_is_limited() {
    let text: String = (0..5_000).map(|n| format!("A{n}=a#b\n")).collect();
    let notices = variables(&text).notices(&KeyPrefix::root());
    assert_eq!(notices.len(), MAX_NOTICES + 1);
    let last = &notices[MAX_NOTICES];
    assert_eq!(last.kind, NoticeKind::Unreadable);
    assert_eq!(
        last.message,
        "line 201: the first of 4800 lines that are not reported"
    );
}

/// Quadratic work would take minutes.
#[test]
fn time_is_linear_in_document_size() {
    let pieces = [
        "export ",
        "A=1 ",
        "export A=1 ",
        "'",
        "\"",
        "\\",
        "\\'",
        " # '",
        "A='\\'\n",
        "A=$\\\n",
        "A=$X ",
        "\t\n",
    ];
    for piece in pieces {
        let text = piece.repeat(1_000_000 / piece.len());
        for dialect in DIALECTS {
            if let Ok(variables) = Variables::parse(&text, dialect) {
                assert!(variables.notices(&KeyPrefix::root()).len() < 2 * MAX_NOTICES);
            }
        }
    }
}

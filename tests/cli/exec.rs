//! Tests of `run` without `--watch`, which replaces the command with the program, and of properties that hold
//! with `--watch` as well.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use super::{RESET_SIGNALS, Secrets, binary, secretwell, text};

#[test]
fn program_runs_in_the_process_of_the_command() {
    let secrets = Secrets::new(&[("A", "1")]);
    let child = secrets
        .run(&[], &["sh", "-c", "echo $$"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id().to_string();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout).trim(), pid);
}

#[test]
fn exit_status_is_that_of_the_program() {
    let secrets = Secrets::new(&[("A", "1")]);
    for watch in [&[][..], &["--watch"]] {
        for status in 0..=255 {
            let output = secrets.script(watch, &format!("exit {status}"));
            assert_eq!(output.status.code(), Some(status));
        }
        for signal in [1, 2, 3, 6, 9, 10, 11, 13, 15] {
            let output = secrets.script(watch, &format!("kill -{signal} $$"));
            assert_eq!(output.status.signal(), Some(signal), "{watch:?}");
            assert!(!output.status.core_dumped() || watch.is_empty());
        }
    }
}

#[test]
fn values_are_passed_byte_for_byte() {
    let values: [(&str, &[u8]); 6] = [
        ("LINES", b"-----BEGIN\nline\r\n-----END\n\n"),
        ("QUOTES", b"'single' \"double\" \\ back"),
        ("SHELL", b"$HOME ${HOME} $(id) `id` !! * ~"),
        ("BYTES", b"\xff\xfe\x01"),
        ("SPACES", b"  both ends  "),
        ("EMPTY", b""),
    ];
    let secrets = Secrets::new(&values);
    for watch in [&[][..], &["--watch"]] {
        let options = [&["--pristine"], watch].concat();
        let output = secrets.run(&options, &["env", "-0"]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let mut variables: Vec<&[u8]> = output.stdout.split(|byte| *byte == 0).collect();
        variables.retain(|variable| !variable.is_empty());
        variables.sort_unstable();
        let mut expected: Vec<Vec<u8>> = values
            .iter()
            .map(|(name, value)| {
                // The file provider removes one line end at the end of a file, because editors add it.
                let value = value.strip_suffix(b"\n").unwrap_or(value);
                [name.as_bytes(), b"=", value].concat()
            })
            .collect();
        expected.sort_unstable();
        assert_eq!(variables, expected);
    }
}

#[test]
fn arguments_of_the_program_are_passed_unchanged() {
    let secrets = Secrets::new(&[("A", "1")]);
    let arguments = ["--watch", "-x", "--", "--from", "", "a b", "*"];
    for watch in [&[][..], &["--watch"]] {
        let program = [&["printf", "[%s]"], &arguments[..]].concat();
        let output = secrets.run(watch, &program).output().unwrap();
        assert_eq!(text(&output.stdout), "[--watch][-x][--][--from][][a b][*]");
    }
    let not_unicode = std::ffi::OsStr::from_bytes(b"\xff");
    let mut command = secrets.run(&[], &["printf", "%s"]);
    let output = command.arg(not_unicode).output().unwrap();
    assert_eq!(output.stdout, b"\xff");
}

/// The Rust runtime ignores SIGPIPE, and its children could inherit that.
#[test]
fn program_starts_with_default_signal_actions() {
    let secrets = Secrets::new(&[("A", "1")]);
    for watch in [&[][..], &["--watch"]] {
        let output = secrets.script(watch, "grep -E '^Sig(Ign|Blk)' /proc/self/status");
        let stdout = text(&output.stdout);
        let mask = |line: &str| u64::from_str_radix(line.split_once('\t')?.1, 16).ok();
        let masks: Vec<u64> = stdout.lines().filter_map(mask).collect();
        let pipe = 1 << (13 - 1);
        assert_eq!(masks.len(), 2, "{stdout}");
        assert_eq!((masks[0], masks[1] & pipe), (0, 0), "{watch:?}: {stdout}");
    }
}

#[test]
fn ignored_signals_are_inherited_by_the_program() {
    let secrets = Secrets::new(&[("A", "1")]);
    for watch in [&[][..], &["--watch"]] {
        let run = secrets.run(watch, &["grep", "SigIgn", "/proc/self/status"]);
        // The arguments after those of `env` are the command itself, without a reset of its signals.
        let mut nohup = Command::new("sh");
        nohup
            .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
            .args(run.get_args().skip(RESET_SIGNALS.len() - 1));
        let stdout = text(&nohup.output().unwrap().stdout);
        let mask = stdout.trim().rsplit('\t').next().unwrap();
        let mask = u64::from_str_radix(mask, 16).unwrap();
        assert_eq!(mask & 1, 1, "{watch:?}: {stdout}");
    }
}

#[test]
fn values_over_the_system_limits_are_reported() {
    let secrets = Secrets::new(&[("A", "x".repeat(200_000))]);
    let output = secrets.run(&[], &["true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(65));
    assert!(text(&output.stderr).contains("the value does not fit in a variable"));

    let value = "x".repeat(120_000);
    let names: Vec<String> = (0..100).map(|number| format!("A{number}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), &*value)).collect();
    let secrets = Secrets::new(&many);
    for watch in [&[][..], &["--watch"]] {
        let output = secrets.run(watch, &["true"]).output().unwrap();
        assert_eq!(output.status.code(), Some(126));
        let stderr = text(&output.stderr);
        assert!(
            stderr.contains("the environment of `true` is too large"),
            "{stderr}"
        );
    }
}

#[test]
fn broken_pipe_on_standard_output_is_not_an_error() {
    let script = "\"$0\" man | head -c 1; echo \"${PIPESTATUS[0]}\"";
    let mut shell = Command::new("bash");
    let output = shell.args(["-c", script]).arg(binary()).output().unwrap();
    assert!(text(&output.stdout).ends_with("0\n"));
    assert_eq!(text(&output.stderr), "");
}

/// The second source is not read, because the first one has the secret.
#[test]
fn credentials_of_the_command_are_not_passed_to_the_program() {
    let canary = secretwell_testkit::Canary::new("VAULT_TOKEN");
    let secrets = Secrets::new(&[("A", "1")]);
    let from = format!("{},vault+http://127.0.0.1:1/secret/app", secrets.url());
    for (options, expected) in [
        (&[][..], false),
        (&["--watch"], false),
        (&["--keep-credentials"], true),
        (&["--watch", "--keep-credentials"], true),
    ] {
        let mut command = secretwell(["run", "--from", &from, "--only", "A", "-vv"]);
        let script = "env; [ -z \"$A\" ] || echo started";
        command.args(options).args(["--", "sh", "-c", script]);
        let output = command.env("VAULT_TOKEN", canary.text()).output().unwrap();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(stdout.contains("started"), "{options:?}: {stdout}{stderr}");
        let passed = stdout.contains("VAULT_TOKEN=");
        assert_eq!(passed, expected, "{options:?}");
        assert_eq!(canary.found_in(&stdout).is_some(), expected, "{options:?}");
        let named = stderr.contains("the credential `VAULT_TOKEN` is not passed");
        assert_eq!(named, !expected, "{options:?}: {stderr}");
        assert_eq!(canary.found_in(&stderr), None, "{options:?}");
    }
}

/// The secret must not appear in command lines, logs or files.
#[test]
fn secret_is_passed_only_to_the_program() {
    let canary = secretwell_testkit::Canary::new("AUTH_SECRET");
    let secrets = Secrets::new(&[("AUTH_SECRET", canary.text())]);
    let directory = tempfile::tempdir().unwrap();
    let script = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; find . -type f";
    for watch in [
        &[][..],
        &["--watch"],
        &["--watch=signal:USR1", "--pristine"],
    ] {
        let options = [watch, &["-vvv", "--log-format", "json"]].concat();
        let mut command = secrets.run(&options, &["sh", "-c", script]);
        let output = command.current_dir(directory.path()).output().unwrap();
        assert!(output.status.success());
        let printed = text(&output.stdout) + &text(&output.stderr);
        assert!(
            printed.contains("secretwell"),
            "the command line of the command is not in the output"
        );
        assert_eq!(canary.found_in(&printed), None, "{watch:?}");
    }
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    for command in ["list", "check", "doctor"] {
        let mut command = secretwell([command, "-vvv", "--from", &secrets.url()]);
        let output = command.output().unwrap();
        let printed = text(&output.stdout) + &text(&output.stderr);
        assert!(printed.contains(&secrets.url()), "{printed}");
        assert_eq!(canary.found_in(&printed), None);
    }
}

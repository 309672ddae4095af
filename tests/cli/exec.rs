//! Without `--watch`, the command is gone once the program runs.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use super::{Secrets, binary, secretwell, text};

#[test]
fn the_program_takes_the_commands_place() {
    let secrets = Secrets::new(&[("A", "1")]);
    let child = secrets
        .run(&[], &["sh", "-c", "echo $$"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let process = child.id().to_string();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout).trim(), process);
}

#[test]
fn its_status_is_the_programs_own() {
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
fn values_arrive_to_the_letter() {
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
        let mut seen: Vec<&[u8]> = output.stdout.split(|byte| *byte == 0).collect();
        seen.retain(|variable| !variable.is_empty());
        seen.sort_unstable();
        let mut expected: Vec<Vec<u8>> = values
            .iter()
            .map(|(name, value)| {
                // One line end at a file's end is the editor's.
                let value = value.strip_suffix(b"\n").unwrap_or(value);
                [name.as_bytes(), b"=", value].concat()
            })
            .collect();
        expected.sort_unstable();
        assert_eq!(seen, expected);
    }
}

#[test]
fn the_programs_words_are_its_own() {
    let secrets = Secrets::new(&[("A", "1")]);
    let words = ["--watch", "-x", "--", "--from", "", "a b", "*"];
    for watch in [&[][..], &["--watch"]] {
        let program = [&["printf", "[%s]"], &words[..]].concat();
        let output = secrets.run(watch, &program).output().unwrap();
        assert_eq!(text(&output.stdout), "[--watch][-x][--][--from][][a b][*]");
    }
    let raw = std::ffi::OsStr::from_bytes(b"\xff");
    let mut command = secrets.run(&[], &["printf", "%s"]);
    let output = command.arg(raw).output().unwrap();
    assert_eq!(output.stdout, b"\xff");
}

/// The runtime of Rust ignores SIGPIPE, and its children would too.
#[test]
fn signals_do_to_the_program_what_they_do_by_default() {
    let secrets = Secrets::new(&[("A", "1")]);
    for watch in [&[][..], &["--watch"]] {
        let output = secrets.script(watch, "grep -E '^Sig(Ign|Blk)' /proc/self/status");
        let said = text(&output.stdout);
        let mask = |line: &str| u64::from_str_radix(line.split_once('\t')?.1, 16).ok();
        let masks: Vec<u64> = said.lines().filter_map(mask).collect();
        let pipe = 1 << (13 - 1);
        assert_eq!(masks.len(), 2, "{said}");
        assert_eq!((masks[0], masks[1] & pipe), (0, 0), "{watch:?}: {said}");
    }
}

#[test]
fn what_is_ignored_for_a_program_it_ignores() {
    let secrets = Secrets::new(&[("A", "1")]);
    for watch in [&[][..], &["--watch"]] {
        let run = secrets.run(watch, &["grep", "SigIgn", "/proc/self/status"]);
        let mut nohup = Command::new("sh");
        nohup
            .args(["-c", "trap '' HUP; exec \"$0\" \"$@\""])
            .arg(run.get_program())
            .args(run.get_args());
        let said = text(&nohup.output().unwrap().stdout);
        let mask = said.trim().rsplit('\t').next().unwrap();
        let mask = u64::from_str_radix(mask, 16).unwrap();
        assert_eq!(mask & 1, 1, "{watch:?}: {said}");
    }
}

#[test]
fn a_program_given_more_than_the_system_takes_is_told_so() {
    let secrets = Secrets::new(&[("A", "x".repeat(200_000))]);
    let output = secrets.run(&[], &["true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(65));
    assert!(text(&output.stderr).contains("no variable can hold so much"));

    let value = "x".repeat(120_000);
    let names: Vec<String> = (0..100).map(|number| format!("A{number}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), &*value)).collect();
    let secrets = Secrets::new(&many);
    for watch in [&[][..], &["--watch"]] {
        let output = secrets.run(watch, &["true"]).output().unwrap();
        assert_eq!(output.status.code(), Some(126));
        let said = text(&output.stderr);
        assert!(
            said.contains("`true` cannot be given so large an environment"),
            "{said}"
        );
    }
}

#[test]
fn a_reader_that_has_enough_is_no_trouble() {
    let script = "\"$0\" man | head -c 1; echo \"${PIPESTATUS[0]}\"";
    let mut shell = Command::new("bash");
    let output = shell.args(["-c", script]).arg(binary()).output().unwrap();
    assert!(text(&output.stdout).ends_with("0\n"));
    assert_eq!(text(&output.stderr), "");
}

/// What it was started with, what it says and what it leaves behind is free of the secret.
#[test]
fn the_secret_goes_to_the_program_and_nowhere_else() {
    let canary = secretwell_testkit::Canary::new("AUTH_SECRET");
    let secrets = Secrets::new(&[("AUTH_SECRET", canary.text())]);
    let folder = tempfile::tempdir().unwrap();
    let look = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; find . -type f";
    for watch in [
        &[][..],
        &["--watch"],
        &["--watch=signal:USR1", "--pristine"],
    ] {
        let options = [watch, &["-vvv", "--log-format", "json"]].concat();
        let mut command = secrets.run(&options, &["sh", "-c", look]);
        let output = command.current_dir(folder.path()).output().unwrap();
        assert!(output.status.success());
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(said.contains("secretwell"), "its own command line is there");
        assert_eq!(canary.found_in(&said), None, "{watch:?}");
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    for command in ["list", "check", "doctor"] {
        let mut command = secretwell([command, "-vvv", "--from", &secrets.url()]);
        let output = command.output().unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(said.contains(&secrets.url()), "{said}");
        assert_eq!(canary.found_in(&said), None);
    }
}

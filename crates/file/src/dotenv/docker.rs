//! The dialect of `docker run --env-file`: the text after the `=` is the value.

use zeroize::Zeroizing;

use super::scan::{BLANKS, is_conventional, without_export};
use super::{Entry, Problem};

const NO_SIGN: Problem = Problem::new(
    "no `=` after a name, so Docker takes the value from the environment",
    "write `NAME=value`",
);
const BLANK: Problem = Problem::new(
    "a blank in the name, which Docker refuses",
    "write `NAME=value` without `export` and without blanks",
);
const NO_NAME: Problem = Problem::new("no name before the `=`", "write `NAME=value`");

pub(super) fn parse(text: &str) -> Vec<Entry> {
    let lines = text.split('\n').enumerate();
    lines
        .filter_map(|(index, line)| entry(line.strip_suffix('\r').unwrap_or(line), index + 1))
        .collect()
}

fn entry(line: &str, number: usize) -> Option<Entry> {
    let line = line.trim_start();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let Some((name, value)) = line.split_once('=') else {
        let name = without_export(line.trim_end_matches(BLANKS));
        return Some(Entry {
            is_printable: is_conventional(name),
            ..Entry::new(
                if name.contains(BLANKS) { "" } else { name },
                number,
                Err(NO_SIGN),
            )
        });
    };
    let plain = without_export(name.trim_end_matches(BLANKS));
    Some(if name.is_empty() {
        Entry::hidden("", number, NO_NAME)
    } else if plain.contains(BLANKS) {
        Entry::hidden("", number, BLANK)
    } else if plain != name {
        Entry::new(plain, number, Err(BLANK))
    } else {
        Entry::new(name, number, Ok(Zeroizing::new(value.to_owned())))
    })
}

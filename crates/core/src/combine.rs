//! The error of a key that several sources could not return.

use crate::{Error, ErrorKind, Origin, SecretKey};

/// Returns the error of a read of several sources, given the error of each source that was read.
///
/// The last failure is returned, with the messages and hints of the other sources. Without a failure, the key is
/// absent: the error has the kind [`ErrorKind::NotFound`], the origin of all sources, and the message and hint of
/// each source.
pub fn combine_errors(origin: &Origin, key: &SecretKey, mut errors: Vec<Error>) -> Error {
    if errors.len() == 1 {
        return errors.remove(0);
    }
    let Some(index) = errors.iter().rposition(|error| !error.is_not_found()) else {
        let message = match &errors[..] {
            [] => "no source has it".to_owned(),
            errors => format!("no source has it: {}", reports(errors)),
        };
        return Error::new(ErrorKind::NotFound, message)
            .with_origin(origin)
            .with_key(key)
            .with_hint("add it to one of these sources");
    };
    let failure = errors.remove(index);
    let message = format!("{}; other sources: {}", failure.message(), reports(&errors));
    failure.with_message(message)
}

/// Returns the origin, message and hint of each error.
fn reports(errors: &[Error]) -> String {
    let reports = errors.iter().map(|error| {
        let origin = error.origin().map_or("unknown source", Origin::as_str);
        match error.hint() {
            Some(hint) => format!("{origin} ({}; {hint})", error.message()),
            None => format!("{origin} ({})", error.message()),
        }
    });
    reports.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_of_all_sources_are_kept() {
        let absent = |name: &str, hint: &'static str| {
            let error = Error::new(ErrorKind::NotFound, "it does not exist");
            error.with_origin(&Origin::new(name, "")).with_hint(hint)
        };
        let key = SecretKey::parse("A").unwrap();
        let errors = vec![
            absent("one", "leave out `data/`"),
            absent("two", "create it"),
        ];
        let text = combine_errors(&Origin::new("both", ""), &key, errors).to_string();
        for part in [
            "one:// (it does not exist; leave out `data/`)",
            "two:// (it does not exist; create it)",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let failure = Error::new(ErrorKind::Unavailable, "down").with_hint("start it");
        let errors = vec![absent("one", "leave out `data/`"), failure];
        let error = combine_errors(&Origin::new("both", ""), &key, errors);
        assert!(error.message().contains("leave out `data/`"), "{error}");
        assert_eq!(error.hint(), Some("start it"));
    }
}

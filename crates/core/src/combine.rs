//! The error of a key that several sources could not return.

use crate::{Error, ErrorKind, Origin, SecretKey};

/// Returns the error of a read of several sources, given the error of each source that was read.
///
/// The last failure is returned, with the messages of the other sources. Without a failure, the key is
/// absent: the error has the kind [`ErrorKind::NotFound`], the origin of all sources, and the message of
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

/// Returns the origin and message of each error.
fn reports(errors: &[Error]) -> String {
    let reports = errors.iter().map(|error| {
        let origin = error.origin().map_or("unknown source", Origin::as_str);
        format!("{origin} ({})", error.message())
    });
    reports.collect::<Vec<_>>().join(", ")
}

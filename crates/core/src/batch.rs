//! The rule that a batch has one result for each key.

use crate::{Error, Origin, Secret};

/// Returns `results` if there is one for each of `count` keys. Otherwise, returns the error
/// [`Error::wrong_result_count`] for every key.
///
/// Results have no key of their own. With another count, each of them might belong to any key.
pub fn require_one_result_per_key(
    results: Vec<Result<Secret, Error>>,
    count: usize,
    origin: &Origin,
) -> Vec<Result<Secret, Error>> {
    if results.len() == count {
        return results;
    }
    let error = Error::wrong_result_count().with_origin(origin);
    vec![Err(error); count]
}

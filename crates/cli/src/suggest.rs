//! Suggestions for misspelled names.

/// Returns the candidate that is most similar to `name`, if one is similar enough.
pub(crate) fn closest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let distances = candidates.into_iter().map(|it| (distance(name, it), it));
    let (distance, closest) = distances.min_by_key(|(distance, _)| *distance)?;
    let length = name.chars().count().max(closest.chars().count());
    (distance * 2 <= length && distance > 0).then_some(closest)
}

/// Returns the number of characters that must be inserted, removed, replaced or swapped with the next one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_names_are_suggested() {
        let fields = ["from", "require", "only", "signing", "previous"];
        for (name, expected) in [
            ("form", Some("from")),
            ("requires", Some("require")),
            ("signnig", Some("signing")),
            ("previuos", Some("previous")),
            ("oly", Some("only")),
            ("xyz", None),
            ("", None),
        ] {
            assert_eq!(closest(name, fields), expected, "{name}");
        }
        assert_eq!(closest("x", []), None);
    }
}

//! The values that several cookies of one name can have.
//!
//! A browser sends one cookie for each domain and path, without naming these. So a stale cookie can be
//! next to the valid one, and the chunks of two values can be mixed.

use std::collections::BTreeMap;

use crate::sessions::text::percent_decode;

/// Maximum number of values that are tried, of each kind.
const MAX_CANDIDATES: usize = 8;

/// Returns the distinct values of cookies that are not split.
pub(super) fn of_cookies<'a>(
    values: impl Iterator<Item = &'a str> + 'a,
) -> impl Iterator<Item = String> + 'a {
    let mut known: Vec<&str> = Vec::new();
    let distinct = values.filter(move |value| {
        let is_new = !value.is_empty() && known.len() < MAX_CANDIDATES && !known.contains(value);
        if is_new {
            known.push(value);
        }
        is_new
    });
    distinct.map(percent_decode)
}

/// Returns the values that result from joining chunks. `chunks` are their indices and values, in the
/// order of the header.
///
/// A value starts with a chunk 0 and ends before the first missing index. If an index occurs once, there
/// is no choice. Otherwise the chunks of one value are assumed to be
/// - the first of each index, the second of each index, and so on, or
/// - in order after each other, because a browser sends cookies in the order of their creation.
///
/// All chunks of a value but the last have the same length. So each value is also tried up to its first
/// shorter chunk: the next ones can be left over from a longer value.
pub(super) fn of_chunks<'a>(
    chunks: impl Iterator<Item = (usize, &'a str)>,
) -> impl Iterator<Item = String> {
    let mut by_index: BTreeMap<usize, Vec<Chunk<'a>>> = BTreeMap::new();
    for (position, (index, value)) in chunks.enumerate() {
        let same_index = by_index.entry(index).or_default();
        if !value.is_empty() && same_index.len() < MAX_CANDIDATES {
            same_index.push(Chunk { position, value });
        }
    }
    let contiguous: Vec<Vec<Chunk<'a>>> = by_index
        .into_iter()
        .enumerate()
        .take_while(|(expected, (index, chunks))| expected == index && !chunks.is_empty())
        .map(|(_, (_, chunks))| chunks)
        .collect();

    let mut found: Vec<Vec<&str>> = Vec::new();
    let starts = contiguous.first().map_or(0, Vec::len);
    for start in 0..starts {
        for joined in [in_column(&contiguous, start), in_order(&contiguous, start)] {
            let complete = up_to_shorter(&joined).to_vec();
            for candidate in [joined, complete] {
                if found.len() < MAX_CANDIDATES && !found.contains(&candidate) {
                    found.push(candidate);
                }
            }
        }
    }
    found
        .into_iter()
        .map(|chunks| chunks.into_iter().map(percent_decode).collect())
}

#[derive(Clone, Copy)]
struct Chunk<'a> {
    /// The position in the header.
    position: usize,
    value: &'a str,
}

/// Joins the given chunk 0 with the next chunk 1 after it in the header, the next chunk 2, and so on. A
/// chunk without a next one is followed by the first of the next index.
fn in_order<'a>(contiguous: &[Vec<Chunk<'a>>], start: usize) -> Vec<&'a str> {
    let mut position = None;
    let chunks = contiguous.iter().enumerate().filter_map(|(index, chunks)| {
        let is_next = |chunk: &&Chunk| position.is_none_or(|position| chunk.position > position);
        let chunk = match index {
            0 => chunks.get(start),
            _ => chunks.iter().find(is_next).or(chunks.first()),
        }?;
        position = Some(chunk.position);
        Some(chunk.value)
    });
    chunks.collect()
}

/// Joins the chunks that have the same rank among those of their index. An index with fewer chunks
/// contributes its last one.
fn in_column<'a>(contiguous: &[Vec<Chunk<'a>>], rank: usize) -> Vec<&'a str> {
    let chunks = contiguous
        .iter()
        .filter_map(|chunks| chunks.get(rank).or(chunks.last()));
    chunks.map(|chunk| chunk.value).collect()
}

/// Returns the chunks up to the first that is shorter than the one before it.
fn up_to_shorter<'b, 'a>(chunks: &'b [&'a str]) -> &'b [&'a str] {
    let shorter = chunks
        .windows(2)
        .position(|pair| pair[1].len() < pair[0].len());
    match shorter {
        Some(before) => &chunks[..before + 2],
        None => chunks,
    }
}

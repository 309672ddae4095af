//! The values that several cookies of one name can have.
//!
//! A browser sends one cookie for each domain and path, without naming these. So a stale cookie can be
//! next to the valid one, and the chunks of two values can be mixed.

use std::collections::BTreeMap;

use crate::sessions::text::percent_decode;

/// Maximum number of values that are tried, of each kind. Also limits the work for an arbitrary header.
const MAX_CANDIDATES: usize = 8;

/// Returns the distinct values of cookies that are not split.
pub(super) fn of_cookies<'a>(
    values: impl Iterator<Item = &'a str> + 'a,
) -> impl Iterator<Item = String> + 'a {
    let (mut known, mut count) = ([""; MAX_CANDIDATES], 0);
    let distinct = values.filter(move |value| {
        let is_new = !value.is_empty() && count < MAX_CANDIDATES && !known[..count].contains(value);
        if is_new {
            known[count] = value;
            count += 1;
        }
        is_new
    });
    distinct.map(percent_decode)
}

/// Returns the values that result from joining chunks. `chunks` are their indices and values, in the
/// order of the header.
///
/// If each index occurs once, there is one value. It ends before the first missing index. Otherwise the
/// chunks of several values are mixed, and these facts separate them:
///
/// - All chunks of a value but the last have the same length, and the last is not longer.
/// - A browser sends the cookies of a path in the order of their creation. So the chunks of one value
///   usually follow each other, or have the same rank among those of their index.
pub(super) fn of_chunks<'a>(
    chunks: impl Iterator<Item = (usize, &'a str)>,
) -> impl Iterator<Item = String> {
    let mixed = Mixed::new(chunks);
    let mut found: Vec<Vec<&str>> = Vec::new();
    for joined in mixed.by_rank().chain(mixed.by_order()) {
        if found.len() == MAX_CANDIDATES {
            break;
        }
        if !found.contains(&joined) {
            found.push(joined);
        }
    }
    found
        .into_iter()
        .map(|chunks| chunks.into_iter().map(percent_decode).collect())
}

/// The chunks of one or several values.
struct Mixed<'a> {
    /// The chunks of index 0, of index 1, and so on. None is empty.
    by_index: Vec<Vec<Chunk<'a>>>,
}

#[derive(Clone, Copy)]
struct Chunk<'a> {
    /// The position in the header.
    position: usize,
    value: &'a str,
}

impl<'a> Mixed<'a> {
    fn new(chunks: impl Iterator<Item = (usize, &'a str)>) -> Self {
        let mut by_index: BTreeMap<usize, Vec<Chunk<'a>>> = BTreeMap::new();
        let present = chunks.filter(|(_, value)| !value.is_empty());
        for (position, (index, value)) in present.enumerate() {
            let same_index = by_index.entry(index).or_default();
            if same_index.len() < MAX_CANDIDATES {
                same_index.push(Chunk { position, value });
            }
        }
        let contiguous = by_index.into_iter().enumerate();
        let contiguous = contiguous.take_while(|(expected, (index, _))| expected == index);
        Self {
            by_index: contiguous.map(|(_, (_, chunks))| chunks).collect(),
        }
    }

    /// Joins each chunk 0 with the next chunks after it, up to each possible last chunk.
    fn by_order(&self) -> impl Iterator<Item = Vec<&'a str>> {
        let first = self.by_index.first().into_iter().flatten();
        first.flat_map(|first| {
            let last = self.possible_ends(first.value.len()).take(MAX_CANDIDATES);
            last.filter_map(|(index, last)| self.between(*first, index, last))
        })
    }

    /// Returns the chunks, with their index, that can end a value whose other chunks have this length.
    fn possible_ends(&self, length: usize) -> impl Iterator<Item = (usize, Chunk<'a>)> {
        let last_index = self.by_index.len().saturating_sub(1);
        let all = self.by_index.iter().enumerate();
        let all = all.flat_map(|(index, chunks)| chunks.iter().map(move |chunk| (index, *chunk)));
        all.filter(move |(index, chunk)| match chunk.value.len() {
            shorter if shorter < length => *index > 0,
            equal if equal == length => *index == last_index,
            _ => false,
        })
    }

    /// Joins two chunks, and between them the next chunks of the length of the first.
    fn between(&self, first: Chunk<'a>, index: usize, last: Chunk<'a>) -> Option<Vec<&'a str>> {
        if index == 0 {
            return Some(vec![first.value]);
        }
        let mut joined = vec![first.value];
        let mut position = first.position;
        for chunks in self.by_index.get(1..index)? {
            let fits = |chunk: &&Chunk| chunk.value.len() == first.value.len();
            let mut fitting = chunks.iter().filter(fits);
            let next = fitting.clone().find(|chunk| chunk.position > position);
            let chunk = next.or_else(|| fitting.next())?;
            position = chunk.position;
            joined.push(chunk.value);
        }
        joined.push(last.value);
        Some(joined)
    }

    /// Joins the first chunk of each index, then the second of each index, and so on. An index with fewer
    /// chunks contributes its last one.
    fn by_rank(&self) -> impl Iterator<Item = Vec<&'a str>> {
        let ranks = 0..self.by_index.first().map_or(0, Vec::len);
        ranks.map(|rank| {
            let chunks = self.by_index.iter();
            let chunks = chunks.filter_map(|chunks| chunks.get(rank).or(chunks.last()));
            chunks.map(|chunk| chunk.value).collect()
        })
    }
}

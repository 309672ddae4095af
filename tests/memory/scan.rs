//! Reads the memory of another process, and finds the copies of a secret in it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// This many consecutive bytes of a secret are a copy. A value that is moved from a stack to the heap contains unused
/// bytes, in which code that is not optimized has stored a register of up to 32 bytes.
const PART_LENGTH: usize = 33;
/// The same on a stack, where two such registers can be side by side.
const STACK_PART_LENGTH: usize = 65;
/// The allocator overwrites this many bytes at the start of freed memory.
const FREED_START: usize = 16;
/// Memory is compared in words at multiples of their length. Each part of twice this length contains such a word.
const WORD: usize = 8;

/// A text of random letters and digits, so that its forms in JSON and in URLs are the same.
pub(crate) fn canary() -> String {
    (0..96).map(|_| fastrand::alphanumeric()).collect()
}

/// Byte sequences to be found, with their names.
#[derive(Default)]
pub(crate) struct Needles {
    needles: Vec<(String, Vec<u8>)>,
    /// The needles that contain a word, and its positions in them.
    words: HashMap<u64, Vec<(usize, usize)>>,
    /// Whether a word with these lower bytes exists, because most words of the memory are none.
    filter: Vec<bool>,
}

/// Bytes of a needle in a mapping of the process.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    pub(crate) name: String,
    /// The name of the mapping, such as `[heap]`.
    pub(crate) mapping: String,
    address: u64,
    pub(crate) length: usize,
    /// Whether it is the whole secret, except for its start, and text is neither in front of it nor behind it. The
    /// allocator writes to the start of a buffer that is freed.
    pub(crate) is_alone: bool,
    /// The bytes around it, for the message of a failed test.
    context: String,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            mapping,
            address,
            length,
            context,
            ..
        } = self;
        write!(
            f,
            "{name}: {length} bytes at {address:#x} in {mapping}: {context}"
        )
    }
}

impl Needles {
    /// Adds a secret text in all its forms: as it is, hexadecimal, and base64 at each position in a group.
    pub(crate) fn text(self, name: &str, text: &str) -> Self {
        let bytes = text.as_bytes();
        let lower: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut needles = self
            .bytes(name, bytes)
            .bytes(&format!("{name} in hex"), lower.to_uppercase().as_bytes())
            .bytes(&format!("{name} in hex"), lower.as_bytes());
        for skipped in 0..3 {
            // A group has 3 bytes. The groups of the text depend on the number of bytes in front of it.
            let groups = &bytes[skipped..bytes.len() - (bytes.len() - skipped) % 3];
            let form = format!("{name} in base64");
            needles = needles
                .bytes(&form, STANDARD_NO_PAD.encode(groups).as_bytes())
                .bytes(&form, URL_SAFE_NO_PAD.encode(groups).as_bytes());
        }
        needles
    }

    /// Adds bytes, such as a key.
    pub(crate) fn bytes(mut self, name: &str, bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 2 * WORD);
        if self.needles.iter().any(|(_, known)| known == bytes) {
            return self;
        }
        self.filter.resize(1 << 16, false);
        for (at, word) in bytes.windows(WORD).enumerate() {
            let word = u64::from_le_bytes(word.try_into().unwrap());
            self.filter[(word & 0xffff) as usize] = true;
            let places = self.words.entry(word).or_default();
            places.push((self.needles.len(), at));
        }
        self.needles.push((name.to_owned(), bytes.to_vec()));
        self
    }

    /// Returns what is in the writable memory of a process: its stacks, its heap and all other private mappings.
    pub(crate) fn find_in(&self, process: u32) -> Vec<Found> {
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
        let memory = File::open(format!("/proc/{process}/mem")).unwrap();
        let mut found = Vec::new();
        let mut guard_end = 0;
        for line in maps.lines() {
            let mut fields = line.split_whitespace();
            let (start, end) = fields.next().unwrap().split_once('-').unwrap();
            let address = |text| u64::from_str_radix(text, 16).unwrap();
            let (start, end) = (address(start), address(end));
            let access = fields.next().unwrap();
            if !access.starts_with("rw") {
                // A page that cannot be accessed is in front of the stack of each thread.
                guard_end = if access == "---p" && end - start == 4096 {
                    end
                } else {
                    0
                };
                continue;
            }
            let mapping = match fields.nth(3) {
                Some(name) => name,
                None if start == guard_end => "the stack of a thread",
                None => "a mapping without a name",
            };
            let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
            // A mapping that was removed since the list was read has no content.
            if memory.read_exact_at(&mut bytes, start).is_err() {
                let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
                assert!(!maps.contains(line), "{line} cannot be read");
                continue;
            }
            self.find_in_bytes(&bytes, start, mapping, &mut found);
        }
        found
    }

    fn find_in_bytes(&self, bytes: &[u8], start: u64, mapping: &str, found: &mut Vec<Found>) {
        // The end of the last part of each needle that was found, because a part has several words.
        let mut ends: BTreeMap<usize, usize> = BTreeMap::new();
        for (index, word) in bytes.chunks_exact(WORD).enumerate() {
            let word = u64::from_le_bytes(word.try_into().unwrap());
            if !self.filter[(word & 0xffff) as usize] {
                continue;
            }
            for &(needle, at) in self.words.get(&word).into_iter().flatten() {
                let place = index * WORD;
                if ends.get(&needle).is_some_and(|end| place < *end) {
                    continue;
                }
                let (name, text) = &self.needles[needle];
                let before = common(text[..at].iter().rev(), bytes[..place].iter().rev());
                let after = common(text[at..].iter(), bytes[place..].iter());
                let least = match mapping.contains("stack") {
                    true => STACK_PART_LENGTH,
                    false => PART_LENGTH,
                };
                if before + after < least.min(text.len()) {
                    continue;
                }
                ends.insert(needle, place + after);
                let neighbours = [
                    bytes[..place - before].last_chunk::<WORD>(),
                    bytes[place + after..].first_chunk::<WORD>(),
                ];
                let is_text =
                    |bytes: &[u8; WORD]| bytes.iter().all(|byte| matches!(byte, b' '..=b'~'));
                let is_in_text = neighbours.into_iter().flatten().any(is_text);
                let around = place.saturating_sub(before + 64)..bytes.len().min(place + after + 64);
                found.push(Found {
                    name: name.clone(),
                    mapping: mapping.to_owned(),
                    address: start + (place - before) as u64,
                    length: before + after,
                    is_alone: before + after + FREED_START >= text.len() && !is_in_text,
                    context: bytes[around].escape_ascii().to_string(),
                });
            }
        }
    }
}

fn common<'a>(one: impl Iterator<Item = &'a u8>, other: impl Iterator<Item = &'a u8>) -> usize {
    one.zip(other)
        .take_while(|(one, other)| one == other)
        .count()
}

//! Reads a body, up to a limit, into a buffer that is wiped.

use zeroize::Zeroizing;

use crate::failure::Failure;

/// Reads all of `response`'s body, unless it is longer than `limit` bytes.
pub(crate) async fn read(
    mut response: reqwest::Response,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let announced = response
        .content_length()
        .map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX));
    if announced > limit {
        return Err(Failure::TooLarge(limit));
    }
    let mut body = Zeroizing::new(Vec::with_capacity(announced));
    while let Some(chunk) = response.chunk().await.map_err(Failure::Exchange)? {
        if chunk.len() > limit - body.len() {
            return Err(Failure::TooLarge(limit));
        }
        append(&mut body, &chunk);
    }
    Ok(body)
}

/// Appends without leaving a copy behind, as growing in place would.
fn append(body: &mut Zeroizing<Vec<u8>>, chunk: &[u8]) {
    if body.capacity() - body.len() < chunk.len() {
        let mut larger = Vec::with_capacity((body.len() + chunk.len()).next_power_of_two());
        larger.extend_from_slice(body);
        // The old buffer is wiped as it goes.
        *body = Zeroizing::new(larger);
    }
    body.extend_from_slice(chunk);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_grows_without_a_reallocation_in_place() {
        let mut body = Zeroizing::new(Vec::with_capacity(4));
        for _ in 0..100 {
            append(&mut body, b"abc");
        }
        assert_eq!(body.len(), 300);
        assert_eq!(*body, b"abc".repeat(100));
    }
}

//! Reading of response bodies, up to a size limit, into a buffer that is wiped on drop.

use zeroize::Zeroizing;

use crate::failure::Failure;

/// Reads the whole body of `response`. Fails if it is longer than `limit` bytes.
pub(crate) async fn read(
    response: &mut reqwest::Response,
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

/// Appends `chunk`. A `Vec` that grows by itself would leave an unwiped copy in freed memory, so a full buffer
/// is replaced by a larger one and wiped.
fn append(body: &mut Zeroizing<Vec<u8>>, chunk: &[u8]) {
    if body.capacity() - body.len() < chunk.len() {
        let mut larger = Vec::with_capacity((body.len() + chunk.len()).next_power_of_two());
        larger.extend_from_slice(body);
        // The assignment drops the old buffer, which wipes it.
        *body = Zeroizing::new(larger);
    }
    body.extend_from_slice(chunk);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_grows_across_reallocations() {
        let mut body = Zeroizing::new(Vec::with_capacity(4));
        for _ in 0..100 {
            append(&mut body, b"abc");
        }
        assert_eq!(body.len(), 300);
        assert_eq!(*body, b"abc".repeat(100));
    }
}

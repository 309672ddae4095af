//! Replay protection: each notification is accepted once, and only near the time at which it was sent.

use std::collections::BTreeSet;

use crate::rejection::Rejection;

/// How far the clocks of the sender and of this machine can differ, in milliseconds.
pub(crate) const WINDOW: u64 = 5 * 60 * 1000;
/// The maximum number of remembered notifications.
const MAX_REMEMBERED: usize = 10_000;

/// The notifications that were accepted within the window.
#[derive(Debug, Default)]
pub(crate) struct ReplayGuard {
    /// The time at which each of them was sent, and its digest.
    remembered: BTreeSet<(u64, [u8; 32])>,
    /// The newest time of those that were forgotten. Should the clock be set back, they are still refused.
    forgotten_until: Option<u64>,
}

impl ReplayGuard {
    /// Accepts and remembers a notification. All times are in milliseconds since 1970.
    ///
    /// # Errors
    /// Returns a rejection if the notification is old, was accepted before, or if too many are remembered. None
    /// is forgotten to make room, because it could then be replayed.
    pub(crate) fn admit(
        &mut self,
        now: u64,
        sent_at: u64,
        digest: [u8; 32],
    ) -> Result<(), Rejection> {
        self.forget_before(now.saturating_sub(WINDOW));
        self.check_time(now, sent_at)?;
        if self.remembered.contains(&(sent_at, digest)) {
            return Err(Rejection::replayed());
        }
        if self.remembered.len() >= MAX_REMEMBERED {
            let oldest = self.remembered.first().map_or(now, |&(time, _)| time);
            let wait = (oldest + WINDOW).saturating_sub(now);
            return Err(Rejection::too_many(wait / 1000 + 1));
        }
        self.remembered.insert((sent_at, digest));
        Ok(())
    }

    /// Checks the time of a notification only.
    ///
    /// # Errors
    /// Returns a rejection if [`admit`](Self::admit) rejects every notification of this time.
    pub(crate) fn check_time(&self, now: u64, sent_at: u64) -> Result<(), Rejection> {
        let is_forgotten = self.forgotten_until.is_some_and(|time| sent_at <= time);
        match now.abs_diff(sent_at) > WINDOW || is_forgotten {
            true => Err(Rejection::unauthorized(
                "the time of the signature differs from the time here by more than 5 minutes; check the clocks, and that it is in Unix seconds",
            )),
            false => Ok(()),
        }
    }

    fn forget_before(&mut self, time: u64) {
        while let Some(&(sent_at, _)) = self.remembered.first()
            && sent_at < time
        {
            self.remembered.pop_first();
            self.forgotten_until = Some(sent_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn status(result: Result<(), Rejection>) -> Result<(), u16> {
        result.map_err(|rejection| rejection.status.as_u16())
    }

    #[test]
    fn clocks_can_differ_by_five_minutes() {
        let mut guard = ReplayGuard::default();
        assert_eq!(guard.admit(NOW, NOW - WINDOW, [0; 32]), Ok(()));
        assert_eq!(guard.admit(NOW, NOW + WINDOW, [0; 32]), Ok(()));
        assert_eq!(
            status(guard.admit(NOW, NOW - WINDOW - 1, [1; 32])),
            Err(401)
        );
        assert_eq!(
            status(guard.admit(NOW, NOW + WINDOW + 1, [1; 32])),
            Err(401)
        );
        assert_eq!(status(guard.admit(NOW, 0, [1; 32])), Err(401));
        assert_eq!(status(guard.admit(NOW, u64::MAX, [1; 32])), Err(401));
        assert_eq!(
            status(guard.admit(0, NOW, [1; 32])),
            Err(401),
            "a clock that is not set"
        );
    }

    #[test]
    fn notification_is_accepted_once_as_long_as_its_time_is_valid() {
        let mut guard = ReplayGuard::default();
        let sent_at = NOW + WINDOW;
        assert_eq!(guard.admit(NOW, sent_at, [0; 32]), Ok(()));
        assert_eq!(guard.admit(NOW, sent_at, [1; 32]), Ok(()), "another one");
        for later in [0, 1, WINDOW, 2 * WINDOW] {
            assert_eq!(
                status(guard.admit(NOW + later, sent_at, [0; 32])),
                Err(409),
                "{later}"
            );
        }
        let later = NOW + 2 * WINDOW + 1;
        assert_eq!(status(guard.admit(later, sent_at, [0; 32])), Err(401));
        assert!(guard.remembered.is_empty());
    }

    #[test]
    fn clock_that_is_set_back_makes_no_replay_possible() {
        let mut guard = ReplayGuard::default();
        assert_eq!(guard.admit(NOW, NOW, [0; 32]), Ok(()));
        let later = NOW + WINDOW + 1;
        assert_eq!(guard.admit(later, later, [1; 32]), Ok(()));
        assert_eq!(status(guard.admit(NOW, NOW, [0; 32])), Err(401));
        assert_eq!(guard.admit(NOW, NOW + 1, [2; 32]), Ok(()));
    }

    #[test]
    fn notifications_are_refused_when_no_more_can_be_remembered() {
        let mut guard = ReplayGuard::default();
        let digest = |number: usize| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_be_bytes());
            digest
        };
        for number in 0..MAX_REMEMBERED {
            assert_eq!(guard.admit(NOW, NOW, digest(number)), Ok(()));
        }
        let refused = guard
            .admit(NOW + 1000, NOW + 1000, digest(MAX_REMEMBERED))
            .unwrap_err();
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(
            refused.into_response().headers()["retry-after"],
            (WINDOW / 1000).to_string()
        );
        assert_eq!(
            status(guard.admit(NOW, NOW, digest(0))),
            Err(409),
            "the first one is still remembered"
        );
        let later = NOW + WINDOW + 1;
        assert_eq!(guard.admit(later, later, digest(MAX_REMEMBERED)), Ok(()));
    }
}

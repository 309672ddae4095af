//! Responses about leases.

use std::time::Duration;

use secretwell_core::{Error, ErrorKind};
use secretwell_http::Response;

use super::envelope::{Envelope, lifetime, unexplained};

/// The lease of a dynamic secret.
pub(crate) struct LeaseInfo {
    pub(crate) id: Option<String>,
    pub(crate) duration: Option<Duration>,
    pub(crate) renewable: bool,
}

/// Parses the lease of a response. Without a lease, the id and the duration are `None`.
pub(crate) fn lease_info(response: &Response) -> Result<LeaseInfo, Error> {
    let envelope = Envelope::of(response)?;
    let id = Some(envelope.lease_id).filter(|id| !id.is_empty());
    Ok(LeaseInfo {
        // Without an id, the duration is only a suggestion for polling.
        duration: id.as_ref().and_then(|_| lifetime(envelope.lease_duration)),
        renewable: envelope.renewable,
        id,
    })
}

/// Parses the response to renewing or revoking a lease.
pub(crate) fn updated_lease(response: &Response) -> Result<LeaseInfo, Error> {
    match response.status.as_u16() {
        204 => Ok(LeaseInfo {
            id: None,
            duration: None,
            renewable: false,
        }),
        200 => lease_info(response),
        403 => Err(Error::new(
            ErrorKind::Denied,
            "the policy does not allow renewing or revoking leases",
        )
        .with_hint("grant `update` on `sys/leases/renew` and `sys/leases/revoke`")),
        400 if Envelope::of_error(response).mentions("lease not found") => Err(Error::new(
            ErrorKind::NotFound,
            "the lease does not exist any more",
        )),
        _ => Err(unexplained(response)),
    }
}

//! Logins with the identity of AWS credentials.

use std::fmt;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderName, Method, Request};
use secretwell_core::{Error, SecretValue};
use zeroize::Zeroizing;

use crate::error::invalid;
use crate::json::json_object;

mod keys;
mod sign;

pub use keys::{AwsCredentials, AwsKeys};
pub use sign::AwsSigner;

/// The body of the request that [`AwsIdentity`] signs.
const GET_CALLER_IDENTITY: &str = "Action=GetCallerIdentity&Version=2011-06-15";
/// The region of AWS's global endpoint.
const GLOBAL_REGION: &str = "us-east-1";

/// The identity of AWS credentials, as a proof for another server.
///
/// It is a signed request for `GetCallerIdentity`, an operation of AWS that returns the name of the caller.
/// The other server sends the request to AWS and so learns who has signed it. It does not receive the keys. AWS
/// accepts the request for 15 minutes.
///
/// ```
/// use secretwell_http::{AwsCredentials, AwsIdentity};
///
/// let identity = AwsIdentity::new(AwsCredentials::from_env()).region("eu-central-1");
/// ```
#[derive(Debug, Clone)]
pub struct AwsIdentity {
    credentials: AwsCredentials,
    region: Option<String>,
    header: Option<(String, String)>,
}

impl AwsIdentity {
    /// Creates an identity of these credentials.
    pub fn new(credentials: AwsCredentials) -> Self {
        Self {
            credentials,
            region: None,
            header: None,
        }
    }

    /// Sets the region whose endpoint of AWS checks the signature. Default: the global endpoint.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Adds a header to the signed request, such as one that names the server for which it is meant.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.header = Some((name.into(), value.into()));
        self
    }

    /// Sets the region, unless there is one.
    #[must_use]
    pub fn with_default_region(mut self) -> Self {
        self.region.get_or_insert_with(|| GLOBAL_REGION.to_owned());
        self
    }

    /// Checks the settings as far as possible without I/O.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`](secretwell_core::ErrorKind::InvalidConfig) if the region or the
    /// additional header is not valid.
    pub fn check(&self) -> Result<(), Error> {
        self.endpoint()?;
        self.request().map(drop)
    }

    /// Signs a request with the current credentials.
    ///
    /// # Errors
    /// Returns the error of the credentials, and those of [`check`](Self::check).
    pub async fn prove(&self) -> Result<AwsProof, Error> {
        let keys = self.credentials.read().await?;
        let mut request = self.request()?;
        let region = self.region.as_deref().unwrap_or(GLOBAL_REGION);
        AwsSigner::new(region, "sts", SystemTime::now()).sign(&mut request, &keys)?;
        Ok(AwsProof { request })
    }

    /// Returns the host name of the endpoint that checks the signature.
    fn endpoint(&self) -> Result<String, Error> {
        let Some(region) = &self.region else {
            return Ok("sts.amazonaws.com".to_owned());
        };
        let is_valid = region
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if region.is_empty() || !is_valid {
            return Err(
                invalid("the AWS region is not valid").with_hint("write it like `eu-central-1`")
            );
        }
        let domain = match region.starts_with("cn-") {
            true => "amazonaws.com.cn",
            false => "amazonaws.com",
        };
        Ok(format!("sts.{region}.{domain}"))
    }

    fn request(&self) -> Result<Request<&'static str>, Error> {
        const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
        let endpoint = self.endpoint()?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://{endpoint}/"))
            .header(HOST, endpoint)
            .header(CONTENT_TYPE, FORM);
        if let Some((name, value)) = &self.header {
            let name_in_lower_case = name.to_ascii_lowercase();
            let is_taken = ["host", "content-type", "authorization"]
                .contains(&name_in_lower_case.as_str())
                || name_in_lower_case.starts_with("x-amz-");
            let is_visible = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
            if is_taken || !is_visible {
                return Err(invalid_header());
            }
            request = request.header(name, value);
        }
        request
            .body(GET_CALLER_IDENTITY)
            .map_err(|_| invalid_header())
    }
}

fn invalid_header() -> Error {
    invalid("the additional header of the signed AWS request is not valid").with_hint(
        "use visible ASCII characters, and a name that the signature does not use itself",
    )
}

/// A signed request that proves an [`AwsIdentity`]. All texts are encoded as base64.
pub struct AwsProof {
    request: Request<&'static str>,
}

impl AwsProof {
    /// Returns the URL of the request.
    pub fn url(&self) -> String {
        STANDARD.encode(self.request.uri().to_string())
    }

    /// Returns the body of the request.
    pub fn body(&self) -> String {
        STANDARD.encode(self.request.body())
    }

    /// Returns the headers of the request as a JSON object.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`](secretwell_core::ErrorKind::Invalid) if the encoding fails, which is not
    /// known to happen.
    pub fn headers(&self) -> Result<SecretValue, Error> {
        let headers: Vec<_> = self
            .request
            .headers()
            .iter()
            .filter_map(|(name, value)| Some((conventional(name), value.to_str().ok()?)))
            .collect();
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        let json = json_object(&headers)?;
        let text = Zeroizing::new(STANDARD.encode(json.expose_bytes()));
        Ok(text.as_str().into())
    }
}

/// Omits the signature.
impl fmt::Debug for AwsProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsProof")
            .field("uri", self.request.uri())
            .finish_non_exhaustive()
    }
}

/// Writes the name of a header with initial capitals, as other clients do. The names in a JSON object are
/// case-sensitive.
fn conventional(name: &HeaderName) -> String {
    let words = name.as_str().split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    words.collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use secretwell_core::ErrorKind;

    use super::*;

    fn decoded(text: &str) -> String {
        String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn proof_names_the_endpoint_of_the_region_and_has_all_signed_headers() {
        let keys = AwsKeys::new("AKIDEXAMPLE", "secret").with_session_token("token");
        let identity = AwsIdentity::new(AwsCredentials::keys(keys))
            .header("X-Vault-AWS-IAM-Server-ID", "vault.example.com");
        for (identity, host, region) in [
            (identity.clone(), "sts.amazonaws.com", "us-east-1"),
            (
                identity.clone().with_default_region(),
                "sts.us-east-1.amazonaws.com",
                "us-east-1",
            ),
            (
                identity.clone().region("cn-north-1").with_default_region(),
                "sts.cn-north-1.amazonaws.com.cn",
                "cn-north-1",
            ),
        ] {
            identity.check().unwrap();
            let proof = identity.prove().await.unwrap();
            assert_eq!(decoded(&proof.url()), format!("https://{host}/"));
            assert_eq!(decoded(&proof.body()), GET_CALLER_IDENTITY);
            let headers = decoded(proof.headers().unwrap().expose_text().unwrap());
            let headers: std::collections::BTreeMap<String, String> =
                serde_json::from_str(&headers).unwrap();
            assert_eq!(headers["Host"], host);
            assert_eq!(headers["X-Amz-Security-Token"], "token");
            assert_eq!(headers["X-Vault-Aws-Iam-Server-Id"], "vault.example.com");
            let expected = format!(
                "/{region}/sts/aws4_request, SignedHeaders=content-type;host;x-amz-date;\
                 x-amz-security-token;x-vault-aws-iam-server-id, Signature="
            );
            assert!(headers["Authorization"].contains(&expected), "{headers:?}");
        }
        for wrong in [
            identity.clone().region("eu central"),
            identity.clone().region(""),
            identity.clone().header("a\n", "b"),
            identity.clone().header("a", "b\n"),
        ] {
            let error = wrong.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        }
        for taken in [
            "Host",
            "content-type",
            "AUTHORIZATION",
            "X-Amz-Date",
            "x-amz-security-token",
            "X-AMZ-Content-Sha256",
        ] {
            let error = identity.clone().header(taken, "b").check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{taken}");
            assert!(error.to_string().contains("additional header"), "{error}");
        }
    }
}

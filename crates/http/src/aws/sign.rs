//! Signature version 4 of AWS.

use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256, Tag};
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use secretwell_core::{Error, ErrorKind};
use zeroize::Zeroizing;

use super::keys::AwsKeys;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const SESSION_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// All bytes except for the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const RESERVED_IN_PATH: &AsciiSet = &RESERVED.remove(b'/');

/// A signer of requests to AWS, with signature version 4.
///
/// It does not encode the path a second time and does not remove `.` and `..` from it. Services other than S3
/// expect both, so a path should have only unreserved characters.
#[derive(Debug, Clone)]
pub struct AwsSigner<'a> {
    region: &'a str,
    service: &'a str,
    /// The time of the request, such as `20150830T123600Z`.
    time: String,
}

impl<'a> AwsSigner<'a> {
    /// Creates a signer for a service in a region. AWS accepts a request for some minutes after `time`.
    pub fn new(region: &'a str, service: &'a str, time: SystemTime) -> Self {
        let mut time = humantime::format_rfc3339_seconds(time).to_string();
        time.retain(|character| !matches!(character, '-' | ':'));
        Self {
            region,
            service,
            time,
        }
    }

    /// Signs a request with all its headers. Adds the headers `x-amz-date` and `authorization`, and
    /// `x-amz-security-token` for temporary keys. Adds `host` if it is missing.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if a key contains a character that a header cannot contain.
    pub fn sign<B: AsRef<[u8]>>(
        &self,
        request: &mut Request<B>,
        keys: &AwsKeys,
    ) -> Result<(), Error> {
        if !request.headers().contains_key(HOST) {
            let host = request.uri().authority().map_or("", |host| host.as_str());
            let host = header(host.as_bytes())?;
            request.headers_mut().insert(HOST, host);
        }
        let headers = request.headers_mut();
        headers.remove(AUTHORIZATION);
        headers.insert(DATE, header(self.time.as_bytes())?);
        if let Some(token) = keys.session_token() {
            let mut token = header(token)?;
            token.set_sensitive(true);
            headers.insert(SESSION_TOKEN, token);
        }
        let (signed_headers, canonical_request) = canonical_request(request);
        let date = self.time.get(..8).unwrap_or_default();
        let scope = format!("{date}/{}/{}/aws4_request", self.region, self.service);
        let digest = hexadecimal(digest(&SHA256, canonical_request.as_bytes()).as_ref());
        let text = format!("{ALGORITHM}\n{}\n{scope}\n{digest}", self.time);
        let signature = hexadecimal(self.signature(date, keys, &text).as_ref());
        let id = keys.access_key_id();
        let authorization = format!(
            "{ALGORITHM} Credential={id}/{scope}, SignedHeaders={signed_headers}, Signature={signature}"
        );
        let mut authorization = header(authorization.as_bytes())?;
        authorization.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, authorization);
        Ok(())
    }

    fn signature(&self, date: &str, keys: &AwsKeys, text: &str) -> Tag {
        let secret = Zeroizing::new([b"AWS4", keys.secret()].concat());
        [self.region, self.service, "aws4_request", text]
            .into_iter()
            .fold(authenticate(&secret, date), |key, text| {
                authenticate(key.as_ref(), text)
            })
    }
}

fn authenticate(key: &[u8], text: &str) -> Tag {
    hmac::sign(&hmac::Key::new(HMAC_SHA256, key), text.as_bytes())
}

/// Returns the names of the signed headers, and the text whose digest is signed.
fn canonical_request<B: AsRef<[u8]>>(request: &Request<B>) -> (String, Zeroizing<String>) {
    let headers = request.headers();
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    let lines: Vec<_> = names
        .iter()
        .map(|name| canonical_header(headers, name))
        .collect();
    let lines = Zeroizing::new(lines.concat());
    let names = names.join(";");
    let text = format!(
        "{}\n{}\n{}\n{}\n{names}\n{}",
        request.method(),
        percent_encode(
            &percent_decode_str(request.uri().path()).collect::<Vec<_>>(),
            RESERVED_IN_PATH
        ),
        canonical_query(request.uri()),
        *lines,
        hexadecimal(digest(&SHA256, request.body().as_ref()).as_ref()),
    );
    (names, Zeroizing::new(text))
}

/// Returns a line with all values of a header. White space inside of them is reduced to single spaces.
fn canonical_header(headers: &HeaderMap, name: &str) -> String {
    let values = headers.get_all(name).into_iter().map(|value| {
        let text = String::from_utf8_lossy(value.as_bytes());
        text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    });
    format!("{name}:{}\n", values.collect::<Vec<_>>().join(","))
}

/// Returns the parameters of a query in the order of their encoded names and values.
fn canonical_query(uri: &Uri) -> String {
    let encode = |text: &str| {
        let bytes: Vec<u8> = percent_decode_str(text).collect();
        percent_encode(&bytes, RESERVED).to_string()
    };
    let parameters = uri.query().unwrap_or_default().split('&');
    let mut parameters: Vec<_> = parameters
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            (encode(name), encode(value))
        })
        .collect();
    parameters.sort_unstable();
    let parameters = parameters
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    parameters.collect::<Vec<_>>().join("&")
}

fn header(text: &[u8]) -> Result<HeaderValue, Error> {
    HeaderValue::from_bytes(text).map_err(|_| {
        let message = "a key of the AWS credentials contains a character that is not allowed";
        Error::new(ErrorKind::InvalidConfig, message)
            .with_hint("check whether it contains a line break")
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// The session token of the vector `post-sts-header-before`.
    const TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";

    fn keys() -> AwsKeys {
        AwsKeys::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    }

    /// Returns the value of the header `authorization` of a signed request.
    fn signed(line: &str, headers: &[(&str, &str)], body: &str, keys: &AwsKeys) -> String {
        // 2015-08-30 12:36:00.
        let time = UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://example.amazonaws.com{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body.to_owned()).unwrap();
        let signer = AwsSigner::new("us-east-1", "service", time);
        // A signed request can be signed again.
        for _ in 0..2 {
            signer.sign(&mut request, keys).unwrap();
        }
        let signed = &request.headers()[AUTHORIZATION];
        assert!(signed.is_sensitive());
        signed.to_str().unwrap().to_owned()
    }

    /// The vectors of the signing test suite that AWS publishes for its SDKs.
    #[test]
    fn signatures_are_those_of_the_published_test_suite() {
        const FORM: &str = "application/x-www-form-urlencoded";
        const FORM_DIGEST: (&str, &str) = (
            "x-amz-content-sha256",
            "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e",
        );
        const LENGTH: (&str, &str) = ("content-length", "13");
        let letters: String = ('0'..='9').chain('A'..='Z').chain('a'..='z').collect();
        let unreserved = format!("GET /-._~{letters}");
        for (name, line, headers, body, names, signature) in [
            (
                "get-vanilla",
                "GET /",
                &[][..],
                "",
                "host;x-amz-date",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "post-vanilla",
                "POST /",
                &[],
                "",
                "host;x-amz-date",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "get-vanilla-query-order-key-case",
                "GET /?Param2=value2&Param1=value1",
                &[],
                "",
                "host;x-amz-date",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (
                "get-vanilla-query-order-encoded",
                "GET /?Param-3=Value3&Param=Value2&%E1%88%B4=Value1",
                &[],
                "",
                "host;x-amz-date",
                "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac",
            ),
            (
                "get-vanilla-utf8-query",
                "GET /?%E1%88%B4=bar",
                &[],
                "",
                "host;x-amz-date",
                "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
            ),
            (
                "get-vanilla-empty-query-key",
                "GET /?Param1=value1",
                &[],
                "",
                "host;x-amz-date",
                "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
            ),
            (
                "post-vanilla-query",
                "POST /?Param1=value1",
                &[],
                "",
                "host;x-amz-date",
                "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
            ),
            (
                "get-unreserved",
                &unreserved,
                &[],
                "",
                "host;x-amz-date",
                "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
            ),
            (
                "get-utf8",
                "GET /%E1%88%B4",
                &[],
                "",
                "host;x-amz-date",
                "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85",
            ),
            (
                "get-space-unnormalized",
                "GET /example%20space/",
                &[],
                "",
                "host;x-amz-date",
                "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
            ),
            (
                "get-header-value-trim",
                "GET /",
                &[("My-Header1", " value1"), ("My-Header2", " \"a   b   c\"")],
                "",
                "host;my-header1;my-header2;x-amz-date",
                "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
            ),
            (
                "get-header-key-duplicate",
                "GET /",
                &[
                    ("My-Header1", "value2"),
                    ("My-Header1", "value2"),
                    ("My-Header1", "value1"),
                ],
                "",
                "host;my-header1;x-amz-date",
                "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
            ),
            (
                "get-header-value-order",
                "GET /",
                &[
                    ("My-Header1", "value4"),
                    ("My-Header1", "value1"),
                    ("My-Header1", "value3"),
                    ("My-Header1", "value2"),
                ],
                "",
                "host;my-header1;x-amz-date",
                "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
            ),
            (
                "post-header-key-sort",
                "POST /",
                &[("My-Header1", "value1")],
                "",
                "host;my-header1;x-amz-date",
                "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
            ),
            (
                "post-x-www-form-urlencoded",
                "POST /",
                &[("Content-Type", FORM), LENGTH, FORM_DIGEST],
                "Param1=value1",
                "content-length;content-type;host;x-amz-content-sha256;x-amz-date",
                "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
            ),
            (
                "post-x-www-form-urlencoded-parameters",
                "POST /",
                &[
                    (
                        "Content-Type",
                        "application/x-www-form-urlencoded; charset=utf-8",
                    ),
                    LENGTH,
                    FORM_DIGEST,
                ],
                "Param1=value1",
                "content-length;content-type;host;x-amz-content-sha256;x-amz-date",
                "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422",
            ),
        ] {
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                 SignedHeaders={names}, Signature={signature}"
            );
            assert_eq!(signed(line, headers, body, &keys()), expected, "{name}");
        }
        for (line, token, signature) in [
            (
                "GET /",
                "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267",
                "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
            ),
            (
                "POST /",
                TOKEN,
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
        ] {
            let signed = signed(line, &[], "", &keys().with_session_token(token));
            let expected = format!(
                "SignedHeaders=host;x-amz-date;x-amz-security-token, Signature={signature}"
            );
            assert!(signed.ends_with(&expected), "{signed}");
        }
    }

    #[test]
    fn keys_that_no_header_can_contain_are_refused() {
        let mut request = Request::new("");
        let signer = AwsSigner::new("us-east-1", "sts", UNIX_EPOCH);
        let error = signer
            .sign(&mut request, &AwsKeys::new("a\nb", "secret"))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    }
}

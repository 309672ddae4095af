//! Signature version 4 of AWS.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use secretwell_core::{Error, ErrorKind};
use zeroize::Zeroizing;

use super::keys::AwsKeys;
use crate::request::secret_header_value;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const SESSION_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// All bytes except for the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The key for the next step of the signature, or the signature. It is wiped on drop.
type Tag = Zeroizing<[u8; 32]>;

/// A signer of requests to AWS, with signature version 4. It signs for all services except for S3, which expects
/// another encoding of the path.
#[derive(Debug, Clone)]
pub struct AwsSigner<'a> {
    region: &'a str,
    service: &'a str,
    time: SystemTime,
}

impl<'a> AwsSigner<'a> {
    /// Creates a signer for a service in a region. AWS accepts a request for some minutes after `time`.
    pub fn new(region: &'a str, service: &'a str, time: SystemTime) -> Self {
        Self {
            region,
            service,
            time,
        }
    }

    /// Signs a request with all its headers. Replaces the headers `x-amz-date`, `authorization` and
    /// `x-amz-security-token`, of which the last one belongs to temporary keys. Adds `host` if it is missing.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidConfig`] if a key contains a character that a header cannot contain.
    /// - [`ErrorKind::Unavailable`] if the time is before 1970 or after 9999, because the clock might be set later.
    pub fn sign<B: AsRef<[u8]>>(
        &self,
        request: &mut Request<B>,
        keys: &AwsKeys,
    ) -> Result<(), Error> {
        let time = timestamp(self.time)?;
        if !request.headers().contains_key(HOST) {
            let host = request.uri().authority().map_or("", |host| host.as_str());
            let host = HeaderValue::from_str(host).map_err(|_| invalid_key())?;
            request.headers_mut().insert(HOST, host);
        }
        let headers = request.headers_mut();
        headers.remove(AUTHORIZATION);
        // The token of a signature with other keys.
        headers.remove(SESSION_TOKEN);
        headers.insert(
            DATE,
            HeaderValue::from_str(&time).map_err(|_| invalid_key())?,
        );
        if let Some(token) = keys.session_token() {
            headers.insert(SESSION_TOKEN, secret(token)?);
        }
        let (signed_headers, canonical_request) = canonical_request(request);
        let date = time.get(..8).unwrap_or_default();
        let scope = format!("{date}/{}/{}/aws4_request", self.region, self.service);
        let digest = hexadecimal(digest(&SHA256, &canonical_request).as_ref());
        let text = format!("{ALGORITHM}\n{time}\n{scope}\n{digest}");
        let signature = Zeroizing::new(hexadecimal(&*self.signature(date, keys, &text)?));
        let id = keys.access_key_id();
        let start = format!(
            "{ALGORITHM} Credential={id}/{scope}, SignedHeaders={signed_headers}, Signature="
        );
        let authorization = Zeroizing::new([&start, signature.as_str()].concat());
        let authorization = secret(authorization.as_bytes())?;
        request.headers_mut().insert(AUTHORIZATION, authorization);
        Ok(())
    }

    fn signature(&self, date: &str, keys: &AwsKeys, text: &str) -> Result<Tag, Error> {
        let secret = Zeroizing::new([b"AWS4", keys.secret()].concat());
        [self.region, self.service, "aws4_request", text]
            .into_iter()
            .try_fold(authenticate(&secret, date)?, |key, text| {
                authenticate(&*key, text)
            })
    }
}

/// Returns a time such as `20150830T123600Z`.
fn timestamp(time: SystemTime) -> Result<String, Error> {
    let mut text = String::new();
    // The formatter panics at a time before 1970, and fails at one after 9999.
    if time < UNIX_EPOCH || write!(text, "{}", humantime::format_rfc3339_seconds(time)).is_err() {
        let message =
            "no AWS request can be signed, because the clock is before 1970 or after 9999";
        return Err(
            Error::new(ErrorKind::Unavailable, message).with_hint("set the clock of this machine")
        );
    }
    text.retain(|character| !matches!(character, '-' | ':'));
    Ok(text)
}

fn authenticate(key: &[u8], text: &str) -> Result<Tag, Error> {
    let mut tag = Tag::default();
    let key = hmac::Key::new(HMAC_SHA256, key);
    hmac::sign_to_buffer(&key, text.as_bytes(), &mut *tag).map_err(|_| {
        Error::new(ErrorKind::Invalid, "the AWS request cannot be signed")
            .with_hint("report this as a bug")
    })?;
    Ok(tag)
}

/// Returns the names of the signed headers, and the text whose digest is signed. It contains the session token.
fn canonical_request<B: AsRef<[u8]>>(request: &Request<B>) -> (String, Zeroizing<Vec<u8>>) {
    let headers = request.headers();
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    let signed_headers = names.join(";");
    let start = [
        request.method().as_str(),
        &canonical_path(request.uri().path()),
        &canonical_query(request.uri()),
    ];
    let end = [
        "",
        &signed_headers,
        &hexadecimal(digest(&SHA256, request.body().as_ref()).as_ref()),
    ];
    let (start, end) = (start.join("\n"), end.join("\n"));
    let lengths = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 2);
    // The buffer never grows, because growth would leave a copy of the text in memory.
    let capacity = start.len() + 1 + lengths.sum::<usize>() + end.len();
    let mut text = Zeroizing::new(Vec::with_capacity(capacity));
    text.extend_from_slice(start.as_bytes());
    text.push(b'\n');
    for name in names {
        append_header(&mut text, headers, name);
    }
    text.extend_from_slice(end.as_bytes());
    debug_assert!(text.len() <= capacity);
    (signed_headers, text)
}

/// Appends a line with all values of a header. White space inside of them is reduced to single spaces.
fn append_header(text: &mut Vec<u8>, headers: &HeaderMap, name: &str) {
    text.extend_from_slice(name.as_bytes());
    for (position, value) in headers.get_all(name).into_iter().enumerate() {
        text.push(if position == 0 { b':' } else { b',' });
        let words = value.as_bytes().split(u8::is_ascii_whitespace);
        for (position, word) in words.filter(|word| !word.is_empty()).enumerate() {
            if position > 0 {
                text.push(b' ');
            }
            text.extend_from_slice(word);
        }
    }
    text.push(b'\n');
}

/// Returns a path without empty segments and without `.` and `..`. Each segment is encoded once more, although it
/// is encoded already.
fn canonical_path(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(percent_encode(segment.as_bytes(), RESERVED).to_string()),
        }
    }
    let end = match path.ends_with('/') && !segments.is_empty() {
        true => "/",
        false => "",
    };
    format!("/{}{end}", segments.join("/"))
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

/// Returns the value of a header that contains a key of the credentials.
fn secret(text: &[u8]) -> Result<HeaderValue, Error> {
    secret_header_value(text).map_err(|_| invalid_key())
}

fn invalid_key() -> Error {
    let message = "a key of the AWS credentials contains a character that is not allowed";
    Error::new(ErrorKind::InvalidConfig, message)
        .with_hint("check whether it contains a line break")
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
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
                "GET /ሴ",
                &[],
                "",
                "host;x-amz-date",
                "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85",
            ),
            (
                "get-relative-normalized",
                "GET /example/..",
                &[],
                "",
                "host;x-amz-date",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "get-relative-relative-normalized",
                "GET /example1/example2/../..",
                &[],
                "",
                "host;x-amz-date",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "get-slash-dot-slash-normalized",
                "GET /./",
                &[],
                "",
                "host;x-amz-date",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "get-slash-normalized",
                "GET //",
                &[],
                "",
                "host;x-amz-date",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "get-slash-pointless-dot-normalized",
                "GET /./example",
                &[],
                "",
                "host;x-amz-date",
                "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5",
            ),
            (
                "get-slashes-normalized",
                "GET //example//",
                &[],
                "",
                "host;x-amz-date",
                "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84",
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

    /// The test suite has no path that is encoded already. These signatures are those of the official SDK for
    /// Python, botocore 1.44.
    #[test]
    fn path_is_encoded_twice() {
        for (path, signature) in [
            (
                "/example%20space/",
                "446b817944c553435b35e813c261ff4e161fff982d1bacdef1c87f6785dd1662",
            ),
            (
                "/a%2Fb/c%25/",
                "6791b7364cec992d8cc12c0475c0e756b3b33681fd3094633214c5f253f51c07",
            ),
            (
                "/a/./b//../c%E1%88%B4",
                "cccbc252c5acc4aa2bc81a5b7edfceea05fa9c46a69241cd643ea2f79df5d59c",
            ),
            (
                "/a+b/$x'(y)*!@:;,=",
                "e6538b5b629cd72a713352fca8e806e69a7ed91475a2a47b62e35ffc8fd7da1e",
            ),
            (
                "/%7Ea",
                "0c3a3ac5e480b1dad1e3e141b7df960cbcfb10c7835c940d0ede1fc4860952c4",
            ),
        ] {
            let signed = signed(&format!("GET {path}"), &[], "", &keys());
            assert!(signed.ends_with(signature), "{path}: {signed}");
        }
    }

    #[test]
    fn keys_that_no_header_can_contain_are_refused() {
        let signer = AwsSigner::new("us-east-1", "sts", UNIX_EPOCH);
        for keys in [
            AwsKeys::new("a\nb", "secret"),
            keys().with_session_token("a\nb"),
        ] {
            let error = signer.sign(&mut Request::new(""), &keys).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        }
    }

    #[test]
    fn headers_of_the_signature_are_replaced() {
        let own = [
            ("Authorization", "own"),
            ("X-Amz-Date", "20000101T000000Z"),
            ("X-Amz-Date", "20000102T000000Z"),
            ("X-Amz-Security-Token", "own"),
        ];
        let replaced = signed("GET /", &own, "", &keys());
        assert_eq!(replaced, signed("GET /", &[], "", &keys()));
    }

    #[test]
    fn session_token_of_other_keys_is_removed() {
        let signer = AwsSigner::new("us-east-1", "sts", UNIX_EPOCH);
        let mut request = Request::new("");
        let temporary = keys().with_session_token(TOKEN);
        signer.sign(&mut request, &temporary).unwrap();
        let token = &request.headers()[SESSION_TOKEN];
        assert!(token.is_sensitive() && token.as_bytes() == TOKEN.as_bytes());
        signer.sign(&mut request, &keys()).unwrap();
        assert!(!request.headers().contains_key(SESSION_TOKEN));
    }

    #[test]
    fn wrong_clock_is_an_error() {
        const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);
        let second = Duration::from_secs(1);
        let sign = |time| {
            let mut request = Request::new("");
            AwsSigner::new("us-east-1", "sts", time).sign(&mut request, &keys())?;
            Ok::<_, Error>(request.headers()[DATE].clone())
        };
        for (time, expected) in [
            (UNIX_EPOCH, "19700101T000000Z"),
            (UNIX_EPOCH + YEAR_10000 - second, "99991231T235959Z"),
        ] {
            assert_eq!(sign(time).unwrap(), expected);
        }
        for time in [
            UNIX_EPOCH - Duration::from_nanos(1),
            UNIX_EPOCH - second,
            UNIX_EPOCH + YEAR_10000,
        ] {
            let error = sign(time).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(error.to_string().contains("clock"), "{error}");
        }
    }
}

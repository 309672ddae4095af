//! [`SignIn`]: the sign-in page of an application, and the requests that are redirected to it.

use http::header::{ACCEPT, HeaderName};
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Uri};
use secretwell_core::{Error, ErrorKind};

use super::text::percent_encode;

/// Name of the parameter in Auth.js.
const CALLBACK_URL: &str = "callbackUrl";
/// Maximum length of the encoded page. Auth.js stores it in one cookie, which has at most 4096 bytes.
const MAX_PAGE: usize = 2048;

/// The sign-in page of the application that shares its sessions.
///
/// The redirect has a parameter with the page that the browser requested. The application returns the
/// browser to this page after the sign-in.
///
/// ```
/// use secretwell::auth::sessions::SignIn;
///
/// # fn main() -> Result<(), secretwell::Error> {
/// // The application and the service have one origin.
/// let sign_in = SignIn::page("/api/auth/signin")?;
/// // They have different origins.
/// let sign_in = SignIn::at("https://app.example.test/api/auth/signin", "https://api.example.test")?;
/// // An absolute URL needs the public URL of the service.
/// assert!(SignIn::page("https://app.example.test/api/auth/signin").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignIn {
    /// A path, or an absolute URL. It can have a query.
    location: String,
    /// The encoded name of the parameter.
    parameter: String,
    /// What precedes the path of a page: nothing, or the public URL of this service.
    base: String,
}

impl SignIn {
    /// Creates the sign-in page of an application at the origin of this service.
    ///
    /// `path` is a path such as `/api/auth/signin`. It can have a query. The parameter of the redirect
    /// contains the path and query of the requested page.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if `path` is not the path of a page at this origin.
    pub fn page(path: &str) -> Result<Self, Error> {
        const FIELD: &str = "path of the sign-in page";
        let uri = parse(FIELD, path)?;
        if uri.scheme().is_some() || uri.authority().is_some() {
            return Err(invalid(
                FIELD,
                path,
                "is at another origin",
                "use `SignIn::at` with the public URL of this service",
            ));
        }
        Self::new(path, String::new())
    }

    /// Creates the sign-in page of an application at another origin than this service, or of a service
    /// behind a proxy that removes a prefix from the path.
    ///
    /// `location` is an absolute URL, or a path at the origin of this service. It can have a query.
    ///
    /// `public_base` is the public URL of this service, such as `https://api.example.test` or
    /// `https://example.test/api`. Its path is the prefix that a proxy removes from each request. The
    /// parameter of the redirect contains this URL followed by the path and query of the requested page.
    /// It is never built from the `Host` header, which a client can set.
    ///
    /// Auth.js accepts a page at another origin only if the `redirect` callback of the application allows
    /// it.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if `location` is not a path or an absolute URL, or if `public_base`
    /// is not an absolute URL without a query.
    pub fn at(location: &str, public_base: &str) -> Result<Self, Error> {
        const BASE: &str = "public URL of this service";
        let base = parse(BASE, public_base)?;
        if base.scheme().is_none() {
            return Err(invalid(
                BASE,
                public_base,
                "is not absolute",
                "start it with `https://` and the host",
            ));
        }
        if base.query().is_some() {
            return Err(invalid(
                BASE,
                public_base,
                "has a query",
                "remove the query",
            ));
        }
        parse("address of the sign-in page", location)?;
        Self::new(location, public_base.trim_end_matches('/').to_owned())
    }

    fn new(location: &str, base: String) -> Result<Self, Error> {
        let sign_in = Self {
            location: location.to_owned(),
            parameter: String::new(),
            base,
        };
        sign_in.with_parameter(CALLBACK_URL)
    }

    /// Sets the name of the parameter that contains the requested page. Default: `callbackUrl`, the
    /// name in Auth.js.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidConfig`] if `name` is empty, or if the query of the sign-in page has a
    /// parameter of this name already.
    pub fn with_parameter(mut self, name: &str) -> Result<Self, Error> {
        const FIELD: &str = "parameter for the requested page";
        if name.is_empty() {
            return Err(invalid(FIELD, name, "is empty", "use `callbackUrl`"));
        }
        self.parameter = percent_encode(name);
        let query = self.location.split_once('?').map(|(_, query)| query);
        let mut names = query.unwrap_or_default().split('&');
        if names.any(|pair| pair.split('=').next() == Some(&self.parameter)) {
            return Err(invalid(
                FIELD,
                name,
                "is already in the query of the sign-in page",
                "remove it from the query, or choose another name",
            ));
        }
        Ok(self)
    }

    /// Returns the target of a redirect from `page`, or `None` if `page` is the sign-in page.
    pub(super) fn redirect_from(&self, page: &Uri) -> Option<HeaderValue> {
        if self.is_at(page.path()) {
            return None;
        }
        let path = page.path_and_query()?.as_str();
        // Browsers read `//host` and `/\host` as another origin.
        let path = format!("/{}", path.trim_start_matches(['/', '\\']));
        let page = percent_encode(&(self.base.clone() + &path));
        if page.len() > MAX_PAGE {
            return HeaderValue::try_from(&self.location).ok();
        }
        let separator = match self.location.split_once('?') {
            None => "?",
            Some((_, "")) => "",
            Some(_) => "&",
        };
        let (location, parameter) = (&self.location, &self.parameter);
        HeaderValue::try_from(format!("{location}{separator}{parameter}={page}")).ok()
    }

    /// Returns whether this service receives requests for the sign-in page at `path`.
    fn is_at(&self, path: &str) -> bool {
        let public = self.base.clone() + path;
        let location = self.location.split('?').next().unwrap_or_default();
        match location.starts_with('/') {
            true => public.parse().is_ok_and(|uri: Uri| uri.path() == location),
            false => public == location,
        }
    }
}

/// Parses the path or the absolute URL of a page.
fn parse(field: &str, text: &str) -> Result<Uri, Error> {
    let fail = |problem, hint| Err(invalid(field, text, problem, hint));
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return fail(
            "has a space, a control character or a character that is not ASCII",
            "percent-encode the character",
        );
    }
    if text.contains('\\') {
        return fail("has a backslash", "use `/`");
    }
    if text.contains('#') {
        return fail("has a fragment", "remove `#` and what follows it");
    }
    if text.starts_with("//") {
        return fail(
            "has a host without a scheme",
            "start it with `https://`, or with one `/` for a path",
        );
    }
    let is_path = text.starts_with('/');
    let Ok(uri) = text.parse::<Uri>() else {
        return fail("is not a URL", "start it with `/` or `https://`");
    };
    let scheme = uri.scheme();
    if !is_path && scheme.is_none() {
        return fail("is relative", "start it with `/` or `https://`");
    }
    if scheme.is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return fail("has another scheme than http", "use `https://`");
    }
    let authority = uri.authority().map(|authority| authority.as_str());
    if authority.is_some_and(|authority| authority.contains('@')) {
        return fail("has a user name", "remove what precedes `@`");
    }
    if uri.host().is_some_and(str::is_empty) {
        return fail("has no host", "add the host after `https://`");
    }
    Ok(uri)
}

/// Creates the error of a setting. Its text omits what precedes `@`, which can be a password.
fn invalid(field: &str, text: &str, problem: &str, hint: &'static str) -> Error {
    let shown = text.rsplit('@').next().unwrap_or_default();
    Error::new(
        ErrorKind::InvalidConfig,
        format!("the {field} {problem}: {shown:?}"),
    )
    .with_hint(hint)
}

/// Returns whether a browser requests a page that it will show in a tab.
///
/// Scripts and frames are not included: a script cannot use a sign-in page, and most sign-in pages refuse
/// to be in a frame. Browsers state in `Sec-Fetch-Mode` and `Sec-Fetch-Dest` what a request is for. Other
/// clients state it in `Accept`.
pub(super) fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
    const DESTINATION: HeaderName = HeaderName::from_static("sec-fetch-dest");
    let is_or_absent =
        |name: &HeaderName, value: &str| headers.get(name).is_none_or(|v| v == value);
    (method == Method::GET || method == Method::HEAD)
        && is_or_absent(&MODE, "navigate")
        && is_or_absent(&DESTINATION, "document")
        && prefers_html(headers)
}

/// Returns whether a client accepts HTML, and does not prefer JSON. Ranges such as `*/*` do not count.
fn prefers_html(headers: &HeaderMap) -> bool {
    let html = quality(headers, "text/html");
    let json = quality(headers, "application/json");
    html > 0.0 && html >= json
}

/// Returns the quality of a media type in the `Accept` headers. It is 0 if they do not name the type.
fn quality(headers: &HeaderMap, media_type: &str) -> f32 {
    let mut found = 0.0_f32;
    for header in headers.get_all(ACCEPT) {
        for range in String::from_utf8_lossy(header.as_bytes()).split(',') {
            let mut parts = range.split(';').map(str::trim);
            if !parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case(media_type))
            {
                continue;
            }
            let weight = parts.find_map(|part| {
                let (name, value) = part.split_once('=')?;
                let is_weight = name.trim().eq_ignore_ascii_case("q");
                is_weight.then(|| value.trim().parse().unwrap_or(0.0))
            });
            found = found.max(weight.unwrap_or(1.0));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_addresses_are_refused_with_the_field_and_the_next_step() {
        let base = "https://api.example.test";
        for (address, hint) in [
            ("", "start it with `/`"),
            ("signin", "start it with `/`"),
            ("app.example.test/signin", "start it with `/`"),
            ("//evil.example.test", "with one `/` for a path"),
            ("/\\evil.example.test", "use `/`"),
            ("/sign in", "percent-encode"),
            ("/sign\r\nin", "percent-encode"),
            ("/signin\u{0}", "percent-encode"),
            ("/ängelholm", "percent-encode"),
            ("/signin#top", "remove `#`"),
            ("javascript:alert(1)", "start it with `/`"),
            ("ftp://app.example.test/signin", "use `https://`"),
            ("https://", "start it with `/`"),
            (
                "https://ada:password@app.example.test/",
                "remove what precedes `@`",
            ),
            ("/signin?callbackUrl=/", "remove it from the query"),
        ] {
            for error in [SignIn::page(address), SignIn::at(address, base)] {
                let error = error.expect_err(address);
                assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{address}");
                assert!(
                    error.hint().unwrap_or_default().contains(hint),
                    "{address}: {error}"
                );
                assert!(!error.to_string().contains("password"), "{error}");
            }
        }
        for (base, problem) in [
            ("", "is not a URL"),
            ("/api", "is not absolute"),
            ("api.example.test", "is relative"),
            ("//api.example.test", "has a host without a scheme"),
            ("https://api.example.test?x", "has a query"),
            ("https://api.example.test#x", "has a fragment"),
            ("wss://api.example.test", "has another scheme"),
            ("https://a b", "has a space"),
        ] {
            let error = SignIn::at("/signin", base).expect_err(base);
            let expected = format!("the public URL of this service {problem}");
            assert!(error.to_string().contains(&expected), "{base}: {error}");
        }
        let error = SignIn::page("https://app.example.test/signin").unwrap_err();
        assert!(
            error.hint().unwrap_or_default().contains("SignIn::at"),
            "{error}"
        );
        assert!(
            SignIn::page("/signin")
                .and_then(|page| page.with_parameter(""))
                .is_err()
        );
    }

    #[test]
    fn query_of_the_sign_in_page_and_the_name_of_the_parameter_are_kept() {
        let page = Uri::from_static("/me?x=1");
        for (address, parameter, expected) in [
            ("/signin", "next", "/signin?next=%2Fme%3Fx%3D1"),
            ("/signin?", "next", "/signin?next=%2Fme%3Fx%3D1"),
            (
                "/signin?a=b",
                "return to",
                "/signin?a=b&return%20to=%2Fme%3Fx%3D1",
            ),
            (
                "/signin?nexts=b",
                "next",
                "/signin?nexts=b&next=%2Fme%3Fx%3D1",
            ),
        ] {
            let sign_in = SignIn::page(address)
                .unwrap()
                .with_parameter(parameter)
                .unwrap();
            assert_eq!(sign_in.redirect_from(&page).unwrap(), expected);
        }
        assert!(
            SignIn::page("/s?next=")
                .unwrap()
                .with_parameter("next")
                .is_err()
        );
    }
}

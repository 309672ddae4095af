//! A model of a browser, which checks each `Set-Cookie` header that it receives (RFC 6265bis).

/// Which place in the `Cookie` header a cookie gets that replaces another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// The last place, as in Chromium.
    OfChange,
    /// The place of the replaced cookie, as in Firefox.
    OfCreation,
}

/// The cookies of one user.
#[derive(Debug, Clone)]
pub(crate) struct Browser {
    order: Order,
    cookies: Vec<Stored>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored {
    name: String,
    value: String,
    /// The host, or the domain if `is_host_only` is false.
    domain: String,
    is_host_only: bool,
    path: String,
}

impl Stored {
    fn is_sent_to(&self, host: &str, path: &str) -> bool {
        let is_subdomain = |host: &str| host.ends_with(&format!(".{}", self.domain));
        let host_matches = host == self.domain || (!self.is_host_only && is_subdomain(host));
        let rest = path.strip_prefix(self.path.as_str());
        let is_below =
            |rest: &str| rest.is_empty() || self.path.ends_with('/') || rest.starts_with('/');
        host_matches && rest.is_some_and(is_below)
    }

    fn replaces(&self, other: &Self) -> bool {
        let identity = |cookie: &Self| {
            (
                cookie.name.clone(),
                cookie.domain.clone(),
                cookie.is_host_only,
                cookie.path.clone(),
            )
        };
        identity(self) == identity(other)
    }
}

impl Browser {
    pub(crate) fn new(order: Order) -> Self {
        Self {
            order,
            cookies: Vec::new(),
        }
    }

    /// Returns the `Cookie` header of a request.
    pub(crate) fn header(&self, host: &str, path: &str) -> String {
        let sent = self
            .cookies
            .iter()
            .filter(|cookie| cookie.is_sent_to(host, path));
        let mut sent: Vec<_> = sent.collect();
        sent.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let pairs: Vec<_> = sent
            .iter()
            .map(|cookie| format!("{}={}", cookie.name, cookie.value))
            .collect();
        pairs.join("; ")
    }

    /// Stores the cookies of a response from `host`.
    ///
    /// # Panics
    /// Panics if a header is not valid, or if browsers would ignore it.
    pub(crate) fn receive(&mut self, host: &str, set_cookie: &[String]) {
        for header in set_cookie {
            let (cookie, max_age) = parse(host, header);
            let existing = self
                .cookies
                .iter()
                .position(|stored| cookie.replaces(stored));
            if let Some(index) = existing
                && (max_age == Some(0) || self.order == Order::OfChange)
            {
                self.cookies.remove(index);
            }
            match existing {
                _ if max_age == Some(0) => {}
                Some(index) if self.order == Order::OfCreation => self.cookies[index] = cookie,
                _ => self.cookies.push(cookie),
            }
        }
    }
}

fn parse(host: &str, header: &str) -> (Stored, Option<u64>) {
    let mut parts = header.split("; ");
    let (name, value) = parts.next().unwrap().split_once('=').unwrap();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    assert!(!name.is_empty() && name.bytes().all(is_token), "{header}");
    let is_octet = |byte: u8| byte.is_ascii_graphic() && !b"\",;\\".contains(&byte);
    assert!(value.bytes().all(is_octet), "{header}");
    assert!(header.len() <= 4096, "{} bytes", header.len());

    let mut attributes: Vec<(String, Option<&str>)> = Vec::new();
    for attribute in parts {
        let (name, value) = attribute
            .split_once('=')
            .map_or((attribute, None), |(name, value)| (name, Some(value)));
        let name = name.to_ascii_lowercase();
        assert!(value.is_none_or(|value| value.len() <= 1024), "{header}");
        assert!(
            attributes.iter().all(|(known, _)| *known != name),
            "twice: {header}"
        );
        let expects_value = match name.as_str() {
            "domain" | "path" | "max-age" | "samesite" => true,
            "httponly" | "secure" | "partitioned" => false,
            _ => panic!("unknown attribute: {header}"),
        };
        assert_eq!(
            value.is_some_and(|value| !value.is_empty()),
            expects_value,
            "{header}"
        );
        attributes.push((name, value));
    }
    let has = |name: &str| attributes.iter().any(|(known, _)| known == name);
    let attribute = |name: &str| attributes.iter().find(|(known, _)| known == name)?.1;

    assert!(has("httponly"), "{header}");
    let (domain, path) = (attribute("domain"), attribute("path").unwrap());
    assert!(path.starts_with('/'), "{header}");
    let needs_secure = name.to_ascii_lowercase().starts_with("__secure-")
        || name.to_ascii_lowercase().starts_with("__host-")
        || attribute("samesite") == Some("None")
        || has("partitioned");
    assert!(has("secure") || !needs_secure, "{header}");
    if name.to_ascii_lowercase().starts_with("__host-") {
        assert!(domain.is_none() && path == "/", "{header}");
    }
    if let Some(domain) = domain {
        assert!(
            host == domain || host.ends_with(&format!(".{domain}")),
            "{header} at {host}"
        );
    }
    let max_age = attribute("max-age").map(|seconds| seconds.parse().unwrap());
    assert!(
        max_age.is_none_or(|seconds: u64| seconds <= 400 * 24 * 60 * 60),
        "{header}"
    );
    let cookie = Stored {
        name: name.to_owned(),
        value: value.to_owned(),
        domain: domain.unwrap_or(host).to_owned(),
        is_host_only: domain.is_none(),
        path: path.to_owned(),
    };
    (cookie, max_age)
}

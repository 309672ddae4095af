//! Relative paths in the URLs of sources, such as `file:.env`.

use std::path::{self, Path};

use secretwell::split_urls;

use crate::exit::{Failure, Reason};

/// Returns the list `urls` with absolute paths only. A relative path is one of `folder`, which can be relative to the
/// working directory.
///
/// The rest of a URL is not checked.
///
/// # Errors
/// Fails if a path is empty, if a path has the form of a host, or if `folder` cannot be part of a URL.
pub(crate) fn absolute_urls(urls: &str, folder: &Path) -> Result<String, Failure> {
    let urls = split_urls(urls).into_iter();
    let urls = urls.map(|url| absolute_url(url, folder));
    Ok(urls.collect::<Result<Vec<_>, _>>()?.join(","))
}

fn absolute_url(url: &str, folder: &Path) -> Result<String, Failure> {
    let Some(path) = url.strip_prefix("file:") else {
        return Ok(url.to_owned());
    };
    if path.is_empty() || path.starts_with('?') {
        return Err(invalid(
            "the path of `file:` is empty; write a path, such as `file:.env`",
        ));
    }
    if let Some(path) = path.strip_prefix("//") {
        // The library reports credentials.
        return match path.starts_with('/') || path.contains('@') {
            true => Ok(url.to_owned()),
            false => Err(invalid(
                "the path is not absolute; write a relative path like `file:.env`, or three slashes, like \
                 `file:///run/secrets`",
            )),
        };
    }
    if path.starts_with('/') {
        return Ok(format!("file://{path}"));
    }
    if path == "~" || path.starts_with("~/") {
        return Err(invalid(
            "`~` in a URL is not replaced by the home directory; write an absolute path, or `file:./~` for a file with \
             this name",
        ));
    }
    let folder = path::absolute(folder).map_err(|error| {
        invalid(format!(
            "the working directory cannot be determined: {}; change to a directory that exists, or use an absolute path",
            error.kind()
        ))
    })?;
    let folder = folder.to_str().ok_or_else(|| {
        invalid(format!(
            "`{}` is not UTF-8 text, so no path can be relative to it; use an absolute path",
            folder.display()
        ))
    })?;
    let folder = percent_encoded(folder.trim_end_matches('/'));
    let mut path = path;
    while let Some(rest) = path.strip_prefix("./") {
        path = rest.trim_start_matches('/');
    }
    let (location, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    Ok(match location {
        "" | "." => format!("file://{folder}{query}"),
        _ => format!("file://{folder}/{path}"),
    })
}

/// Encodes the characters that have a meaning in a URL or in a list of URLs.
fn percent_encoded(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        match char::from(byte) {
            c if c.is_ascii_alphanumeric() || "/-._~".contains(c) => encoded.push(c),
            _ => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

fn invalid(message: impl Into<String>) -> Failure {
    let message = message.into();
    Failure::new(
        Reason::Configuration,
        format!("invalid configuration: {message}"),
    )
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn absolute(urls: &str, folder: &str) -> Result<String, String> {
        absolute_urls(urls, Path::new(folder)).map_err(|failure| failure.problems()[0].clone())
    }

    #[test]
    fn relative_paths_are_joined_to_the_folder() {
        for (urls, expected) in [
            ("file:.env", "file:///app/.env"),
            ("file:./secrets", "file:///app/secrets"),
            ("file:././/secrets", "file:///app/secrets"),
            ("file:.", "file:///app"),
            ("file:./", "file:///app"),
            ("file:./?format=directory", "file:///app?format=directory"),
            ("file:../.env", "file:///app/../.env"),
            (
                "file:a?format=env&dialect=node",
                "file:///app/a?format=env&dialect=node",
            ),
            ("file:/run/secrets", "file:///run/secrets"),
            ("file:///run/secrets", "file:///run/secrets"),
            (
                "env://,file:.env, file:a,b,env://X_",
                "env://,file:///app/.env,file:///app/a,b,env://X_",
            ),
            ("vault://host/file:x", "vault://host/file:x"),
            ("no URL", "no URL"),
        ] {
            assert_eq!(absolute(urls, "/app").unwrap(), expected);
        }
        assert_eq!(absolute("file:.env", "/").unwrap(), "file:///.env");
    }

    #[test]
    fn folder_with_special_characters_is_the_same_folder() {
        let folder = "/a b/50%/x,env:/ä?#@&";
        let url = absolute("file:.env", folder).unwrap();
        assert_eq!(split_urls(&url), [&url]);
        let provider = secretwell::from_url(&url).unwrap();
        assert_eq!(provider.origin().as_str(), format!("file://{folder}/.env"));
        let folder = Path::new(OsStr::from_bytes(b"/\xff"));
        let failure = absolute_urls("file:.env", folder).unwrap_err();
        assert!(failure.problems()[0].contains("not UTF-8"), "{failure:?}");
        absolute_urls("file:/run/secrets,env://", folder).unwrap();
    }

    #[test]
    fn paths_that_look_like_hosts_are_refused() {
        for url in ["file://.env", "file://./.env", "file://"] {
            let error = absolute(url, "/app").unwrap_err();
            assert!(error.contains("like `file:.env`"), "{error}");
        }
        for url in ["file:", "file:?format=env"] {
            let error = absolute(url, "/app").unwrap_err();
            assert!(error.contains("is empty"), "{error}");
        }
        for url in ["file:~", "file:~/.env", "env://,file:~/.env"] {
            let error = absolute(url, "/app").unwrap_err();
            assert!(error.contains("home directory"), "{error}");
        }
        for (url, expected) in [("file:./~/a", "~/a"), ("file:~a", "~a")] {
            assert_eq!(
                absolute(url, "/app").unwrap(),
                format!("file:///app/{expected}")
            );
        }
        let url = "file://user:c4n4ry@host/x";
        assert_eq!(absolute(url, "/app").unwrap(), url);
    }
}

//! Responses about secrets, folders and projects.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::SystemTime;

use secretwell_core::json::decode_text;
use secretwell_core::{Error, ErrorKind, Secret, SecretValue, Version};
use secretwell_http::Response;
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

use super::errors::malformed;
use super::success::parse_success;
use crate::settings::relative_path;

/// A text in a response, which is copied only if it has escaped characters.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A secret in a response.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretBody<'a> {
    /// The secret that the version number belongs to. A secret that is deleted and created again has
    /// another id, and its versions start at 1 again.
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    secret_key: Cow<'a, str>,
    #[serde(default, deserialize_with = "secret_text")]
    secret_value: Option<SecretValue>,
    #[serde(default)]
    secret_value_hidden: bool,
    version: u64,
    #[serde(default)]
    r#type: SecretType,
    #[serde(borrow, default)]
    updated_at: Option<Text<'a>>,
    #[serde(default)]
    skip_multiline_encoding: Option<bool>,
    /// Present only in lists, and not for imported secrets.
    #[serde(borrow, default)]
    secret_path: Option<Text<'a>>,
}

/// Deserializes a text or `null`.
fn secret_text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SecretValue>, D::Error> {
    let json: Option<&RawValue> = Option::deserialize(deserializer)?;
    let text = json.map(|json| decode_text(json.get()).ok_or("a value is not a valid text"));
    text.transpose().map_err(de::Error::custom)
}

/// What servers return in place of a value that the login must not read.
const HIDDEN_VALUE: &[u8] = b"<hidden-by-infisical>";

/// Whether all members of a project have the same value of a secret, or one of them has an own value.
#[derive(Deserialize, Debug, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SecretType {
    #[default]
    Shared,
    Personal,
}

/// One secret of a list or of a single read.
pub(crate) struct Entry {
    /// `None` if the login has no permission to read the value.
    value: Option<SecretValue>,
    version: Version,
    secret_type: SecretType,
    /// Whether the list shows the secret as one of an imported folder.
    is_imported: bool,
    /// Whether the server might return several lines as one line in quotes.
    skips_multiline_encoding: bool,
    /// The result of a single read of this secret, if it is valid for as long as the list is unchanged.
    single_read: OnceLock<Result<Secret, Error>>,
}

impl Entry {
    /// Converts a secret in a response to its name and its entry.
    fn from_body(body: SecretBody<'_>) -> (String, Self) {
        let hidden = body.secret_value_hidden;
        let mut version = Version::numbered(body.version);
        if let Some(Text(id)) = &body.id {
            version = version.with_identity(id);
        }
        let updated_at = body.updated_at.as_ref();
        if let Some(created_at) = updated_at.and_then(|Text(text)| parse_time(text)) {
            version = version.with_created_at(created_at);
        }
        let entry = Self {
            value: body
                .secret_value
                .filter(|value| !hidden && value.expose_bytes() != HIDDEN_VALUE),
            version,
            secret_type: body.r#type,
            is_imported: false,
            skips_multiline_encoding: body.skip_multiline_encoding.unwrap_or(false),
            single_read: OnceLock::new(),
        };
        (body.secret_key.into_owned(), entry)
    }

    fn imported(self) -> Self {
        Self {
            is_imported: true,
            ..self
        }
    }

    /// Returns the recorded result of a single read.
    pub(crate) fn single_read(&self) -> Option<Result<Secret, Error>> {
        self.single_read.get().cloned()
    }

    /// Records the result of a single read. It must stay valid while the list is unchanged.
    pub(crate) fn record_single_read(&self, result: &Result<Secret, Error>) {
        let _ = self.single_read.set(result.clone());
    }

    pub(crate) fn is_imported(&self) -> bool {
        self.is_imported
    }

    pub(crate) fn secret_type(&self) -> SecretType {
        self.secret_type
    }

    /// Returns whether the value is in the form in which servers return several lines of a referenced secret:
    /// in quotes, with `\n` in place of each line end. The stored value can have the same form.
    pub(crate) fn might_be_encoded_lines(&self) -> bool {
        let text = self.text().filter(|_| self.skips_multiline_encoding);
        let quoted = text.and_then(|text| text.strip_prefix('"')?.strip_suffix('"'));
        quoted.is_some_and(|text| text.contains("\\n"))
    }

    /// Returns the value, if it is visible and a text.
    pub(crate) fn text(&self) -> Option<&str> {
        self.value.as_ref()?.expose_text().ok()
    }

    pub(crate) fn version(&self) -> &Version {
        &self.version
    }

    /// Returns the secret.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Denied`] if the login has no permission to read the value.
    pub(crate) fn secret(&self) -> Result<Secret, Error> {
        let value = self.value.clone().ok_or_else(|| {
            let message = "the login has no permission to read the value";
            Error::new(ErrorKind::Denied, message)
                .with_hint("grant its role the permission to read values")
        })?;
        Ok(Secret::new(value).with_version(self.version.clone()))
    }
}

fn parse_time(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339_weak(text).ok()
}

/// How a list shows the values of secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum View {
    /// References are expanded, unless the settings exclude that.
    #[default]
    Expanded,
    /// References are not expanded.
    Raw,
    /// Values are hidden.
    Names,
}

/// A folder that another folder imports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImportedFolder {
    pub(crate) environment: String,
    pub(crate) path: String,
}

/// What a list request was about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    /// The path of the listed folder.
    pub(crate) folder: &'a str,
    pub(crate) recursive: bool,
    pub(crate) view: View,
    /// Whether personal values override shared ones.
    pub(crate) personal: bool,
}

/// Entries by the names of their secrets.
type Entries = Map<Entry>;

/// Values by name. With the default hasher, the hashes of the names would cost a tenth of a read.
type Map<V> = HashMap<String, V, foldhash::fast::RandomState>;

/// The secrets of one folder, or of a folder and everything below it.
#[derive(Default)]
pub(crate) struct Listing {
    /// The folders' own secrets, by the path of the folder. The path is empty if the response omits it.
    own: Map<Entries>,
    /// The imported secrets of a single folder. A later import overrides an earlier one. The secrets of an imported
    /// folder override those that this folder imports itself. Empty in a recursive list, which does not show which
    /// of its folders imports a secret.
    imported: Entries,
    /// The number of imports. In a recursive list, those of all folders.
    import_count: usize,
    /// The imports of which the list contains a secret.
    shown_imports: Vec<ImportedFolder>,
    view: View,
}

impl Listing {
    /// Parses the response to a list request.
    ///
    /// # Errors
    /// Returns the reason if the server refused the request.
    pub(crate) fn parse(response: &Response, scope: Scope<'_>) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct ResponseBody<'a> {
            #[serde(borrow)]
            secrets: Vec<SecretBody<'a>>,
            #[serde(borrow, default)]
            imports: Vec<Import<'a>>,
        }

        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Import<'a> {
            #[serde(borrow)]
            secrets: Vec<SecretBody<'a>>,
            #[serde(default)]
            environment: Option<String>,
            #[serde(default)]
            secret_path: Option<String>,
        }

        let mut body: ResponseBody<'_> = parse_success(response, "a list of secrets")?;
        let is_personal = |secret: &SecretBody<'_>| secret.r#type == SecretType::Personal;
        let secrets = &mut body.secrets;
        secrets.retain(|secret| scope.personal || !is_personal(secret));
        // Personal values are inserted last, so that they override shared ones.
        secrets.sort_by_key(is_personal);
        let mut own: Map<Entries> = Map::default();
        for mut secret in body.secrets {
            let path = secret.secret_path.take().map(|Text(path)| path);
            let path = path.unwrap_or_default();
            // Older servers also list folders whose path only begins with the same characters.
            if path.is_empty() || relative_path(scope.folder, &path).is_some() {
                let entries = match own.get_mut(path.as_ref()) {
                    Some(entries) => entries,
                    None => own.entry(path.into_owned()).or_default(),
                };
                entries.extend([Entry::from_body(secret)]);
            }
        }
        let import_count = body.imports.len();
        let (mut imported, mut shown_imports) = (Entries::default(), Vec::new());
        for import in body.imports.into_iter().filter(|_| !scope.recursive) {
            if !import.secrets.is_empty() {
                shown_imports.push(ImportedFolder {
                    environment: import.environment.unwrap_or_default(),
                    path: import.secret_path.unwrap_or_default(),
                });
            }
            let secrets = import.secrets.into_iter();
            let secrets = secrets.filter(|secret| scope.personal || !is_personal(secret));
            // Servers append the secrets that the imported folder imports, also those of the same name.
            imported.extend(secrets.rev().map(|secret| {
                let (name, entry) = Entry::from_body(secret);
                (name, entry.imported())
            }));
        }
        Ok(Self {
            own,
            imported,
            import_count,
            shown_imports,
            view: scope.view,
        })
    }

    /// Returns how the list shows values.
    pub(crate) fn view(&self) -> View {
        self.view
    }

    /// Returns the secret `name` of the listed folder, or the imported one of that name.
    pub(crate) fn find(&self, folder: &str, name: &str) -> Option<&Entry> {
        self.find_own(folder, name)
            .or_else(|| self.find_own("", name))
            .or_else(|| self.imported.get(name))
    }

    /// Returns the secret `name` of `folder`, without imports.
    pub(crate) fn find_own(&self, folder: &str, name: &str) -> Option<&Entry> {
        self.own.get(folder)?.get(name)
    }

    /// Returns whether the list is empty. The server lists a missing folder as empty, too.
    pub(crate) fn is_empty(&self) -> bool {
        self.own.values().all(HashMap::is_empty) && self.imported.is_empty()
    }

    /// Returns the number of own and of imported secrets.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        let own = self.own.values().map(HashMap::len).sum();
        (own, self.imported.len())
    }

    /// Returns the folders that have secrets of their own, with the names of these secrets.
    pub(crate) fn folders(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &str>)> {
        self.own
            .iter()
            .map(|(folder, entries)| (folder.as_str(), entries.keys().map(String::as_str)))
    }

    /// Returns the number of imports. In a recursive list, it is the number for all folders.
    pub(crate) fn import_count(&self) -> usize {
        self.import_count
    }

    /// Returns whether the list contains a secret of this import.
    pub(crate) fn shows(&self, import: &ImportedFolder) -> bool {
        self.shown_imports.contains(import)
    }

    /// Returns whether the view of the list contains the expanded value of an entry.
    pub(crate) fn shows_value(&self, entry: &Entry) -> bool {
        match self.view {
            View::Expanded => true,
            View::Raw => entry.text().is_some_and(|text| !text.contains("${")),
            View::Names => false,
        }
    }

    /// Returns whether the list shows that the secret `name` is empty.
    pub(crate) fn is_empty_secret(&self, folder: &str, name: &str) -> bool {
        let value = self
            .find(folder, name)
            .and_then(|entry| entry.value.as_ref());
        value.is_some_and(SecretValue::is_empty)
    }

    /// Returns the names of the imported secrets.
    pub(crate) fn imported_names(&self) -> impl Iterator<Item = &str> {
        self.imported.keys().map(String::as_str)
    }
}

/// Parses the response to a read of the secret `name`.
///
/// # Errors
/// Returns the reason if the server refused the request, or [`ErrorKind::Malformed`] if it returned another secret.
pub(crate) fn parse_single(response: &Response, name: &str) -> Result<Entry, Error> {
    #[derive(Deserialize)]
    struct ResponseBody<'a> {
        #[serde(borrow)]
        secret: SecretBody<'a>,
    }

    let body: ResponseBody<'_> = parse_success(response, "a secret")?;
    match body.secret.secret_key == name {
        true => Ok(Entry::from_body(body.secret).1),
        false => Err(malformed("the requested secret")),
    }
}

/// Parses the response to a request for the folders in a folder, and returns their names.
///
/// # Errors
/// Returns [`ErrorKind::InvalidConfig`] if the environment does not exist, or the reason if the server
/// refused the request.
pub(crate) fn folder_names(response: &Response) -> Result<Vec<String>, Error> {
    #[derive(Deserialize)]
    struct ResponseBody {
        folders: Vec<Folder>,
    }

    #[derive(Deserialize)]
    struct Folder {
        name: String,
    }

    let body: ResponseBody = parse_success(response, "a list of folders")?;
    Ok(body.folders.into_iter().map(|folder| folder.name).collect())
}

/// Parses the response to a request for the imports of a folder. Omits those that only describe how the server copies
/// secrets from another folder.
///
/// # Errors
/// Returns the reason if the server refused the request.
pub(crate) fn imports(response: &Response) -> Result<Vec<ImportedFolder>, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ResponseBody {
        secret_imports: Vec<Import>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Import {
        import_path: String,
        import_env: Environment,
        #[serde(default)]
        is_replication: Option<bool>,
        #[serde(default)]
        is_reserved: Option<bool>,
    }

    #[derive(Deserialize)]
    struct Environment {
        slug: String,
    }

    let body: ResponseBody = parse_success(response, "a list of imports")?;
    let imports = body.secret_imports.into_iter();
    let is_import =
        |import: &Import| import.is_replication != Some(true) && import.is_reserved != Some(true);
    let imports = imports.filter(is_import);
    Ok(imports
        .map(|import| ImportedFolder {
            environment: import.import_env.slug,
            path: import.import_path,
        })
        .collect())
}

/// Parses the response to a request for a project by its slug, and returns the project's id.
///
/// # Errors
/// Returns [`ErrorKind::InvalidConfig`] if the project does not exist, or the reason if the server refused
/// the request.
pub(crate) fn project_id(response: &Response) -> Result<String, Error> {
    #[derive(Deserialize)]
    struct Project {
        id: String,
    }

    let project: Project = parse_success(response, "a project")?;
    Ok(project.id)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    fn response(body: &str) -> Response {
        Response::new(StatusCode::OK, HeaderMap::new(), body.as_bytes().to_vec())
    }

    fn secrets(values: &[(&str, &str)]) -> String {
        let secret = |(name, value): &(&str, &str)| {
            format!(r#"{{"secretKey":"{name}","secretValue":"{value}","version":1}}"#)
        };
        let secrets: Vec<String> = values.iter().map(secret).collect();
        format!("[{}]", secrets.join(","))
    }

    fn listing(imports: &[String]) -> Listing {
        let import = |(number, secrets): (usize, &String)| {
            format!(r#"{{"environment":"dev","secretPath":"/{number}","secrets":{secrets}}}"#)
        };
        let imports: Vec<String> = imports.iter().enumerate().map(import).collect();
        let body = format!(r#"{{"secrets":[],"imports":[{}]}}"#, imports.join(","));
        let scope = Scope {
            folder: "/",
            recursive: false,
            view: View::Expanded,
            personal: false,
        };
        Listing::parse(&response(&body), scope).unwrap()
    }

    #[test]
    fn import_overrides_its_own_imports_and_earlier_imports() {
        let listing = listing(&[
            secrets(&[("A", "first"), ("B", "first"), ("C", "first")]),
            // The last two secrets are those that the second folder imports.
            secrets(&[("A", "second"), ("A", "nested"), ("B", "nested")]),
            secrets(&[]),
        ]);
        let text = |name| listing.find("/", name).unwrap().text().unwrap();
        assert_eq!(
            (text("A"), text("B"), text("C")),
            ("second", "nested", "first")
        );
        let shows = |path: &str| {
            let environment = "dev".into();
            let path = path.into();
            listing.shows(&ImportedFolder { environment, path })
        };
        assert_eq!(
            ["/0", "/1", "/2", "/3"].map(shows),
            [true, true, false, false]
        );
        assert_eq!(listing.import_count(), 3);
    }

    #[test]
    fn placeholder_of_a_hidden_value_is_not_a_value() {
        let listing = listing(&[secrets(&[("A", "<hidden-by-infisical>")])]);
        let error = listing.find("/", "A").unwrap().secret().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }

    #[test]
    fn another_secret_than_the_requested_one_is_malformed() {
        let body = r#"{"secret":{"secretKey":"A","secretValue":"x","version":1}}"#;
        assert!(parse_single(&response(body), "A").is_ok());
        for name in ["a", " A", "A ", "B"] {
            let error = parse_single(&response(body), name).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
        }
    }

    #[test]
    fn replications_are_not_imports() {
        let import = |path: &str, flag: &str| {
            format!(r#"{{"importPath":"{path}","importEnv":{{"slug":"dev"}}{flag}}}"#)
        };
        let body = format!(
            r#"{{"secretImports":[{},{},{},{}]}}"#,
            import("/a", ""),
            import("/__reserve_1", r#","isReserved":true"#),
            import("/b", r#","isReplication":true"#),
            import("/c", r#","isReplication":false"#)
        );
        let imports = imports(&response(&body)).unwrap();
        let paths: Vec<&str> = imports.iter().map(|import| import.path.as_str()).collect();
        assert_eq!(paths, ["/a", "/c"]);
    }
}

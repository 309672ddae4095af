//! The differences between versions of the server.

/// The version of the server that a fake responds like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Personality {
    /// A self-hosted server of July 2024. It has only version 3 of the API for secrets, and other statuses for
    /// dead tokens, missing permissions and missing environments.
    July2024,
    /// A self-hosted server of October 2024. It has only version 3 of the API for secrets.
    October2024,
    /// The newest server, of 2026. It has both versions of the API for secrets.
    Newest,
}

impl Personality {
    pub(super) fn behaviour(self) -> &'static Behaviour {
        match self {
            Self::July2024 => &JULY_2024,
            Self::October2024 => &OCTOBER_2024,
            Self::Newest => &NEWEST,
        }
    }
}

/// What differs between versions of the server.
#[derive(Debug)]
pub(super) struct Behaviour {
    /// Whether version 4 of the API for secrets and the newer routes exist.
    pub(super) has_v4: bool,
    /// The status of a request with an invalid field or parameter.
    pub(super) invalid_status: u16,
    /// Whether a missing permission is 401, and a dead token or an invalid request is 403.
    pub(super) swapped_statuses: bool,
    /// Whether errors contain the id of the request, and refusals their details.
    pub(super) detailed_errors: bool,
    /// Whether a token that is not valid is an internal error, and a used up one is a bad request.
    pub(super) token_errors_are_internal: bool,
    pub(super) missing_folder: MissingFolder,
    pub(super) missing_environment: MissingEnvironment,
    pub(super) unknown_slug_is_internal_error: bool,
    /// Whether a login with an unknown client id is refused like one with a wrong client secret.
    pub(super) hides_unknown_clients: bool,
    /// Whether three failed logins within 30 s lock the identity for 5 min.
    pub(super) locks_out: bool,
    /// Whether a renewal returns a new token, which is shorter near the maximum lifetime. Otherwise, it extends
    /// the same token, and a renewal near the maximum lifetime revokes it.
    pub(super) renewal_issues_token: bool,
    /// Whether a recursive list also contains folders whose path only begins with the text of the base path.
    pub(super) recursive_lists_match_text: bool,
    /// Whether a recursive list contains a folder once that several folders import.
    pub(super) merges_imports: bool,
    pub(super) references: References,
}

/// The response to a list of a folder that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MissingFolder {
    EmptyList,
    NotFound,
}

/// The response to a recursive list, or a list of folders, of an environment that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MissingEnvironment {
    /// An internal error and a bad request.
    OtherErrors,
    NotFound,
}

/// How references in values are expanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum References {
    /// Blanks around a name are removed, `$` in a value has a meaning, and a reference to an empty secret stays
    /// as it is. A list keeps a reference that may not be read, and a single read fails for a missing folder.
    /// The references of an imported secret lead to the folder of that secret.
    Lenient,
    /// Padded references are text, and empty secrets expand to nothing. A reference that may not be read is
    /// refused, also by lists, and a reference to a missing folder stays as it is. In a list, the references of an
    /// imported secret lead to the importing folder.
    Strict,
}

const JULY_2024: Behaviour = Behaviour {
    swapped_statuses: true,
    token_errors_are_internal: true,
    missing_environment: MissingEnvironment::OtherErrors,
    ..OCTOBER_2024
};

const OCTOBER_2024: Behaviour = Behaviour {
    has_v4: false,
    invalid_status: 401,
    swapped_statuses: false,
    detailed_errors: false,
    token_errors_are_internal: false,
    missing_folder: MissingFolder::EmptyList,
    missing_environment: MissingEnvironment::NotFound,
    unknown_slug_is_internal_error: true,
    hides_unknown_clients: false,
    locks_out: false,
    renewal_issues_token: false,
    recursive_lists_match_text: true,
    merges_imports: false,
    references: References::Lenient,
};

const NEWEST: Behaviour = Behaviour {
    has_v4: true,
    invalid_status: 422,
    swapped_statuses: false,
    detailed_errors: true,
    token_errors_are_internal: false,
    missing_folder: MissingFolder::NotFound,
    missing_environment: MissingEnvironment::NotFound,
    unknown_slug_is_internal_error: false,
    hides_unknown_clients: true,
    locks_out: true,
    renewal_issues_token: true,
    recursive_lists_match_text: false,
    merges_imports: true,
    references: References::Strict,
};

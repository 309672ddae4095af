//! Reads the files of a batch from one generation of each Kubernetes volume.
//!
//! Kubernetes puts each generation of a volume into a directory of its own. `..data` is a link to the current one, and
//! each file of the volume is a link such as `..data/PASSWORD`. All files change when `..data` is replaced.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::directory::{Directory, Entry};
use crate::open::{ATTEMPTS, OpenError};

/// The link to the current generation of a volume.
const CURRENT: &str = "..data";

/// A directory and the volumes below it, as they are at the start of a batch.
pub(crate) struct Tree<'a> {
    path: &'a Path,
    root: Directory,
    /// The directories that have been visited.
    visited: HashMap<PathBuf, Visited>,
}

#[derive(Default)]
struct Visited {
    /// The target of `..data`, if there is such a link.
    target: Option<PathBuf>,
    /// The current generation, if the directory is a volume.
    generation: Option<Directory>,
}

/// An entry of a directory or of a volume.
pub(crate) struct Visible {
    pub(crate) is_link: bool,
}

impl<'a> Tree<'a> {
    /// Opens the tree below `path`.
    pub(crate) fn open(path: &'a Path) -> Result<Self, OpenError> {
        Ok(Self {
            path,
            root: Directory::open(path)?,
            visited: HashMap::new(),
        })
    }

    /// Opens the file at a relative path. Returns the name of its generation too, if it belongs to a volume.
    pub(crate) fn open_file(&mut self, file: &Path) -> Result<(File, Option<PathBuf>), OpenError> {
        self.below_generation(file, Directory::open_file)
            .map_err(|error| self.name_link(file, error))
    }

    /// Returns the type of the file at a relative path. Links are followed.
    pub(crate) fn file_type(&mut self, file: &Path) -> Result<std::fs::FileType, OpenError> {
        self.below_generation(file, Directory::file_type)
            .map(|(kind, _)| kind)
            .map_err(|error| self.name_link(file, error))
    }

    /// Returns the entries of the directory at a relative path. Names that begin with a dot are omitted, because they
    /// belong to the file system or to a volume.
    pub(crate) fn entries(
        &mut self,
        path: &Path,
    ) -> Result<BTreeMap<OsString, Visible>, OpenError> {
        let (directory, _) = self.below_generation(path, Directory::subdirectory)?;
        let mut visible = BTreeMap::new();
        let mut add = |entries: Vec<Entry>, is_visible: &dyn Fn(&Entry) -> bool| {
            for entry in entries {
                let is_hidden = entry.name.as_encoded_bytes().starts_with(b".");
                if !is_hidden && is_visible(&entry) {
                    let is_link = entry.is_link;
                    visible.entry(entry.name).or_insert(Visible { is_link });
                }
            }
        };
        let entries = directory.entries()?;
        match self.generation(path)? {
            None => add(entries, &|_| true),
            Some(generation) => {
                let leads_to_generation = |entry: &Entry| {
                    let link = directory.read_link(Path::new(&entry.name));
                    matches!(link, Ok(Some(target)) if below_current(&target).is_some())
                };
                add(entries, &|entry| {
                    !entry.is_link || !leads_to_generation(entry)
                });
                add(generation.entries()?, &|_| true);
            }
        }
        Ok(visible)
    }

    /// Returns whether the directory or one of its volumes has been replaced since the start of the batch. What is
    /// missing might then have been removed together with its generation.
    pub(crate) fn has_moved(&self) -> bool {
        let is_current = |(directory, visited): (&PathBuf, &Visited)| {
            self.current(directory).ok() == Some(visited.target.clone())
        };
        let has_moved = |root: Directory| !root.is_same(&self.root);
        Directory::open(self.path).is_ok_and(has_moved) || !self.visited.iter().all(is_current)
    }

    /// Applies `open` to the directory of a generation if the path leads to a volume, and to the root otherwise. Returns
    /// the name of the generation too.
    fn below_generation<T>(
        &mut self,
        path: &Path,
        open: impl Fn(&Directory, &Path) -> Result<T, OpenError>,
    ) -> Result<(T, Option<PathBuf>), OpenError> {
        if let Some((volume, below)) = self.locate(path)?
            && let Visited {
                target,
                generation: Some(generation),
            } = self.visit(&volume)?
        {
            let opened = open(generation, or_itself(&below));
            // A file of the generation can be a link to another directory below the root.
            if !matches!(opened, Err(OpenError::Outside)) {
                return Ok((opened?, target.clone()));
            }
        }
        Ok((open(&self.root, or_itself(path))?, None))
    }

    /// Returns the volume on the way to a file, and the path of the file below the volume's generation.
    fn locate(&mut self, path: &Path) -> Result<Option<(PathBuf, PathBuf)>, OpenError> {
        let mut volume = PathBuf::new();
        let mut segments = path.iter();
        while let Some(segment) = segments.next() {
            if self.generation(&volume)?.is_some() {
                let below = match self.root.read_link(&volume.join(segment)) {
                    Ok(target) => target.as_deref().and_then(below_current),
                    // The links of new files are created after their generation.
                    Err(OpenError::Missing) => Some(segment.into()),
                    Err(error) => return Err(error),
                };
                if let Some(below) = below {
                    return Ok(Some((volume, below.iter().chain(segments).collect())));
                }
            }
            volume.push(segment);
        }
        Ok(None)
    }

    /// Returns the current generation of the directory at a relative path, if the directory is a volume.
    fn generation(&mut self, directory: &Path) -> Result<Option<&Directory>, OpenError> {
        Ok(self.visit(directory)?.generation.as_ref())
    }

    fn visit(&mut self, directory: &Path) -> Result<&Visited, OpenError> {
        if !self.visited.contains_key(directory) {
            let visited = self.open_generation(directory)?;
            self.visited.insert(directory.to_owned(), visited);
        }
        self.visited.get(directory).ok_or(OpenError::Missing)
    }

    fn open_generation(&self, directory: &Path) -> Result<Visited, OpenError> {
        let mut missing = None;
        for _ in 0..ATTEMPTS {
            let target = self.current(directory)?;
            let Some(path) = &target else {
                return Ok(Visited::default());
            };
            let generation = match self.root.subdirectory(&directory.join(path)) {
                // A generation is removed only after it was replaced, so this link leads nowhere.
                Err(OpenError::Missing) if missing == target => None,
                Err(OpenError::Missing) => {
                    missing = target;
                    continue;
                }
                Err(OpenError::NotADirectory | OpenError::Outside | OpenError::LinkLoop) => None,
                generation => Some(generation?),
            };
            return Ok(Visited { target, generation });
        }
        Err(OpenError::Changing)
    }

    /// Returns the target of `..data` in the directory at a relative path, if there is such a link.
    fn current(&self, directory: &Path) -> Result<Option<PathBuf>, OpenError> {
        match self.root.read_link(&directory.join(CURRENT)) {
            // What is wrong with the path of the directory is explained when the file is opened.
            Err(error) if error.is_absence() => Ok(None),
            Err(OpenError::Outside | OpenError::LinkLoop | OpenError::Forbidden(_)) => Ok(None),
            target => target,
        }
    }

    /// Adds the target of a link to the error of a missing file.
    fn name_link(&self, file: &Path, error: OpenError) -> OpenError {
        match (error, self.root.read_link(file)) {
            (OpenError::Missing, Ok(Some(target))) => OpenError::Dangling(target),
            (error, _) => error,
        }
    }
}

/// Returns the name of a directory itself for an empty path.
fn or_itself(path: &Path) -> &Path {
    match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    }
}

/// Returns what follows `..data` in the target of a link.
fn below_current(target: &Path) -> Option<PathBuf> {
    let mut segments = target.iter();
    (segments.next() == Some(OsStr::new(CURRENT))).then(|| segments.as_path().to_owned())
}

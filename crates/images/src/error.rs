//! Why something about an image failed.

use std::io;
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Each says in a sentence what failed, why, and what to do. Names from images and registries are in it as they came: whoever shows
/// it makes it fit for a terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What a person, an image, an archive or a registry says makes no sense, or is not what its digest says.
    #[error("{0}")]
    Invalid(String),
    /// An image, a blob or a file is not there.
    #[error("{0}")]
    Missing(String),
    /// What is asked for would take something from somebody else: a running guest, another name.
    #[error("{0}")]
    Conflict(String),
    /// A registry wants other credentials.
    #[error("{0}")]
    Denied(String),
    /// A registry does not answer, or not as it must.
    #[error("{0}")]
    Network(String),
    #[error("cannot write {}: {needed}, and the disk has room for {free} more; free some, for example by `coracle prune`, and repeat the command", path.display())]
    Full {
        path: PathBuf,
        /// What the space is needed for.
        needed: String,
        /// Bytes.
        free: u64,
    },
    #[error("stopped before it was done; repeat the command to go on from there")]
    Cancelled,
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl Error {
    /// Whether something that was named is not there: an image, a blob or a file.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Missing(_) => true,
            Self::File { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// For `map_err`: what could not be done with which file.
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::full(path, "more space is needed".into())
            }
            _ => Self::File { what, path, source },
        }
    }

    /// For `map_err`, where a reader that checks may have put an error of its own into an [`io::Error`].
    pub(crate) fn reading(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| match error.downcast::<Self>() {
            Ok(own) => own,
            Err(error) => Self::file("read", &path)(error),
        }
    }

    pub(crate) fn full(path: PathBuf, needed: String) -> Self {
        let place = path.parent().unwrap_or(&path);
        let free =
            rustix::fs::statvfs(place).map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize));
        Self::Full { path, needed, free }
    }
}

pub(crate) fn invalid(why: impl Into<String>) -> Error {
    Error::Invalid(why.into())
}

/// A text of somebody else's for an error: only its begin, if it is long.
pub(crate) fn shortened(text: &str) -> String {
    const MOST: usize = 200;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

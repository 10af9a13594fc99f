//! Why an image cannot be a disk: what, why, and what to do next.

use std::io;
use std::path::{Path, PathBuf};

use super::budget;
use super::header::HeaderError;
use super::permit::{Refusal, how_to_permit};
use crate::config::Disk;
use crate::plain_text::{clean, shell_word};
use crate::virtio::block::image::error::{self, OpenError};
use crate::virtio::block::image::lock::Busy;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use disk image {path:?}: {source}")]
    Header { path: PathBuf, source: HeaderError },
    #[error("cannot use disk image {path:?}: {source} (is it damaged? look: qemu-img check {})", shell_word(.path))]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "disk image {image:?} needs its backing file {path:?}, which does not exist (put it there, or name its new \
         place: qemu-img rebase -u -b FILE -F FORMAT {})",
        shell_word(.image)
    )]
    BackingMissing { image: PathBuf, path: PathBuf },
    #[error(
        "disk image {image:?} needs its backing file {path:?}, which cannot be opened: {source} ({})",
        error::advice(.source, true)
    )]
    BackingOpen {
        image: PathBuf,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "disk image {image:?} needs its backing file {path:?}, which another disk of this guest writes (attach that one \
         with ',ro' or ',ephemeral')"
    )]
    BackingIsADisk { image: PathBuf, path: PathBuf },
    #[error(
        "disk image {image:?} names {path:?} as its backing file, which is neither a file nor a block device (name \
         another: qemu-img rebase -u -b FILE -F FORMAT {})",
        shell_word(.image)
    )]
    BackingKind { image: PathBuf, path: PathBuf },
    #[error(
        "disk image {image:?} needs its backing file {path:?}, which {holder} writes (wait for it to end, or \
         give each guest an image of its own on a file that nobody writes)"
    )]
    BackingInUse {
        image: PathBuf,
        path: PathBuf,
        holder: Busy,
    },
    #[error(
        "disk image {image:?} names '{name}' as its backing file, which is not opened unasked: {why} \
         ({advice})"
    )]
    NotPermitted {
        image: PathBuf,
        /// The name, without characters that control a terminal.
        name: String,
        why: &'static str,
        advice: String,
    },
    #[error(
        "disk image {image:?} names itself as its backing file (name another: qemu-img rebase -u -b FILE -F FORMAT \
         {})",
        shell_word(.image)
    )]
    Itself { image: PathBuf },
    #[error(
        "disk image {image:?} names {path:?} as its backing file, which lies above it already (name another: qemu-img \
         rebase -u -b FILE -F FORMAT {})",
        shell_word(.image)
    )]
    Circle { image: PathBuf, path: PathBuf },
    #[error(
        "disk image {image:?} has its data in another file{}, which is not opened unasked ({advice}, or put all into \
         one: qemu-img convert -O qcow2 {} NEW)",
        quoted(.name.as_deref()),
        shell_word(.image)
    )]
    DataNotNamed {
        image: PathBuf,
        /// The name in the header, without characters that control a terminal.
        name: Option<String>,
        advice: String,
    },
    #[error("disk image {image:?} has its data in itself, and no data file (leave out ',data=')")]
    NoDataFile { image: PathBuf },
    #[error(
        "disk image {image:?} cannot be its own data file (name the file that has its data: ',data=FILE')"
    )]
    DataIsImage { image: PathBuf },
    #[error(
        "disk image {image:?} has its data in another file, and {path:?} does not exist (name the file that has its \
         data: ',data=FILE')"
    )]
    DataMissing { image: PathBuf, path: PathBuf },
    #[error("disk image {image:?} cannot have its data file: {source}")]
    Data { image: PathBuf, source: Box<OpenError> },
    #[error(
        "disk image {image:?} and what lies under it may need more than {} MiB of memory for their tables, with {path:?} \
         (put all into one image with tables of the usual size: qemu-img convert -O qcow2 {} NEW)",
        budget::TABLES >> 20,
        shell_word(.image)
    )]
    Tables { image: PathBuf, path: PathBuf },
    #[error(
        "disk image {image:?} and what lies above it are 64 files, and its backing file {path:?} is one more (merge \
         some: qemu-img commit, or qemu-img convert)"
    )]
    TooDeep { image: PathBuf, path: PathBuf },
}

impl Error {
    /// Whether the only fault is that a file is missing.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::BackingMissing { .. } | Self::DataMissing { .. })
    }

    /// The error that the file at `path`, which `image` names, is not opened as its backing file.
    pub(super) fn refused(image: &Path, path: &Path, refusal: Refusal) -> Self {
        let (image, path) = (image.to_owned(), path.to_owned());
        match refusal {
            Refusal::NotPermitted(why) => Self::NotPermitted {
                name: clean(&path.to_string_lossy()),
                why,
                advice: how_to_permit(&image, &path),
                image,
            },
            Refusal::Kind => Self::BackingKind { image, path },
            Refusal::Known if image == path => Self::Itself { image },
            Refusal::Known => Self::Circle { image, path },
            Refusal::Io(source) if source.kind() == io::ErrorKind::NotFound => {
                Self::BackingMissing { image, path }
            }
            Refusal::Io(source) => Self::BackingOpen { image, path, source },
        }
    }

    /// The error that the data file at `path` cannot be opened for `disk`.
    pub(super) fn data(disk: &Disk, path: &Path, source: OpenError) -> Self {
        let image = disk.file.clone();
        match source.is_missing() {
            true => Self::DataMissing {
                image,
                path: path.into(),
            },
            false => Self::Data {
                image,
                source: source.into(),
            },
        }
    }

    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }

    pub(super) fn header(path: &Path, source: HeaderError) -> Self {
        Self::Header {
            path: path.into(),
            source,
        }
    }
}

fn quoted(name: Option<&str>) -> String {
    name.map_or(String::new(), |name| format!(", '{name}'"))
}

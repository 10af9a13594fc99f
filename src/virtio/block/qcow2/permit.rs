//! Decides which files an image may have opened: those that the person named, or else images in the image's own
//! directory.
//!
//! An image can come from anywhere and can name any file. The name is first compared, as text, with what the person
//! permitted. For a name that is not permitted no file of the host is even looked at.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{self, Component, Path, PathBuf};

use crate::config::Backing;
use crate::plain_text::{clean, shell_word};
use crate::virtio::block::image::identity::Identity;
use crate::virtio::block::image::opening::QCOW2_MAGIC;

/// The endings of names by which a file beside an image counts as a raw image.
const RAW_NAMES: [&str; 2] = ["img", "raw"];

/// A file that an image names and that the person permits.
#[derive(Debug, PartialEq, Eq)]
pub enum Permitted {
    /// A path that the person gave, or any path if the person permits every file.
    Named(PathBuf),
    /// A file in the directory of the image. It is opened only if it is an image and no link.
    Beside { directory: PathBuf, name: OsString },
}

/// Why a file is not opened.
#[derive(Debug)]
pub enum Refusal {
    /// The person did not permit it. The text says in which way it differs from what is permitted.
    NotPermitted(&'static str),
    /// Neither a file nor a block device.
    Kind,
    /// It is one of the files that the caller knows already.
    Known,
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Permitted {
    /// The file that `name`, from the header of `image`, stands for, if `permission` permits it.
    pub fn by(permission: &Backing, image: &Path, name: &str) -> Result<Self, Refusal> {
        let path = named_by(image, name);
        match permission {
            Backing::Any => Ok(Self::Named(path)),
            Backing::Named(files) => named_by_person(files, &path)
                .map(|file| Self::Named(file.into()))
                .ok_or(Refusal::NotPermitted("'backing=' does not name it")),
            Backing::Beside => {
                let plain = plain(&path);
                match (
                    plain.file_name(),
                    plain.parent() == plain_directory(image).as_deref(),
                ) {
                    (Some(name), true) => Ok(Self::Beside {
                        directory: directory_of(image),
                        name: name.into(),
                    }),
                    _ => Err(Refusal::NotPermitted("it is not in the image's own directory")),
                }
            }
        }
    }

    pub fn path(&self) -> PathBuf {
        match self {
            Self::Named(path) => path.clone(),
            Self::Beside { directory, name } if directory == Path::new(".") => name.into(),
            Self::Beside { directory, name } => directory.join(name),
        }
    }

    /// Opens it for reading, unless it is one of `known`.
    pub fn open(&self, known: &[Identity]) -> Result<(File, Identity), Refusal> {
        match self {
            Self::Named(path) => {
                // The kind is checked before the file is opened, because opening some devices makes them do something,
                // and again after it, because another file may have taken its place. With O_NONBLOCK a FIFO that did so
                // makes nobody wait.
                check_kind(&path.metadata()?)?;
                let file = OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_NONBLOCK)
                    .open(path)?;
                checked(file, known)
            }
            Self::Beside { directory, name } => open_beside(directory, name, known),
        }
    }
}

/// What to type so that `image` may have the file opened.
pub fn how_to_permit(image: &Path, path: &Path) -> String {
    let name = path.to_string_lossy();
    match () {
        _ if clean(&name) != name => format!(
            "its name has characters that no terminal shows: give it another name, then: qemu-img rebase -u -b FILE -F \
             FORMAT {}",
            shell_word(image)
        ),
        _ if name.contains(',') => {
            format!("if the image may read that file, say so in a --config file: \"backing\": [{path:?}]")
        }
        _ => format!(
            "if the image may read that file, add ,backing={}",
            shell_word(path)
        ),
    }
}

/// The path that `name` in `image` stands for. As for QEMU, it is relative to the directory of the image.
pub fn named_by(image: &Path, name: &str) -> PathBuf {
    image.parent().unwrap_or(Path::new("")).join(name)
}

/// Finds `path` among `files`, which the person named. The answer is the path as the person wrote it.
pub fn named_by_person<'a>(files: &'a [PathBuf], path: &Path) -> Option<&'a Path> {
    let wanted = plain(path);
    files
        .iter()
        .find(|file| plain(file) == wanted)
        .map(PathBuf::as_path)
}

fn open_beside(directory: &Path, name: &OsStr, known: &[Identity]) -> Result<(File, Identity), Refusal> {
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(directory)?;
    let c_name = CString::new(name.as_bytes()).map_err(io::Error::from)?;
    // The kind is checked before the file is opened, because opening some devices makes them do something.
    // SAFETY: a stat of zeroes is a valid value.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: the name is a C string, and the answer fits in `stat`.
    let result = unsafe {
        libc::fstatat(
            directory.as_raw_fd(),
            c_name.as_ptr(),
            &mut stat,
            libc::AT_SYMLINK_NOFOLLOW,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error().into());
    }
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => {}
        libc::S_IFLNK => return Err(LINK),
        libc::S_IFBLK => return Err(Refusal::NotPermitted("it is a block device")),
        _ => return Err(Refusal::Kind),
    }
    // The name has no slash and O_NOFOLLOW refuses a link, so the file that is opened is in the directory, even if
    // somebody puts another file there at this moment.
    let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::openat(directory.as_raw_fd(), c_name.as_ptr(), flags) };
    if fd == -1 {
        return match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ELOOP) => Err(LINK),
            error => Err(error.into()),
        };
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    let file = unsafe { File::from_raw_fd(fd) };
    let (file, identity) = checked(file, known)?;
    match is_image(&file, name)? {
        true => Ok((file, identity)),
        false => Err(Refusal::NotPermitted(
            "it is no qcow2 image and its name does not end in .img or .raw",
        )),
    }
}

const LINK: Refusal = Refusal::NotPermitted("it is a link");

/// Whether the file is an image. The person's other files may be in the same directory, and are not to be opened.
fn is_image(file: &File, name: &OsStr) -> io::Result<bool> {
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    let extension = Path::new(name).extension().unwrap_or_default();
    if RAW_NAMES.iter().any(|raw| extension == *raw) {
        return Ok(true);
    }
    let mut magic = [0; QCOW2_MAGIC.len()];
    let count = file.read_at(&mut magic, 0)?;
    Ok(count == magic.len() && magic == QCOW2_MAGIC)
}

fn checked(file: File, known: &[Identity]) -> Result<(File, Identity), Refusal> {
    check_kind(&file.metadata()?)?;
    let identity = Identity::of(&file)?;
    match known.iter().any(|known| known.overlaps(identity)) {
        true => Err(Refusal::Known),
        false => Ok((file, identity)),
    }
}

fn check_kind(metadata: &Metadata) -> Result<(), Refusal> {
    let kind = metadata.file_type();
    match kind.is_file() || kind.is_block_device() {
        true => Ok(()),
        false => Err(Refusal::Kind),
    }
}

/// `path` as an absolute path without "." and "..". Only its text is changed: no link in it is followed.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path::absolute(path).unwrap_or_default().components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            component => plain.push(component),
        }
    }
    plain
}

fn plain_directory(image: &Path) -> Option<PathBuf> {
    plain(image).parent().map(Path::to_owned)
}

fn directory_of(image: &Path) -> PathBuf {
    match image.parent() {
        Some(directory) if directory != Path::new("") => directory.into(),
        _ => ".".into(),
    }
}

#[cfg(test)]
#[path = "permit_test.rs"]
mod tests;

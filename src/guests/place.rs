use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Error, Guest, Name, lock};
use crate::random::random;

/// Names of directories that are no guest yet, or none any more, begin with these. No guest's name begins with a dot.
pub const NEW: &str = ".new-";
const GONE: &str = ".gone-";

/// The directory with a directory for each guest of this user. Nobody else can look into it.
pub struct Place {
    path: PathBuf,
    folder: Folder,
}

/// A directory that is open, so that it stays the same one when its name changes.
pub struct Folder(File);

impl Place {
    /// The directory, if there is one. Where there is none, this user has no guests.
    pub fn open() -> Result<Option<Self>, Error> {
        let path = path();
        match Folder::open(&path) {
            Ok(folder) => Self::check(path, folder).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(refused(path, error)),
        }
    }

    /// The directory, which is made if there is none.
    pub fn open_or_make() -> Result<Self, Error> {
        if let Some(place) = Self::open()? {
            return Ok(place);
        }
        let path = path();
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::File {
                    what: "make the directory of guests",
                    path,
                    source: error,
                });
            }
            _ => (),
        }
        match Folder::open(&path) {
            Ok(folder) => Self::check(path, folder),
            Err(error) => Err(refused(path, error)),
        }
    }

    /// In a directory that somebody else made or may write, names would lead where that person likes.
    fn check(path: PathBuf, folder: Folder) -> Result<Self, Error> {
        let found = folder.0.metadata().map_err(|source| Error::File {
            what: "look at the directory of guests",
            path: path.clone(),
            source,
        })?;
        let why = match () {
            () if found.uid() != own_user() => "it belongs to another user",
            () if found.mode() & 0o077 != 0 => "others than its owner may use it (its mode has to be 0700)",
            () => return Ok(Self { path, folder }),
        };
        Err(Error::Unsafe { path, why })
    }

    /// Where something in the directory is, for this process.
    pub fn inner(&self, name: &str) -> PathBuf {
        self.folder.inner(name)
    }

    /// Where a guest's directory is, for people.
    pub fn path_of(&self, name: &Name) -> PathBuf {
        self.path.join(name.as_str())
    }

    /// All guests, in the order of their names. Removes what is left of guests of which nothing is to be left. Each is opened when
    /// it is asked for, because this process may have fewer descriptors than there are guests.
    pub fn guests(&self) -> Result<impl Iterator<Item = Result<Guest, Error>>, Error> {
        let read = |entries: fs::ReadDir| -> io::Result<Vec<_>> {
            entries.map(|entry| Ok(entry?.file_name())).collect()
        };
        let names = fs::read_dir(self.inner(".")).and_then(read);
        let names = names.map_err(|source| self.error("read", source))?;
        let mut guests = Vec::<Name>::new();
        for name in names.iter().filter_map(|name| name.to_str()) {
            if name.starts_with(GONE) {
                self.erase(name);
            } else if name.starts_with(NEW) {
                self.erase_if_abandoned(name);
            } else {
                guests.extend(name.parse::<Name>().ok());
            }
        }
        guests.sort();
        let found = guests.into_iter().map(|name| self.find(&name));
        // Another command may have removed one, and not everything that is there is a guest.
        Ok(found.filter(|found| !matches!(found, Err(Error::Unknown(_)))))
    }

    /// The guest of this name.
    pub fn find(&self, name: &Name) -> Result<Guest, Error> {
        let unknown = || Error::Unknown(name.to_string());
        // The user's images, where XDG_DATA_HOME and XDG_RUNTIME_DIR are one directory.
        if name.as_str() == "images" && self.inner("images/oci-layout").exists() {
            return Err(unknown());
        }
        let guest = Guest::open(self, name).map_err(|source| match source.raw_os_error() {
            // Something there is not what it is in a guest's directory; without a number, the lock is no plain file.
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EISDIR | libc::ENXIO) | None => unknown(),
            _ => Error::Guest {
                what: "look at",
                name: name.clone(),
                source,
            },
        })?;
        match guest.is_to_be_removed() && self.remove(&guest).is_ok() {
            true => Err(unknown()),
            false => Ok(guest),
        }
    }

    /// Removes what is left of a guest that has ended.
    pub fn remove(&self, guest: &Guest) -> Result<(), Error> {
        let name = guest.name();
        let failed = |source| Error::Guest {
            what: "remove",
            name: name.clone(),
            source,
        };
        // One that has ended never runs again.
        if guest.is_running() {
            return Err(Error::Runs(name.clone()));
        }
        let changing = self.change().map_err(failed)?;
        if !guest.is_at(&self.inner(name.as_str())) {
            return Err(Error::Unknown(name.to_string()));
        }
        let gone = format!("{GONE}{:016x}", random());
        fs::rename(self.inner(name.as_str()), self.inner(&gone)).map_err(failed)?;
        drop(changing);
        self.erase(&gone);
        Ok(())
    }

    /// Gives a guest another name.
    pub fn rename(&self, guest: &Guest, to: &Name) -> Result<(), Error> {
        let from = guest.name();
        let failed = |source| Error::Guest {
            what: "rename",
            name: from.clone(),
            source,
        };
        // What is left of a guest of which nothing is to be left is in nobody's way.
        if let Ok(other) = self.find(to) {
            return Err(Error::taken(to, other.is_running()));
        }
        let _changing = self.change().map_err(failed)?;
        let path = self.inner(from.as_str());
        if !guest.is_at(&path) {
            return Err(Error::Unknown(from.to_string()));
        }
        // The directory of a guest is never empty, and this replaces none that is not.
        fs::rename(path, self.inner(to.as_str())).map_err(|source| match is_taken(&source) {
            true => Error::taken(to, true),
            false => failed(source),
        })
    }

    /// Waits until no other process is about to take a guest's name away. Until the result is dropped, a guest's name leads to the
    /// same directory. A new guest needs no such lock, because it gets only a name that leads nowhere.
    fn change(&self) -> io::Result<Folder> {
        let folder = Folder::open(&self.inner("."))?;
        folder.lock(libc::LOCK_EX).map(|()| folder)
    }

    /// Removes a directory that no guest has any more. Others may do the same at this moment.
    fn erase(&self, name: &str) {
        if let Err(error) = fs::remove_dir_all(self.inner(name)) {
            log::debug!("cannot remove {}: {error}", self.path.join(name).display());
        }
    }

    /// Removes a directory that was being made by a process that lives no more.
    fn erase_if_abandoned(&self, name: &str) {
        let path = self.inner(name);
        // A process that has just made the directory has not made the lock yet. It notices if the directory is gone.
        if fs::remove_dir(&path).is_ok() {
            return;
        }
        let lock = Folder::open(&path).and_then(|folder| folder.read("lock"));
        if let Ok(lock) = lock
            && lock::take(&lock).unwrap_or(false)
        {
            self.erase(name);
        }
    }

    pub fn error(&self, what: &'static str, source: io::Error) -> Error {
        Error::File {
            what,
            path: self.path.clone(),
            source,
        }
    }
}

impl Folder {
    /// Opens a directory that is no symbolic link.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        Ok(Self(file))
    }

    /// While this descriptor is open, systemd-tmpfiles does not remove files of the directory, however old they are.
    pub fn keep_from_cleaners(&self) -> io::Result<()> {
        self.lock(libc::LOCK_SH)
    }

    /// Takes a lock of flock(2), which is given back when the descriptor is closed.
    fn lock(&self, kind: i32) -> io::Result<()> {
        // SAFETY: a system call without pointers.
        while unsafe { libc::flock(self.0.as_raw_fd(), kind) } != 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Where something in the directory is, whatever the directory is called now. The path is short, as that of a socket has
    /// to be.
    pub fn inner(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()).into()
    }

    /// Opens a file for reading and writing, which locks ask for. Anything but a plain file is refused, because a pipe would
    /// have its reader wait.
    pub fn read(&self, name: &str) -> io::Result<File> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(self.inner(name))?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("it is no plain file")),
        }
    }

    /// Makes a file that only its owner can use.
    pub fn make(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.inner(name))
    }

    /// Whether this path leads to the directory.
    pub fn is_at(&self, path: &Path) -> bool {
        let same = || -> io::Result<bool> {
            let (own, other) = (self.0.metadata()?, fs::symlink_metadata(path)?);
            Ok((own.dev(), own.ino()) == (other.dev(), other.ino()))
        };
        same().unwrap_or(false)
    }
}

/// Whether a directory was not renamed because there is something of that name.
pub fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOTEMPTY | libc::EEXIST | libc::ENOTDIR)
    )
}

/// Where the directory is.
fn path() -> PathBuf {
    let user = own_user();
    // After `sudo -E` the variable is somebody else's.
    let is_own = |path: &PathBuf| {
        path.is_absolute() && fs::metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == user)
    };
    match env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(is_own) {
        Some(own) => own.join("coracle"),
        None if user == 0 => "/run/coracle".into(),
        None => format!("/tmp/coracle-{user}").into(),
    }
}

fn refused(path: PathBuf, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::ENOTDIR | libc::ELOOP) => Error::Unsafe {
            path,
            why: "it is no directory",
        },
        Some(libc::EACCES) => Error::Unsafe {
            path,
            why: "this user may not read it",
        },
        _ => Error::File {
            what: "open the directory of guests",
            path,
            source: error,
        },
    }
}

fn own_user() -> u32 {
    // SAFETY: the call has no preconditions.
    unsafe { libc::geteuid() }
}

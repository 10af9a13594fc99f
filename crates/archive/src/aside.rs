//! How something takes the place of what has its name already.
//!
//! No system call takes a name from one file and gives it to another that has none, so the other one needs a second name for a moment. A
//! process that is killed in that moment leaves it behind. The next one that needs that name removes it, so nobody has to do that
//! by hand. Who may use it is settled by a lock on the directory, which ends with its process: what has the name when somebody
//! gets the lock was left behind.
//!
//! Other hosts that share the directory (NFS, sshfs) see no such lock. Their file systems have no files without a name (`O_TMPFILE`), and
//! where those are missing, that name is never used: every copy has random ones, which no other copy removes.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

/// The name that is used under the lock.
pub const NAME: &str = ".coracle-cp";
/// How the random names begin.
const PREFIX: &str = ".coracle-cp-";
/// Random names that are tried. Two of 64 bits are hardly ever the same.
const TRIES: usize = 8;

/// Whether only copies use the name, for what is not whole. Some file systems take small and capital letters for the same.
pub fn is_reserved(name: &[u8]) -> bool {
    let start = name.get(..PREFIX.len());
    name.eq_ignore_ascii_case(NAME.as_bytes())
        || start.is_some_and(|start| start.eq_ignore_ascii_case(PREFIX.as_bytes()))
}

/// Something that has been made under such a name. It loses that name again, unless it is renamed.
#[derive(Debug)]
pub struct Aside {
    /// Has the lock, if it is locked.
    directory: File,
    name: String,
}

impl Aside {
    /// Has `make` make something under a name. Where something else has that name, `make` must fail with `EEXIST` and change nothing.
    /// `has_unnamed` says whether there are files without a name in the directory.
    pub fn make<T>(
        directory: BorrowedFd,
        has_unnamed: bool,
        mut make: impl FnMut(&str) -> nix::Result<T>,
    ) -> nix::Result<(Self, T)> {
        // A lock is that of an open file, so this is one of its own.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = File::from(openat(directory, ".", flags, Mode::empty())?);
        // Another copy has the lock for a moment, somebody else as long as he likes.
        let is_locked = has_unnamed && directory.try_lock().is_ok();
        // In a directory like /tmp what is there may be another user's.
        let is_free = is_locked && matches!(unlink(&directory, NAME), Ok(()) | Err(Errno::ENOENT));
        let mut name = match is_free {
            true => NAME.into(),
            false => random_name()?,
        };
        for _ in 0..TRIES {
            match make(&name) {
                Err(Errno::EEXIST) => name = random_name()?,
                Err(why) => return Err(why),
                Ok(made) => return Ok((Self { directory, name }, made)),
            }
        }
        Err(Errno::EEXIST)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives what has been made another name, in the place of whatever has that.
    pub fn rename(self, name: &[u8]) -> nix::Result<()> {
        renameat(&self.directory, self.name(), &self.directory, name)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // It has been renamed, or something failed. Of two names of one file rename(2) leaves both.
        let _ = unlink(&self.directory, &self.name);
    }
}

/// Opens a new file that has no name, if the directory's file system has such files.
pub fn unnamed(directory: BorrowedFd) -> nix::Result<Option<File>> {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_TMPFILE;
    match openat(directory, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(file) => Ok(Some(file.into())),
        // Not every file system has them, and before Linux 3.11 none has.
        Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::ENOENT) => Ok(None),
        Err(why) => Err(why),
    }
}

/// Gives an open file that has no name this one, which nothing may have.
pub fn link_open(file: &File, directory: impl AsFd, name: &[u8]) -> nix::Result<()> {
    // Root may do so, and since Linux 6.10 whoever opened the file. For others /proc does it (open(2), "O_TMPFILE").
    match linkat(file, "", &directory, name, AtFlags::AT_EMPTY_PATH) {
        Err(Errno::ENOENT) => {
            let file = format!("/proc/self/fd/{}", file.as_raw_fd());
            linkat(
                AT_FDCWD,
                file.as_str(),
                &directory,
                name,
                AtFlags::AT_SYMLINK_FOLLOW,
            )
        }
        linked => linked,
    }
}

fn unlink(directory: &File, name: &str) -> nix::Result<()> {
    unlinkat(directory, name, UnlinkatFlags::NoRemoveDir)
}

/// A name that nobody can know before.
fn random_name() -> nix::Result<String> {
    let mut bytes = [0; 8];
    // SAFETY: the call writes the bytes of the array. So few come whole or not at all.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    Errno::result(count)?;
    Ok(format!("{PREFIX}{:016x}", u64::from_ne_bytes(bytes)))
}

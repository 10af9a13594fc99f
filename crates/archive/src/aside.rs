//! How something takes the place of what has its name already.
//!
//! No system call takes a name from one file and gives it to another that has none, so the other one needs a second name for a moment. A
//! process that is killed in that moment leaves it behind. The next one that needs that name removes it, so nobody has to do that
//! by hand. Who may use it is settled by a lock on the directory, which ends with its process: what has the name when somebody
//! gets the lock was left behind.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

/// The name, and how those begin that are used where that one cannot be. No entry of an archive has such a name.
pub const NAME: &str = ".coracle-cp";

/// A name that nothing has in a directory. What gets it loses it again, unless it is renamed.
pub struct Aside {
    /// Has the lock, if it is locked.
    directory: File,
    name: String,
}

impl Aside {
    pub fn new(directory: BorrowedFd) -> nix::Result<Self> {
        // A lock is that of an open file, so this is one of its own.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = File::from(openat(directory, ".", flags, Mode::empty())?);
        // Another copy has it for a moment, somebody else as long as he likes, and NFS does not lock directories.
        let is_locked = directory.try_lock().is_ok();
        // In a directory like /tmp what is there may be another user's.
        let is_free = is_locked && matches!(unlink(&directory, NAME), Ok(()) | Err(Errno::ENOENT));
        let name = match is_free {
            true => NAME.into(),
            false => unused_name(),
        };
        Ok(Self { directory, name })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives what has the name another one, in the place of whatever has that.
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

/// A name that no other process of this host uses.
fn unused_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{NAME}-{}-{count}", process::id())
}

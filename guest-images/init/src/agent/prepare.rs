//! What a program finds in the guest beside what is there: its directory, and file systems in memory.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use coracle_agent_protocol::{Failure, Program, Reason, Tmpfs};
use nix::mount::{MsFlags, mount};

/// What Docker mounts a tmpfs with, if nothing is said.
const TMPFS: &[u8] = b"noexec,nosuid,nodev";
/// Options of a mount (mount(8)). All others are the file system's own.
const MOUNT_OPTIONS: [(&[u8], MsFlags, bool); 14] = [
    (b"ro", MsFlags::MS_RDONLY, true),
    (b"rw", MsFlags::MS_RDONLY, false),
    (b"nosuid", MsFlags::MS_NOSUID, true),
    (b"suid", MsFlags::MS_NOSUID, false),
    (b"nodev", MsFlags::MS_NODEV, true),
    (b"dev", MsFlags::MS_NODEV, false),
    (b"noexec", MsFlags::MS_NOEXEC, true),
    (b"exec", MsFlags::MS_NOEXEC, false),
    (b"noatime", MsFlags::MS_NOATIME, true),
    (b"atime", MsFlags::MS_NOATIME, false),
    (b"relatime", MsFlags::MS_RELATIME, true),
    (b"norelatime", MsFlags::MS_RELATIME, false),
    (b"strictatime", MsFlags::MS_STRICTATIME, true),
    (b"nostrictatime", MsFlags::MS_STRICTATIME, false),
];

/// Mounts the program's file systems, makes its directory if that is to be made, and makes the root read-only if it is to be so.
pub fn prepare(program: &Program) -> Result<(), Failure> {
    program.tmpfs.iter().try_for_each(mount_tmpfs)?;
    if let Some(directory) = &program.directory
        && program.makes_directory
    {
        make(directory)?;
    }
    match program.read_only {
        true => make_read_only(),
        false => Ok(()),
    }
}

fn make_read_only() -> Result<(), Failure> {
    let root = Path::new("/");
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(None::<&str>, root, None::<&str>, flags, None::<&str>)
        .map_err(|why| failure("write-protect", root, why.desc()))
}

fn mount_tmpfs(tmpfs: &Tmpfs) -> Result<(), Failure> {
    make(&tmpfs.target)?;
    let target = path(&tmpfs.target);
    let (flags, options) = split(tmpfs.options.as_deref().unwrap_or(TMPFS));
    mount(
        Some("tmpfs"),
        target,
        Some("tmpfs"),
        flags,
        Some(OsStr::from_bytes(&options)),
    )
    .map_err(|why| failure("mount a tmpfs on", target, why.desc()))
}

/// Makes a directory, and those above it, if it is not there. This process works at the root.
fn make(directory: &[u8]) -> Result<(), Failure> {
    let directory = path(directory);
    fs::create_dir_all(directory).map_err(|why| failure("make the directory", directory, why))
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn failure(what: &str, path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::new(Reason::Other, format!("cannot {what} {}: {why}", path.display()))
}

/// The mount's flags, and the options that are the file system's own. Of two that contradict each other the last counts.
fn split(options: &[u8]) -> (MsFlags, Vec<u8>) {
    let mut flags = MsFlags::empty();
    let mut own: Vec<&[u8]> = Vec::new();
    for option in options
        .split(|byte| *byte == b',')
        .filter(|option| !option.is_empty())
    {
        match MOUNT_OPTIONS.iter().find(|(name, ..)| *name == option) {
            Some((_, flag, is_on)) => flags.set(*flag, *is_on),
            None => own.push(option),
        }
    }
    (flags, own.join(&b','))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounts_options_are_not_the_file_systems() {
        let (flags, own) = split(b"size=1m,noexec,mode=700,nosuid,,suid,ro");
        assert_eq!(flags, MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY);
        assert_eq!(own, b"size=1m,mode=700");
        let (flags, own) = split(TMPFS);
        assert_eq!(flags, MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV);
        assert!(own.is_empty());
    }

    #[test]
    fn a_directory_is_made_only_where_that_is_asked_for() {
        let scratch = std::env::temp_dir().join(format!("coracle-init-{}", std::process::id()));
        let directory = scratch.join("a/b");
        let mut program = Program {
            directory: Some(directory.as_os_str().as_bytes().to_vec()),
            ..Program::default()
        };
        assert!(prepare(&program).is_ok());
        assert!(!directory.exists());
        program.makes_directory = true;
        assert!(prepare(&program).is_ok() && prepare(&program).is_ok());
        assert!(directory.is_dir());
        fs::remove_dir(&directory).unwrap();
        fs::write(&directory, "").unwrap();
        let failure = prepare(&program).unwrap_err();
        assert!(failure.text.contains("cannot make the directory"), "{failure:?}");
        fs::remove_dir_all(scratch).unwrap();
    }
}

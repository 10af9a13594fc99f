//! Puts the entries of an archive into a directory.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, futimens, makedev, mkdirat, mknodat,
    umask, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat};

use crate::aside::{self, Aside};
use crate::entry::{Entry, Kind, Piece, names};
use crate::{Reader, failed, refused, shown};

/// Bytes of data read at once.
const READ: usize = 64 << 10;
/// A directory on the way to a file.
const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);
/// The mode of a directory that is being filled.
const PRIVATE: Mode = Mode::S_IRWXU;
/// Files that are remembered as this copy's, of which there can be hard links. They take 50 MiB at most.
const MADE_MAX: usize = 1 << 20;

/// What an archive may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Files get the owners that the archive names, by number. Otherwise they are the user's own.
    pub owners: bool,
    /// The archive is trusted as far as its files are, where they belong: its device nodes are made, and if its files keep their
    /// owners, they may be set-user-ID.
    pub is_trusted: bool,
}

/// What becomes of the first of an entry's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Top {
    Keep,
    /// This name takes its place.
    Rename(OsString),
    /// It is left out: what is in the archive's one directory goes into the directory itself.
    LeaveOut,
}

/// Puts entries into a directory.
pub struct Unpacker<'a> {
    top: Top,
    policy: Policy,
    /// Permissions that the user's files do not have.
    mask: Mode,
    /// The directory and those in it on the way to the last entry, of which each is in the one before. None has a name that leads
    /// out of the one before.
    open: Vec<Level>,
    /// What was made of an archive that is not trusted, by its file system and its inode. All else may be the user's.
    made: HashSet<(u64, u64)>,
    /// How many of those there can be. Tests have fewer.
    pub(crate) made_max: usize,
    /// Whether it tries to have files without a name. Tests also do without.
    pub(crate) tries_unnamed: bool,
    buffer: Vec<u8>,
    /// Is told of what is left out.
    warn: &'a mut dyn FnMut(&str),
}

struct Level {
    name: Vec<u8>,
    directory: OwnedFd,
    /// Whether there are files without a name in it, if that is known.
    has_unnamed: Option<bool>,
    /// What it is to get when it is filled, if it was made for an entry.
    is_for: Option<Entry>,
}

impl<'a> Unpacker<'a> {
    pub fn new(directory: OwnedFd, top: Top, policy: Policy, warn: &'a mut dyn FnMut(&str)) -> Self {
        // There is no other way to learn it than to change it.
        let mask = umask(PRIVATE.complement());
        umask(mask);
        Self {
            top,
            policy,
            mask,
            open: vec![Level {
                name: Vec::new(),
                directory,
                has_unnamed: None,
                is_for: None,
            }],
            made: HashSet::new(),
            made_max: MADE_MAX,
            tries_unnamed: true,
            buffer: vec![0; READ],
            warn,
        }
    }

    /// Puts one entry into the directory, with its data that `reader` gives.
    pub fn put<R: Read>(&mut self, entry: Entry, reader: &mut Reader<R>) -> io::Result<()> {
        let names = self.placed(entry.names()?);
        let Some((name, parents)) = names.split_last() else {
            // The directory itself, which is there.
            return match entry.kind {
                Kind::Directory => Ok(()),
                _ => Err(refused(
                    "something that is no directory is to take a directory's place",
                )),
            };
        };
        if names.iter().any(|name| aside::is_reserved(name)) {
            (self.warn)(&format!(
                "left out: {} has the name of files that are not whole",
                shown(&names.join(&b'/'))
            ));
            return Ok(());
        }
        self.enter(parents)?;
        match &entry.kind {
            Kind::Directory => self
                .descend(name, Some(entry))
                .map_err(|why| self.cannot("make the directory", &names, why)),
            Kind::File { size, pieces } => {
                let made = self.file(name, reader, (*size, pieces.as_deref()), &entry);
                made.map_err(|why| self.cannot("write", &names, why))
            }
            Kind::Symlink(target) => {
                let made = self.symlink(name, target, &entry);
                made.map_err(|why| self.cannot("make the symbolic link", &names, why))
            }
            Kind::HardLink(target) => {
                let made = self.link(name, target);
                made.map_err(|why| self.cannot("make the hard link", &names, why))
            }
            Kind::Device { is_block, number } if self.policy.is_trusted => {
                let kind = if *is_block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
                let made = self.node(name, kind, *number, &entry);
                made.map_err(|why| self.cannot("make the device", &names, why))
            }
            Kind::Fifo if self.policy.is_trusted => {
                let made = self.node(name, SFlag::S_IFIFO, (0, 0), &entry);
                made.map_err(|why| self.cannot("make the pipe", &names, why))
            }
            Kind::Device { .. } | Kind::Fifo => {
                (self.warn)(&format!(
                    "left out: {} is a device or a pipe",
                    shown(&names.join(&b'/'))
                ));
                Ok(())
            }
            Kind::Other(_) => {
                (self.warn)(&format!(
                    "left out: {} is of an unknown type",
                    shown(&names.join(&b'/'))
                ));
                Ok(())
            }
        }
    }

    /// Gives the last directories what they are to have.
    pub fn finish(mut self) -> io::Result<()> {
        self.leave_to(1)
    }

    fn here(&self) -> BorrowedFd<'_> {
        // The first is never left.
        self.open[self.open.len() - 1].directory.as_fd()
    }

    /// The names of an entry where it goes.
    fn placed(&self, names: Vec<&[u8]>) -> Vec<Vec<u8>> {
        let mut names: Vec<_> = names.into_iter().map(<[u8]>::to_vec).collect();
        match (&self.top, names.first_mut()) {
            (Top::Rename(name), Some(first)) => *first = name.as_bytes().to_vec(),
            (Top::LeaveOut, Some(_)) => drop(names.remove(0)),
            _ => {}
        }
        names
    }

    fn cannot(&self, what: &str, names: &[Vec<u8>], why: io::Error) -> io::Error {
        match why.kind() {
            // The archive's own trouble, which names itself.
            io::ErrorKind::UnexpectedEof => why,
            _ => failed(what, &names.join(&b'/'), why),
        }
    }

    /// Opens the directories of these names, each in the one before, and makes those that are missing.
    fn enter(&mut self, names: &[Vec<u8>]) -> io::Result<()> {
        let same = self.open[1..].iter().zip(names);
        let same = same.take_while(|(level, name)| level.name == **name).count();
        self.leave_to(1 + same)?;
        for index in same..names.len() {
            self.descend(&names[index], None)
                .map_err(|why| failed("open the directory", &names[..=index].join(&b'/'), why))?;
        }
        Ok(())
    }

    /// Opens a directory in the one that was opened last, and makes it if there is none. One that was there stays as it is, but for
    /// what is put into it.
    fn descend(&mut self, name: &[u8], is_for: Option<Entry>) -> io::Result<()> {
        let is_new = match mkdirat(self.here(), name, PRIVATE) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(why) => return Err(why.into()),
        };
        // A symbolic link is no directory here.
        let directory = openat(self.here(), name, DIRECTORY, Mode::empty()).map_err(|why| match why {
            Errno::ENOTDIR | Errno::ELOOP => io::Error::new(
                io::ErrorKind::NotADirectory,
                "something else has that name; a symbolic link to a directory is not followed",
            ),
            why => why.into(),
        })?;
        if is_new && is_for.is_none() {
            fchmod(&directory, Mode::from_bits_truncate(0o755))?;
        }
        self.open.push(Level {
            name: name.to_vec(),
            directory,
            has_unnamed: None,
            is_for: is_for.filter(|_| is_new),
        });
        Ok(())
    }

    /// Leaves directories until so many are open, and gives those their modes and times that were made for an entry.
    fn leave_to(&mut self, count: usize) -> io::Result<()> {
        while self.open.len() > count {
            let Some(Level {
                name,
                directory,
                is_for: Some(entry),
                ..
            }) = self.open.pop()
            else {
                continue;
            };
            self.dress(&directory, &entry)
                .map_err(|why| failed("set the owner, mode or time of", &name, why))?;
        }
        Ok(())
    }

    /// Gives a file its owner, its mode and its time, in this order: a new owner takes bits of the mode away.
    fn dress(&self, file: impl AsFd, entry: &Entry) -> nix::Result<()> {
        if self.policy.owners {
            fchown(
                file.as_fd(),
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
            )?;
        }
        fchmod(file.as_fd(), self.mode(entry))?;
        let time = modified(entry);
        futimens(file.as_fd(), &time, &time)
    }

    fn mode(&self, entry: &Entry) -> Mode {
        // A file that is set-user-ID is so for one owner.
        let allowed = match (self.policy.is_trusted, self.policy.owners) {
            (true, true) => 0o7777,
            (true, false) => 0o1777,
            (false, true) => 0o777,
            (false, false) => 0o777 & !self.mask.bits(),
        };
        Mode::from_bits_truncate(entry.mode() & allowed)
    }

    /// Writes a file that has no name, and gives it its name when it is whole.
    fn file<R: Read>(
        &mut self,
        name: &[u8],
        reader: &mut Reader<R>,
        (size, pieces): (u64, Option<&[Piece]>),
        entry: &Entry,
    ) -> io::Result<()> {
        let unnamed = self.unnamed()?;
        let here = self.open[self.open.len() - 1].directory.as_fd();
        let (file, aside) = match unnamed {
            Some(file) => (file, None),
            None => {
                let flags =
                    OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
                let mode = Mode::S_IRUSR | Mode::S_IWUSR;
                let (aside, file) = Aside::make(here, false, |name| openat(here, name, flags, mode))?;
                (file.into(), Some(aside))
            }
        };
        fill(&file, reader, size, pieces, &mut self.buffer)?;
        self.dress(&file, entry)?;
        match aside {
            Some(aside) => aside.rename(name)?,
            None => match aside::link_open(&file, here, name) {
                Err(Errno::EEXIST) => {
                    let link = |name: &str| aside::link_open(&file, here, name.as_bytes());
                    let (aside, ()) = Aside::make(here, true, link)?;
                    aside.rename(name)?;
                }
                linked => linked?,
            },
        }
        let found = fstat(&file)?;
        self.note(found);
        Ok(())
    }

    /// Opens a new file that has no name, if there are such files in the directory that was opened last.
    fn unnamed(&mut self) -> nix::Result<Option<File>> {
        let file = match self.tries_unnamed {
            true => aside::unnamed(self.here())?,
            false => None,
        };
        if let Some(level) = self.open.last_mut() {
            level.has_unnamed = Some(file.is_some());
        }
        Ok(file)
    }

    /// Whether there are files without a name in the directory that was opened last.
    fn has_unnamed(&mut self) -> nix::Result<bool> {
        match self.open[self.open.len() - 1].has_unnamed {
            Some(known) => Ok(known),
            None => Ok(self.unnamed()?.is_some()),
        }
    }

    /// Notes what was made, while there is room.
    fn note(&mut self, found: FileStat) {
        if !self.policy.is_trusted && self.made.len() < self.made_max {
            self.made.insert((found.st_dev, found.st_ino));
        }
    }

    fn symlink(&mut self, name: &[u8], target: &[u8], entry: &Entry) -> io::Result<()> {
        if target.is_empty() || target.len() > crate::PATH_MAX || target.contains(&0) {
            return Err(refused("no symbolic link can lead there"));
        }
        let has_unnamed = self.has_unnamed()?;
        let here = self.here();
        let (aside, ()) = Aside::make(here, has_unnamed, |name| symlinkat(target, here, name))?;
        self.own(aside.name(), entry)?;
        let time = modified(entry);
        utimensat(here, aside.name(), &time, &time, UtimensatFlags::NoFollowSymlink)?;
        let found = fstatat(here, aside.name(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        aside.rename(name)?;
        self.note(found);
        Ok(())
    }

    /// A further name for a file in the directory. The way there follows no symbolic link.
    fn link(&mut self, name: &[u8], target: &[u8]) -> io::Result<()> {
        let has_unnamed = self.has_unnamed()?;
        let target = self.placed(names(target)?);
        let Some((file, parents)) = target.split_last() else {
            return Err(refused("it is to be a directory's"));
        };
        let mut directory: Option<OwnedFd> = None;
        for parent in parents {
            let from = directory.as_ref().unwrap_or(&self.open[0].directory);
            directory = Some(openat(from, parent.as_slice(), DIRECTORY, Mode::empty())?);
        }
        let from = directory.as_ref().unwrap_or(&self.open[0].directory);
        let found = fstatat(from, file.as_slice(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
            return Err(refused("it is to be a directory's"));
        }
        if !self.policy.is_trusted && !self.made.contains(&(found.st_dev, found.st_ino)) {
            return Err(match self.made.len() < self.made_max {
                true => refused("it is to be of a file that this copy has not made"),
                false => refused(format!(
                    "only the first {} files of a copy can have further names, and it is to be of none of them",
                    self.made_max
                )),
            });
        }
        let here = self.here();
        let link = |name: &str| linkat(from, file.as_slice(), here, name, AtFlags::empty());
        let (aside, ()) = Aside::make(here, has_unnamed, link)?;
        Ok(aside.rename(name)?)
    }

    fn node(
        &mut self,
        name: &[u8],
        kind: SFlag,
        (major, minor): (u32, u32),
        entry: &Entry,
    ) -> io::Result<()> {
        let number = makedev(major.into(), minor.into());
        let mode = self.mode(entry);
        let has_unnamed = self.has_unnamed()?;
        let here = self.here();
        let make = |name: &str| mknodat(here, name, kind, mode, number);
        let (aside, ()) = Aside::make(here, has_unnamed, make)?;
        self.own(aside.name(), entry)?;
        Ok(aside.rename(name)?)
    }

    /// Gives what has this name the owner of an entry.
    fn own(&self, name: &str, entry: &Entry) -> nix::Result<()> {
        if !self.policy.owners {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        fchownat(
            self.here(),
            name,
            Some(uid),
            Some(gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )
    }
}

impl Drop for Unpacker<'_> {
    /// After an error, directories keep a mode that keeps others out.
    fn drop(&mut self) {
        self.open.truncate(1);
    }
}

fn modified(entry: &Entry) -> TimeSpec {
    TimeSpec::new(entry.modified.seconds, entry.modified.nanoseconds.into())
}

/// Puts an entry's data into a file.
fn fill<R: Read>(
    mut file: &File,
    reader: &mut Reader<R>,
    size: u64,
    pieces: Option<&[Piece]>,
    buffer: &mut [u8],
) -> io::Result<()> {
    let whole = [Piece {
        offset: 0,
        length: size,
    }];
    for piece in pieces.unwrap_or(&whole) {
        file.seek(SeekFrom::Start(piece.offset))?;
        let mut left = piece.length;
        while left > 0 {
            let most = left.min(buffer.len() as u64) as usize;
            let count = reader.read_data(&mut buffer[..most])?;
            if count == 0 {
                return Err(refused("its data is shorter than was said"));
            }
            file.write_all(&buffer[..count])?;
            left -= count as u64;
        }
    }
    if pieces.is_some() {
        file.set_len(size)?;
    }
    Ok(())
}

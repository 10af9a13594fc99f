//! Writes a file or a directory as an archive.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, major, minor};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use nix::unistd::{Whence, lseek};

use crate::entry::{Entry, Kind, Piece, Time};
use crate::sparse::PIECES_MAX;
use crate::{DEPTH_MAX, Writer, failed, refused, shown};

/// Bytes of data read at once.
const READ: usize = 64 << 10;
/// Nothing that is opened waits for anybody, or becomes this process' terminal.
const OPEN: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

/// Writes what is at `path` as an archive to `sink`, in which it has the name `name`, and that of a directory is in front of all that
/// is in it. If `path` is a symbolic link, the link is written, or what it leads to if `follows`. Symbolic links inside are written
/// as they are. `warn` is told of what is left out: what only a running system has.
pub fn pack<W: Write>(
    path: &Path,
    name: &[u8],
    follows: bool,
    sink: W,
    warn: &mut dyn FnMut(&str),
) -> io::Result<W> {
    let mut packer = Packer {
        writer: Writer::new(sink),
        names: HashMap::new(),
        buffer: vec![0; READ],
        warn,
    };
    let flags = match follows {
        true => AtFlags::empty(),
        false => AtFlags::AT_SYMLINK_NOFOLLOW,
    };
    let given = path.as_os_str().as_bytes();
    let found = fstatat(AT_FDCWD, given, flags).map_err(|why| failed("read", given, why))?;
    let place = Place {
        directory: AT_FDCWD,
        file: given,
        opens: match follows {
            true => OPEN.difference(OFlag::O_NOFOLLOW),
            false => OPEN,
        },
        device: found.st_dev,
    };
    packer.put(&place, &found, name, 0)?;
    packer.writer.finish()
}

struct Packer<'a, W> {
    writer: Writer<W>,
    /// Files that have other names, too, by device and number; each with its name in the archive.
    names: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    warn: &'a mut dyn FnMut(&str),
}

/// Where a file is.
struct Place<'a> {
    directory: BorrowedFd<'a>,
    file: &'a [u8],
    opens: OFlag,
    /// The device of the directory.
    device: u64,
}

impl<W: Write> Packer<'_, W> {
    /// Writes a file, and if it is a directory, all that is in it.
    fn put(&mut self, place: &Place, found: &FileStat, name: &[u8], depth: usize) -> io::Result<()> {
        let cannot_read = |why: Errno| failed("read", name, why);
        let node = |is_block| Kind::Device {
            is_block,
            number: (major(found.st_rdev) as u32, minor(found.st_rdev) as u32),
        };
        let kind = match kind(found) {
            SFlag::S_IFREG => return self.put_file(place, found, name),
            SFlag::S_IFDIR => Kind::Directory,
            SFlag::S_IFLNK => {
                let target = readlinkat(place.directory, place.file).map_err(cannot_read)?;
                Kind::Symlink(target.as_bytes().to_vec())
            }
            SFlag::S_IFCHR => node(false),
            SFlag::S_IFBLK => node(true),
            SFlag::S_IFIFO => Kind::Fifo,
            _ => {
                (self.warn)(&format!("left out: {} is a socket", shown(name)));
                return Ok(());
            }
        };
        let is_directory = kind == Kind::Directory;
        self.writer.entry(&entry(found, name, kind))?;
        match is_directory {
            true => self.put_contents(place, found, name, depth),
            false => Ok(()),
        }
    }

    fn put_contents(&mut self, place: &Place, found: &FileStat, name: &[u8], depth: usize) -> io::Result<()> {
        if depth == DEPTH_MAX {
            return Err(refused(format!("directories are too deep: {}", shown(name))));
        }
        let cannot_read = |why: Errno| failed("read the directory", name, why);
        let flags = place.opens | OFlag::O_DIRECTORY;
        let mut directory =
            Dir::openat(place.directory, place.file, flags, Mode::empty()).map_err(cannot_read)?;
        if found.st_dev != place.device && is_of_kernel(directory.as_fd()) {
            (self.warn)(&format!(
                "left out: {} is the kernel's, and has no files",
                shown(name)
            ));
            return Ok(());
        }
        let mut files = Vec::<CString>::new();
        for file in directory.iter() {
            let file = file.map_err(cannot_read)?;
            if !matches!(file.file_name().to_bytes(), b"." | b"..") {
                files.push(file.file_name().to_owned());
            }
        }
        // The same tree gives the same archive.
        files.sort();
        for file in files {
            let name = [name, b"/", file.as_bytes()].concat();
            let cannot_read = |why: Errno| failed("read", &name, why);
            let place = Place {
                directory: directory.as_fd(),
                file: file.as_bytes(),
                opens: OPEN,
                device: found.st_dev,
            };
            let found = match fstatat(place.directory, place.file, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => {
                    (self.warn)(&format!("left out: {} was removed meanwhile", shown(&name)));
                    continue;
                }
                found => found.map_err(cannot_read)?,
            };
            self.put(&place, &found, &name, depth + 1)?;
        }
        Ok(())
    }

    fn put_file(&mut self, place: &Place, found: &FileStat, name: &[u8]) -> io::Result<()> {
        let number = (found.st_dev, found.st_ino);
        if found.st_nlink > 1 {
            if let Some(first) = self.names.get(&number) {
                let link = Kind::HardLink(first.clone());
                return self.writer.entry(&entry(found, name, link));
            }
            self.names.insert(number, name.to_vec());
        }
        let cannot_read = |why: Errno| failed("read", name, why);
        let file = openat(place.directory, place.file, place.opens, Mode::empty()).map_err(cannot_read)?;
        let file = File::from(file);
        let found = fstat(&file).map_err(cannot_read)?;
        if kind(&found) != SFlag::S_IFREG {
            return Err(refused(format!(
                "{} became another file while it was read",
                shown(name)
            )));
        }
        let size = found.st_size.try_into().unwrap_or(0);
        // Of such a file, as /proc has them, only a program that reads it learns the length. It is no entry, as an empty one would
        // take the place of what is there.
        if size == 0
            && file
                .read_at(&mut [0], 0)
                .map_err(|why| failed("read", name, why))?
                > 0
        {
            return Err(refused(format!(
                "{} does not say how long it is, or grew while it was read",
                shown(name)
            )));
        }
        let pieces = pieces(&file, &found, size).map_err(cannot_read)?;
        let whole = [Piece {
            offset: 0,
            length: size,
        }];
        let kind = Kind::File {
            size,
            pieces: pieces.clone(),
        };
        self.writer.entry(&entry(&found, name, kind))?;
        for piece in pieces.as_deref().unwrap_or(&whole) {
            self.put_data(&file, *piece, name)?;
        }
        Ok(())
    }

    fn put_data(&mut self, file: &File, piece: Piece, name: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < piece.length {
            let most = (piece.length - done).min(self.buffer.len() as u64) as usize;
            match file.read_at(&mut self.buffer[..most], piece.offset + done) {
                Ok(0) => {
                    return Err(refused(format!(
                        "{} became shorter while it was read",
                        shown(name)
                    )));
                }
                Ok(count) => {
                    self.writer.data(&self.buffer[..count])?;
                    done += count as u64;
                }
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(failed("read", name, why)),
            }
        }
        Ok(())
    }
}

fn entry(found: &FileStat, name: &[u8], kind: Kind) -> Entry {
    Entry {
        path: name.to_vec(),
        kind,
        mode: found.st_mode & 0o7777,
        uid: found.st_uid,
        gid: found.st_gid,
        modified: Time {
            seconds: found.st_mtime,
            nanoseconds: found.st_mtime_nsec.try_into().unwrap_or(0),
        },
    }
}

fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}

/// Whether a directory is in a file system whose files are made by the kernel at the moment when they are read.
fn is_of_kernel(directory: BorrowedFd) -> bool {
    const THEIRS: [FsType; 2] = [PROC_SUPER_MAGIC, SYSFS_MAGIC];
    fstatfs(directory).is_ok_and(|found| THEIRS.contains(&found.filesystem_type()))
}

/// Where a file has data. Nothing if it has no holes, or its file system does not tell them.
fn pieces(file: &File, found: &FileStat, size: u64) -> nix::Result<Option<Vec<Piece>>> {
    let stored = u64::try_from(found.st_blocks).unwrap_or(0) * 512;
    if stored >= size {
        return Ok(None);
    }
    let end = found.st_size;
    let mut pieces = Vec::new();
    let mut position = 0;
    while position < end {
        let data = match lseek(file, position, Whence::SeekData) {
            Ok(data) => data,
            // A hole up to the end.
            Err(Errno::ENXIO) => break,
            Err(Errno::EINVAL) => return Ok(None),
            Err(why) => return Err(why),
        };
        // One more marks the end.
        let hole = match pieces.len() + 2 < PIECES_MAX {
            true => lseek(file, data, Whence::SeekHole)?,
            // What follows counts as data.
            false => end,
        };
        // It may have changed meanwhile.
        position = hole.min(end);
        if let (Ok(offset), Ok(length)) = (u64::try_from(data), u64::try_from(position - data))
            && length > 0
        {
            pieces.push(Piece { offset, length });
        } else {
            break;
        }
    }
    Ok(Some(pieces))
}

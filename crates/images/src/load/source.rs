//! Where an archive's files are read from: a directory, a tar file, or the store, to which a stream was copied.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use coracle_archive::{Kind, Reader};

use crate::digest::Expected;
use crate::error::{Error, Result, invalid, shortened};
use crate::store::{Lease, Store};

/// Files of an archive.
const MEMBERS_MAX: usize = 1 << 16;
/// Links from one name to the next.
const LINKS_MAX: usize = 8;
const BUFFER: usize = 256 << 10;

/// The files of an archive, by their paths.
pub(super) enum Source {
    Directory(PathBuf),
    /// Each file's offset and size.
    Tar(File, Members<(u64, u64)>),
    /// The blobs that the files have become.
    Spooled(Store, Members<Expected>),
}

pub(super) struct Members<T> {
    files: HashMap<String, T>,
    /// Names of files under other names. They lead nowhere but to `files`.
    links: HashMap<String, String>,
}

impl<T: Clone> Members<T> {
    fn new() -> Self {
        Self {
            files: HashMap::new(),
            links: HashMap::new(),
        }
    }

    fn get(&self, path: &str) -> Option<&T> {
        let mut path = path;
        for _ in 0..LINKS_MAX {
            match self.links.get(path) {
                Some(target) => path = target,
                None => return self.files.get(path),
            }
        }
        None
    }

    /// Takes note of a file or a link. What else an archive may have does not matter. `file` gives what is kept of a file of that size.
    fn add(&mut self, path: &[u8], kind: &Kind, file: impl FnOnce(u64, &str) -> Result<T>) -> Result<()> {
        let Some(path) = clean("", path) else {
            return Ok(());
        };
        if self.files.len() + self.links.len() >= MEMBERS_MAX {
            return Err(invalid(format!(
                "the archive has more than {MEMBERS_MAX} files; no image does"
            )));
        }
        match kind {
            Kind::File { size, pieces: None } => {
                let file = file(*size, &path)?;
                self.files.insert(path, file);
            }
            Kind::File { pieces: Some(_), .. } => {
                return Err(invalid(format!(
                    "the archive's file {} is sparse; pack it again without that",
                    shortened(&path)
                )));
            }
            Kind::Symlink(target) => {
                let directory = path.rfind('/').map_or("", |slash| &path[..slash]);
                if let Some(target) = clean(directory, target) {
                    self.links.insert(path, target);
                }
            }
            Kind::HardLink(target) => {
                if let Some(target) = clean("", target) {
                    self.links.insert(path, target);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// A path in an archive without `.` and `..`, by its text alone. None if it leads out, or is not text.
fn clean(directory: &str, path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    let mut parts: Vec<&str> = Vec::new();
    for part in directory.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

impl Source {
    /// Finds the files of a tar file without reading them.
    pub(super) fn tar(file: File) -> Result<Self> {
        let mut members = Members::new();
        let mut end = 0;
        loop {
            let at = |file: &File| -> io::Result<u64> { (&*file).stream_position() };
            (&file)
                .seek(SeekFrom::Start(end))
                .map_err(|error| unreadable(&error))?;
            let mut reader = Reader::new(&file);
            let Some(entry) = reader.next_entry().map_err(|error| unreadable(&error))? else {
                break;
            };
            let offset = at(&file).map_err(|error| unreadable(&error))?;
            let size = match &entry.kind {
                Kind::File { size, .. } => *size,
                // What has data besides files is not known, and is read over by the reader.
                Kind::Other(_) => data_left(&mut reader).map_err(|error| unreadable(&error))?,
                _ => 0,
            };
            members.add(&entry.path, &entry.kind, |size, _| Ok((offset, size)))?;
            let next = size
                .checked_next_multiple_of(512)
                .and_then(|size| offset.checked_add(size));
            end = next.ok_or_else(|| invalid("the archive has a file larger than any can be"))?;
        }
        Ok(Self::Tar(file, members))
    }

    /// Copies the files of a stream to the store. Their digests are checked when they are used.
    pub(super) fn spool(stream: impl Read, store: &Store, lease: &mut Lease) -> Result<Self> {
        let mut members = Members::new();
        let mut reader = Reader::new(stream);
        let mut buffer = vec![0; BUFFER];
        while let Some(entry) = reader.next_entry().map_err(|error| unreadable(&error))? {
            members.add(&entry.path, &entry.kind, |size, path| {
                let known = path
                    .strip_prefix("blobs/")
                    .and_then(|path| path.replacen('/', ":", 1).parse().ok());
                if let Some(digest) = known {
                    let blob = Expected {
                        digest,
                        size: Some(size),
                    };
                    lease.add([&blob.digest])?;
                    if store.has(&blob) {
                        return Ok(blob);
                    }
                }
                let mut spool = store.spool()?;
                loop {
                    match reader
                        .read_data(&mut buffer)
                        .map_err(|error| unreadable(&error))?
                    {
                        0 => break,
                        count => spool.put(&buffer[..count])?,
                    }
                }
                spool.finish(lease)
            })?;
        }
        // Whoever writes the archive must not be ended for what follows its end.
        io::copy(&mut reader.into_inner(), &mut io::sink()).map_err(|error| unreadable(&error))?;
        Ok(Self::Spooled(store.clone(), members))
    }

    /// A small file. None if it is not there.
    pub(super) fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let Some((file, size)) = self.open(path)? else {
            return Ok(None);
        };
        if size > most {
            return Err(invalid(format!(
                "the archive's file {} has more than {most} bytes",
                shortened(path)
            )));
        }
        let mut bytes = Vec::new();
        // A file of a directory may grow.
        file.take(most)
            .read_to_end(&mut bytes)
            .map_err(|error| unreadable(&error))?;
        Ok(Some(bytes))
    }

    /// Copies a file into the store, and says which blob it is. With `expected` it must be that one. None if it is not there.
    pub(super) fn copy(
        &self,
        path: &str,
        expected: Option<&Expected>,
        store: &Store,
        lease: &mut Lease,
    ) -> Result<Option<Expected>> {
        if let Some(blob) = expected {
            lease.add([&blob.digest])?;
            if store.has(blob) {
                return Ok(Some(blob.clone()));
            }
        }
        if let (Self::Spooled(_, members), None) = (self, expected) {
            return Ok(members.get(path).cloned());
        }
        let Some((mut file, _)) = self.open(path)? else {
            return Ok(None);
        };
        match expected {
            None => {
                let mut spool = store.spool()?;
                each(&mut file, |bytes| spool.put(bytes))?;
                spool.finish(lease).map(Some)
            }
            Some(blob) => {
                if let Some(mut download) = store.fetch(blob)? {
                    download.restart()?;
                    each(&mut file, |bytes| download.write(bytes))?;
                    download.finish()?;
                }
                Ok(Some(blob.clone()))
            }
        }
    }

    fn open(&self, path: &str) -> Result<Option<(Box<dyn Read + '_>, u64)>> {
        let Some(path) = clean("", path.as_bytes()) else {
            return Ok(None);
        };
        match self {
            Self::Directory(directory) => {
                let Some(file) = open_below(directory, &path)? else {
                    return Ok(None);
                };
                let size = file.metadata().map_err(|error| unreadable(&error))?.len();
                Ok(Some((Box::new(file), size)))
            }
            Self::Tar(file, members) => Ok(members.get(&path).map(|&(offset, size)| {
                let part = Part {
                    file,
                    offset,
                    left: size,
                };
                (Box::new(part) as Box<dyn Read>, size)
            })),
            Self::Spooled(store, members) => match members.get(&path) {
                None => Ok(None),
                Some(blob) => Ok(Some((
                    Box::new(store.open_blob(&blob.digest)?),
                    blob.size.unwrap_or(0),
                ))),
            },
        }
    }
}

fn each(file: &mut impl Read, mut put: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer).map_err(|error| unreadable(&error))? {
            0 => return Ok(()),
            count => put(&buffer[..count])?,
        }
    }
}

/// Opens a regular file of a layout. No link below the directory is followed.
fn open_below(directory: &Path, path: &str) -> Result<Option<File>> {
    let mut full = directory.to_owned();
    for part in path.split('/') {
        full.push(part);
        match fs::symlink_metadata(&full) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("look at", &full)(error)),
            Ok(metadata) if metadata.is_symlink() => {
                return Err(invalid(format!(
                    "{} is a link, which is not followed",
                    full.display()
                )));
            }
            Ok(_) => {}
        }
    }
    // Not to wait for the other end of a pipe.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(&full);
    let file = opened.map_err(Error::file("open", &full))?;
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(Some(file)),
        _ => Err(invalid(format!("{} is no regular file", full.display()))),
    }
}

/// A part of a file, read from its begin.
struct Part<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.left.try_into().unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..most], self.offset)?;
        if count == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut off"));
        }
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

fn data_left(reader: &mut Reader<&File>) -> io::Result<u64> {
    let mut buffer = vec![0; 4096];
    let mut size = 0;
    loop {
        match reader.read_data(&mut buffer)? {
            0 => return Ok(size),
            count => size += count as u64,
        }
    }
}

pub(super) fn unreadable(error: &io::Error) -> Error {
    invalid(format!(
        "cannot read the archive: {error}; check that it is whole, and that it is an image's"
    ))
}

//! Writes an archive.

use std::io::{self, Write};

use tar::{EntryType, Header};

use crate::entry::{Entry, Kind, Piece, Time};
use crate::refused;

const BLOCK: u64 = 512;

/// Writes entries one after the other. The data of a file is written by [`Writer::data`] after its entry, exactly as much as that says.
pub struct Writer<W> {
    sink: W,
    /// So many bytes follow the data of the current entry.
    padding: u64,
}

impl<W: Write> Writer<W> {
    pub fn new(sink: W) -> Self {
        Self { sink, padding: 0 }
    }

    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.pad()?;
        let mut records = Vec::new();
        let mut map = Vec::new();
        let mut header = Header::new_ustar();
        let (kind, size) = match &entry.kind {
            Kind::File { size, pieces: None } => (EntryType::Regular, *size),
            Kind::File {
                size,
                pieces: Some(pieces),
            } => {
                map = map_of(pieces, *size);
                record(&mut records, "GNU.sparse.major", b"1");
                record(&mut records, "GNU.sparse.minor", b"0");
                record(&mut records, "GNU.sparse.name", &entry.path);
                record(&mut records, "GNU.sparse.realsize", size.to_string().as_bytes());
                let data: u64 = pieces.iter().map(|piece| piece.length).sum();
                (EntryType::Regular, map.len() as u64 + data)
            }
            Kind::Directory => (EntryType::Directory, 0),
            Kind::Symlink(_) => (EntryType::Symlink, 0),
            Kind::HardLink(_) => (EntryType::Link, 0),
            Kind::Device { is_block, number } => {
                header.set_device_major(number.0)?;
                header.set_device_minor(number.1)?;
                let kind = if *is_block {
                    EntryType::Block
                } else {
                    EntryType::Char
                };
                (kind, 0)
            }
            Kind::Fifo => (EntryType::Fifo, 0),
            Kind::Other(_) => return Err(refused("no archive can have a file of this type")),
        };
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(entry.mode());
        header.set_uid(entry.uid.into());
        header.set_gid(entry.gid.into());
        header.set_mtime(entry.modified.seconds.try_into().unwrap_or(0));
        if entry.modified.nanoseconds > 0 || entry.modified.seconds < 0 {
            record(&mut records, "mtime", decimal(entry.modified).as_bytes());
        }
        if let Some(fields) = header.as_ustar_mut() {
            if !put(&mut fields.name, &entry.path) {
                record(&mut records, "path", &entry.path);
            }
            if let Kind::Symlink(link) | Kind::HardLink(link) = &entry.kind
                && !put(&mut fields.linkname, link)
            {
                record(&mut records, "linkpath", link);
            }
        }
        if !records.is_empty() {
            let mut extended = Header::new_ustar();
            if let Some(fields) = extended.as_ustar_mut() {
                put(&mut fields.name, b"././@PaxHeader");
            }
            extended.set_entry_type(EntryType::XHeader);
            extended.set_size(records.len() as u64);
            extended.set_mode(0o644);
            for number in [Header::set_uid, Header::set_gid, Header::set_mtime] {
                number(&mut extended, 0);
            }
            extended.set_cksum();
            self.sink.write_all(extended.as_bytes())?;
            fill(&mut records);
            self.sink.write_all(&records)?;
        }
        header.set_cksum();
        self.sink.write_all(header.as_bytes())?;
        self.sink.write_all(&map)?;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
        Ok(())
    }

    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink.write_all(bytes)
    }

    /// Writes the archive's end.
    pub fn finish(mut self) -> io::Result<W> {
        self.pad()?;
        self.sink.write_all(&[0; 2 * BLOCK as usize])?;
        self.sink.flush()?;
        Ok(self.sink)
    }

    fn pad(&mut self) -> io::Result<()> {
        let zeros = [0; BLOCK as usize];
        let count = std::mem::take(&mut self.padding) as usize;
        self.sink.write_all(&zeros[..count])
    }
}

/// The pieces of a sparse file as [`Reader`](crate::Reader) reads them.
fn map_of(pieces: &[Piece], size: u64) -> Vec<u8> {
    // GNU tar takes the end of the last piece for the end of the file.
    let end = Piece {
        offset: size,
        length: 0,
    };
    let mut map = format!("{}\n", pieces.len() + 1).into_bytes();
    for Piece { offset, length } in pieces.iter().chain([&end]) {
        map.extend(format!("{offset}\n{length}\n").bytes());
    }
    fill(&mut map);
    map
}

/// Appends a record of an extended header. Its length includes that of the length.
fn record(records: &mut Vec<u8>, keyword: &str, value: &[u8]) {
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend(format!("{length} {keyword}=").bytes());
    records.extend(value);
    records.push(b'\n');
}

/// Seconds with nine digits behind the point.
fn decimal(time: Time) -> String {
    match time.seconds < 0 && time.nanoseconds > 0 {
        true => format!("-{}.{:09}", -(time.seconds + 1), 1_000_000_000 - time.nanoseconds),
        false => format!("{}.{:09}", time.seconds, time.nanoseconds),
    }
}

/// Fills up to a block.
fn fill(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
}

/// False if only the begin of `text` fits.
fn put(field: &mut [u8; 100], text: &[u8]) -> bool {
    let count = text.len().min(field.len());
    field[..count].copy_from_slice(&text[..count]);
    text.len() <= field.len()
}

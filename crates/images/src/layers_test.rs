//! Layers for tests: real tars, with whatever a test wants in them.

/// An entry, which begins as an empty regular file.
#[derive(Debug, Clone)]
pub struct Entry {
    pub path: Vec<u8>,
    pub kind: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub modified: (i64, u32),
    pub link: Vec<u8>,
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub data: Vec<u8>,
    /// Records in front of all others.
    pub records: Vec<(Vec<u8>, Vec<u8>)>,
}

pub fn entry(kind: u8, path: impl AsRef<[u8]>) -> Entry {
    Entry {
        path: path.as_ref().to_vec(),
        kind,
        mode: if kind == b'5' { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        modified: (1_600_000_000, 0),
        link: Vec::new(),
        device: (0, 0),
        xattrs: Vec::new(),
        data: Vec::new(),
        records: Vec::new(),
    }
}

pub fn file(path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Entry {
    Entry {
        data: data.as_ref().to_vec(),
        ..entry(b'0', path)
    }
}

pub fn directory(path: impl AsRef<[u8]>) -> Entry {
    entry(b'5', path)
}

pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry {
        link: target.as_ref().to_vec(),
        ..entry(b'2', path)
    }
}

pub fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry {
        link: target.as_ref().to_vec(),
        ..entry(b'1', path)
    }
}

impl Entry {
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub fn modified(mut self, seconds: i64, nanoseconds: u32) -> Self {
        self.modified = (seconds, nanoseconds);
        self
    }

    pub fn device(mut self, major: u32, minor: u32) -> Self {
        self.device = (major, minor);
        self
    }

    pub fn xattr(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.xattrs
            .push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    pub fn record(mut self, keyword: &str, value: impl AsRef<[u8]>) -> Self {
        self.records.push((keyword.into(), value.as_ref().to_vec()));
        self
    }

    /// The entry in pax format, filled up to a block. Where a header has no room, records say it.
    pub fn pax(&self) -> Vec<u8> {
        let mut records = Vec::new();
        for (keyword, value) in &self.records {
            add_record(&mut records, keyword, value);
        }
        if self.path.len() > 100 {
            add_record(&mut records, b"path", &self.path);
        }
        if self.link.len() > 100 {
            add_record(&mut records, b"linkpath", &self.link);
        }
        for (keyword, id) in [("uid", self.uid), ("gid", self.gid)] {
            if id > 0o7777777 {
                add_record(&mut records, keyword.as_bytes(), id.to_string().as_bytes());
            }
        }
        if self.modified.1 > 0 || self.modified.0 < 0 {
            add_record(&mut records, b"mtime", decimal(self.modified).as_bytes());
        }
        for (name, value) in &self.xattrs {
            add_record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        let mut bytes = Vec::new();
        if !records.is_empty() {
            bytes.extend(header(b'x', b"pax", records.len() as u64, |_| ()));
            bytes.extend(padded(&records));
        }
        bytes.extend(self.header());
        bytes.extend(padded(&self.data));
        bytes
    }

    /// The entry in GNU's format.
    pub fn gnu(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, text) in [(b'L', &self.path), (b'K', &self.link)] {
            if text.len() > 100 {
                let text = [&text[..], b"\0"].concat();
                bytes.extend(header(kind, b"././@LongLink", text.len() as u64, |_| ()));
                bytes.extend(padded(&text));
            }
        }
        bytes.extend(self.header());
        bytes.extend(padded(&self.data));
        bytes
    }

    fn header(&self) -> [u8; 512] {
        header(self.kind, &self.path, self.data.len() as u64, |header| {
            put(&mut header[100..108], self.mode.into());
            put(&mut header[108..116], self.uid.into());
            put(&mut header[116..124], self.gid.into());
            put(&mut header[136..148], self.modified.0);
            let link = &self.link[..self.link.len().min(100)];
            header[157..157 + link.len()].copy_from_slice(link);
            put(&mut header[329..337], self.device.0.into());
            put(&mut header[337..345], self.device.1.into());
        })
    }
}

/// The tar of entries in pax format, filled up as a layer's tar is.
pub fn tar<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<u8> {
    whole(entries.into_iter().flat_map(Entry::pax).collect())
}

/// Ends a tar.
pub fn whole(mut tar: Vec<u8>) -> Vec<u8> {
    tar.resize(tar.len() + 1024, 0);
    tar.resize(tar.len().next_multiple_of(4096), 0);
    tar
}

pub fn header(kind: u8, path: &[u8], size: u64, change: impl FnOnce(&mut [u8; 512])) -> [u8; 512] {
    let mut header = [0; 512];
    let path = &path[..path.len().min(100)];
    header[..path.len()].copy_from_slice(path);
    for field in [100..108, 108..116, 116..124, 136..148] {
        put(&mut header[field], 0);
    }
    put(&mut header[124..136], size as i64);
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    change(&mut header);
    sum(&mut header);
    header
}

/// Gives a header its checksum.
pub fn sum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// In octal digits, or, if there are too many, in two's complement.
fn put(field: &mut [u8], number: i64) {
    let digits = format!("{number:0width$o}", width = field.len() - 1);
    if number >= 0 && digits.len() < field.len() {
        field[..digits.len()].copy_from_slice(digits.as_bytes());
        return;
    }
    let bytes = i128::from(number).to_be_bytes();
    let length = field.len();
    field.copy_from_slice(&bytes[16 - length..]);
    field[0] |= 0x80;
}

pub fn add_record(records: &mut Vec<u8>, keyword: &[u8], value: &[u8]) {
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend(format!("{length} ").bytes());
    records.extend([keyword, b"=", value, b"\n"].concat());
}

fn decimal((seconds, nanoseconds): (i64, u32)) -> String {
    match seconds < 0 && nanoseconds > 0 {
        true => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
        false => format!("{seconds}.{nanoseconds:09}"),
    }
}

//! Digests of blobs, and readers and writers that check them while the data passes (OCI image specification, "Digests").

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use sha2::{Sha256, Sha512};

use crate::error::{Error, Result, invalid, shortened};

/// The hash functions that a digest may be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Digits of the digest.
    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A digest, as `sha256:` and 64 lower case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

impl Digest {
    /// The SHA-256 digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.digest()
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Lower case hexadecimal digits, which are safe as the name of a file.
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: String| invalid(format!("'{}' is no digest: {why}", shortened(text)));
        let (name, hex) = text
            .split_once(':')
            .ok_or_else(|| wrong("it has no ':' after the name of a hash function".into()))?;
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name);
        let algorithm = algorithm.ok_or_else(|| wrong("only sha256 and sha512 are understood".into()))?;
        if hex.len() != algorithm.digits()
            || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            let digits = algorithm.digits();
            return Err(wrong(format!(
                "{digits} lower case hexadecimal digits follow '{name}:'"
            )));
        }
        Ok(Self {
            algorithm,
            hex: hex.to_owned(),
        })
    }
}

/// Computes a digest of what it is given piece by piece.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub fn new(algorithm: Algorithm) -> Self {
        use sha2::Digest;
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    pub fn update(&mut self, bytes: &[u8]) {
        use sha2::Digest;
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    pub fn digest(self) -> Digest {
        use sha2::Digest as _;
        let (algorithm, bytes) = match self.0 {
            State::Sha256(state) => (Algorithm::Sha256, state.finalize().to_vec()),
            State::Sha512(state) => (Algorithm::Sha512, state.finalize().to_vec()),
        };
        let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Digest { algorithm, hex }
    }
}

/// What a blob must be: its descriptor's digest and size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub digest: Digest,
    /// Bytes. None where only the digest is known.
    pub size: Option<u64>,
}

/// Counts and hashes a blob while it passes, and says at its end whether it is the one.
#[derive(Clone)]
pub(crate) struct Check {
    expected: Expected,
    hasher: Hasher,
    count: u64,
}

impl Check {
    pub(crate) fn new(expected: Expected) -> Self {
        let hasher = Hasher::new(expected.digest.algorithm());
        Self {
            expected,
            hasher,
            count: 0,
        }
    }

    /// Bytes that have passed.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Refuses bytes beyond the size.
    pub(crate) fn update(&mut self, bytes: &[u8]) -> Result<()> {
        self.count += bytes.len() as u64;
        if let Some(size) = self.expected.size
            && self.count > size
        {
            return Err(self.wrong(format!("it has more than the {size} bytes that it should have")));
        }
        self.hasher.update(bytes);
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<()> {
        if let Some(size) = self.expected.size
            && self.count != size
        {
            return Err(self.wrong(format!("it has {} bytes instead of {size}", self.count)));
        }
        let found = self.hasher.clone().digest();
        match found == self.expected.digest {
            true => Ok(()),
            false => Err(self.wrong(format!("its data have the digest {found}"))),
        }
    }

    fn wrong(&self, why: String) -> Error {
        let digest = &self.expected.digest;
        invalid(format!(
            "the blob {digest} is damaged or was exchanged: {why}; get the image anew"
        ))
    }
}

/// Reads a blob, and fails at its end or earlier if it is not the one that was expected.
pub struct CheckedReader<R> {
    source: R,
    /// None once the end was checked.
    check: Option<Check>,
}

impl<R: Read> CheckedReader<R> {
    pub fn new(source: R, expected: Expected) -> Self {
        Self {
            source,
            check: Some(Check::new(expected)),
        }
    }
}

impl<R: Read> Read for CheckedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.source.read(buffer)?;
        let checked = match (count, &mut self.check) {
            (0, check) => check.take().map_or(Ok(()), Check::finish),
            (_, Some(check)) => check.update(&buffer[..count]),
            (_, None) => Err(invalid("a blob goes on after its end")),
        };
        checked.map_err(io::Error::other)?;
        Ok(count)
    }
}

/// Writes a blob. [`finish`](Self::finish) says whether it is the one that was expected.
pub struct CheckedWriter<W> {
    sink: W,
    check: Check,
}

impl<W: Write> CheckedWriter<W> {
    pub fn new(sink: W, expected: Expected) -> Self {
        Self {
            sink,
            check: Check::new(expected),
        }
    }

    pub fn finish(mut self) -> Result<W> {
        self.check.finish()?;
        self.sink
            .flush()
            .map_err(|why| invalid(format!("cannot write a blob: {why}")))?;
        Ok(self.sink)
    }
}

impl<W: Write> Write for CheckedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.sink.write(bytes)?;
        self.check.update(&bytes[..count]).map_err(io::Error::other)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

#[cfg(test)]
#[path = "digest_test.rs"]
mod tests;

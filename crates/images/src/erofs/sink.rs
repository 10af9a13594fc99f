//! What the metadata are written to.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};

const BUFFER: usize = 256 << 10;
/// A gap of that size becomes a hole in the file.
const HOLE: u64 = 64 << 10;

/// Writes one thing after the other, with zeros between them.
pub struct Sink<W: Write> {
    out: BufWriter<W>,
    pub position: u64,
}

impl<W: Write + Seek> Sink<W> {
    pub fn new(out: W) -> Self {
        Self {
            out: BufWriter::with_capacity(BUFFER, out),
            position: 0,
        }
    }

    pub fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.position += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Fills up to a position that is not behind.
    pub fn pad_to(&mut self, position: u64) -> io::Result<()> {
        const ZEROS: [u8; 512] = [0; 512];
        let mut gap = position - self.position;
        if gap > HOLE {
            // The last byte is written, for the case that nothing follows.
            self.out.seek(SeekFrom::Start(position - 1))?;
            gap = 1;
        }
        while gap > 0 {
            let count = gap.min(ZEROS.len() as u64);
            self.out.write_all(&ZEROS[..count as usize])?;
            gap -= count;
        }
        self.position = position;
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }
}

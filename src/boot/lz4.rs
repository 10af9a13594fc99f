//! The legacy LZ4 frame, the only one that kernels are packed with (LZ4 frame format, "Legacy frame").
//!
//! A magic number, then blocks: compressed size in 4 bytes, compressed data. Nothing marks the end but the
//! end of the input, and nothing checks the data.

use std::io::{self, Read};

/// Every block but the last unpacks to this.
const BLOCK_MAX: usize = 8 << 20;
/// The most that LZ4 makes of a block that does not compress.
const COMPRESSED_MAX: usize = BLOCK_MAX + BLOCK_MAX / 255 + 16;

pub(super) struct LegacyLz4<R> {
    input: R,
    compressed: Vec<u8>,
    block: Vec<u8>,
    /// What of `block` is still to be read.
    unread: std::ops::Range<usize>,
}

impl<R: Read> LegacyLz4<R> {
    /// Takes the magic number, which the caller has recognised.
    pub(super) fn new(mut input: R) -> io::Result<LegacyLz4<R>> {
        input.read_exact(&mut [0; 4])?;
        Ok(LegacyLz4 {
            input,
            compressed: Vec::new(),
            block: Vec::new(),
            unread: 0..0,
        })
    }

    /// Unpacks the next block, of zero bytes at the end of the input.
    fn next_block(&mut self) -> io::Result<()> {
        let mut size = Vec::with_capacity(4);
        self.input.by_ref().take(4).read_to_end(&mut size)?;
        let size = match size.as_slice() {
            [] => return Ok(()),
            &[a, b, c, d] => u32::from_le_bytes([a, b, c, d]) as usize,
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        if size > COMPRESSED_MAX {
            return Err(io::Error::other(format!(
                "a block of {size} bytes, the format allows 8 MiB"
            )));
        }
        self.compressed.resize(size, 0);
        self.input.read_exact(&mut self.compressed)?;
        self.block.resize(BLOCK_MAX, 0);
        let count =
            lz4_flex::block::decompress_into(&self.compressed, &mut self.block).map_err(io::Error::other)?;
        self.unread = 0..count;
        Ok(())
    }
}

impl<R: Read> Read for LegacyLz4<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() {
            self.next_block()?;
        }
        let count = self.unread.len().min(buffer.len());
        let end = self.unread.start + count;
        buffer[..count].copy_from_slice(&self.block[self.unread.start..end]);
        self.unread.start = end;
        Ok(count)
    }
}

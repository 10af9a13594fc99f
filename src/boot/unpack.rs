//! Unpacks a bzImage's kernel on the host, so that no guest spends its boot decompressing.
//!
//! The kernel streams from the compressed file into guest memory through one small buffer. How much may come
//! out is known beforehand: the kernel's build ends every payload with the unpacked size, 4 bytes in little
//! endian (for gzip they are the format's own).

use std::fmt;
use std::io::{self, BufReader, Read};

use liblzma::stream::Stream;
use ruzstd::decoding::StreamingDecoder;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::error::Problem;
use super::image::{Image, ImageReader, Source};
use super::lz4::LegacyLz4;

/// How a bzImage's kernel is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Bzip2,
    Lzma,
    Xz,
    Lz4,
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::Gzip => "gzip",
            Compression::Bzip2 => "bzip2",
            Compression::Lzma => "LZMA",
            Compression::Xz => "xz",
            Compression::Lz4 => "LZ4",
            Compression::Zstd => "zstd",
        })
    }
}

impl Compression {
    /// Recognises the first bytes of compressed data, as the kernel's own table of magic numbers does.
    pub(super) fn recognise(data: &[u8]) -> Option<Compression> {
        match data {
            [0x1f, 0x8b | 0x9e, ..] => Some(Compression::Gzip),
            [b'B', b'Z', b'h', ..] => Some(Compression::Bzip2),
            [0x5d, 0, 0, ..] => Some(Compression::Lzma),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Compression::Xz),
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Compression::Lz4),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
            _ => None,
        }
    }
}

/// Bytes of the unpacked size at the end of a payload.
const SIZE_TRAILER: u64 = 4;
/// What a decoder may take for its dictionary: the kernel's build asks xz for 128 MiB at most.
const DECODER_MEMORY_MAX: u64 = 256 << 20;
/// The first bytes that come out are kept, since an ELF file's headers are read before its segments.
const HEAD: u64 = 0x1_0000;
const CHUNK: usize = 0x1_0000;

/// The kernel inside a bzImage. Beyond its first bytes it can be read only once, from start to end.
pub(super) struct Unpacked<'a> {
    compression: Compression,
    decoder: Box<dyn Read + 'a>,
    head: Vec<u8>,
    chunk: Vec<u8>,
    /// Bytes that came out of the decoder so far.
    position: u64,
    length: u64,
    room: u64,
}

impl<'a> Unpacked<'a> {
    /// Begins to unpack the payload at `start..end` of `image`, for a guest with `room` bytes of memory.
    pub(super) fn new(
        image: &'a Image,
        compression: Compression,
        start: u64,
        end: u64,
        room: u64,
    ) -> Result<Unpacked<'a>, Problem> {
        let trailer = end.saturating_sub(SIZE_TRAILER).max(start);
        let mut size = [0; SIZE_TRAILER as usize];
        let mut packed = image;
        packed.read(trailer, &mut size)?;
        let length = u64::from(u32::from_le_bytes(size));

        let end = match compression {
            Compression::Gzip => end,
            _ => trailer,
        };
        let input = BufReader::with_capacity(
            CHUNK,
            ImageReader {
                image,
                position: start,
                end,
            },
        );
        let decoder = decoder(compression, input).map_err(|error| corrupt(compression, error))?;
        let chunk = vec![0; CHUNK];
        let mut unpacked = Unpacked {
            compression,
            decoder,
            head: Vec::new(),
            chunk,
            position: 0,
            length,
            room,
        };
        unpacked.head = unpacked.next(length.min(HEAD))?.to_vec();
        Ok(unpacked)
    }

    /// Reads what is left and lets the decoder check it, sum and size.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        self.skip_to(self.length)?;
        match self.decoder.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(Problem::Corrupt(format!(
                "its {} payload unpacks to more than the {} bytes that it says",
                self.compression, self.length
            ))),
            Err(error) => Err(corrupt(self.compression, error)),
        }
    }

    /// The next `size` bytes, at most [`CHUNK`].
    fn next(&mut self, size: u64) -> Result<&[u8], Problem> {
        let buffer = &mut self.chunk[..size as usize];
        self.decoder
            .read_exact(buffer)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => Problem::Corrupt(format!(
                    "its {} payload unpacks to less than the {} bytes that it says",
                    self.compression, self.length
                )),
                _ => corrupt(self.compression, error),
            })?;
        self.position += size;
        Ok(buffer)
    }

    /// Unpacks up to `offset`, and drops what comes before it.
    fn skip_to(&mut self, offset: u64) -> Result<(), Problem> {
        // Not checked earlier: first the ELF headers, which are in the head, get to say how much memory the kernel needs.
        if self.length > self.room {
            return Err(Problem::NoRoomForKernel {
                needs: self.length,
                has: self.room,
            });
        }
        if offset < self.position {
            return Err(Problem::Header(
                "the parts of its unpacked kernel overlap in the file".to_string(),
            ));
        }
        while self.position < offset {
            self.next((offset - self.position).min(CHUNK as u64))?;
        }
        Ok(())
    }

    /// The part of `offset..offset + length` that was kept.
    fn kept(&self, offset: u64, length: u64) -> &[u8] {
        let kept = self.head.len() as u64;
        &self.head[offset.min(kept) as usize..offset.saturating_add(length).min(kept) as usize]
    }
}

impl Source for Unpacked<'_> {
    fn length(&self) -> Result<u64, Problem> {
        Ok(self.length)
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Problem> {
        let kept = self.kept(offset, buffer.len() as u64);
        let (start, rest) = buffer.split_at_mut(kept.len());
        start.copy_from_slice(kept);
        let mut offset = offset + start.len() as u64;
        for piece in rest.chunks_mut(CHUNK) {
            self.skip_to(offset)?;
            piece.copy_from_slice(self.next(piece.len() as u64)?);
            offset += piece.len() as u64;
        }
        Ok(())
    }

    fn load(
        &mut self,
        offset: u64,
        length: u64,
        memory: &GuestMemoryMmap,
        address: GuestAddress,
    ) -> Result<(), Problem> {
        let kept = self.kept(offset, length);
        memory.write_slice(kept, address).map_err(Problem::GuestMemory)?;
        let mut done = kept.len() as u64;
        if done < length {
            self.skip_to(offset + done)?;
        }
        while done < length {
            let chunk = self.next((length - done).min(CHUNK as u64))?;
            // Fresh guest memory is zero already, and the end of a kernel is megabytes of zeros.
            if chunk.iter().any(|&byte| byte != 0) {
                memory
                    .write_slice(chunk, GuestAddress(address.0 + done))
                    .map_err(Problem::GuestMemory)?;
            }
            done += chunk.len() as u64;
        }
        Ok(())
    }
}

fn corrupt(compression: Compression, error: io::Error) -> Problem {
    Problem::Corrupt(format!("its {compression} payload cannot be unpacked: {error}"))
}

fn decoder<'a>(
    compression: Compression,
    input: BufReader<ImageReader<'a>>,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::Gzip => Box::new(flate2::bufread::GzDecoder::new(input)),
        Compression::Bzip2 => Box::new(bzip2::bufread::BzDecoder::new(input)),
        Compression::Lzma => Box::new(liblzma::bufread::XzDecoder::new_stream(
            input,
            Stream::new_lzma_decoder(DECODER_MEMORY_MAX)?,
        )),
        Compression::Xz => Box::new(liblzma::bufread::XzDecoder::new_stream(
            input,
            Stream::new_stream_decoder(DECODER_MEMORY_MAX, 0)?,
        )),
        Compression::Lz4 => Box::new(LegacyLz4::new(input)?),
        Compression::Zstd => Box::new(CheckedZstd(
            StreamingDecoder::new(input).map_err(io::Error::other)?,
        )),
    })
}

/// Compares the checksum at the frame's end, which the decoder computes but does not compare.
struct CheckedZstd<R: Read>(StreamingDecoder<R, ruzstd::decoding::FrameDecoder>);

impl<R: Read> Read for CheckedZstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            let decoder = &self.0.decoder;
            let expected = decoder.get_checksum_from_data();
            if expected.is_some() && expected != decoder.get_calculated_checksum() {
                return Err(io::Error::other("its checksum does not match"));
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
#[path = "unpack_test.rs"]
mod tests;

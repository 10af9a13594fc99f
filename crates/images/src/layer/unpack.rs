//! From a layer's blob to its tar.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;

use super::{ALIGNMENT, refused};
use crate::decompress::decompress;
use crate::digest::{Algorithm, Digest, Hasher};

/// Zeros of so many bytes, at a multiple of that, become a hole.
const HOLE: usize = 4096;
/// A multiple of that.
const BUFFER: usize = 256 << 10;
/// What came out of a layer's blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of the tar, without those that its file is filled up with.
    pub size: u64,
    /// The digest of the tar, by which an image's configuration names the layer.
    pub diff_id: Digest,
}

/// Writes the tar of a layer to a new file, up to the blob's end. Whether the blob is compressed is seen from its begin, whatever its
/// media type says. Zeros become holes, and the file is filled up to a multiple of [`ALIGNMENT`]. More than `most` bytes are refused.
pub fn unpack(blob: impl Read + Send, tar: &File, most: u64) -> io::Result<Unpacked> {
    let mut source = decompress(blob)?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; BUFFER];
    let mut size = 0;
    loop {
        let count = fill(&mut source, &mut buffer).map_err(damaged)?;
        if count as u64 > most - size {
            return Err(refused(format!(
                "a layer is more than {most} bytes when it is unpacked, and no more are allowed; allow more if the image is to be trusted"
            )));
        }
        hasher.update(&buffer[..count]);
        write(tar, &buffer[..count], size)?;
        size += count as u64;
        if count < BUFFER {
            break;
        }
    }
    tar.set_len(size.next_multiple_of(ALIGNMENT))?;
    Ok(Unpacked {
        size,
        diff_id: hasher.digest(),
    })
}

/// Reads until the buffer is full or there is no more.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match source.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(count)
}

/// Writes what is not zeros. `offset` is a multiple of `HOLE`.
fn write(tar: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let is_hole = |piece: &[u8]| piece == &[0; HOLE][..piece.len()];
    let mut position = 0;
    for run in bytes
        .chunks(HOLE)
        .collect::<Vec<_>>()
        .chunk_by(|one, other| is_hole(one) == is_hole(other))
    {
        let length: usize = run.iter().map(|piece| piece.len()).sum();
        if !is_hole(run[0]) {
            tar.write_all_at(&bytes[position..position + length], offset + position as u64)?;
        }
        position += length;
    }
    Ok(())
}

/// What a decoder says of bad data gets a sentence around it. Errors of the blob's source have theirs.
fn damaged(why: io::Error) -> io::Error {
    match why.kind() {
        ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof => {
            let text =
                format!("a layer's compressed data are damaged or cut off ({why}); get the image anew");
            io::Error::new(why.kind(), text)
        }
        _ => why,
    }
}

//! Data that may be compressed.

use std::io::{self, BufRead, BufReader, Read};

const BUFFER: usize = 128 << 10;
/// zstd: the data that a frame may look back on. It takes 32 MiB of memory.
const WINDOW_LOG_MAX: u32 = 25;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// zstd: "Skippable Frames"; the lowest four bits are free.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// The data as they were before gzip or zstd, or as they are, told by their first bytes.
pub(crate) fn decompress<'a>(source: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut source = BufReader::with_capacity(BUFFER, source);
    let begin = source.fill_buf()?;
    Ok(match begin {
        begin if is_gzip(begin) => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        begin if is_zstd(begin) => {
            let mut decoder = zstd::Decoder::with_buffer(source)?;
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        _ => Box::new(source),
    })
}

/// Whether data with this begin are compressed.
pub(crate) fn is_compressed(begin: &[u8]) -> bool {
    is_gzip(begin) || is_zstd(begin)
}

pub(crate) fn is_gzip(begin: &[u8]) -> bool {
    begin.starts_with(&GZIP)
}

fn is_zstd(begin: &[u8]) -> bool {
    begin.starts_with(&ZSTD) || begin.get(1..4) == Some(&ZSTD_SKIPPABLE)
}

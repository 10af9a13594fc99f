//! Reads from a file that may end before what is read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Reads `bytes` at `offset`. Bytes behind the file's end are zeroes.
pub fn read_or_zeroes(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

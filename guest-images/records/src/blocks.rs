//! A disk, 4 KiB at a time, each a request of its own and past the guest's cache: which of them fail.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use crate::say;

const SIZE: usize = 4096;

/// Direct I/O wants memory that begins on a block.
#[repr(align(4096))]
struct Block([u8; SIZE]);

impl Block {
    fn of(number: u64) -> Self {
        let mut block = Block([0; SIZE]);
        for (index, word) in block.0.chunks_mut(8).enumerate() {
            word.copy_from_slice(&(number << 16 | 1 << 15 | index as u64).to_le_bytes());
        }
        block
    }
}

/// Reads every block, and says which cannot be read, and which hold what [`write()`] writes there.
pub fn read(device: &Path) -> Result<(), String> {
    let disk = open(device)?;
    let (mut failed, mut written) = (Runs::default(), Runs::default());
    let mut block = Block([0; SIZE]);
    let mut number = 0;
    loop {
        match disk.read_at(&mut block.0, number * SIZE as u64) {
            Ok(0) => break,
            Ok(count) if count < SIZE => return Err(format!("block {number} has only {count} bytes")),
            Ok(_) if block.0 == Block::of(number).0 => written.add(number),
            Ok(_) => {}
            Err(why) => fail(&mut failed, number, &why)?,
        }
        number += 1;
    }
    say(&format!(
        "{}: {number} blocks; cannot read {failed}; written are {written}",
        device.display()
    ));
    Ok(())
}

/// Writes every block and flushes, and says which of it failed.
pub fn write(device: &Path) -> Result<(), String> {
    let disk = open(device)?;
    let mut failed = Runs::default();
    let mut number = 0;
    loop {
        match disk.write_at(&Block::of(number).0, number * SIZE as u64) {
            // The disk's end.
            Ok(0) => break,
            Err(why) if why.kind() == ErrorKind::StorageFull => break,
            Ok(count) if count < SIZE => return Err(format!("block {number} took only {count} bytes")),
            Ok(_) => {}
            Err(why) => fail(&mut failed, number, &why)?,
        }
        number += 1;
    }
    let flush = match disk.sync_all() {
        Ok(()) => "flushed".into(),
        Err(why) => format!("flush: {why}"),
    };
    say(&format!(
        "{}: {number} blocks; cannot write {failed}; {flush}",
        device.display()
    ));
    Ok(())
}

fn open(device: &Path) -> Result<File, String> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_DIRECT.bits())
        .open(device)
        .map_err(|why| format!("cannot open {}: {why}", device.display()))
}

/// An I/O error is what is looked for; any other is not.
fn fail(failed: &mut Runs, number: u64, why: &io::Error) -> Result<(), String> {
    if why.raw_os_error() != Some(nix::errno::Errno::EIO as i32) {
        return Err(format!("block {number}: {why}"));
    }
    failed.add(number);
    Ok(())
}

/// Ascending numbers, kept and shown as runs: `3-5,9`, or `none`.
#[derive(Default)]
struct Runs(Vec<(u64, u64)>);

impl Runs {
    fn add(&mut self, number: u64) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => self.0.push((number, number)),
        }
    }
}

impl std::fmt::Display for Runs {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let runs: Vec<String> = self
            .0
            .iter()
            .map(|(first, last)| match first == last {
                true => first.to_string(),
                false => format!("{first}-{last}"),
            })
            .collect();
        match runs.is_empty() {
            true => f.write_str("none"),
            false => f.write_str(&runs.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_are_a_run() {
        let mut runs = Runs::default();
        assert_eq!(runs.to_string(), "none");
        for number in [0, 3, 4, 5, 9] {
            runs.add(number);
        }
        assert_eq!(runs.to_string(), "0,3-5,9");
    }

    #[test]
    fn no_block_is_zeros_or_another() {
        assert_ne!(Block::of(0).0, [0; SIZE]);
        assert_ne!(Block::of(0).0, Block::of(1).0);
    }
}

//! What layers cost: time and memory of making a root file system of many files, and of unpacking a blob.
//!
//!     cargo run --release -p coracle-images --example layers -- tree 200000
//!     cargo run --release -p coracle-images --example layers -- unpack BLOB

use std::error::Error;
use std::fs::{self, File};
use std::io::BufWriter;
use std::time::Instant;

use coracle_archive::{Entry, Kind, Time, Writer};
use coracle_images::{erofs, layer, tree::Tree};

/// Names in a directory of the tree that is made up.
const IN_A_DIRECTORY: usize = 25;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["tree", count] => tree(count.parse()?)?,
        ["unpack", blob] => unpack(blob)?,
        _ => return Err("give 'tree COUNT' or 'unpack BLOB'".into()),
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    println!("{}", peak.unwrap_or("VmHWM is not known"));
    Ok(())
}

fn tree(count: usize) -> Result<(), Box<dyn Error>> {
    let tar = make(count)?;
    let start = Instant::now();
    let mut tree = Tree::new();
    tree.add_layer(&tar)?;
    let tree_time = start.elapsed();
    let start = Instant::now();
    let disk = erofs::write(&tree, &mut [&tar], [0; 16], tempfile::tempfile()?)?;
    println!(
        "{count} files: tree {tree_time:.2?}, EROFS {:.2?}, {} KiB of metadata",
        start.elapsed(),
        disk.metadata >> 10
    );
    Ok(())
}

/// A tar of small files.
fn make(count: usize) -> Result<File, Box<dyn Error>> {
    let file = tempfile::tempfile()?;
    let mut writer = Writer::new(BufWriter::new(file.try_clone()?));
    for number in 0..count {
        let directory = number / IN_A_DIRECTORY;
        let path = format!(
            "usr/lib/package{}/directory{directory}/file{number}.txt",
            directory / IN_A_DIRECTORY
        );
        writer.entry(&Entry {
            path: path.into_bytes(),
            kind: Kind::File {
                size: 10,
                pieces: None,
            },
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified: Time {
                seconds: 1_700_000_000,
                nanoseconds: 0,
            },
        })?;
        writer.data(b"some text\n")?;
    }
    let whole = writer.finish()?.into_inner();
    whole.map_err(|error| error.into_error())?;
    Ok(file)
}

fn unpack(blob: &str) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let tar = tempfile::tempfile()?;
    let unpacked = layer::unpack(File::open(blob)?, &tar, u64::MAX)?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{} MiB in {seconds:.2} s: {:.0} MB/s",
        unpacked.size >> 20,
        unpacked.size as f64 / 1e6 / seconds
    );
    Ok(())
}

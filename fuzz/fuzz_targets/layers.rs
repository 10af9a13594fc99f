//! Layers of an image, made into a root file system: it is what the tree says, and Linux could read all of it.
//!
//! An input is the tars of one layer or more: each a byte with the number of blocks, and the blocks. Those with the magic of a header get
//! its checksum.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use coracle_images::erofs;
use coracle_images::layer::{ALIGNMENT, Index};
use coracle_images::tree::{Seen, Tree};
use libfuzzer_sys::fuzz_target;

/// What Linux would read. It panics on what Linux would not take.
#[path = "../../crates/images/src/erofs/reader_test.rs"]
#[allow(dead_code)]
mod reader;

const BLOCK: usize = 512;
/// Where a header has its checksum (POSIX.1-2017, ustar Interchange Format).
const CHECKSUM: std::ops::Range<usize> = 148..156;
const MAGIC: std::ops::Range<usize> = 257..262;
const LAYERS_MAX: usize = 4;

fuzz_target!(|input: &[u8]| {
    let layers = layers(input);
    let mut tree = Tree::new();
    for layer in &layers {
        if tree.add_layer(Cursor::new(layer)).is_err() {
            return;
        }
        // What the tree took, the index gives again.
        let mut index = Index::new(Cursor::new(layer)).unwrap();
        while index.next_entry().unwrap().is_some() {}
    }
    let mut file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open("/dev/shm")
        .unwrap();
    let mut tars: Vec<_> = layers.iter().map(Cursor::new).collect();
    let Ok(disk) = erofs::write(&tree, &mut tars, [1; 16], &mut file) else {
        return;
    };
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), disk.metadata);
    let file = RefCell::new(file);
    let read = |position: u64, buffer: &mut [u8]| {
        assert!(position + buffer.len() as u64 <= disk.size, "it is on the disk");
        if let Some(mut from) = position.checked_sub(disk.metadata) {
            let mut layers = layers.iter();
            let layer = layers.find(|layer| {
                let is_there = from < layer.len() as u64;
                from -= if is_there { 0 } else { layer.len() as u64 };
                is_there
            });
            let from = from as usize;
            buffer.copy_from_slice(&layer.unwrap()[from..from + buffer.len()]);
            return;
        }
        let mut file = file.borrow_mut();
        file.seek(SeekFrom::Start(position)).unwrap();
        file.read_exact(buffer).unwrap();
    };
    let files = reader::read_all(&read);
    let seen = tree.seen();
    assert_eq!(files.len(), seen.len());
    for seen in &seen {
        compare(&files[&seen.path], seen, &layers);
    }
});

fn compare(found: &reader::Found, seen: &Seen, layers: &[Vec<u8>]) {
    assert_eq!(found.mode & 0o7777, u32::from(seen.mode));
    assert_eq!((found.uid, found.gid), seen.owner);
    assert_eq!(found.modified, seen.modified);
    let is_directory = found.mode & 0o170000 == 0o040000;
    assert!(is_directory || found.links == seen.links);
    assert_eq!(found.target, seen.target);
    for (name, value) in &found.xattrs {
        assert!(seen.xattrs.contains(&(name.clone(), value.clone())));
    }
    for (name, _) in seen
        .xattrs
        .iter()
        .filter(|(name, _)| name.starts_with(b"user.") && name.len() > 5)
    {
        assert!(found.xattrs.contains_key(name));
    }
    let Some(data) = &seen.data else {
        return;
    };
    assert_eq!(found.size, data.size);
    let stored: u64 = data.pieces.iter().map(|piece| piece.length).sum();
    // The reader counts the holes beside pieces, too, if these are copied.
    if data.size > reader::DATA_MAX {
        return;
    }
    assert!(stored <= data.size);
    let mut expected = BTreeMap::new();
    let mut from = data.offset as usize;
    for piece in &data.pieces {
        let to = from + piece.length as usize;
        reader::add_data(&mut expected, piece.offset, &layers[data.layer][from..to]);
        from = to;
    }
    assert!(found.data == expected);
}

/// Each is filled up as a tar is when a layer is unpacked.
fn layers(mut input: &[u8]) -> Vec<Vec<u8>> {
    let mut layers = Vec::new();
    while let Some((&count, rest)) = input.split_first().filter(|_| layers.len() < LAYERS_MAX) {
        let length = rest.len().min(usize::from(count) * BLOCK);
        let (tar, rest) = rest.split_at(length);
        let mut tar = tar.to_vec();
        tar.chunks_exact_mut(BLOCK).for_each(sum);
        tar.resize(tar.len().next_multiple_of(ALIGNMENT as usize), 0);
        layers.push(tar);
        input = rest;
    }
    layers
}

/// Makes a block a header that is whole, if it looks like one.
fn sum(block: &mut [u8]) {
    if &block[MAGIC] != b"ustar" {
        return;
    }
    block[CHECKSUM].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

//! Any file as a disk of no format that a person named: it is used as it is, or refused in words; looking at it changes
//! nothing, and no file that QEMU knows for another format's becomes a disk that can be written.
#![no_main]

use std::sync::LazyLock;

use coracle::config::{Disk, Engine, Format};
use coracle::virtio::block::Block;
use coracle_fuzz::MemoryFile;
use libfuzzer_sys::fuzz_target;

/// Formats, by the bytes that their specifications have at the start.
const OTHERS: &[&[u8]] = &[
    b"QFI\xfb",
    b"KDMV",
    b"# Disk DescriptorFile",
    b"vhdxfile",
    b"conectix",
    b"QED\0",
    b"\x1f\x8b\x08",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
];

static FILE: LazyLock<MemoryFile> = LazyLock::new(MemoryFile::default);

fuzz_target!(|bytes: &[u8]| {
    FILE.replace(bytes);
    let disk = |format| Disk {
        engine: Engine::Sync,
        format,
        ..Disk::new(FILE.path())
    };
    let opened = Block::open(&disk(None), 1);
    let other = OTHERS.iter().find(|magic| bytes.starts_with(magic));
    match (&opened, other) {
        (Ok(_), Some(magic)) => assert!(
            magic[0] == b'Q' && magic[1] == b'F',
            "{magic:?} is taken for a raw disk"
        ),
        (Err(error), _) => assert!(!error.to_string().is_empty()),
        (Ok(_), None) => (),
    }
    drop(opened);
    assert!(FILE.contents() == bytes, "opening a disk changed it");
    // A person who says raw gets it, in whole sectors.
    let raw = Block::open(&disk(Some(Format::Raw)), 1);
    assert_eq!(raw.is_ok(), !bytes.is_empty() && bytes.len().is_multiple_of(512));
    drop(raw);
    assert!(FILE.contents() == bytes, "opening a disk changed it");
});

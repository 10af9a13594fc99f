//! File systems out of hand-made layers: read back, and held against Linux, erofs-utils and umoci.

use std::io::Cursor;

use super::*;
use crate::layers_test::*;
use crate::tree::Tree;

#[path = "mounted_test.rs"]
pub mod mounted;
#[path = "reader_test.rs"]
pub mod reader;

const UUID: [u8; 16] = *b"coracle-test-uid";

/// The disk of these layers' tars.
fn disk_of(tars: &[Vec<u8>]) -> Vec<u8> {
    let mut tree = Tree::new();
    for tar in tars {
        tree.add_layer(Cursor::new(tar)).unwrap();
    }
    let mut tars: Vec<_> = tars.iter().map(Cursor::new).collect();
    let mut out = Cursor::new(Vec::new());
    let disk = write(&tree, &mut tars, UUID, &mut out).unwrap();
    let mut bytes = out.into_inner();
    assert_eq!(bytes.len() as u64, disk.metadata);
    for tar in tars {
        bytes.extend(tar.into_inner());
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
    }
    assert_eq!(bytes.len() as u64, disk.size);
    bytes
}

/// The files on a disk, by the reader of these tests.
fn files_on(disk: &[u8]) -> reader::Files {
    reader::read_all(&|position, buffer| {
        buffer.copy_from_slice(&disk[position as usize..position as usize + buffer.len()]);
    })
}

/// One file of each kind, and of each size that is near a limit.
fn many_kinds() -> Vec<Entry> {
    let mut entries = vec![
        directory("./").mode(0o755).owner(7, 8),
        file("a", "hello").modified(1_700_000_000, 123_456_789),
        file("empty", ""),
        file("setuid", "#!")
            .mode(0o4755)
            .owner(4_000_000_000, 3_000_000_000),
        file("secret", "x").mode(0),
        hard_link("b", "a"),
        directory("tmp").mode(0o1777).modified(-1, 500_000_000),
        symlink("link", "/somewhere/else"),
        symlink("long link", "l/".repeat(250)),
        symlink("longer link", "m/".repeat(2000)),
        symlink("block link", "n".repeat(512)),
        entry(b'3', "null").device(1, 3).mode(0o666),
        entry(b'4', "disk").device(259, 0xfffff).mode(0o660),
        entry(b'6', "pipe"),
        file("ping", "elf").xattr(
            "security.capability",
            b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ),
        file("attributes", "1")
            .xattr("user.one", "1")
            .xattr("user.two", b"\0\xff\n="),
        file("more attributes", "2")
            .xattr("user.one", "1")
            .xattr("trusted.x", "y".repeat(3000)),
    ];
    for size in [1, 511, 512, 513, 4095, 4096, 4097, 100_000] {
        let data: Vec<u8> = (0..size).map(|at| (at % 251 + 1) as u8).collect();
        entries.push(file(format!("size {size}"), data));
    }
    for number in 0..300 {
        let name = format!("directory/{}{number}", "n".repeat(number % 200));
        entries.push(file(name, number.to_string()));
    }
    entries
}

#[test]
fn linux_sees_what_the_reader_of_these_tests_sees() {
    let disk = disk_of(&[tar(&many_kinds())]);
    let files = files_on(&disk);
    assert_eq!(files.len(), 326);
    let mounted = mounted::Mounted::new(&disk);
    assert_eq!(mounted.files(), files);
}

#[test]
fn a_mapping_shows_zeros_behind_the_end_of_a_file_whatever_the_tar_has_there() {
    let long = [7; 700];
    let mut entries = vec![file("short", "abc"), file("long", long), file("whole", [7; 1024])];
    // With attributes of this size, the last bytes of the file have no room behind its inode.
    entries.push(file("copied", [7; 510]).xattr("user.a", "1234567"));
    let mut layer = tar(&entries);
    let dirty = b"what is not to be seen";
    let ends = [(&b"abc"[..], 3), (&long[..], 700), (&[7; 510][..], 510)];
    let mut from = 0;
    for (data, length) in ends {
        let at = from
            + layer[from..]
                .windows(data.len())
                .position(|bytes| bytes == data)
                .unwrap()
            + length;
        let end = at.next_multiple_of(512).min(at + dirty.len());
        layer[at..end].copy_from_slice(&dirty[..end - at]);
        from = at;
    }
    let disk = disk_of(&[layer]);
    let mounted = mounted::Mounted::new(&disk);
    for (name, length) in [("short", 3), ("long", 700), ("whole", 1024), ("copied", 510)] {
        let page = mounted::first_page(&mounted.root().join(name));
        assert!(page[..length].iter().all(|byte| *byte != 0));
        assert!(page[length..].iter().all(|byte| *byte == 0), "{name}");
    }
    assert_eq!(mounted.files(), files_on(&disk));
}

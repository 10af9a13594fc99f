//! File systems out of hand-made layers: read back, and held against Linux, erofs-utils and umoci.

use std::io::Cursor;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::erofs_reader as reader;
use crate::layers_test::*;
use crate::tree::Tree;
use crate::tree::tests::model::Model;
use crate::tree::tests::random::{self, Change};

#[path = "mounted_test.rs"]
pub mod mounted;
#[path = "umoci_test.rs"]
mod umoci;

const UUID: [u8; 16] = *b"coracle-test-uid";

/// The disk of these layers' tars.
pub fn disk_of(tars: &[Vec<u8>]) -> Vec<u8> {
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
pub fn files_on(disk: &[u8]) -> reader::Files {
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
fn what_overlayfs_acts_on_does_nothing_in_a_guests_overlayfs() {
    let lower = vec![
        directory("d"),
        directory("e"),
        file("d/kept", "1").xattr("trusted.mine", "2"),
        file("e/kept", "3"),
    ];
    let upper = vec![
        directory("d")
            .xattr("trusted.overlay.opaque", "y")
            .xattr("user.overlay.opaque", "y"),
        entry(b'3', "d/whiteout"),
        hard_link("d/another", "d/whiteout"),
        file("d/marked", "4").xattr("trusted.overlay.whiteout", ""),
        directory("moved").xattr("trusted.overlay.redirect", "/e"),
        file("data", "5").xattr("trusted.overlay.metacopy", ""),
    ];
    let disk = disk_of(&[tar(&lower), tar(&upper)]);
    let mut expected = files_on(&disk);
    let marked = |found: &reader::Found| {
        found
            .xattrs
            .keys()
            .any(|name| name.starts_with(b"trusted.overlay."))
    };
    assert!(!expected.values().any(marked));
    let paths: Vec<_> = expected
        .keys()
        .map(|path| String::from_utf8_lossy(path))
        .collect();
    assert_eq!(
        paths,
        ["", "d", "d/kept", "d/marked", "data", "e", "e/kept", "moved"]
    );
    let overlaid = mounted::Overlaid::new(mounted::Mounted::new(&disk));
    let mut found = mounted::files_below(&overlaid.root());
    // A directory of an overlayfs has one link, whatever is in it.
    for found in found.values_mut().chain(expected.values_mut()) {
        if found.mode & 0o170000 == 0o040000 {
            found.links = 0;
        }
    }
    // The root is that of what is written.
    found.remove(&b""[..]);
    expected.remove(&b""[..]);
    assert!(found == expected);
    let changed = overlaid.root().join("d/whiteout");
    std::fs::write(changed, "a name like all others").unwrap();
    std::fs::remove_dir_all(overlaid.root().join("d")).unwrap();
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

/// Makes layers of numbers, each of which becomes an entry if there can be one like that.
fn random_layers(seeds: &[Vec<u64>], is_strict: bool) -> (Model, Vec<Vec<u8>>) {
    let mut model = Model::new(is_strict);
    let mut tars = Vec::new();
    for seeds in seeds {
        model.next_layer();
        let mut bytes = Vec::new();
        if tars.is_empty() {
            let root = random::root();
            model.set_root(&root);
            bytes.extend(root.pax());
        }
        for seed in seeds {
            let change = random::change(*seed, &model);
            let mut put = |change: &Change| {
                let is_done = model.apply(change).is_ok();
                if is_done {
                    bytes.extend(change.bytes());
                }
                is_done
            };
            // umoci makes directories that have no entry at a time of its own.
            if !put(&change) && is_strict {
                change.parents().iter().for_each(|parent| _ = put(parent));
                put(&change);
            }
        }
        tars.push(whole(bytes));
    }
    (model, tars)
}

fn seeds() -> impl Strategy<Value = Vec<Vec<u64>>> {
    prop::collection::vec(prop::collection::vec(any::<u64>(), 0..100), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn random_layers_make_what_a_slow_model_says(seeds in seeds()) {
        let (model, tars) = random_layers(&seeds, false);
        let files = files_on(&disk_of(&tars));
        same(&files, &model.files());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn linux_mounts_what_umoci_unpacks(seeds in seeds()) {
        let (model, tars) = random_layers(&seeds, true);
        let disk = disk_of(&tars);
        let mounted = mounted::Mounted::new(&disk).files();
        same(&mounted, &files_on(&disk));
        let mut unpacked = umoci::unpack(&tars);
        let mut mounted = mounted;
        for (path, file) in unpacked.iter_mut().chain(&mut mounted) {
            if model.is_untimed(path) {
                file.modified = (0, 0);
            }
            // Some file systems count the directories in a directory, others do not.
            if file.mode & 0o170000 == 0o040000 {
                file.links = 0;
            }
        }
        same(&mounted, &unpacked);
    }
}

/// Shows the first difference only.
fn same(one: &reader::Files, other: &reader::Files) {
    let paths: Vec<_> = one.keys().map(|path| String::from_utf8_lossy(path)).collect();
    let others: Vec<_> = other.keys().map(|path| String::from_utf8_lossy(path)).collect();
    assert_eq!(paths, others);
    for (path, file) in one {
        assert_eq!(file, &other[path], "{}", String::from_utf8_lossy(path));
    }
}

#[test]
fn the_same_layers_give_the_same_bytes() {
    let layers = [
        tar(&many_kinds()),
        tar(&[file("a", "other"), file("directory/.wh..wh..opq", "")]),
    ];
    assert!(disk_of(&layers) == disk_of(&layers));
}

#[test]
fn capabilities_and_access_lists_are_what_linux_takes() {
    let list = [(1, 7, !0), (2, 4, 1000), (4, 5, !0), (0x10, 5, !0), (0x20, 4, !0)];
    let entries = [
        file("ping", "elf")
            .mode(0o4755)
            .xattr("security.capability", random::CAPABILITY),
        file("list", "x")
            .mode(0o754)
            .xattr("system.posix_acl_access", random::acl(&list)),
        directory("d")
            .mode(0o754)
            .xattr("system.posix_acl_access", random::acl(&list))
            .xattr("system.posix_acl_default", random::acl(&list)),
        // Linux has no such names, and engines leave them out.
        file("left out", "x")
            .xattr("system.other", "1")
            .xattr("user.", "2")
            .xattr("unknown", "3"),
    ];
    let disk = disk_of(&[tar(&entries)]);
    let mounted = mounted::Mounted::new(&disk);
    let files = mounted.files();
    assert_eq!(files, files_on(&disk));
    assert_eq!(files[&b"d"[..]].xattrs.len(), 2);
    assert!(files[&b"left out"[..]].xattrs.is_empty());
    let path = |name| mounted.root().join(name);
    let printed = mounted::run(
        Command::new("getfacl")
            .args(["-cn", "--absolute-names"])
            .arg(path("d")),
    );
    assert!(
        printed.contains("user:1000:r--\n") && printed.contains("default:user:1000:r--\n"),
        "{printed}"
    );
}

#[test]
fn a_huge_sparse_file_takes_little_and_more_than_the_format_has_is_refused() {
    let sparse = |size: u64, offsets: &[u64]| {
        let map: Vec<_> = offsets.iter().map(|offset| format!("{offset},1")).collect();
        let sparse = file("sparse", vec![7; offsets.len()])
            .record("GNU.sparse.size", size.to_string())
            .record("GNU.sparse.map", map.join(","));
        tar(&[sparse])
    };
    let mut tree = Tree::new();
    let layer = sparse(292 << 30, &[4099]);
    tree.add_layer(Cursor::new(&layer)).unwrap();
    let file = tempfile::tempfile().unwrap();
    let disk = write(&tree, &mut [Cursor::new(&layer)], UUID, &file).unwrap();
    assert_eq!(file.metadata().unwrap().len(), disk.metadata);
    assert!(file.metadata().unwrap().blocks() * 512 < 64 << 10);
    // Each byte takes the 1024th part of the file, in holes of the metadata.
    let far: Vec<u64> = (0..130).map(|number| (number << 34) + 5).collect();
    let layer = sparse(16 << 40, &far);
    let mut tree = Tree::new();
    tree.add_layer(Cursor::new(&layer)).unwrap();
    let why = write(&tree, &mut [Cursor::new(&layer)], UUID, Cursor::new(Vec::new())).unwrap_err();
    assert!(why.to_string().contains("2 TiB"), "{why}");
    let larger = sparse((16 << 40) + 1, &[0]);
    let why = Tree::new().add_layer(Cursor::new(&larger)).unwrap_err();
    assert!(why.to_string().contains("at most 16 TiB"), "{why}");
}

//! What an index makes of tars: of those that GNU tar and others write, and of hostile ones.

use std::fs::{self, File};
use std::io::{self, Cursor, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;
use crate::layers_test::{
    self as made, add_record, directory, entry, file, hard_link, header, padded, symlink, tar, whole,
};

/// An entry of an index, with its data.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    path: String,
    what: String,
    mode: u16,
    owner: (u32, u32),
    modified: Time,
    xattrs: Vec<Xattr>,
    data: Vec<u8>,
}

fn index(tar: &[u8]) -> io::Result<Vec<Seen>> {
    let mut index = Index::new(Cursor::new(tar))?;
    let mut all = Vec::new();
    while let Some(entry) = index.next_entry()? {
        let (what, data) = match entry.kind {
            Kind::File(data) => ("file".into(), content(tar, &data)),
            Kind::Symlink(target) => (format!("-> {}", String::from_utf8_lossy(target)), Vec::new()),
            Kind::HardLink(target) => (format!("= {}", String::from_utf8_lossy(target)), Vec::new()),
            other => (format!("{other:?}"), Vec::new()),
        };
        all.push(Seen {
            path: String::from_utf8_lossy(entry.path).into_owned(),
            what,
            mode: entry.mode,
            owner: (entry.uid, entry.gid),
            modified: entry.modified,
            xattrs: entry.xattrs.to_vec(),
            data,
        });
    }
    Ok(all)
}

/// The data of a file, with its holes. None of more than a MiB.
fn content(tar: &[u8], data: &Data<'_>) -> Vec<u8> {
    assert!(data.offset.is_multiple_of(512));
    let whole = [Piece {
        offset: 0,
        length: data.size,
    }];
    if data.size > 1 << 20 {
        return Vec::new();
    }
    let mut content = vec![0; data.size as usize];
    let mut from = data.offset as usize;
    for Piece { offset, length } in data.pieces.unwrap_or(&whole) {
        let (offset, length) = (*offset as usize, *length as usize);
        content[offset..offset + length].copy_from_slice(&tar[from..from + length]);
        from += length;
    }
    content
}

/// The only entry of a tar.
fn only(tar: &[u8]) -> Seen {
    let mut all = index(tar).unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn refusal(tar: &[u8]) -> String {
    index(tar).unwrap_err().to_string()
}

#[test]
fn all_kinds_and_attributes_are_seen() {
    let layer = tar(&[
        directory("d/").mode(0o1777),
        file("d/f", "data")
            .mode(0o4755)
            .owner(3_000_000, u32::MAX - 1)
            .modified(-2, 250_000_000),
        symlink("d/s", "../x"),
        hard_link("h", "./d//f"),
        entry(b'3', "c").device(1, 3),
        entry(b'4', "b").device(259, 70_000).xattr("user.x", b"\0=\n"),
        entry(b'6', "p").mode(0),
    ]);
    let seen = index(&layer).unwrap();
    let what: Vec<_> = seen
        .iter()
        .map(|seen| (&*seen.path, &*seen.what, seen.mode))
        .collect();
    assert_eq!(
        what,
        [
            ("d", "Directory", 0o1777),
            ("d/f", "file", 0o4755),
            ("d/s", "-> ../x", 0o644),
            ("h", "= d/f", 0o644),
            ("c", "Device { is_block: false, major: 1, minor: 3 }", 0o644),
            ("b", "Device { is_block: true, major: 259, minor: 70000 }", 0o644),
            ("p", "Fifo", 0),
        ]
    );
    assert_eq!(seen[1].data, b"data");
    assert_eq!(seen[1].owner, (3_000_000, u32::MAX - 1));
    assert_eq!(
        seen[1].modified,
        Time {
            seconds: -2,
            nanoseconds: 250_000_000
        }
    );
    assert_eq!(seen[5].xattrs[0].value, b"\0=\n");
}

#[test]
fn gnu_long_names_links_and_large_numbers_are_read() {
    let (name, target) = ("n/".repeat(300) + "end", "t".repeat(400));
    let link = symlink(&name, &target)
        .owner(u32::MAX - 1, 1 << 24)
        .modified(-5, 0);
    let seen = only(&whole(link.gnu()));
    assert_eq!((seen.path, seen.what), (name, format!("-> {target}")));
    assert_eq!(seen.owner, (u32::MAX - 1, 1 << 24));
    assert_eq!(seen.modified.seconds, -5);
}

#[test]
fn a_pax_record_wins_over_the_header_and_an_empty_one_does_not() {
    let other = file("header", "x")
        .record("path", "record")
        .record("mtime", "7.123456789999")
        .record("uid", "5")
        .record("gid", "");
    let seen = only(&tar(&[other]));
    assert_eq!((&*seen.path, seen.owner), ("record", (5, 0)));
    assert_eq!(
        seen.modified,
        Time {
            seconds: 7,
            nanoseconds: 123_456_789
        }
    );
}

#[test]
fn global_records_are_passed_over_as_by_other_engines() {
    let mut records = Vec::new();
    add_record(&mut records, b"path", b"global");
    add_record(&mut records, b"comment", &[b'c'; 3000]);
    let mut layer = header(b'g', b"pax_global_header", records.len() as u64, |_| ()).to_vec();
    layer.extend(padded(&records));
    layer.extend(file("own", "").pax());
    assert_eq!(only(&whole(layer)).path, "own");
}

#[test]
fn gnu_tars_sparse_formats_give_the_same_file() {
    let place = tempfile::TempDir::new().unwrap();
    let path = place.path().join("sparse");
    let sparse = File::create(&path).unwrap();
    sparse.set_len(900_000).unwrap();
    // More pieces than a header has room for.
    for number in 0..30u8 {
        let offset = u64::from(number) * 28_672;
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[number + 1; 4096], offset).unwrap();
    }
    for format in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let mut command = Command::new("tar");
        command
            .args(format)
            .args(["-cSf", "-", "sparse"])
            .current_dir(place.path());
        let tar = command.output().unwrap();
        assert!(tar.status.success(), "{format:?}");
        assert!(tar.stdout.len() < 200_000, "the holes are not in it: {format:?}");
        let seen = only(&tar.stdout);
        assert_eq!(seen.path, "sparse", "{format:?}");
        assert!(seen.data == fs::read(&path).unwrap(), "{format:?}");
    }
}

#[test]
fn gnu_tars_extended_attributes_are_read() {
    let place = tempfile::TempDir::new().unwrap();
    let path = place.path().join("f");
    fs::write(&path, "x").unwrap();
    let value = b"binary\0\xff";
    rustix::fs::setxattr(&path, "user.x", value, rustix::fs::XattrFlags::empty()).unwrap();
    let mut command = Command::new("tar");
    command
        .args(["--xattrs", "-cf", "-", "f"])
        .current_dir(place.path());
    let seen = only(&command.output().unwrap().stdout);
    assert_eq!(
        (&seen.xattrs[0].name[..], &seen.xattrs[0].value[..]),
        (&b"user.x"[..], &value[..])
    );
}

#[test]
fn a_path_is_cleaned_by_its_text_and_one_that_leads_out_is_refused() {
    for (path, clean) in [
        ("./a//b/./c/", "a/b/c"),
        ("/etc/passwd", "etc/passwd"),
        ("a/../b", "b"),
        ("a/b/../../c/d", "c/d"),
        ("...", "..."),
        ("..a/b..", "..a/b.."),
    ] {
        assert_eq!(only(&tar(&[file(path, "x")])).path, clean, "{path}");
    }
    for path in ["./", "/", ".", "a/.."] {
        assert_eq!(only(&tar(&[directory(path)])).path, "", "{path}");
    }
    for path in ["../x", "a/../../x", "..", "/../x"] {
        let why = refusal(&tar(&[file(path, "")]));
        assert!(why.contains("leads out") && why.contains(path), "{why}");
        let why = refusal(&tar(&[hard_link("harmless", path)]));
        assert!(why.contains("leads out") && why.contains("harmless"), "{why}");
    }
    for path in [&"n".repeat(256), &"a/".repeat(2048), "a\0b"] {
        let why = refusal(&tar(&[file("", "").record("path", path)]));
        assert!(
            why.contains("a name has at most") || why.contains("a path has"),
            "{why}"
        );
    }
    for target in ["", "a\0b", &"t".repeat(4096)] {
        let link = symlink("link", "header").record("linkpath", target);
        let link = if target.is_empty() {
            symlink("link", "")
        } else {
            link
        };
        assert!(refusal(&tar(&[link])).contains("no symbolic link can lead there"));
    }
}

#[test]
fn what_linux_cannot_have_is_refused_with_the_entry_named() {
    let huge = |kind, field: std::ops::Range<usize>| {
        whole(header(kind, b"name", 0, |header| header[field].fill(0xff)).to_vec())
    };
    for (tar, why) in [
        (huge(b'0', 108..116), "no user"),
        (huge(b'0', 116..124), "no user"),
        (huge(b'0', 124..136), "a file has at most"),
        (huge(b'3', 329..337), "no device"),
        (tar(&[entry(b'4', "name").device(1 << 12, 0)]), "no device"),
        (tar(&[entry(b'4', "name").device(0, 1 << 20)]), "no device"),
        (tar(&[file("name", "").record("uid", "4294967296")]), "no user"),
        (tar(&[entry(b'V', "name")]), "type that is not known, 'V'"),
        (tar(&[file("name", "").record("size", "99999999")]), "cut off"),
        (
            tar(&[file("name", "").record("mtime", "1.x")]),
            "an extended header is damaged",
        ),
    ] {
        let text = refusal(&tar);
        assert!(text.contains(why), "{text}");
        // Records come before the name is known.
        assert!(
            text.contains("name") || text.contains("extended header") || why == "no user",
            "{text}"
        );
    }
}

#[test]
fn extended_attributes_are_bounded() {
    let layer = |count: usize, name: &str, size: usize| {
        let mut many = file("f", "");
        for number in 0..count {
            many = many.xattr(format!("{name}{number}"), vec![1; size]);
        }
        tar(&[many])
    };
    assert_eq!(only(&layer(255, "user.", 9)).xattrs.len(), 255);
    assert_eq!(only(&layer(1, "user.", 65_535)).xattrs[0].value.len(), 65_535);
    for layer in [
        layer(256, "user.", 1),
        layer(1, "user.", 65_536),
        layer(3, "user.", 65_000),
        layer(1, &("user.".to_owned() + &"n".repeat(250)), 1),
        layer(1, "", 1 << 20),
    ] {
        assert!(refusal(&layer).contains("at most") || refusal(&layer).contains("1 to 255"));
    }
    let twice = file("f", "").xattr("user.x", "1").xattr("user.x", "2");
    assert_eq!(only(&tar(&[twice])).xattrs[0].value, b"2");
}

#[test]
fn maps_of_sparse_files_that_make_no_sense_are_refused() {
    let map = |map: &str, size: &str, data: usize| {
        let sparse = file("f", vec![1; data])
            .record("GNU.sparse.size", size)
            .record("GNU.sparse.map", map);
        tar(&[sparse])
    };
    assert_eq!(
        only(&map("2,3,8,1,9,0", "9", 4)).data,
        b"\0\0\x01\x01\x01\0\0\0\x01"
    );
    for map in [
        map("0,5", "4", 5),
        map("0,2,1,2", "9", 4),
        map("4,2,0,2", "9", 4),
        map("0,1", "9", 2),
        map("0", "9", 1),
        map("0,x", "9", 1),
        map("18446744073709551615,18446744073709551615", "9", 1),
    ] {
        let why = refusal(&map);
        assert!(why.contains("sparse") || why.contains("extended header"), "{why}");
    }
    let without_size = tar(&[file("f", "1").record("GNU.sparse.map", "0,1")]);
    assert!(refusal(&without_size).contains("the map of a sparse file"));
}

#[test]
fn the_end_is_a_block_of_zeros_or_that_of_the_file() {
    let one = file("a", "x").pax();
    assert_eq!(index(&one).unwrap().len(), 1);
    let behind = [&whole(one.clone())[..], &file("b", "x").pax()].concat();
    assert_eq!(index(&behind).unwrap().len(), 1);
    assert!(index(b"").unwrap().is_empty());
    for length in [1, 511, 513] {
        assert!(refusal(&one[..length]).contains("cut off"), "{length}");
    }
    assert!(refusal(&[b'#'; 4096]).contains("no tar archive"));
    assert_eq!(index(&one[..700]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn what_a_tar_has_behind_a_files_data_is_noticed() {
    let mut layer = tar(&[file("a", "x")]);
    let clean = |layer: &[u8]| {
        let mut index = Index::new(Cursor::new(layer)).unwrap();
        match index.next_entry().unwrap().unwrap().kind {
            Kind::File(data) => data.has_clean_tail,
            other => panic!("{other:?}"),
        }
    };
    assert!(clean(&layer));
    layer[1023] = 1;
    assert!(!clean(&layer));
}

fn unpacked(blob: &[u8], most: u64) -> io::Result<(Unpacked, File)> {
    let tar = tempfile::tempfile()?;
    Ok((unpack(blob, &tar, most)?, tar))
}

#[test]
fn a_layer_is_unpacked_whatever_its_compression_and_its_zeros_are_holes() {
    let mut data = vec![0; 3_000_000];
    data[1_000_000..1_100_000].fill(7);
    let layer = [&tar(&[file("large", &data)])[..], b"an odd end"].concat();
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let (one, other) = layer.split_at(700_000);
    for blob in [
        layer.clone(),
        gzip(&layer),
        [gzip(one), gzip(other)].concat(),
        zstd(&layer),
        [zstd(one), zstd(other)].concat(),
    ] {
        let (unpacked, mut tar) = unpacked(&blob, layer.len() as u64).unwrap();
        assert_eq!(unpacked.size, layer.len() as u64);
        assert_eq!(unpacked.diff_id, crate::Digest::of(&layer));
        let mut bytes = Vec::new();
        tar.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() % 4096, 0);
        assert!(bytes[..layer.len()] == layer && bytes[layer.len()..].iter().all(|byte| *byte == 0));
        assert!(tar.metadata().unwrap().blocks() * 512 < 200_000);
        let bomb = super::unpack(&blob[..], &tempfile::tempfile().unwrap(), layer.len() as u64 - 1);
        assert!(bomb.unwrap_err().to_string().contains("no more are allowed"));
    }
    let cut = gzip(&layer);
    let why = unpacked(&cut[..cut.len() / 2], u64::MAX).unwrap_err().to_string();
    assert!(why.contains("damaged or cut off"), "{why}");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..5000), is_summed: bool) {
        if is_summed {
            bytes.chunks_exact_mut(512).for_each(made::sum);
        }
        let _ = index(&bytes);
        let _ = unpacked(&bytes, 1 << 20);
    }

    #[test]
    fn a_changed_tar_is_read_or_refused(at in 0usize..8192, byte: u8) {
        let mut bytes = tar(&[
            file("a", [1; 600]).record("GNU.sparse.map", "0,100,1024,500").record("GNU.sparse.size", "1524"),
            symlink("s".repeat(200), "t".repeat(200)),
            file("x", "y").xattr("user.a", "b").modified(1, 1),
        ]);
        let at = at % bytes.len();
        bytes[at] = byte;
        let header = at / 512 * 512;
        made::sum(&mut bytes[header..header + 512]);
        let _ = index(&bytes);
    }
}

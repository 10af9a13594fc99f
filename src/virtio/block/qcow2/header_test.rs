use std::io::{Seek, Write};

use proptest::prelude::*;

use super::*;

/// Three clusters of 64 KiB and the L1 table's one: header, refcount table, refcount block, L1 table. No backing file.
fn image() -> Vec<u8> {
    let mut image = vec![0; 3 * 65536 + 8];
    put(&mut image, 0, &QCOW2_MAGIC);
    put(&mut image, 4, &3_u32.to_be_bytes());
    put(&mut image, 20, &16_u32.to_be_bytes());
    put(&mut image, 24, &(1_u64 << 20).to_be_bytes());
    put(&mut image, 36, &1_u32.to_be_bytes());
    put(&mut image, 40, &(3_u64 << 16).to_be_bytes());
    put(&mut image, 48, &(1_u64 << 16).to_be_bytes());
    put(&mut image, 56, &1_u32.to_be_bytes());
    put(&mut image, 96, &4_u32.to_be_bytes());
    put(&mut image, 100, &104_u32.to_be_bytes());
    image
}

fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    image[offset..][..bytes.len()].copy_from_slice(bytes);
}

fn read(image: &[u8]) -> Result<Header, HeaderError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(image).unwrap();
    file.rewind().unwrap();
    Header::read(&file, image.len() as u64)
}

fn refusal(changes: &[(usize, &[u8])]) -> String {
    let mut image = image();
    for (offset, bytes) in changes {
        put(&mut image, *offset, bytes);
    }
    read(&image).expect_err("the image was accepted").to_string()
}

/// A backing file's name at 512, and extensions.
fn with_backing(name: &[u8], extensions: &[(u32, &[u8])]) -> Vec<u8> {
    let mut image = image();
    put(&mut image, 8, &512_u64.to_be_bytes());
    put(&mut image, 16, &(name.len() as u32).to_be_bytes());
    put(&mut image, 512, name);
    let mut offset = 104;
    for (kind, data) in extensions {
        put(&mut image, offset, &kind.to_be_bytes());
        put(&mut image, offset + 4, &(data.len() as u32).to_be_bytes());
        put(&mut image, offset + 8, data);
        offset += 8 + data.len().next_multiple_of(8);
    }
    image
}

#[test]
fn a_whole_header_is_read() {
    let header = read(&image()).unwrap();
    assert_eq!(
        header,
        Header {
            version: 3,
            cluster_bits: 16,
            refcount_order: 4,
            size: 1 << 20,
            tables: Tables {
                l1: 3 << 16..(3 << 16) + 8,
                refcounts: 1 << 16..2 << 16,
            },
            snapshots: Records::default(),
            bitmaps: Records::default(),
            backing: None,
            data_file: None,
        }
    );
}

#[test]
fn a_data_file_is_what_the_features_say_and_its_name_may_be_missing() {
    let read = |features: u64, autoclear: u64, name: Option<&[u8]>| {
        let mut image = image();
        put(&mut image, 72, &features.to_be_bytes());
        put(&mut image, AUTOCLEAR.start, &autoclear.to_be_bytes());
        if let Some(name) = name {
            put(&mut image, 104, &DATA_FILE_NAME.to_be_bytes());
            put(&mut image, 108, &(name.len() as u32).to_be_bytes());
            put(&mut image, 112, name);
        }
        read(&image).unwrap().data_file
    };
    let data_file = |name: Option<&str>, is_raw| {
        let name = name.map(str::to_owned);
        Some(DataFile { name, is_raw })
    };
    let external = 1 << EXTERNAL_DATA_FILE;
    assert_eq!(read(external, 0, None), data_file(None, false));
    assert_eq!(read(external, 0, Some(b"d.raw")), data_file(Some("d.raw"), false));
    assert_eq!(
        read(external, RAW_DATA_FILE | 1, Some(b"d")),
        data_file(Some("d"), true)
    );
    // Without the incompatible feature, neither the name nor the other feature means anything.
    assert_eq!(read(0, RAW_DATA_FILE, Some(b"d.raw")), None);
}

#[test]
fn what_cannot_be_a_header_is_refused() {
    let small = |value: u32| value.to_be_bytes();
    let large = |value: u64| value.to_be_bytes();
    for (offset, bytes, words) in [
        (0, &b"QFI\xfa"[..], "no qcow2 file"),
        (4, &small(1), "version 1"),
        (4, &small(4), "version 4"),
        (20, &small(8), "clusters"),
        (20, &small(22), "clusters"),
        (20, &small(u32::MAX), "clusters"),
        (32, &small(2), "encrypted"),
        (96, &small(7), "more than 64 bits"),
        (100, &small(96), "length"),
        (100, &small(107), "length"),
        (100, &small(1 << 17), "length"),
        (24, &large(0), "virtual size is 0"),
        (24, &large(1000), "no multiple"),
        (24, &large((1 << 29) + 512), "more than its L1 table"),
        (24, &large(u64::MAX - 511), "more than its L1 table"),
        (36, &small(0), "more than its L1 table"),
        (36, &small(u32::MAX), "larger than 32 MiB"),
        (36, &small(2), "L1 table is damaged: it ends behind the file"),
        (40, &large(u64::MAX), "out of bounds"),
        (40, &large((3 << 16) + 512), "does not start at a cluster"),
        (40, &large(0), "header's cluster"),
        (40, &large(1 << 16), "lies in the refcount table"),
        (48, &large(0), "header's cluster"),
        (48, &large(1 << 40), "ends behind the file"),
        (56, &small(0), "empty"),
        (56, &small(u32::MAX), "larger than 8 MiB"),
    ] {
        let refusal = refusal(&[(offset, bytes)]);
        assert!(refusal.contains(words), "{offset}: {refusal}");
        assert!(refusal.ends_with(')'), "no next step: {refusal}");
    }
}

#[test]
fn features_that_are_not_there_are_named() {
    for (bit, words) in [
        (0, "not closed cleanly"),
        (1, "corrupt"),
        (3, "zlib"),
        (4, "subclusters"),
        (5, "bit 5"),
        (63, "bit 63"),
    ] {
        let refusal = refusal(&[(72, &(1_u64 << bit).to_be_bytes())]);
        assert!(refusal.contains(words), "{refusal}");
    }
    let mut names = [
        [0_u8, 5].as_slice(),
        b"compatible",
        &[0; 36],
        &[0, 9],
        b"time travel",
        &[0; 35],
    ]
    .concat();
    names[0] = 1;
    let mut image = with_backing(b"base", &[(FEATURE_NAMES, &names)]);
    put(&mut image, 72, &(1_u64 << 9).to_be_bytes());
    let refusal = read(&image).unwrap_err().to_string();
    assert!(refusal.contains("\"time travel\" (bit 9)"), "{refusal}");
}

#[test]
fn a_table_of_feature_names_that_is_cut_short_is_refused() {
    for length in [1, 47, 49] {
        let image = with_backing(b"base", &[(FEATURE_NAMES, &vec![0; length])]);
        assert!(matches!(read(&image), Err(HeaderError::Damaged(_))));
    }
}

#[test]
fn a_backing_file_has_a_name_and_a_format() {
    for (format, expected) in [(&b"raw"[..], Format::Raw), (b"qcow2", Format::Qcow2)] {
        let header = read(&with_backing(b"../a/b:c", &[(BACKING_FORMAT, format)])).unwrap();
        let name = "../a/b:c".into();
        assert_eq!(
            header.backing,
            Some(Backing {
                name,
                format: expected
            })
        );
    }
    for (name, format, words) in [
        (&b"base"[..], &b""[..], "no stated format"),
        (b"base", b"vmdk", "format \"vmdk\""),
        (b"nbd://host/export", b"raw", "no file of this host"),
        (b"json:{}", b"raw", "no file of this host"),
        (b"caf\xe9", b"raw", "no UTF-8"),
        (b"", b"raw", "1 to 1023"),
    ] {
        let extension = [(BACKING_FORMAT, format)];
        let extensions = if format.is_empty() {
            &extension[1..]
        } else {
            &extension
        };
        let refusal = read(&with_backing(name, extensions)).unwrap_err().to_string();
        assert!(refusal.contains(words), "{refusal}");
        assert!(refusal.ends_with(')'), "no next step: {refusal}");
    }
}

#[test]
fn a_shell_runs_nothing_of_a_name_in_the_command_that_states_a_format() {
    for name in ["$(reboot)", "`reboot`", "a\";reboot;\""] {
        let refusal = read(&with_backing(name.as_bytes(), &[])).unwrap_err().to_string();
        let command = format!("qemu-img rebase -u -b '{name}' -F raw");
        assert!(refusal.contains(&command), "{refusal}");
    }
}

#[test]
fn a_file_that_ends_early_is_refused() {
    let image = image();
    for length in [0, 3, 4, 71, 72, 103, 104, 65536, 3 * 65536 + 7] {
        assert!(read(&image[..length]).is_err(), "{length}");
    }
}

proptest! {
    #[test]
    fn any_header_is_read_or_refused(changes in prop::collection::vec((0..640usize, any::<u8>()), 0..12)) {
        let extension = [(FEATURE_NAMES, &[0; 96][..]), (BACKING_FORMAT, b"raw")];
        let mut image = with_backing(b"base", &extension);
        for (offset, byte) in changes {
            image[offset] = byte;
        }
        if let Ok(header) = read(&image) {
            prop_assert!(header.tables.l1.end <= image.len() as u64);
            prop_assert!(header.tables.refcounts.end <= image.len() as u64);
            prop_assert!(header.size > 0 && header.size.is_multiple_of(512));
        }
    }
}

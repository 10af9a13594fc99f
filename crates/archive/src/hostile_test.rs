//! Archives that somebody made to do harm.

use super::*;

#[test]
fn no_name_leads_out_of_the_directory() {
    for way in WAYS {
        let outside = Outside::new(way);
        for path in ["../evil", "a/../../evil", "..", "a/.."] {
            let error = outside.unpack(&[entry(path, file(4))]).unwrap_err();
            assert!(error.to_string().contains("'..'"), "{error}");
        }
        outside
            .unpack(&[entry("/etc/evil", file(4)), entry("//x/./y", file(4))])
            .unwrap();
        assert_eq!(fs::read(outside.inside().join("etc/evil")).unwrap(), b"evil");
        assert!(outside.inside().join("x/y").is_file());
        for path in [
            "a\0".to_owned() + &"b".repeat(100),
            "a/".repeat(3000),
            "a/".repeat(600),
            "n".repeat(300),
        ] {
            assert!(
                outside.unpack(&[entry(&path, file(4))]).is_err(),
                "{} bytes",
                path.len()
            );
        }
        assert!(outside.unpack(&[entry(".", file(4))]).is_err());
        outside.unpack(&[entry("./", Kind::Directory)]).unwrap();
    }
}

#[test]
fn no_link_is_followed_whoever_made_it() {
    for way in WAYS {
        let outside = Outside::new(way);
        for path in ["there/evil", "there/secret"] {
            let error = outside.unpack(&[entry(path, file(4))]).unwrap_err();
            assert!(error.to_string().contains("is not followed"), "{error}");
        }
        assert!(outside.unpack(&[entry("there", Kind::Directory)]).is_err());
        let link = |target: &str| entry("l", Kind::Symlink(target.into()));
        for target in ["../outside", "/", ".", "../outside/secret"] {
            assert!(
                outside.unpack(&[link(target), entry("l/evil", file(4))]).is_err(),
                "{target}"
            );
            // A file takes the link's place, and not that of what it leads to.
            outside.unpack(&[link(target), entry("l", file(4))]).unwrap();
            assert_eq!(fs::read(outside.inside().join("l")).unwrap(), b"evil");
        }
        for target in ["", &"x".repeat(5000)] {
            assert!(outside.unpack(&[link(target)]).is_err());
        }
        for target in [
            "../outside/secret",
            "there/secret",
            "/../outside/secret",
            "",
            "none",
            "a\0b",
        ] {
            let links = [entry("h", Kind::HardLink(target.into()))];
            assert!(outside.unpack(&links).is_err(), "{target:?}");
        }
        // A link that the copy has made may have another name.
        outside
            .unpack(&[link("there"), entry("h", Kind::HardLink("l".into()))])
            .unwrap();
        assert!(outside.unpack(&[entry("h/evil", file(4))]).is_err());
        assert!(
            outside
                .unpack(&[
                    entry("d", Kind::Directory),
                    entry("h2", Kind::HardLink("d".into()))
                ])
                .is_err()
        );
    }
}

#[test]
fn a_hard_link_is_of_a_file_that_the_copy_has_made() {
    for way in WAYS {
        let outside = Outside::new(way);
        let inside = outside.inside();
        fs::write(inside.join("one"), "kept").unwrap();
        fs::hard_link(inside.join("one"), inside.join("other")).unwrap();
        let link = |target: &str| entry("link", Kind::HardLink(target.into()));
        for entries in [
            &[link("one")][..],
            &[link("there")],
            // The file under its other name is the user's still.
            &[entry("one", file(4)), link("other")],
        ] {
            let error = outside.unpack(entries).unwrap_err();
            assert!(error.to_string().contains("this copy has not made"), "{error}");
            assert!(!inside.join("link").exists());
        }
        fs::write(inside.join("link"), "replaced").unwrap();
        for _ in 0..2 {
            outside.unpack(&[entry("one", file(4)), link("one")]).unwrap();
            assert_eq!(fs::metadata(inside.join("link")).unwrap().nlink(), 2);
        }
        assert_eq!(fs::read(inside.join("other")).unwrap(), b"kept");
    }
}

#[test]
fn a_hard_link_is_of_one_of_the_first_files_of_a_copy() {
    for way in WAYS {
        let outside = Outside::new(way);
        let unpack = |target: &str| {
            let link = entry(&format!("{target}-link"), Kind::HardLink(target.into()));
            let entries = ["1", "2", "3"].map(|name| entry(name, file(4)));
            let archive = archive(&[&entries[..], &[link]].concat(), b"data");
            let change = |unpacker: &mut Unpacker| unpacker.made_max = 2;
            unpack_with(way, &archive[..], &outside.inside(), Top::Keep, change)
        };
        for target in ["1", "2"] {
            unpack(target).unwrap();
        }
        let error = unpack("3").unwrap_err();
        assert!(error.to_string().contains("only the first 2 files"), "{error}");
        assert!(!outside.inside().join("3-link").exists());
        outside.check();
    }
}

#[test]
fn nothing_gets_privileges_and_no_device_is_made() {
    for way in WAYS {
        let outside = Outside::new(way);
        let mut suid = entry("suid", file(4));
        suid.mode = 0o7755;
        suid.uid = 12345;
        let mut directory = entry("dir", Kind::Directory);
        directory.mode = 0o7777;
        let device = |is_block| Kind::Device {
            is_block,
            number: (8, 0),
        };
        let entries = [
            suid,
            directory,
            entry("disk", device(true)),
            entry("mem", device(false)),
            entry("pipe", Kind::Fifo),
        ];
        let left_out = outside.unpack(&entries).unwrap();
        assert_eq!(left_out.len(), 3, "{left_out:?}");
        let metadata = fs::metadata(outside.inside().join("suid")).unwrap();
        // As a directory of the user's own has it.
        fs::create_dir(outside.inside().join("own")).unwrap();
        let permissions = |name: &str| fs::metadata(outside.inside().join(name)).unwrap().mode() & 0o7777;
        assert_eq!(metadata.mode() & 0o7777, permissions("own") & 0o755);
        assert_ne!(metadata.uid(), 12345);
        assert_eq!(permissions("dir"), permissions("own"));
        assert!(!outside.inside().join("disk").exists() && !outside.inside().join("pipe").exists());
    }
}

/// Gives one byte for ever, and counts.
struct Endless(u64);

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        buffer.fill(b'1');
        self.0 += buffer.len() as u64;
        assert!(self.0 < 64 << 20, "it reads on and on");
        Ok(buffer.len())
    }
}

#[test]
fn sizes_that_lie_cost_neither_memory_nor_time() {
    for way in WAYS {
        use tar::{EntryType, Header};
        let lying = |kind: EntryType, size: u64| {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(size);
            header.set_mode(0o644);
            for number in [Header::set_uid, Header::set_gid, Header::set_mtime] {
                number(&mut header, 0);
            }
            header.set_cksum();
            header
        };
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
            let header = lying(kind, 1 << 40);
            let mut reader = Reader::new(Cursor::new(header.as_bytes().to_vec()).chain(Endless(0)));
            assert!(reader.next_entry().is_err(), "{kind:?}");
        }
        let mut reader = Reader::new(Endless(0));
        assert!(reader.next_entry().is_err());
        let outside = Outside::new(way);
        let sparse = |size, pieces: &[(u64, u64)]| {
            let pieces = pieces
                .iter()
                .map(|&(offset, length)| Piece { offset, length })
                .collect();
            entry(
                "s",
                Kind::File {
                    size,
                    pieces: Some(pieces),
                },
            )
        };
        for lie in [
            sparse(2, &[(0, 4)]),
            sparse(u64::MAX, &[(u64::MAX - 4, 4)]),
            sparse(100, &[(50, 2), (20, 2)]),
            sparse(100, &[(0, 3), (2, 1)]),
        ] {
            assert!(outside.unpack(std::slice::from_ref(&lie)).is_err(), "{lie:?}");
        }
        // A hole takes no time, however long it is.
        outside.unpack(&[sparse(1 << 40, &[(1 << 39, 4)])]).unwrap();
        assert_eq!(fs::metadata(outside.inside().join("s")).unwrap().len(), 1 << 40);
    }
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        "(there|secret|\\.\\.|l|a|h|\\.|/){1,3}(/(a|l|secret|\\.\\.)){0,2}",
        "[a-c/]{0,6}"
    ]
}

fn any_kind() -> impl Strategy<Value = Kind> {
    let target = || any_name().prop_map(String::into_bytes);
    let pieces = prop::collection::vec((0..40u64, 0..5u64), 0..3);
    let pieces = pieces.prop_map(|all| {
        all.into_iter()
            .map(|(offset, length)| Piece { offset, length })
            .collect()
    });
    prop_oneof![
        Just(file(4)),
        (0..50u64, pieces).prop_map(|(size, pieces)| Kind::File {
            size,
            pieces: Some(pieces)
        }),
        Just(Kind::Directory),
        target().prop_map(Kind::Symlink),
        target().prop_map(Kind::HardLink),
        Just(Kind::Fifo),
        Just(Kind::Device {
            is_block: true,
            number: (7, 0)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_the_entries_are_nothing_outside_changes(
        entries in prop::collection::vec((any_name(), any_kind(), 0..0o10000u32), 0..8),
        way in prop::sample::select(&WAYS[..]),
        top in prop_oneof![Just(Top::Keep), Just(Top::LeaveOut), Just(Top::Rename("t".into()))],
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let outside = Outside::new(way);
        let entries: Vec<_> = entries
            .into_iter()
            .map(|(path, kind, mode)| Entry { mode, ..entry(&path, kind) })
            .collect();
        let mut archive = archive(&entries, b"evil");
        if let Some((index, byte)) = damage {
            let index = index.index(archive.len());
            archive[index] = byte;
        }
        let _ = unpack(way, &archive, &outside.inside(), top);
        outside.check();
    }

    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let mut reader = Reader::new(&bytes[..]);
        while let Ok(Some(_)) = reader.next_entry() {}
    }

    #[test]
    fn any_entry_is_read_as_it_was_written(
        path in "[a-z/]{1,300}", link in "[ -~]{1,300}", is_symlink: bool, mode in 0..0o10000u32,
        uid: u32, gid: u32, seconds in -4_000_000_000i64..=4_000_000_000, nanoseconds in 0..1_000_000_000u32,
    ) {
        let kind = match is_symlink {
            true => Kind::Symlink(link.into_bytes()),
            false => file(0),
        };
        let path = path.trim_end_matches('/').to_owned() + "x";
        let modified = Time { seconds, nanoseconds };
        let written = Entry { path: path.into_bytes(), kind, mode, uid, gid, modified };
        let archive = archive(std::slice::from_ref(&written), b"");
        let read = Reader::new(&archive[..]).next_entry().unwrap();
        prop_assert_eq!(read, Some(written));
    }
}

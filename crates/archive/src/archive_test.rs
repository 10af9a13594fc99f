//! What is packed comes out the same, and what an enemy has packed goes nowhere else.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Cursor, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tempfile::TempDir;

use crate::aside::is_reserved;
use crate::*;

#[path = "aside_test.rs"]
mod aside_test;

const OURS: Policy = Policy {
    owners: false,
    is_trusted: false,
};

fn packed(path: &Path, name: &str) -> Vec<u8> {
    pack(path, name.as_bytes(), false, Vec::new(), &mut |_| ()).unwrap()
}

/// How files are written until they are whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Without a name, as on most file systems.
    Unnamed,
    /// Under a random name, as on NFS or FAT.
    Named,
}

const WAYS: [Way; 2] = [Way::Unnamed, Way::Named];

/// Unpacks into a directory. Gives what was left out.
fn unpack(way: Way, archive: &[u8], into: &Path, top: Top) -> io::Result<Vec<String>> {
    unpack_with(way, archive, into, top, |_| ())
}

/// As `unpack`, with an unpacker that `change` has changed.
fn unpack_with<R: Read>(
    way: Way,
    archive: R,
    into: &Path,
    top: Top,
    change: impl FnOnce(&mut Unpacker),
) -> io::Result<Vec<String>> {
    let mut left_out = Vec::new();
    let mut warn = |text: &str| left_out.push(text.to_owned());
    let mut reader = Reader::new(archive);
    let mut unpacker = Unpacker::new(File::open(into).unwrap().into(), top, OURS, &mut warn);
    unpacker.tries_unnamed = way == Way::Unnamed;
    change(&mut unpacker);
    while let Some(entry) = reader.next_entry()? {
        unpacker.put(entry, &mut reader)?;
    }
    unpacker.finish()?;
    Ok(left_out)
}

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        modified: Time::default(),
    }
}

fn file(size: u64) -> Kind {
    Kind::File { size, pieces: None }
}

/// An archive of these entries, each file of which has `data`.
fn archive(entries: &[Entry], data: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for entry in entries {
        writer.entry(entry).unwrap();
        if matches!(entry.kind, Kind::File { .. }) {
            writer.data(data).unwrap();
        }
    }
    writer.finish().unwrap()
}

/// All that is in a directory: names, modes, times, and the sizes and checksums of what is in them.
fn tree(path: &Path) -> Vec<(String, u32, SystemTime, (usize, u64))> {
    let mut found = Vec::new();
    let mut names: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    names.sort();
    for path in names {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let data = match () {
            _ if metadata.is_symlink() => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
            _ if metadata.is_file() => fs::read(&path).unwrap(),
            _ => Vec::new(),
        };
        let mut hasher = DefaultHasher::new();
        hasher.write(&data);
        let data = (data.len(), hasher.finish());
        let name = format!("{:?}", path.file_name().unwrap());
        found.push((name, metadata.mode(), metadata.modified().unwrap(), data));
        if metadata.is_dir() {
            found.extend(tree(&path));
        }
    }
    found
}

fn without_times(path: &Path) -> Vec<(String, u32, (usize, u64))> {
    let tree = tree(path).into_iter();
    tree.map(|(name, mode, _, data)| (name, mode, data)).collect()
}

fn make_tree(root: &Path) {
    let deep = root.join("a").join("d".repeat(120));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join(OsStr::from_bytes(b"new\nline\xff")), "x").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("large"), vec![7; 200_001]).unwrap();
    fs::write(root.join("tool"), "#!").unwrap();
    fs::set_permissions(root.join("tool"), Permissions::from_mode(0o751)).unwrap();
    fs::hard_link(root.join("tool"), root.join("tool2")).unwrap();
    symlink("/nowhere/at all", root.join("a/link")).unwrap();
    symlink("l".repeat(300), root.join("a/long link")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"in the middle", 5 << 20).unwrap();
    sparse.set_len(10 << 20).unwrap();
    let before_1970 = SystemTime::UNIX_EPOCH - Duration::new(3, 250_000_000);
    let empty = File::options().write(true).open(root.join("empty")).unwrap();
    empty.set_modified(before_1970).unwrap();
    fs::set_permissions(root.join("a"), Permissions::from_mode(0o500)).unwrap();
    let year_2001 = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    File::open(root.join("a"))
        .unwrap()
        .set_modified(year_2001)
        .unwrap();
}

#[test]
fn a_tree_comes_out_as_it_was_packed() {
    for way in WAYS {
        let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        make_tree(from.path());
        let archive = packed(from.path(), "top");
        assert!(
            archive.len() < 1 << 20,
            "the holes are not in it: {}",
            archive.len()
        );
        assert_eq!(unpack(way, &archive, to.path(), Top::Keep).unwrap(), [""; 0]);
        let top = to.path().join("top");
        assert_eq!(tree(&top), tree(from.path()));
        let inode = |name| fs::metadata(top.join(name)).unwrap().ino();
        assert_eq!(inode("tool"), inode("tool2"));
        assert!(
            fs::metadata(top.join("sparse")).unwrap().blocks() < 2048,
            "the holes are holes"
        );
        // Once more over what is there, under another name, and without its own directory.
        unpack(way, &archive, to.path(), Top::Rename("top".into())).unwrap();
        assert_eq!(without_times(&top), without_times(from.path()));
        let inside = TempDir::new().unwrap();
        unpack(way, &archive, inside.path(), Top::LeaveOut).unwrap();
        assert_eq!(tree(inside.path()), tree(from.path()));
    }
}

#[test]
fn gnu_tar_reads_what_is_packed_and_what_it_packs_is_read() {
    for way in WAYS {
        let (from, theirs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        make_tree(from.path());
        let file = theirs.path().join("t.tar");
        fs::write(&file, packed(from.path(), "top")).unwrap();
        let run = |arguments: &[&str], directory: &Path| {
            let mut tar = Command::new("tar");
            tar.args(arguments).arg("-f").arg(&file).arg("-C").arg(directory);
            tar
        };
        let unpacked = TempDir::new().unwrap();
        assert!(run(&["-xp"], unpacked.path()).status().unwrap().success());
        assert_eq!(tree(&unpacked.path().join("top")), tree(from.path()));
        assert!(fs::metadata(unpacked.path().join("top/sparse")).unwrap().blocks() < 2048);
        for format in ["--format=pax", "--format=gnu"] {
            let ours = TempDir::new().unwrap();
            let made = run(&["-cS", format], from.path()).arg(".").status().unwrap();
            assert!(made.success());
            unpack(way, &fs::read(&file).unwrap(), ours.path(), Top::Keep).unwrap();
            assert_eq!(without_times(ours.path()), without_times(from.path()), "{format}");
            assert!(fs::metadata(ours.path().join("sparse")).unwrap().blocks() < 2048);
        }
    }
}

/// A directory for a copy, beside one that is not to be touched and that a link in the first leads to.
struct Outside {
    way: Way,
    place: TempDir,
}

impl Outside {
    fn new(way: Way) -> Self {
        let place = TempDir::new().unwrap();
        fs::create_dir(place.path().join("into")).unwrap();
        fs::create_dir(place.path().join("outside")).unwrap();
        fs::write(place.path().join("outside/secret"), "kept").unwrap();
        symlink("../outside", place.path().join("into/there")).unwrap();
        Self { way, place }
    }

    fn inside(&self) -> std::path::PathBuf {
        self.place.path().join("into")
    }

    fn unpack(&self, entries: &[Entry]) -> io::Result<Vec<String>> {
        let unpacked = unpack(self.way, &archive(entries, b"evil"), &self.inside(), Top::Keep);
        self.check();
        unpacked
    }

    /// Nothing is where nothing may be.
    fn check(&self) {
        let names = |path: &Path| {
            let mut names: Vec<_> = fs::read_dir(path)
                .unwrap()
                .map(|file| file.unwrap().file_name())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(self.place.path()), ["into", "outside"]);
        let outside = self.place.path().join("outside");
        assert_eq!(names(&outside), ["secret"]);
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"kept");
        assert_eq!(fs::metadata(outside.join("secret")).unwrap().nlink(), 1);
        assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o7777, 0o755);
        for name in names(&self.inside()) {
            assert!(!is_reserved(name.as_bytes()), "{name:?} is left");
        }
    }
}

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

#[test]
fn what_is_cut_off_gets_no_name_and_leaves_what_was_there() {
    for way in WAYS {
        let outside = Outside::new(way);
        fs::write(outside.inside().join("f"), "before").unwrap();
        let whole = archive(&[entry("f", file(4))], b"evil");
        for length in [0, 100, 511, 512, 514, 1024] {
            let error = unpack(way, &whole[..length], &outside.inside(), Top::Keep).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
            outside.check();
            // The last one is cut off behind the file.
            let expected: &[u8] = if length == 1024 { b"evil" } else { b"before" };
            assert_eq!(
                fs::read(outside.inside().join("f")).unwrap(),
                expected,
                "{length}"
            );
        }
        assert!(outside.unpack(&[entry("f", Kind::Directory)]).is_err());
        assert!(
            outside
                .unpack(&[entry("d/x", file(4)), entry("d", file(4))])
                .is_err()
        );
        assert!(outside.inside().join("d/x").is_file());
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

#[test]
fn a_copy_goes_where_dockers_does() {
    let place = TempDir::new().unwrap();
    let path = |name: &str| place.path().join(name);
    fs::create_dir(path("dir")).unwrap();
    fs::write(path("file"), "x").unwrap();
    symlink("file", path("link")).unwrap();
    symlink("dir", path("dirlink")).unwrap();
    let a_file = Source::File("name".into());
    let directory = |contents| Source::Directory {
        name: "name".into(),
        contents,
    };
    let goes = |to: &str, source: &Source| {
        let Destination { directory, top } = destination(&path(to), source)?;
        let at = fs::read_link(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&directory)
        ))?;
        Ok::<_, io::Error>((
            at.strip_prefix(place.path())
                .unwrap()
                .to_string_lossy()
                .into_owned(),
            top,
        ))
    };
    let rename = |name: &str| Top::Rename(name.into());
    for (to, source, at, top) in [
        ("dir", &a_file, "dir", rename("name")),
        ("dirlink/", &a_file, "dir", rename("name")),
        ("new", &a_file, "", rename("new")),
        ("file", &a_file, "", rename("file")),
        ("link", &a_file, "", rename("file")),
        ("dir", &directory(false), "dir", rename("name")),
        ("dir", &directory(true), "dir", Top::LeaveOut),
        ("new", &directory(false), "", rename("new")),
        ("new/", &directory(true), "", rename("new")),
        ("dir", &Source::Archive, "dir", Top::Keep),
    ] {
        assert_eq!(goes(to, source).unwrap(), (at.to_owned(), top), "{to} {source:?}");
    }
    for (to, source) in [
        ("new/", &a_file),
        ("none/new", &a_file),
        ("file/", &a_file),
        ("file", &directory(false)),
        ("file", &Source::Archive),
        ("new", &Source::Archive),
    ] {
        assert!(goes(to, source).is_err(), "{to} {source:?}");
    }
    assert!(destination(Path::new("/dev/null"), &a_file).is_err());
}

#[test]
fn what_a_reader_of_proc_would_get_is_not_left_out_silently() {
    let error = pack(Path::new("/proc/cpuinfo"), b"c", false, Vec::new(), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("does not say how long"), "{error}");
    let error = pack(Path::new("/nowhere"), b"c", false, Vec::new(), &mut |_| ()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
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

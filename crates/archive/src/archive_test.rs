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

/// Archives that somebody made to do harm.
#[path = "hostile_test.rs"]
mod hostile;

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
    let mut archive = Vec::new();
    let error = pack(Path::new("/proc/cpuinfo"), b"c", false, &mut archive, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("does not say how long"), "{error}");
    // An empty file would take the place of what is there.
    assert!(archive.is_empty());
    let error = pack(Path::new("/nowhere"), b"c", false, Vec::new(), &mut |_| ()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

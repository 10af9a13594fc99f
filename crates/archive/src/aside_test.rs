//! The names that files have until they are whole: nobody else's file is lost by them, and none stays.

use nix::errno::Errno;

use super::*;
use crate::aside::{Aside, NAME};

fn names(path: &Path) -> Vec<String> {
    let files = fs::read_dir(path).unwrap();
    let mut names: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Whether it is one of the names that nobody can know before.
fn is_random(name: &str) -> bool {
    name.strip_prefix(".coracle-cp-")
        .is_some_and(|number| number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// An archive that is read slowly: what it has to give next depends on what is in a directory.
struct Watched<'a> {
    archive: &'a [u8],
    directory: &'a Path,
    seen: &'a mut Vec<String>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.seen.extend(names(self.directory));
        self.archive.read(buffer)
    }
}

#[test]
fn a_file_that_is_not_whole_has_no_name_or_a_random_one() {
    for way in WAYS {
        let place = TempDir::new().unwrap();
        let mut seen = Vec::new();
        let archive = archive(&[entry("f", file(4))], b"data");
        let watched = Watched {
            archive: &archive,
            directory: place.path(),
            seen: &mut seen,
        };
        unpack_with(way, watched, place.path(), Top::Keep, |_| ()).unwrap();
        seen.retain(|name| name != "f");
        assert_eq!(seen.is_empty(), way == Way::Unnamed, "{seen:?}");
        assert!(seen.iter().all(|name| is_random(name)), "{seen:?}");
        assert_eq!(names(place.path()), ["f"]);
    }
}

/// Files, a link and a further name, of which each takes another's place the second time.
fn of_each_kind() -> [Entry; 3] {
    [
        entry("f", file(4)),
        entry("l", Kind::Symlink("f".into())),
        entry("h", Kind::HardLink("f".into())),
    ]
}

#[test]
fn what_a_copy_that_was_killed_has_left_is_removed_by_the_next_one_that_needs_its_name() {
    let outside = Outside::new(Way::Unnamed);
    let inside = outside.inside();
    outside.unpack(&of_each_kind()).unwrap();
    for entry in of_each_kind() {
        symlink("../outside/secret", inside.join(NAME)).unwrap();
        outside.unpack(&[of_each_kind()[0].clone(), entry]).unwrap();
    }
    // While another copy uses the name, and where it cannot be removed, others have another one.
    let open = File::open(&inside).unwrap();
    let make = |name: &str| fs::write(inside.join(name), "the other's").map_err(|_| Errno::EIO);
    let (other, ()) = Aside::make(open.as_fd(), true, make).unwrap();
    assert_eq!(other.name(), NAME);
    let more = archive(&of_each_kind(), b"more");
    unpack(Way::Unnamed, &more, &inside, Top::Keep).unwrap();
    assert_eq!(fs::read(inside.join(NAME)).unwrap(), b"the other's");
    other.rename(b"f").unwrap();
    fs::create_dir(inside.join(NAME)).unwrap();
    unpack(Way::Unnamed, &more, &inside, Top::Keep).unwrap();
    fs::remove_dir(inside.join(NAME)).unwrap();
    outside.check();
    assert_eq!(fs::read(inside.join("f")).unwrap(), b"more");
}

#[test]
fn without_unnamed_files_no_copy_touches_what_another_host_writes() {
    let outside = Outside::new(Way::Named);
    let inside = outside.inside();
    let theirs = [NAME, ".coracle-cp-0123456789abcdef"].map(|name| inside.join(name));
    for path in &theirs {
        fs::write(path, "another host's").unwrap();
    }
    for _ in 0..2 {
        let archive = archive(&of_each_kind(), b"ours");
        unpack(Way::Named, &archive, &inside, Top::Keep).unwrap();
    }
    for path in &theirs {
        assert_eq!(fs::read(path).unwrap(), b"another host's");
        fs::remove_file(path).unwrap();
    }
    assert_eq!(names(&inside), ["f", "h", "l", "there"]);
    outside.check();
}

#[test]
fn what_has_a_random_name_already_stays_and_another_name_is_tried() {
    let place = TempDir::new().unwrap();
    let open = File::open(place.path()).unwrap();
    for has_unnamed in [true, false] {
        let mut tried = Vec::new();
        let make = |name: &str| {
            tried.push(name.to_owned());
            let path = place.path().join(name);
            // Somebody else is there first, twice.
            if tried.len() <= 2 {
                fs::write(&path, "somebody else's").unwrap();
            }
            let made = File::create_new(&path);
            made.map_err(|why| Errno::from_raw(why.raw_os_error().unwrap()))
        };
        let (aside, _) = Aside::make(open.as_fd(), has_unnamed, make).unwrap();
        assert_eq!(aside.name(), tried[2]);
        assert_eq!(tried[0] == NAME, has_unnamed);
        assert!(tried[1..].iter().all(|name| is_random(name)), "{tried:?}");
        drop(aside);
        tried.truncate(2);
        tried.sort();
        assert_eq!(names(place.path()), tried);
        for name in tried {
            let path = place.path().join(name);
            assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
            fs::remove_file(path).unwrap();
        }
    }
    // Where every name is somebody's, the copy ends and nothing is removed.
    let make = |name: &str| {
        fs::write(place.path().join(name), "somebody else's").unwrap();
        Err::<(), _>(Errno::EEXIST)
    };
    assert_eq!(Aside::make(open.as_fd(), false, make).unwrap_err(), Errno::EEXIST);
    assert_eq!(names(place.path()).len(), 8);
}

#[test]
fn an_entry_with_a_reserved_name_is_left_out_and_said() {
    for way in WAYS {
        let outside = Outside::new(way);
        let brought = [
            entry(NAME, file(4)),
            entry(".Coracle-CP", file(4)),
            entry(".coracle-cp-1/x", file(4)),
            entry("d/.CORACLE-CP-", Kind::Directory),
        ];
        assert_eq!(outside.unpack(&brought).unwrap().len(), 4);
        assert_eq!(names(&outside.inside()), ["there"]);
        for other in [".coracle-cpu", ".coracle-c", "x.coracle-cp", ".coracle-cp.txt"] {
            assert!(!is_reserved(other.as_bytes()));
            assert_eq!(outside.unpack(&[entry(other, file(4))]).unwrap(), [""; 0]);
            fs::remove_file(outside.inside().join(other)).unwrap();
        }
    }
}

#[test]
fn a_destination_with_a_reserved_name_is_refused() {
    let place = TempDir::new().unwrap();
    fs::create_dir(place.path().join(".coracle-cp-dir")).unwrap();
    let a_file = |name: &str| Source::File(name.into());
    for (to, source) in [
        (".coracle-cp", a_file("f")),
        (".CORACLE-cp-mine", a_file("f")),
        ("", a_file(".coracle-cp-1")),
        (
            ".coracle-cp-new",
            Source::Directory {
                name: "d".into(),
                contents: true,
            },
        ),
    ] {
        let error = destination(&place.path().join(to), &source).unwrap_err();
        assert!(error.to_string().contains("another name"), "{error}");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    // Nothing is wrong with a directory of such a name into which something goes, and with names that only begin alike.
    for (to, source) in [(".coracle-cp-dir", a_file("f")), (".coracle-cpu", a_file("f"))] {
        destination(&place.path().join(to), &source).unwrap();
    }
}

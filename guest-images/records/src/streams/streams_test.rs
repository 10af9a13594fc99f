use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::record;

const IMAGE: u64 = 77;

/// A directory in which the stream has written records 1 to `last`.
fn written(kind: Kind, last: u64) -> TempDir {
    let directory = TempDir::new().unwrap();
    go_on(kind, directory.path(), last);
    directory
}

fn go_on(kind: Kind, directory: &Path, last: u64) {
    let mut open = kind.open(directory, IMAGE).unwrap();
    for number in open.last + 1..=last {
        open.stream.write(number).unwrap();
    }
}

fn change(file: PathBuf, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(&file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_stream_goes_on_where_it_ended() {
    for kind in KINDS {
        for last in [0, 1, 70] {
            let directory = written(kind, last);
            assert_eq!(kind.check(directory.path(), IMAGE), Ok(last), "{kind:?}");
            go_on(kind, directory.path(), last + 35);
            assert_eq!(kind.check(directory.path(), IMAGE), Ok(last + 35), "{kind:?}");
        }
    }
}

#[test]
fn what_was_never_written_has_no_last_record() {
    let empty = TempDir::new().unwrap();
    for kind in KINDS {
        assert_eq!(kind.check(empty.path(), IMAGE), Ok(0), "{kind:?}");
    }
}

#[test]
fn a_torn_next_record_is_not_there_and_does_not_stay() {
    let kind = Kind::Append;
    let directory = written(kind, 9);
    let file = directory.path().join("append");
    change(file, |bytes| bytes.extend([0; 100]));
    assert_eq!(kind.check(directory.path(), IMAGE), Ok(9));
    go_on(kind, directory.path(), 12);
    assert_eq!(kind.check(directory.path(), IMAGE), Ok(12));

    let kind = Kind::Ring;
    let directory = written(kind, 100);
    change(directory.path().join("ring"), |bytes| {
        bytes[101 % 64 * 8192 + 4096] ^= 1
    });
    assert_eq!(kind.check(directory.path(), IMAGE), Ok(100));

    let kind = Kind::Files;
    let directory = written(kind, 100);
    fs::write(directory.path().join("files/new"), "torn").unwrap();
    fs::remove_file(directory.path().join("files/69")).unwrap();
    assert_eq!(kind.check(directory.path(), IMAGE), Ok(100));
    go_on(kind, directory.path(), 103);
    assert_eq!(kind.check(directory.path(), IMAGE), Ok(103));
}

#[test]
fn a_lost_last_record_shows_in_the_number() {
    let directory = written(Kind::Append, 9);
    change(directory.path().join("append"), |bytes| {
        bytes.truncate(bytes.len() - 1)
    });
    assert_eq!(Kind::Append.check(directory.path(), IMAGE), Ok(8));

    let directory = written(Kind::Ring, 100);
    change(directory.path().join("ring"), |bytes| {
        let old = record::encode(Kind::Ring.place(IMAGE), 36, 8192);
        bytes[36 * 8192..37 * 8192].copy_from_slice(&old);
    });
    assert_eq!(Kind::Ring.check(directory.path(), IMAGE), Ok(99));
}

#[test]
fn a_lost_earlier_record_is_told() {
    let directory = written(Kind::Append, 50);
    change(directory.path().join("append"), |bytes| bytes[40] ^= 1);
    assert!(Kind::Append.check(directory.path(), IMAGE).is_err());

    let directory = written(Kind::Ring, 100);
    change(directory.path().join("ring"), |bytes| bytes[99 % 64 * 8192] ^= 1);
    assert!(Kind::Ring.check(directory.path(), IMAGE).is_err());

    for number in [80, 20] {
        let directory = written(Kind::Files, if number > 32 { 100 } else { 25 });
        fs::remove_file(directory.path().join(format!("files/{number}"))).unwrap();
        assert!(Kind::Files.check(directory.path(), IMAGE).is_err());
    }
}

#[test]
fn a_file_that_has_its_name_is_whole() {
    let directory = written(Kind::Files, 10);
    change(directory.path().join("files/10"), Vec::clear);
    assert!(Kind::Files.check(directory.path(), IMAGE).is_err());
}

#[test]
fn the_records_of_another_image_are_none() {
    let directory = written(Kind::Files, 10);
    assert!(Kind::Files.check(directory.path(), IMAGE + 1).is_err());
}

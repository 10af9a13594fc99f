use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;

use super::*;
use crate::guests::place::Folder;

/// A log on a file system that knows holes.
fn log() -> (Log, File) {
    let directory = tempfile::tempdir().unwrap();
    let folder = Folder::open(directory.path()).unwrap();
    let written = folder.make("log").unwrap();
    // Opened a second time, so that the reader has a position of its own.
    (
        Log::new(written, Times::new(folder.make("times").unwrap())),
        folder.read("log").unwrap(),
    )
}

fn read_all(reader: &mut LogReader) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        match reader.read().unwrap() {
            bytes if bytes.is_empty() => return all,
            bytes => all.extend(bytes),
        }
    }
}

#[test]
fn a_log_keeps_the_end_of_a_long_output_and_takes_no_more_room() {
    let (mut log, file) = log();
    let line = [&[b'x'; 99][..], b"\n"].concat();
    let lines = 5 * KEPT as usize / 100;
    for _ in 0..lines {
        log.append(&line).unwrap();
    }
    log.append(b"last\n").unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), lines as u64 * 100 + 5);
    assert!(
        metadata.blocks() * 512 <= KEPT + 2 * PIECE,
        "{}",
        metadata.blocks()
    );
    let mut reader = LogReader::new(file).unwrap();
    let read = read_all(&mut reader);
    assert!(read.len() as u64 > KEPT - 100, "{}", read.len());
    assert!(read.ends_with(b"x\nlast\n"));
    assert!(
        read.split(|&byte| byte == b'\n')
            .all(|line| line.len() == 99 || line == b"last" || line.is_empty())
    );
    // It goes on where it was.
    log.append(b"more").unwrap();
    assert_eq!(read_all(&mut reader), b"more");
}

#[test]
fn a_reader_that_is_overtaken_goes_on_with_what_is_kept() {
    let (mut log, file) = log();
    log.append(b"first\n").unwrap();
    let mut reader = LogReader::new(file).unwrap();
    log.append(&vec![b'y'; 3 * KEPT as usize]).unwrap();
    log.append(b"").unwrap();
    let read = String::from_utf8(read_all(&mut reader)).unwrap();
    let (words, kept) = read.split_at(read.find("]\n").unwrap() + 2);
    assert!(kept.bytes().all(|byte| byte == b'y'));
    let length = kept.len() as u64;
    assert!((KEPT..=KEPT + 2 * PIECE).contains(&length), "{length}");
    assert_eq!(words, missing(6 + 3 * KEPT - length));
}

#[test]
fn what_becomes_a_hole_while_it_is_read_is_not_taken_for_output() {
    let (mut log, file) = log();
    log.append(&vec![b'x'; KEPT as usize + READ / 2]).unwrap();
    let mut reader = LogReader { file, at: 0 };
    // As between the reader's two steps.
    reader.skip_hole().unwrap();
    log.append(&vec![b'y'; READ]).unwrap();
    assert_eq!(reader.read_here().unwrap(), b"");
    assert_eq!(reader.read_here().unwrap(), [b'x'; READ]);
    // A part of what is read is a hole.
    reader.at = PIECE / 2;
    assert_eq!(reader.read_here().unwrap(), [b'x'; READ / 2]);
}

proptest! {
    #[test]
    fn the_last_lines_are_those_that_a_person_counts(text in "[a\\n]{0,40}", count in 0usize..8) {
        let (mut log, file) = log();
        log.append(text.as_bytes()).unwrap();
        let mut reader = LogReader::new(file).unwrap();
        reader.go_to_last_lines(count).unwrap();
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        let expected = lines[lines.len().saturating_sub(count)..].concat();
        prop_assert_eq!(String::from_utf8(read_all(&mut reader)).unwrap(), expected);
    }
}

#[test]
fn the_line_of_a_position_begins_behind_the_one_before() {
    let (mut log, file) = log();
    log.append(b"one\ntwo\nthree").unwrap();
    let mut reader = LogReader::new(file).unwrap();
    for (position, rest) in [
        (0, "one\ntwo\nthree"),
        (2, "one\ntwo\nthree"),
        (4, "two\nthree"),
        (13, "three"),
    ] {
        reader.go_to_line_of(position).unwrap();
        assert_eq!(read_all(&mut reader), rest.as_bytes(), "{position}");
    }
    log.append(&[b'x'; 2 * LINE as usize]).unwrap();
    reader.go_to_line_of(13 + LINE + 9).unwrap();
    assert_eq!(
        reader.position(),
        13 + 9,
        "no further back than that is looked for"
    );
}

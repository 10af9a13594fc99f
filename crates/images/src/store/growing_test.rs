use std::io::{Read, Write};
use std::thread;

use super::Growing;

#[test]
fn a_reader_gets_all_that_comes_up_to_the_end() {
    let mut file = tempfile::tempfile().unwrap();
    let data: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    file.write_all(&data[..10]).unwrap();
    let growing = Growing::new(file.try_clone().unwrap());
    growing.grow_to(10);
    let mut reader = growing.reader();
    let other = thread::spawn(move || {
        let mut read = Vec::new();
        reader.read_to_end(&mut read).map(|_| read)
    });
    let mut length = 10;
    for piece in data[10..].chunks(7919) {
        file.write_all(piece).unwrap();
        length += piece.len();
        growing.grow_to(length as u64);
    }
    assert!(!other.is_finished(), "the end is not known");
    growing.complete();
    assert_eq!(other.join().unwrap().unwrap(), data);
}

#[test]
fn bytes_that_are_in_the_file_but_not_said_to_be_there_are_not_read() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"good, bad").unwrap();
    let growing = Growing::new(file);
    growing.grow_to(4);
    let mut buffer = [0; 100];
    assert_eq!(growing.reader().read(&mut buffer).unwrap(), 4);
}

#[test]
fn a_reader_that_waits_ends_when_the_writer_gives_up() {
    let growing = Growing::new(tempfile::tempfile().unwrap());
    let mut reader = growing.reader();
    let other = thread::spawn(move || reader.read(&mut [0; 10]));
    growing.give_up();
    assert!(other.join().unwrap().is_err());
    assert!(growing.is_given_up());
}

use std::io;

use super::{BLOCK, PIECES_MAX, check_pieces, sparse_map};
use crate::Piece;

/// What is made of a map with this text, which is filled up to a block.
fn map(text: &str, stored: u64) -> io::Result<(Vec<Piece>, u64)> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    let mut blocks = bytes.chunks_exact(BLOCK);
    sparse_map(stored, || {
        let block = blocks.next().ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(block.try_into().unwrap())
    })
}

fn pieces(all: &[(u64, u64)]) -> Vec<Piece> {
    all.iter()
        .map(|&(offset, length)| Piece { offset, length })
        .collect()
}

#[test]
fn a_map_ends_with_the_block_in_which_its_last_number_is() {
    assert_eq!(map("0\n", 512).unwrap(), (vec![], 512));
    assert_eq!(
        map("2\n0\n4\n10\n5\n", 521).unwrap(),
        (pieces(&[(0, 4), (10, 5)]), 512)
    );
    let lines: String = (0..200).map(|number| format!("{}\n1\n", number * 2)).collect();
    let (found, length) = map(&format!("200\n{lines}"), 4096).unwrap();
    assert_eq!((found.len(), length % 512), (200, 0));
    assert!(length > 512);
}

#[test]
fn maps_that_make_no_sense_are_refused() {
    let long = format!("1\n{}\n1\n", "1".repeat(20));
    let many = format!("{}\n", PIECES_MAX + 1);
    for (text, stored) in [
        ("", 512),
        ("\n", 512),
        ("1\n0\n", 512),
        ("1\n0\n-1\n", 512),
        ("x\n", 512),
        (&long, 512),
        (&many, 1 << 30),
        ("0\n", 511),
        ("0\n", 0),
        // The map goes on where there is no more of it.
        (&format!("1\n{}", "1\n".repeat(255)), 512),
    ] {
        assert_eq!(
            map(text, stored).is_ok(),
            text.len() == 512,
            "{text:?} of {stored}"
        );
    }
    let cut = map(&format!("300\n{}", "1\n".repeat(254)), 1 << 20).unwrap_err();
    assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn pieces_are_in_order_within_the_file_and_as_long_as_the_data() {
    let check = |all: &[(u64, u64)], size, stored| check_pieces(&pieces(all), size, stored).is_ok();
    assert!(check(&[], 0, 0));
    assert!(check(&[(0, 4), (4, 0), (4, 2)], 6, 6));
    assert!(check(&[(u64::MAX - 4, 4)], u64::MAX, 4));
    assert!(!check(&[(0, 4)], 3, 4));
    assert!(!check(&[(5, 2), (2, 2)], 100, 4));
    assert!(!check(&[(0, 3), (2, 1)], 100, 4));
    assert!(!check(&[(0, 4)], 100, 5));
    assert!(!check(&[(1, u64::MAX)], 100, u64::MAX));
    assert!(!check(&[(0, u64::MAX), (u64::MAX, u64::MAX)], u64::MAX - 1, 2));
}

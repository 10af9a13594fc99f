use std::cell::Cell;

use super::*;
use crate::virtio::block::queue::Begun;

fn pieces(length: usize, stop_after: usize, begun: Begun) -> (Option<io::Result<()>>, Vec<(u64, u64)>) {
    let mut bytes = vec![0; length];
    let stop = Stop::default();
    let seen = Cell::new(Vec::new());
    let done = in_pieces(&mut Buffers::of(&mut bytes), 512, &stop, |piece, offset| {
        let mut pieces = seen.take();
        pieces.push((offset, piece.length()));
        if pieces.len() == stop_after {
            stop.request(begun);
        }
        seen.set(pieces);
        Ok(())
    });
    (done, seen.into_inner())
}

#[test]
fn all_of_a_request_is_done_in_pieces() {
    let (done, seen) = pieces(2 * PIECE as usize + 512, usize::MAX, Begun::Abandon);
    assert!(done.is_some());
    assert_eq!(seen, [(512, PIECE), (512 + PIECE, PIECE), (512 + 2 * PIECE, 512)]);
    let (done, seen) = pieces(PIECE as usize, 0, Begun::Abandon);
    assert!(done.is_some());
    assert_eq!(seen, [(512, PIECE)]);
}

#[test]
fn a_reset_waits_for_one_piece_of_a_request() {
    let (done, seen) = pieces(10 * PIECE as usize, 3, Begun::Abandon);
    assert!(done.is_none(), "it was not given up");
    assert_eq!(seen.len(), 3);
}

#[test]
fn a_pause_waits_for_all_of_a_request() {
    let (done, seen) = pieces(10 * PIECE as usize, 3, Begun::Complete);
    assert!(done.is_some());
    assert_eq!(seen.len(), 10);
}

use proptest::prelude::*;

use super::*;

/// Memory cut in pieces, and the stream that it is.
fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9)
}

fn stream(memory: &mut [Vec<u8>]) -> Buffers<'_> {
    let mut buffers = Buffers::default();
    for piece in memory {
        buffers.push(VolatileSlice::from(piece.as_mut_slice()));
    }
    buffers
}

proptest! {
    #[test]
    fn a_stream_is_its_pieces_one_after_the_other(mut memory in pieces(), skipped in 0u64..90, asked in 0usize..90) {
        let mut bytes = memory.concat();
        let mut buffers = stream(&mut memory);
        prop_assert_eq!(buffers.length(), bytes.len() as u64);
        buffers.advance(skipped);
        bytes.drain(..bytes.len().min(skipped as usize));
        prop_assert_eq!(buffers.length(), bytes.len() as u64);
        prop_assert!(buffers.iovecs().iter().all(|iovec| iovec.iov_len > 0));
        prop_assert_eq!(buffers.iovecs().iter().map(|iovec| iovec.iov_len).sum::<usize>(), bytes.len());
        let mut copy = vec![0; asked];
        let copied = buffers.copy_to(&mut copy);
        prop_assert_eq!(&copy[..copied], &bytes[..asked.min(bytes.len())]);
    }

    #[test]
    fn what_is_taken_is_no_longer_there(mut memory in pieces()) {
        let bytes = memory.concat();
        let mut buffers = stream(&mut memory);
        match bytes.split_last() {
            None => prop_assert!(buffers.take_last().is_none()),
            Some((last, rest)) => {
                let mut byte = [0];
                buffers.take_last().unwrap().copy_to(&mut byte);
                prop_assert_eq!(byte[0], *last);
                prop_assert_eq!(buffers.length(), rest.len() as u64);
                let taken = buffers.take::<4>();
                prop_assert_eq!(taken.as_ref().map(|bytes| &bytes[..]), rest.get(..4));
                let left = rest.len() - taken.map_or(0, |bytes| bytes.len());
                prop_assert_eq!(buffers.length(), left as u64);
            }
        }
    }

    #[test]
    fn bytes_are_put_from_the_start_as_far_as_they_fit(mut memory in pieces(), bytes in prop::collection::vec(any::<u8>(), 0..90)) {
        let mut expected = memory.concat();
        let count = stream(&mut memory).copy_from(&bytes);
        prop_assert_eq!(count, bytes.len().min(expected.len()));
        expected[..count].copy_from_slice(&bytes[..count]);
        prop_assert_eq!(memory.concat(), expected);
    }
}

#[test]
fn a_stream_that_is_emptied_does_not_allocate_again() {
    let mut memory: Vec<Vec<u8>> = (0..64).map(|byte| vec![byte; 8]).collect();
    let mut buffers = stream(&mut memory);
    let place = buffers.iovecs().as_ptr();
    buffers.advance(100);
    buffers.clear();
    assert_eq!((buffers.length(), buffers.iovecs().len()), (0, 0));
    let mut other = vec![vec![1; 3]; 64];
    for piece in &mut other {
        buffers.push(VolatileSlice::from(piece.as_mut_slice()));
    }
    assert_eq!(buffers.iovecs().as_ptr(), place);
    assert_eq!(buffers.length(), 64 * 3);
}

#[test]
fn alignment_is_that_of_every_piece() {
    #[repr(align(512))]
    struct Aligned([u8; 2048]);
    let mut memory = Aligned([0; 2048]);
    assert!(Buffers::of(&mut memory.0[512..1024]).are_aligned(512));
    assert!(!Buffers::of(&mut memory.0[512..1023]).are_aligned(512));
    assert!(!Buffers::of(&mut memory.0[510..1022]).are_aligned(512));
    let (one, other) = memory.0.split_at_mut(1024);
    let mut buffers = Buffers::of(one);
    buffers.push(VolatileSlice::from(&mut other[1..513]));
    assert!(!buffers.are_aligned(512) && buffers.are_aligned(1));
}

//! A peer that sends anything: an agent in a guest that lies, or a host to an agent.
#![no_main]

use coracle_agent_protocol::{Error, FRAME_MAX, Incoming, Message, ToAgent, ToHost, hello, put};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&[cut, greets], bytes)) = input.split_first_chunk() else {
        return;
    };
    let bytes = match greets & 1 {
        0 => bytes.to_vec(),
        _ => [&hello()[..], bytes].concat(),
    };
    check::<ToAgent>(&bytes, cut.into());
    check::<ToHost>(&bytes, cut.into());
});

fn check<M: Message + PartialEq + std::fmt::Debug>(bytes: &[u8], cut: usize) {
    let whole = take_all::<M>(bytes, bytes.len());
    // However the bytes arrive, they mean the same.
    assert_eq!(take_all::<M>(bytes, cut + 1), whole);
    let (messages, _) = whole;
    let mut again = hello().to_vec();
    for (message, data) in &messages {
        assert_eq!(message.check(data), Ok(()));
        assert!(put(&mut again, message, data), "{message:?} fitted into a frame before");
    }
    assert_eq!(take_all::<M>(&again, again.len()), (messages, None));
}

/// All messages in `bytes`, which arrive so many at a time, and what is wrong with the rest.
fn take_all<M: Message>(bytes: &[u8], at_once: usize) -> (Vec<(M, Vec<u8>)>, Option<Error>) {
    let mut incoming = Incoming::new(FRAME_MAX);
    let mut messages = Vec::new();
    for piece in bytes.chunks(at_once.max(1)) {
        incoming.push(piece);
        loop {
            match incoming.next() {
                Ok(Some((message, data))) => messages.push((message, data.to_vec())),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

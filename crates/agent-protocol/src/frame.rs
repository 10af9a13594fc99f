//! Frames: how messages follow each other in a stream of bytes.

use crate::{Error, Message};

/// The version of the messages. A peer with another one is refused.
pub const VERSION: u16 = 3;

/// The first bytes of each side, in every version; the version follows them.
const MAGIC: [u8; 6] = *b"CrclAg";
/// A frame begins with the length of the rest.
const LENGTH: usize = 4;

/// No frame is longer, its length aside. A program's arguments and environment are in one frame.
pub const FRAME_MAX: usize = 1 << 20;

/// What each side sends first. Its form is the same in every version.
pub fn hello() -> [u8; 8] {
    let [low, high] = VERSION.to_le_bytes();
    let [a, b, c, d, e, f] = MAGIC;
    [a, b, c, d, e, f, low, high]
}

/// Appends `message` to `outgoing` as a frame, with the bytes that it carries. False, and nothing is appended, if it is
/// longer than [`FRAME_MAX`].
#[must_use]
pub fn put<M: Message>(outgoing: &mut Vec<u8>, message: &M, data: &[u8]) -> bool {
    debug_assert_eq!(message.check(data), Ok(()));
    // It fails only for types that have no length, and messages have none of these.
    let Ok(encoded) = postcard::to_allocvec(message) else {
        return false;
    };
    let length = encoded.len() + data.len();
    match u32::try_from(length) {
        Ok(word) if length <= FRAME_MAX => {
            outgoing.extend(word.to_le_bytes());
            outgoing.extend(encoded);
            outgoing.extend(data);
            true
        }
        _ => false,
    }
}

/// What has arrived and was not taken yet.
#[derive(Debug)]
pub struct Incoming {
    bytes: Vec<u8>,
    /// So many of the bytes were taken.
    taken: usize,
    pub(crate) is_greeted: bool,
    frame_max: usize,
}

impl Incoming {
    /// For frames of up to `frame_max` bytes. No more than one frame and what is pushed at once is ever kept.
    pub fn new(frame_max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            taken: 0,
            is_greeted: false,
            frame_max,
        }
    }

    /// Adds bytes that have arrived. To be called when [`Incoming::next`] has nothing more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend(bytes);
    }

    /// Takes the peer's [`hello`], unless that was done. False if it has not arrived whole.
    pub(crate) fn greet(&mut self) -> Result<bool, Error> {
        if !self.is_greeted {
            let Some(greeting) = self.bytes[self.taken..].first_chunk::<8>() else {
                return Ok(false);
            };
            let [magic @ .., low, high] = *greeting;
            if magic != MAGIC {
                return Err(Error::NotAnAgent);
            }
            match u16::from_le_bytes([low, high]) {
                VERSION => self.is_greeted = true,
                theirs => return Err(Error::Version(theirs)),
            }
            self.taken += greeting.len();
        }
        Ok(true)
    }

    /// Takes the next message and the bytes that it carries, if they have arrived whole. After an error the rest means
    /// nothing.
    #[expect(
        clippy::should_implement_trait,
        reason = "what it gives borrows from it, as no iterator's item can"
    )]
    pub fn next<M: Message>(&mut self) -> Result<Option<(M, &[u8])>, Error> {
        if !self.greet()? {
            return Ok(None);
        }
        let rest = &self.bytes[self.taken..];
        let Some((word, rest)) = rest.split_first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*word) as usize;
        if length > self.frame_max {
            return Err(Error::TooLong);
        }
        let Some(frame) = rest.get(..length) else {
            return Ok(None);
        };
        self.taken += LENGTH + length;
        let (message, data) = postcard::take_from_bytes::<M>(frame).map_err(|_| Error::Malformed)?;
        message.check(data)?;
        Ok(Some((message, data)))
    }
}

#[cfg(test)]
#[path = "frame_test.rs"]
mod tests;

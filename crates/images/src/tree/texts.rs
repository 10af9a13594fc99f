//! Names and the like, one after the other in memory.

use std::io;

use crate::layer::refused;

/// Bytes of names, targets of symbolic links and extended attributes that a tree may have, with those of what was removed.
const BYTES_MAX: usize = 256 << 20;

/// A text in [`Texts`]: at most `PATH_MAX` bytes or those of an extended attribute.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text {
    start: u32,
    length: u16,
}

impl Text {
    pub const EMPTY: Self = Self { start: 0, length: 0 };
}

#[derive(Default)]
pub(crate) struct Texts(Vec<u8>);

impl Texts {
    pub fn add(&mut self, text: &[u8]) -> io::Result<Text> {
        let (start, length) = (u32::try_from(self.0.len()), u16::try_from(text.len()));
        let (Ok(start), Ok(length), true) = (start, length, self.0.len() + text.len() <= BYTES_MAX) else {
            return Err(refused(format!(
                "all names and extended attributes of an image have at most {} MiB",
                BYTES_MAX >> 20
            )));
        };
        self.0.extend(text);
        Ok(Text { start, length })
    }

    pub fn get(&self, text: Text) -> &[u8] {
        let start = text.start as usize;
        &self.0[start..start + usize::from(text.length)]
    }
}

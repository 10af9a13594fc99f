//! The kernel command line in the making: parameters for the kernel, then ` -- `, then arguments for init.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::parameters::{is_blank, split};
use super::refused::{self, Refused};
use crate::x86::layout;

/// A command line in the making: the kernel parameters of each part go before all init arguments.
#[derive(Clone, Debug)]
pub struct CommandLine {
    parameters: String,
    init_arguments: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the kernel command line has the character {character:?} at position {position}, which no parameter can have \
         (leave it out)"
    )]
    Unprintable { character: char, position: usize },
    #[error(
        "the kernel command line has the character {character:?} at position {position}, which Linux takes for the end of \
         a word: put the word between double quotes"
    )]
    Blank { character: char, position: usize },
    #[error("the kernel command line has a quotation mark that is never closed: {text}")]
    OpenQuote { text: String },
    #[error("the kernel command line is {length} bytes long, {taker} {limit} (shorten it)")]
    TooLong {
        length: usize,
        taker: &'static str,
        limit: usize,
    },
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the kernel command line cannot be written to guest memory: {0}")]
    GuestMemory(#[from] GuestMemoryError),
}

impl CommandLine {
    /// Starts with `text`, which may hold init arguments after ` -- `.
    pub fn new(text: &str) -> Result<CommandLine, Error> {
        let mut line = CommandLine {
            parameters: String::new(),
            init_arguments: String::new(),
        };
        line.append(text)?;
        Ok(line)
    }

    /// Adds what a person wrote, unless it turns off what the guest needs. `built_in`: whether the kernel is Coracle's.
    pub fn append_persons(&mut self, text: &str, built_in: bool) -> Result<(), Error> {
        refused::check(text, built_in)?;
        self.append(text)
    }

    /// Adds the kernel parameters of `text` after those that are there, and its init arguments likewise.
    pub fn append(&mut self, text: &str) -> Result<(), Error> {
        let text = in_one_line(text)?;
        let (parameters, init_arguments) = split(&text);
        add(&mut self.parameters, parameters);
        add(&mut self.init_arguments, init_arguments);
        Ok(())
    }

    /// Adds `virtio_mmio.device=`, by which a kernel without ACPI finds a virtio-mmio device.
    pub fn append_virtio_mmio(&mut self, address: GuestAddress, irq: u32) -> Result<(), Error> {
        let size = layout::VIRTIO_MMIO_SIZE;
        self.append(&format!("virtio_mmio.device={size}@{:#x}:{irq}", address.0))
    }

    /// The finished text.
    pub fn text(&self) -> String {
        match self.init_arguments.is_empty() {
            true => self.parameters.clone(),
            false => format!("{} -- {}", self.parameters, self.init_arguments),
        }
    }

    /// Checks the length against what the kernel takes and what guest memory has room for.
    pub fn check(&self, kernel_limit: usize) -> Result<(), Error> {
        let length = self.text().len();
        let room = layout::COMMAND_LINE_MAX - 1;
        if length > kernel_limit {
            return Err(Error::TooLong {
                length,
                taker: "this kernel takes",
                limit: kernel_limit,
            });
        }
        if length > room {
            return Err(Error::TooLong {
                length,
                taker: "Coracle has room for",
                limit: room,
            });
        }
        Ok(())
    }
}

/// `text` with spaces for line ends and tabs: a text from a file ends with a line end, and can have several lines.
fn in_one_line(text: &str) -> Result<String, Error> {
    let mut in_quotes = false;
    let mut line = String::with_capacity(text.len());
    for (position, character) in text.char_indices() {
        in_quotes ^= character == '"';
        line.push(match character {
            ' '..='~' => character,
            _ if is_blank(character) && !in_quotes => ' ',
            _ if character.is_control() => return Err(Error::Unprintable { character, position }),
            // Linux reads bytes, and takes this one for a blank (lib/ctype.c) whatever character it is a part of.
            _ if !in_quotes
                && character
                    .encode_utf8(&mut [0; 4])
                    .bytes()
                    .any(|byte| byte == 0xa0) =>
            {
                return Err(Error::Blank { character, position });
            }
            _ => character,
        });
    }
    // The kernel would take all that follows the open quotation mark, in later parts too, for one value.
    if in_quotes {
        return Err(Error::OpenQuote {
            text: text.to_string(),
        });
    }
    Ok(line)
}

fn add(words: &mut String, more: &str) {
    let more = more.trim_matches(is_blank);
    if !words.is_empty() && !more.is_empty() {
        words.push(' ');
    }
    words.push_str(more);
}

/// Writes the command line and its NUL to guest memory.
pub fn write(line: &CommandLine, memory: &GuestMemoryMmap, address: GuestAddress) -> Result<(), Error> {
    line.check(usize::MAX)?;
    Ok(memory.write_slice((line.text() + "\0").as_bytes(), address)?)
}

#[cfg(test)]
#[path = "command_line_test.rs"]
mod tests;

//! The kernel command line in the making: parameters for the kernel, then ` -- `, then arguments for init.

use linux_loader::cmdline::{self, Cmdline};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::parameters::split;
use super::refused::{self, Refused};
use crate::x86::layout;

/// A command line in the making: the kernel parameters of each part go before all init arguments.
#[derive(Clone, Debug)]
pub struct CommandLine(Cmdline);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the kernel command line has the character {character:?} at position {position}: only printable ASCII may be in it"
    )]
    Unprintable { character: char, position: usize },
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
    #[error("the kernel command line cannot be built: {0}")]
    Build(#[from] cmdline::Error),
    #[error("the kernel command line cannot be written to guest memory: {0}")]
    GuestMemory(#[from] GuestMemoryError),
}

impl CommandLine {
    /// Starts with `text`, which may hold init arguments after ` -- `.
    pub fn new(text: &str) -> Result<CommandLine, Error> {
        // Without a limit here: `check` looks at the length of the whole, and its error names it.
        let mut line = CommandLine(Cmdline::new(usize::MAX)?);
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
        if let Some((position, character)) = text.char_indices().find(|(_, c)| !matches!(c, ' '..='~')) {
            return Err(Error::Unprintable { character, position });
        }
        // The kernel would take all that follows the open quotation mark, in later parts too, for one value.
        if text.matches('"').count() % 2 == 1 {
            return Err(Error::OpenQuote {
                text: text.to_string(),
            });
        }
        let (parameters, init_arguments) = split(text);
        if !parameters.trim().is_empty() {
            self.0.insert_str(parameters)?;
        }
        if !init_arguments.trim().is_empty() {
            self.0.insert_init_args(init_arguments)?;
        }
        Ok(())
    }

    /// Adds `virtio_mmio.device=`, by which a kernel without ACPI finds a virtio-mmio device.
    pub fn append_virtio_mmio(&mut self, address: GuestAddress, irq: u32) -> Result<(), Error> {
        Ok(self
            .0
            .add_virtio_mmio_device(layout::VIRTIO_MMIO_SIZE, address, irq, None)?)
    }

    /// The finished text.
    pub fn text(&self) -> Result<String, Error> {
        let text = self.0.as_cstring()?.into_string();
        text.map_err(|_| Error::Build(cmdline::Error::InvalidAscii))
    }

    /// Checks the length against what the kernel takes and what guest memory has room for.
    pub fn check(&self, kernel_limit: usize) -> Result<(), Error> {
        let length = self.text()?.len();
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

/// Writes the command line and its NUL to guest memory.
pub fn write(line: &CommandLine, memory: &GuestMemoryMmap, address: GuestAddress) -> Result<(), Error> {
    line.check(usize::MAX)?;
    Ok(memory.write_slice(line.0.as_cstring()?.as_bytes_with_nul(), address)?)
}

#[cfg(test)]
#[path = "command_line_test.rs"]
mod tests;

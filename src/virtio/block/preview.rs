//! What `--dry-run` tells about a disk. Its file and the files under it are read, but neither locked nor opened for writing.

use super::image::{Image, ImageError, Looked};
use super::{engine, pad_id, queue_count};
use crate::config::{self, Format};

pub struct Preview {
    pub queues: u16,
    pub engine: engine::Choice,
    /// The files under the image, from the first to the last, as texts for a person.
    pub backing: Vec<String>,
    /// The data file of the image, as text for a person.
    pub data: Option<String>,
}

impl Preview {
    /// Looks at what `disk` names, for a machine of `cpus` vCPUs.
    pub fn of(disk: &config::Disk, cpus: u8) -> Result<Self, ImageError> {
        pad_id(disk.id.as_deref())?;
        let looked = match disk.handed_over {
            true => Looked::raw(),
            false => Image::look(disk)?,
        };
        let is_raw = looked.format == Format::Raw && !disk.ephemeral;
        Ok(Self {
            queues: queue_count(disk, cpus),
            engine: engine::choose(disk.engine, is_raw),
            backing: looked.backing,
            data: looked.data,
        })
    }
}

#[cfg(test)]
#[path = "preview_test.rs"]
mod tests;

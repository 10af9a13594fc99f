//! The block device (virtio 1.2 section 5.2).

use std::io;
use std::path::Path;
use std::sync::Arc;

use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::log_limit::LogLimit;
use super::{Activation, VirtioDevice};
pub use image::OpenError;
use image::{Image, SECTOR_SIZE};
use request::Id;
use worker::Worker;

mod chain;
mod image;
mod request;
mod worker;

#[cfg(test)]
mod test_disk;

const QUEUE_SIZE: u16 = 128;
/// A request is a header, its data and a status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// `struct virtio_blk_config` up to `blk_size`, all that the offered features give a meaning to.
const CONFIG_SIZE: usize = 24;

/// A disk of the guest.
pub struct Block {
    disk: Arc<Disk>,
    worker: Option<Worker>,
}

/// What a disk is, driven or not.
struct Disk {
    image: Image,
    id: Id,
    log: LogLimit,
}

impl Block {
    /// Opens the image at `path`. `id`, up to 20 bytes, is what the guest sees as the disk's serial number.
    pub fn open(path: &Path, read_only: bool, id: Option<&str>) -> Result<Self, OpenError> {
        let id = pad_id(id)?;
        let image = Image::open(path, read_only)?;
        Ok(Self {
            disk: Arc::new(Disk {
                image,
                id,
                log: LogLimit::default(),
            }),
            worker: None,
        })
    }
}

fn pad_id(id: Option<&str>) -> Result<Id, OpenError> {
    let mut padded = Id::default();
    let Some(id) = id else { return Ok(padded) };
    match padded.get_mut(..id.len()) {
        Some(start) if !id.is_empty() && id.bytes().all(|byte| matches!(byte, b' '..=b'~')) => {
            start.copy_from_slice(id.as_bytes());
            Ok(padded)
        }
        _ => Err(OpenError::Id { id: id.into() }),
    }
}

impl Disk {
    /// "disk-" and the id, or else the image's file name. Linux shows the first 15 bytes of it.
    fn thread_name(&self) -> String {
        let id = self.id.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = match id {
            [] => self
                .image
                .path()
                .file_name()
                .unwrap_or_default()
                .to_string_lossy(),
            id => String::from_utf8_lossy(id),
        };
        format!("disk-{name}")
    }

    fn config(&self) -> [u8; CONFIG_SIZE] {
        let mut config = [0; CONFIG_SIZE];
        config[0..8].copy_from_slice(&self.image.sectors().to_le_bytes());
        config[12..16].copy_from_slice(&SEG_MAX.to_le_bytes());
        config[20..24].copy_from_slice(&(SECTOR_SIZE as u32).to_le_bytes());
        config
    }
}

impl VirtioDevice for Block {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        let read_only = u64::from(self.disk.image.read_only()) << VIRTIO_BLK_F_RO;
        1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_FLUSH | read_only
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.disk.config();
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| config.get(offset..))
            .unwrap_or_default();
        for (byte, value) in data.iter_mut().zip(rest) {
            *byte = *value;
        }
    }

    /// Nothing in it is the driver's to write.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation {
            memory,
            mut queues,
            features,
            interrupt,
        } = activation;
        let queue = queues
            .pop()
            .ok_or_else(|| io::Error::other("its queue is not ready"))?;
        self.worker = Some(Worker::start(
            self.disk.clone(),
            queue,
            memory,
            features,
            interrupt,
        )?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

#[cfg(test)]
#[path = "block_test.rs"]
mod tests;

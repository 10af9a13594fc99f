//! What a disk tells its driver (virtio 1.2 sections 5.2.3 and 5.2.4).

use virtio_bindings::virtio_blk::*;

use super::image::Image;
use super::request::{DATA_MAX, Limits, SECTOR_SIZE, SEGMENTS_MAX};

/// Size of `struct virtio_blk_config` up to `write_zeroes_may_unmap` and its padding.
pub const SIZE: usize = 60;
/// The offset of the field `writeback`.
pub const WRITEBACK: u64 = 32;

/// The feature bits of a disk with this number of queues.
pub fn features(limits: &Limits, queues: usize) -> u64 {
    let always = 1 << VIRTIO_BLK_F_SIZE_MAX
        | 1 << VIRTIO_BLK_F_SEG_MAX
        | 1 << VIRTIO_BLK_F_BLK_SIZE
        | 1 << VIRTIO_BLK_F_TOPOLOGY
        | 1 << VIRTIO_BLK_F_FLUSH;
    let by_access = match limits.read_only {
        true => 1 << VIRTIO_BLK_F_RO,
        false => 1 << VIRTIO_BLK_F_CONFIG_WCE | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES,
    };
    always | by_access | u64::from(queues > 1) << VIRTIO_BLK_F_MQ
}

/// What the fields of the configuration depend on.
pub struct Configuration<'a> {
    pub image: &'a Image,
    pub queues: u16,
    pub queue_size: u16,
    pub writeback: bool,
}

impl Configuration<'_> {
    /// The configuration as `struct virtio_blk_config`.
    pub fn bytes(&self) -> [u8; SIZE] {
        let limits = self.image.limits();
        let physical = self.image.physical_block_size();
        let mut bytes = [0; SIZE];
        let mut set =
            |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
        // capacity
        set(0, &(limits.size / SECTOR_SIZE).to_le_bytes());
        // size_max: if every segment of a request has this size, the request has no more data than it may have.
        set(8, &((DATA_MAX / u64::from(self.queue_size)) as u32).to_le_bytes());
        // seg_max: two descriptors of a request are for its header and its status, the others for data.
        set(12, &u32::from(self.queue_size - 2).to_le_bytes());
        // blk_size
        set(20, &(limits.block_size as u32).to_le_bytes());
        // topology: physical_block_exp, and min_io_size in blocks
        let blocks = physical / limits.block_size;
        set(24, &[blocks.ilog2() as u8]);
        set(26, &(blocks as u16).to_le_bytes());
        set(WRITEBACK as usize, &[self.writeback.into()]);
        // num_queues
        set(34, &self.queues.to_le_bytes());
        // max_discard_sectors, max_discard_seg, discard_sector_alignment
        set(36, &limits.discard_sectors.to_le_bytes());
        set(40, &SEGMENTS_MAX.to_le_bytes());
        set(44, &((physical / SECTOR_SIZE) as u32).to_le_bytes());
        // max_write_zeroes_sectors, max_write_zeroes_seg, write_zeroes_may_unmap
        set(48, &limits.write_zeroes_sectors.to_le_bytes());
        set(52, &SEGMENTS_MAX.to_le_bytes());
        set(56, &[1]);
        bytes
    }
}

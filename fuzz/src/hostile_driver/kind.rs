//! Request types of section 5.2.6.

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use virtio_bindings::virtio_blk::*;

#[derive(Arbitrary, Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    In,
    Out,
    Flush,
    GetId,
    Discard,
    WriteZeroes,
    Any(u32),
}

impl From<Kind> for u32 {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::In => VIRTIO_BLK_T_IN,
            Kind::Out => VIRTIO_BLK_T_OUT,
            Kind::Flush => VIRTIO_BLK_T_FLUSH,
            Kind::GetId => VIRTIO_BLK_T_GET_ID,
            Kind::Discard => VIRTIO_BLK_T_DISCARD,
            Kind::WriteZeroes => VIRTIO_BLK_T_WRITE_ZEROES,
            Kind::Any(number) => number,
        }
    }
}

//! What the driver can do next. Each value is likely to be a useful one, but any other is possible.

use libfuzzer_sys::arbitrary::{self, Arbitrary};

use super::kind::Kind;
use super::{BUFFERS, DESCRIPTORS, DISK_SECTORS, HIGH, INDIRECT, LOW, QUEUE_SIZE, buffer};

#[derive(Arbitrary, Debug)]
pub enum Step {
    /// Of a whole register.
    Write {
        register: u8,
        value: u32,
    },
    WriteAny {
        offset: u16,
        value: u64,
        width: u8,
    },
    ReadAny {
        offset: u16,
        width: u8,
    },
    /// Section 3.1.1 in order.
    Start {
        features: Features,
        size: QueueSize,
    },
    Reset,
    Notify {
        queue: u8,
    },
    /// Laid out as a correct driver does it. Later steps may change it before it is announced.
    Request {
        queue: u8,
        kind: Kind,
        sector: Sector,
        /// Of data.
        sectors: u8,
        indirect: bool,
        announced: bool,
    },
    Describe {
        table: Table,
        index: u8,
        address: Place,
        length: Length,
        flags: u16,
        next: u8,
    },
    /// A head for the available ring, and how far its index moves.
    Offer {
        queue: u8,
        head: u16,
        count: u16,
    },
    Poke {
        address: Place,
        value: u64,
    },
}

#[derive(Arbitrary, Debug)]
pub enum Features {
    /// Of those that are offered.
    Some(u64),
    Any(u64),
}

#[derive(Arbitrary, Debug)]
pub enum QueueSize {
    Usual,
    Any(u16),
}

impl From<&QueueSize> for u16 {
    fn from(size: &QueueSize) -> Self {
        match *size {
            QueueSize::Usual => QUEUE_SIZE,
            QueueSize::Any(size) => size,
        }
    }
}

#[derive(Arbitrary, Debug)]
pub enum Sector {
    /// The end of the disk.
    Near(i8),
    Any(u64),
}

impl From<&Sector> for u64 {
    fn from(sector: &Sector) -> Self {
        match *sector {
            Sector::Near(distance) => DISK_SECTORS.wrapping_add_signed((distance % 4).into()),
            Sector::Any(sector) => sector,
        }
    }
}

#[derive(Arbitrary, Debug)]
pub enum Length {
    Sectors(u8),
    Near(u16),
    Any(u32),
}

impl From<&Length> for u32 {
    fn from(length: &Length) -> Self {
        match *length {
            Length::Sectors(count) => 512 * u32::from(count % 6),
            Length::Near(length) => length.into(),
            Length::Any(length) => length,
        }
    }
}

#[derive(Arbitrary, Debug)]
pub enum Table {
    Queue,
    Indirect,
}

impl From<&Table> for u64 {
    fn from(table: &Table) -> Self {
        match table {
            Table::Queue => DESCRIPTORS,
            Table::Indirect => INDIRECT,
        }
    }
}

#[derive(Arbitrary, Debug)]
pub enum Place {
    Buffer(u8),
    /// Of the queue's three parts or the indirect table.
    Rings(u16),
    IndirectTable,
    /// Around the end of the first range of guest memory.
    Edge(i8),
    High(u16),
    Any(u64),
}

impl From<&Place> for u64 {
    fn from(place: &Place) -> Self {
        match *place {
            Place::Buffer(slot) => buffer(slot),
            Place::Rings(offset) => DESCRIPTORS + u64::from(offset) % (BUFFERS - DESCRIPTORS),
            Place::IndirectTable => INDIRECT,
            Place::Edge(distance) => LOW.wrapping_add_signed(distance.into()),
            Place::High(offset) => HIGH + u64::from(offset),
            Place::Any(address) => address,
        }
    }
}

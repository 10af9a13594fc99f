//! What may happen to a socket device, in any order.

use libfuzzer_sys::arbitrary::{self, Arbitrary};

#[derive(Arbitrary, Debug)]
pub enum Step {
    // Connections that are followed.
    Dial,
    Greet,
    Call {
        is_given: bool,
    },
    Connect {
        refuses: bool,
    },
    Accept {
        link: u8,
    },
    GuestWrites {
        link: u8,
        count: u16,
        cut: u16,
    },
    GuestReads {
        link: u8,
    },
    GuestEnds {
        link: u8,
        flags: u8,
    },
    GuestResets {
        link: u8,
    },
    GuestAsks {
        link: u8,
    },
    HostWrites {
        link: u8,
        count: u16,
    },
    HostReads {
        link: u8,
        count: u16,
    },
    HostEnds {
        link: u8,
    },
    HostIsDeaf {
        link: u8,
    },
    HostCloses {
        link: u8,
    },
    // The driver.
    Buffer {
        size: u16,
        cut: u16,
    },
    Buffers,
    Serve,
    Reset,
    // Those that break rules.
    Packet {
        header: Hostile,
        count: u16,
        cut: u16,
    },
    Stranger {
        says: [u8; 6],
    },
    StrangerSays {
        stranger: u8,
        what: Vec<u8>,
    },
    StrangerCloses {
        stranger: u8,
    },
    Crowd {
        count: u8,
    },
    Describe {
        queue: u8,
        index: u8,
        address: u32,
        length: u32,
        flags: u16,
        next: u8,
    },
    Offer {
        queue: u8,
        head: u8,
        count: u16,
    },
    Poke {
        address: u16,
        value: u64,
    },
}

/// A header that may say anything, also of a connection that is followed.
#[derive(Arbitrary, Debug)]
pub struct Hostile {
    pub link: Option<u8>,
    pub ports: (u32, u32),
    pub cids: Option<(u64, u64)>,
    pub length: Option<u32>,
    pub kind: Option<u16>,
    pub operation: u16,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

//! Packets between driver and device (virtio 1.2 section 5.10.6).

/// `struct virtio_vsock_hdr` in bytes.
pub const HEADER_SIZE: usize = 44;
/// The host's address (section 5.10.4).
pub const HOST_CID: u64 = 2;
/// VIRTIO_VSOCK_TYPE_STREAM, the only type of socket that this device has.
pub const TYPE_STREAM: u16 = 1;
/// Flags of SHUTDOWN: the sender of the packet receives no more, and sends no more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
pub const SHUTDOWN_SEND: u32 = 2;
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;
/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, the only event (section 5.10.6.7).
pub const EVENT_TRANSPORT_RESET: u32 = 0;

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    /// Data.
    ReadWrite = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Operation {
    fn new(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::ReadWrite,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// The two ports that name a connection: it has one guest and one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    pub host: u32,
    pub guest: u32,
}

/// `struct virtio_vsock_hdr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub source_cid: u64,
    pub destination_cid: u64,
    pub source_port: u32,
    pub destination_port: u32,
    /// How many bytes follow the header.
    pub length: u32,
    pub socket_type: u16,
    /// The number of an [`Operation`], if the sender keeps to the specification.
    pub operation: u16,
    pub flags: u32,
    /// How many bytes the sender can hold for the connection.
    pub buf_alloc: u32,
    /// How many bytes of the connection the sender has passed on since its beginning, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Header {
    /// A packet from the host to the guest with this address. It carries no data and grants nothing.
    pub fn to_guest(cid: u32, ports: Ports, operation: Operation) -> Self {
        Self {
            source_cid: HOST_CID,
            destination_cid: cid.into(),
            source_port: ports.host,
            destination_port: ports.guest,
            length: 0,
            socket_type: TYPE_STREAM,
            operation: operation as u16,
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }

    pub fn from_bytes(bytes: &[u8; HEADER_SIZE]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            source_cid: u64::from_le_bytes(fields.next()),
            destination_cid: u64::from_le_bytes(fields.next()),
            source_port: u32::from_le_bytes(fields.next()),
            destination_port: u32::from_le_bytes(fields.next()),
            length: u32::from_le_bytes(fields.next()),
            socket_type: u16::from_le_bytes(fields.next()),
            operation: u16::from_le_bytes(fields.next()),
            flags: u32::from_le_bytes(fields.next()),
            buf_alloc: u32::from_le_bytes(fields.next()),
            fwd_cnt: u32::from_le_bytes(fields.next()),
        }
    }

    pub fn to_bytes(self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        bytes[0..8].copy_from_slice(&self.source_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.destination_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.source_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.destination_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.socket_type.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.operation.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The operation of a stream's packet, if there is such an operation.
    pub fn operation(&self) -> Option<Operation> {
        match self.socket_type {
            TYPE_STREAM => Operation::new(self.operation),
            _ => None,
        }
    }

    /// The connection to which a packet of the guest belongs.
    pub fn ports(&self) -> Ports {
        Ports {
            host: self.destination_port,
            guest: self.source_port,
        }
    }
}

/// Fields of a fixed size, one after the other.
struct Fields<'b>(&'b [u8]);

impl Fields<'_> {
    /// The next `N` bytes, or zeroes past the end.
    #[inline]
    fn next<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_the_layout_of_the_specification() {
        let bytes: [u8; HEADER_SIZE] = std::array::from_fn(|index| index as u8 + 1);
        let header = Header::from_bytes(&bytes);
        assert_eq!(header.source_cid, 0x0807_0605_0403_0201);
        assert_eq!(header.destination_cid, 0x100f_0e0d_0c0b_0a09);
        assert_eq!(
            (header.source_port, header.destination_port),
            (0x1413_1211, 0x1817_1615)
        );
        assert_eq!(header.length, 0x1c1b_1a19);
        assert_eq!((header.socket_type, header.operation), (0x1e1d, 0x201f));
        assert_eq!(header.flags, 0x2423_2221);
        assert_eq!((header.buf_alloc, header.fwd_cnt), (0x2827_2625, 0x2c2b_2a29));
        assert_eq!(header.to_bytes(), bytes);
    }

    #[test]
    fn only_a_streams_packet_has_an_operation() {
        let ports = Ports { host: 1, guest: 2 };
        let mut header = Header::to_guest(3, ports, Operation::Shutdown);
        assert_eq!(header.operation(), Some(Operation::Shutdown));
        for wrong in [0, 8, u16::MAX] {
            let header = Header {
                operation: wrong,
                ..header
            };
            assert_eq!(header.operation(), None);
        }
        header.socket_type = 2;
        assert_eq!(header.operation(), None);
    }
}

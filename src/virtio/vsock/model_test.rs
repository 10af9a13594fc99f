//! Programs of host and guest that write and read at random: bytes arrive whole and in order, and neither side sends more than
//! the other can hold.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::packet::{Header, Operation, Ports};
use super::test_guest::*;

const CONNECTIONS: usize = 3;
/// What the guest's programs hold.
const GUEST_WINDOW: u32 = 9000;

#[derive(Debug, Clone)]
enum Step {
    HostWrites(usize, usize),
    HostReads(usize, usize),
    GuestWrites(usize, usize),
    /// The guest's program takes what its kernel holds.
    GuestReads(usize),
    /// The guest's kernel takes packets.
    GuestPolls,
    Pause,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = || 0..CONNECTIONS;
    let step = prop_oneof![
        3 => (which(), 0usize..40_000).prop_map(|(which, count)| Step::HostWrites(which, count)),
        3 => (which(), 0usize..200_000).prop_map(|(which, count)| Step::HostReads(which, count)),
        4 => (which(), 0usize..60_000).prop_map(|(which, count)| Step::GuestWrites(which, count)),
        3 => which().prop_map(Step::GuestReads),
        3 => Just(Step::GuestPolls),
        1 => Just(Step::Pause),
    ];
    prop::collection::vec(step, 1..80)
}

/// A connection as both programs see it. Counts are of bytes since its beginning.
struct Seen {
    ports: Ports,
    program: UnixStream,
    host_wrote: usize,
    host_read: usize,
    guest_wrote: usize,
    guest_got: usize,
    /// What the guest's program has taken, and the device has been told.
    guest_read: usize,
    /// What the device says that it holds, and has passed on.
    window: usize,
    forwarded: usize,
}

/// The byte at this position of a stream.
fn byte(position: usize, salt: u32) -> u8 {
    (position.wrapping_mul(31) >> 3) as u8 ^ position as u8 ^ salt as u8
}

fn bytes(from: usize, count: usize, salt: u32) -> Vec<u8> {
    (from..from + count)
        .map(|position| byte(position, salt))
        .collect()
}

impl Seen {
    fn host_writes(&mut self, count: usize) {
        let data = bytes(self.host_wrote, count, self.ports.host);
        match self.program.write(&data) {
            Ok(written) => self.host_wrote += written,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }

    fn host_reads(&mut self, count: usize) {
        let mut data = vec![0; count];
        match self.program.read(&mut data) {
            Ok(read) => {
                assert_eq!(data[..read], bytes(self.host_read, read, self.ports.guest));
                self.host_read += read;
                assert!(self.host_read <= self.guest_wrote);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }

    fn packet(&self, operation: Operation) -> Header {
        Header {
            buf_alloc: GUEST_WINDOW,
            fwd_cnt: self.guest_read as u32,
            ..Guest::packet(self.ports, operation)
        }
    }

    fn guest_writes(&mut self, guest: &mut Guest, count: usize) {
        let may = self.window - (self.guest_wrote - self.forwarded);
        let count = count.min(may);
        let header = Header {
            length: count as u32,
            ..self.packet(Operation::ReadWrite)
        };
        let data = bytes(self.guest_wrote, count, self.ports.guest);
        guest.send(header, &data);
        self.guest_wrote += count;
    }

    fn guest_reads(&mut self, guest: &mut Guest) {
        self.guest_read = self.guest_got;
        guest.send(self.packet(Operation::CreditUpdate), &[]);
    }

    fn take(&mut self, header: &Header, data: &[u8]) {
        assert!(matches!(
            header.operation(),
            Some(Operation::ReadWrite | Operation::CreditUpdate)
        ));
        assert_eq!(data, bytes(self.guest_got, data.len(), self.ports.host));
        self.guest_got += data.len();
        assert!(self.guest_got - self.guest_read <= GUEST_WINDOW as usize);
        let forwarded = header.fwd_cnt as usize;
        assert!((self.forwarded..=self.guest_wrote).contains(&forwarded));
        (self.window, self.forwarded) = (header.buf_alloc as usize, forwarded);
    }
}

fn take(seen: &mut [Seen], (header, data): (Header, Vec<u8>)) {
    let of = seen.iter_mut().find(|one| one.ports.host == header.source_port);
    of.unwrap().take(&header, &data);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn bytes_arrive_whole_and_in_order_and_no_window_is_overrun(steps in steps()) {
        let backend = backend();
        let mut guest = Guest::start(&backend);
        let mut seen: Vec<_> = (0..CONNECTIONS as u32).map(|port| {
            let (program, device) = pair();
            program.set_nonblocking(true).unwrap();
            backend.dial(port, device).unwrap();
            let (request, _) = guest.expect(Operation::Request);
            let ports = Ports { host: request.source_port, guest: port };
            let one = Seen {
                ports, program, host_wrote: 0, host_read: 0, guest_wrote: 0, guest_got: 0, guest_read: 0,
                window: request.buf_alloc as usize, forwarded: 0,
            };
            guest.send(one.packet(Operation::Response), &[]);
            one
        }).collect();
        for step in steps {
            match step {
                Step::HostWrites(which, count) => seen[which].host_writes(count),
                Step::HostReads(which, count) => seen[which].host_reads(count),
                Step::GuestWrites(which, count) => seen[which].guest_writes(&mut guest, count),
                Step::GuestReads(which) => seen[which].guest_reads(&mut guest),
                Step::GuestPolls => while let Some(packet) = guest.poll() {
                    take(&mut seen, packet);
                },
                Step::Pause => {
                    guest.driver.transport.pause();
                    guest.driver.transport.resume();
                }
            }
        }
        for index in 0..CONNECTIONS {
            while seen[index].guest_got < seen[index].host_wrote {
                seen[index].guest_reads(&mut guest);
                let packet = guest.next();
                take(&mut seen, packet);
            }
            let one = &mut seen[index];
            one.program.set_nonblocking(false).unwrap();
            let mut data = vec![0; one.guest_wrote - one.host_read];
            one.program.read_exact(&mut data).unwrap();
            prop_assert_eq!(data, bytes(one.host_read, one.guest_wrote - one.host_read, one.ports.guest));
            // The guest always hears that it may send more.
            one.host_read = one.guest_wrote;
            let end = one.guest_wrote + (600 << 10);
            while seen[index].guest_wrote < end {
                if seen[index].window == seen[index].guest_wrote - seen[index].forwarded {
                    let packet = guest.next();
                    take(&mut seen, packet);
                    continue;
                }
                seen[index].guest_writes(&mut guest, 20_000);
                while seen[index].host_read < seen[index].guest_wrote {
                    seen[index].host_reads(20_000);
                }
            }
        }
    }
}

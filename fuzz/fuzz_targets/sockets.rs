//! The socket device between a guest and programs of the host of which any may break every rule: connections of those that keep to
//! the rules carry each byte, nothing is held beyond what is allowed, and the device is done when there is nothing to do.
#![no_main]

mod sockets_guest;
mod sockets_link;
mod sockets_steps;

use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Once;

use coracle::virtio::vsock::Backend;
use libfuzzer_sys::fuzz_target;
use sockets_guest::*;
use sockets_link::{Kind, Link, State};
use sockets_steps::{Hostile, Step};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// What the device may hold: docs/vsock.md.
const CONNECTIONS_MAX: usize = 1024;
const BYTES_MAX: usize = 64 << 20;
/// Ports of the connections that are followed: nobody else has those of the guest, and nobody else calls those of the host.
const GUEST_PORTS: u32 = 4_200_000_000;
const HOST_PORTS: u32 = 1000;
/// No more programs than this at once, because each takes two descriptors of this process.
const PROGRAMS_MAX: usize = 1100;
/// How many programs may wait at the listener: its own limit is higher.
const CALLING_MAX: usize = 64;

struct World {
    backend: Backend,
    address: SocketAddr,
    /// The end of whoever connects to programs of the host, and the ports that it was asked for.
    connector: UnixStream,
    asked: VecDeque<u32>,
    driver: Driver,
    links: Vec<Link>,
    /// Programs of connections that nobody follows.
    strangers: Vec<UnixStream>,
    /// How many programs have called since the device was last served.
    calling: usize,
}

fuzz_target!(|steps: Vec<Step>| {
    static ONCE: Once = Once::new();
    ONCE.call_once(prepare);
    let mut world = World::new();
    for step in &steps {
        world.take(step);
        let (connections, bytes) = world.backend.held();
        assert!(connections <= CONNECTIONS_MAX && bytes <= BYTES_MAX);
    }
    world.end();
});

/// What the standard library does for a program, and Coracle for itself.
fn prepare() {
    // SAFETY: the calls read and write one rlimit.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
}

fn pair() -> (UnixStream, UnixStream) {
    let (program, device) = UnixStream::pair().expect("there are descriptors");
    program.set_nonblocking(true).expect("a socket");
    (program, device)
}

impl World {
    fn new() -> Self {
        let name = format!("coracle-fuzz-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).expect("it is short");
        let listener = UnixListener::bind_addr(&address).expect("the last one is closed");
        let (connector, theirs) = pair();
        let backend = Backend::of_parts(CID as u32, listener, theirs);
        Self {
            backend: backend.expect("there are descriptors"),
            address,
            connector,
            asked: VecDeque::new(),
            driver: Driver::new(),
            links: Vec::new(),
            strangers: Vec::new(),
            calling: 0,
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Dial => {
                let (program, device) = pair();
                if let Some(link) = self.add(Kind::Dialed, program) {
                    let port = self.links[link].guest_port;
                    // A crowd may wait for the driver already.
                    if self.backend.dial(port, device).is_err() {
                        self.links.truncate(link);
                    }
                }
            }
            Step::Greet => {
                let program = self.stranger();
                if let Some(link) = self.add(Kind::Greeted, program) {
                    self.links[link].greet();
                }
            }
            Step::Call { is_given } => {
                let (program, device) = pair();
                let Some(index) = self.add(Kind::Called, program) else {
                    return;
                };
                let link = &mut self.links[index];
                let port = link.host_port;
                if !is_given {
                    link.device = Some(device);
                } else if self.backend.answer(port, device).is_err() {
                    return self.links.truncate(index);
                }
                let request = link.header(REQUEST);
                self.send(&request, &[], 0);
            }
            Step::Connect { refuses } => self.connect(refuses),
            Step::Accept { link } => {
                self.tell(link, |link| {
                    (link.state == State::Asked).then(|| link.state = State::Open)?;
                    Some(link.header(RESPONSE))
                });
            }
            Step::GuestWrites { link, count, cut } => {
                let Some(link) = self.link(link) else { return };
                let Some((header, data)) = self.links[link].guest_writes(count.into()) else {
                    return;
                };
                self.send(&header, &data, cut);
            }
            Step::GuestReads { link } => self.tell(link, Link::guest_reads),
            Step::GuestEnds { link, flags } => self.tell(link, |link| link.guest_ends(u32::from(flags) & 3)),
            Step::GuestResets { link } => self.tell(link, Link::guest_resets),
            Step::GuestAsks { link } => self.tell(link, |link| {
                (link.state == State::Open).then(|| link.header(CREDIT_REQUEST))
            }),
            Step::HostWrites { link, count } => self.program(link, |link| link.host_writes(count.into())),
            Step::HostReads { link, count } => self.program(link, |link| {
                link.host_reads(count.into());
            }),
            Step::HostEnds { link } => self.program(link, Link::host_ends),
            Step::HostIsDeaf { link } => self.program(link, Link::host_is_deaf),
            Step::HostCloses { link } => self.program(link, Link::host_closes),
            Step::Buffer { size, cut } => drop(self.driver.give_buffer(size.into(), cut)),
            Step::Buffers => self.give_buffers(),
            Step::Serve => drop(self.serve()),
            Step::Reset => self.reset(),
            Step::Packet {
                ref header,
                count,
                cut,
            } => self.send_hostile(header, count, cut),
            Step::Stranger { says } => {
                let mut stranger = self.stranger();
                let _ = stranger.write(&says);
                self.strangers.push(stranger);
            }
            Step::StrangerSays { stranger, ref what } => {
                let index = usize::from(stranger) % self.strangers.len().max(1);
                if let Some(stranger) = self.strangers.get_mut(index) {
                    // It calls no port that somebody else is followed by.
                    let what: Vec<u8> = what
                        .iter()
                        .map(|&byte| if byte == b'4' { b'3' } else { byte })
                        .collect();
                    let _ = stranger.write(&what);
                }
            }
            Step::StrangerCloses { stranger } => {
                if !self.strangers.is_empty() {
                    let index = usize::from(stranger) % self.strangers.len();
                    self.strangers.swap_remove(index);
                }
            }
            Step::Crowd { count } => {
                for port in 0..u32::from(count) {
                    if self.strangers.len() < PROGRAMS_MAX {
                        let (program, device) = pair();
                        // Before the driver runs the device keeps only so many.
                        if self.backend.dial(port, device).is_ok() {
                            self.strangers.push(program);
                        }
                    }
                }
            }
            Step::Describe {
                queue,
                index,
                address,
                length,
                flags,
                next,
            } => {
                self.become_wild();
                let address = u64::from(address) % (MEMORY as u64 + 64);
                self.driver
                    .describe(queue, index.into(), (address, length, flags, next.into()));
            }
            Step::Offer { queue, head, count } => {
                self.become_wild();
                self.driver.offer(queue, head.into(), count);
            }
            Step::Poke { address, value } => {
                self.become_wild();
                self.driver.poke(address.into(), value);
            }
        }
    }

    // Connections that are followed.

    /// Follows a connection. Nobody can if the device has been given something that is no packet.
    fn add(&mut self, kind: Kind, program: UnixStream) -> Option<usize> {
        if self.driver.is_wild || self.links.len() >= HOST_PORTS as usize {
            return None;
        }
        let index = self.links.len();
        let ports = (HOST_PORTS + index as u32, GUEST_PORTS + index as u32);
        self.links.push(Link::new(kind, program, ports));
        Some(index)
    }

    fn link(&self, number: u8) -> Option<usize> {
        let count = self.links.len();
        (count > 0 && !self.driver.is_wild).then(|| usize::from(number) % count)
    }

    fn program(&mut self, link: u8, does: impl FnOnce(&mut Link)) {
        if let Some(link) = self.link(link) {
            does(&mut self.links[link]);
        }
    }

    /// Sends what the guest has to say of a connection.
    fn tell(&mut self, link: u8, what: impl FnOnce(&mut Link) -> Option<Header>) {
        if let Some(link) = self.link(link)
            && let Some(header) = what(&mut self.links[link])
        {
            self.send(&header, &[], 0);
        }
    }

    /// Sends a packet, for which there is room but where nothing is known of the queue any more.
    fn send(&mut self, header: &Header, data: &[u8], cut: u16) {
        let is_sent = self.driver.send(header, data, cut);
        assert!(is_sent || self.driver.is_wild);
        if !self.driver.can_send() {
            self.serve();
        }
    }

    /// Answers what the connector was asked for first.
    fn connect(&mut self, refuses: bool) {
        self.take_asked();
        let Some(port) = self.asked.pop_front() else {
            return;
        };
        let link = port
            .checked_sub(HOST_PORTS)
            .and_then(|index| self.links.get_mut(index as usize));
        let device = link.and_then(|link| link.device.take());
        if refuses {
            let _ = self.connector.send_with_fds(&[&[0][..]], &[]);
            return;
        }
        let device = device.unwrap_or_else(|| {
            let (program, device) = pair();
            self.strangers.push(program);
            device
        });
        // The connector's sockets do not block.
        device.set_nonblocking(true).expect("a socket");
        let _ = self.connector.send_with_fd(&[1][..], device.as_raw_fd());
    }

    fn take_asked(&mut self) {
        let mut port = [0; 4];
        while matches!(std::io::Read::read(&mut self.connector, &mut port), Ok(4)) {
            self.asked.push_back(u32::from_le_bytes(port));
        }
    }

    // The driver.

    fn give_buffers(&mut self) {
        while !self.driver.is_wild && self.driver.give_buffer(BUFFER, 0) {}
    }

    /// Has the device work, and takes what it sends. Returns whether it sent anything.
    fn serve(&mut self) -> bool {
        self.calling = 0;
        let Some(packets) = self.driver.serve(&self.backend) else {
            self.reset();
            return false;
        };
        for (header, data) in &packets {
            let ports = (header.source_port, header.destination_port);
            let known = self
                .links
                .iter_mut()
                .find(|link| link.is_meant(header.operation, ports));
            if let Some(link) = known {
                link.take(header, data);
            }
        }
        !packets.is_empty()
    }

    /// The device is reset. What the guest has sent before is still delivered.
    fn reset(&mut self) {
        if !self.driver.is_wild {
            self.serve();
        }
        self.backend.forget_guest();
        self.driver = Driver::new();
        self.links.iter_mut().for_each(Link::forget);
    }

    // Those that break rules.

    fn become_wild(&mut self) {
        if !self.driver.is_wild {
            self.serve();
            self.driver.is_wild = true;
            self.links.iter_mut().for_each(|link| link.is_hostile = true);
        }
    }

    /// A program that has called the guest.
    fn stranger(&mut self) -> UnixStream {
        if self.calling == CALLING_MAX {
            self.serve();
        }
        self.calling += 1;
        let stranger = UnixStream::connect_addr(&self.address).expect("the device listens");
        stranger.set_nonblocking(true).expect("a socket");
        stranger
    }

    fn send_hostile(&mut self, hostile: &Hostile, count: u16, cut: u16) {
        let (mut host, mut guest) = hostile.ports;
        // Those of connections that are not made yet stay theirs.
        if (HOST_PORTS..2 * HOST_PORTS).contains(&host) {
            host += HOST_PORTS;
        }
        if (GUEST_PORTS..GUEST_PORTS + HOST_PORTS).contains(&guest) {
            guest += HOST_PORTS;
        }
        if let Some(link) = hostile.link.and_then(|link| self.link(link)) {
            let link = &mut self.links[link];
            link.is_hostile = true;
            (host, guest) = (link.host_port, link.guest_port);
        }
        let (source_cid, destination_cid) = hostile.cids.unwrap_or((CID, HOST_CID));
        let data = vec![0x5a; usize::from(count) % (BUFFER - HEADER_SIZE)];
        let header = Header {
            source_cid,
            destination_cid,
            source_port: guest,
            destination_port: host,
            length: hostile.length.unwrap_or(data.len() as u32),
            kind: hostile.kind.unwrap_or(STREAM),
            operation: hostile.operation % 10,
            flags: hostile.flags,
            buf_alloc: hostile.buf_alloc,
            fwd_cnt: hostile.fwd_cnt,
        };
        self.send(&header, &data, cut);
    }

    // The end.

    /// Programs and guest take all that there is, until nobody has anything for anybody.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.give_buffers();
            let mut goes_on = self.serve();
            for link in 0..self.links.len() {
                goes_on |= self.links[link].host_reads(64 << 10);
                while let Some(header) = self.links[link].answer() {
                    self.send(&header, &[], 0);
                    goes_on = true;
                }
            }
            if !goes_on {
                return;
            }
        }
        panic!("bytes go back and forth without end");
    }

    fn end(mut self) {
        if self.driver.is_wild {
            self.reset();
        }
        self.settle();
        self.links.iter_mut().for_each(Link::check);
        // Nobody is left.
        self.links.clear();
        self.strangers.clear();
        self.reset();
        self.settle();
        assert_eq!(self.backend.held(), (0, 0));
    }
}

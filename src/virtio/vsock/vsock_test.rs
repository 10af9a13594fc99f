use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Barrier;
use std::thread;

use super::packet::{HOST_CID, Header, Operation, Ports, SHUTDOWN_BOTH};
use super::queues::RECEIVE;
use super::table::CONNECTIONS_MAX;
use super::test_guest::*;
use super::*;
use crate::config::{self, Confine};
use crate::unix_socket;
use crate::virtio::test_driver::{EVENT_IDX, VERSION_1};

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|index| (index % 251) as u8).collect()
}

fn read_exact(program: &mut UnixStream, count: usize) -> Vec<u8> {
    let mut data = vec![0; count];
    program.read_exact(&mut data).unwrap();
    data
}

/// Makes a socket at which nobody listens, whatever process has it.
fn idle_socket(path: &std::path::Path) {
    let address = unix_socket::address(path).unwrap();
    // SAFETY: the address is whole, and its length is its own.
    unsafe {
        let socket = OwnedFd::from_raw_fd(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0));
        let length = size_of_val(&address) as libc::socklen_t;
        let bound = libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length);
        assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
    }
}

/// Takes data until there are `count` bytes.
fn take(guest: &mut Guest, count: usize) -> Vec<u8> {
    let mut data = Vec::new();
    while data.len() < count {
        data.extend(guest.expect_data());
    }
    data
}

#[test]
fn the_device_says_its_address() {
    let backend = Backend::open(&config::Vsock { path: None, cid: 77 }, None, Confine::Auto).unwrap();
    let guest = Guest::start(&Arc::new(backend));
    assert_eq!(guest.driver.config(0, 8), 77u64.to_le_bytes());
    assert_eq!(guest.driver.config(4, 8), [0; 8]);
    assert_eq!(
        guest
            .driver
            .read(virtio_bindings::virtio_mmio::VIRTIO_MMIO_DEVICE_ID),
        19
    );
}

#[test]
fn a_program_of_the_host_reaches_a_port_of_the_guest() {
    let (backend, folder) = backend_with_socket();
    let mut guest = Guest::start(&backend);
    let mut program = patient(UnixStream::connect(folder.path().join("socket")).unwrap());
    program.write_all(b"CONNECT 52\nearly").unwrap();
    let (request, _) = guest.expect(Operation::Request);
    assert_eq!((request.source_cid, request.destination_port), (HOST_CID, 52));
    assert!(request.buf_alloc >= 32 << 10 && request.fwd_cnt == 0);
    let ports = Ports {
        host: request.source_port,
        guest: 52,
    };
    guest.expect_silence();
    guest.tell(ports, Operation::Response);
    assert_eq!(guest.expect_data(), b"early");
    let answer = format!("OK {}\n", ports.host);
    assert_eq!(read_exact(&mut program, answer.len()), answer.as_bytes());
    guest.write(ports, b"from the guest");
    assert_eq!(read_exact(&mut program, 14), b"from the guest");
    program.write_all(b"from the host").unwrap();
    let (header, data) = guest.expect(Operation::ReadWrite);
    assert_eq!(
        (data.as_slice(), header.fwd_cnt),
        (b"from the host".as_slice(), 14)
    );
    let traffic = backend.traffic();
    assert_eq!((traffic.read(), traffic.written()), (5 + 13, 14));
}

#[test]
fn a_program_that_does_not_say_where_it_wants_to_go_is_cut_off() {
    let (backend, folder) = backend_with_socket();
    let mut guest = Guest::start(&backend);
    for wrong in [
        "GET / HTTP/1.1\r\n",
        "CONNECT x\n",
        "CONNECT 4294967296\n",
        &"x".repeat(100),
    ] {
        let mut program = patient(UnixStream::connect(folder.path().join("socket")).unwrap());
        program.write_all(wrong.as_bytes()).unwrap();
        // Not all that it wrote was read, so this may be an error.
        assert!(matches!(program.read(&mut [0]), Ok(0) | Err(_)));
    }
    guest.expect_silence();
}

#[test]
fn programs_that_end_within_the_first_line_hold_no_place() {
    let (backend, folder) = backend_with_socket();
    let mut guest = Guest::start(&backend);
    let connect = || patient(UnixStream::connect(folder.path().join("socket")).unwrap());
    for _ in 0..CONNECTIONS_MAX + 1 {
        connect().write_all(b"CONNECT 52").unwrap();
        // This one still reads. The end that it reads says that those before it have been seen, too.
        let mut program = connect();
        program.write_all(b"CONNECT 52").unwrap();
        program.shutdown(std::net::Shutdown::Write).unwrap();
        // Not all that it wrote was read, so this may be an error.
        let end = program.read(&mut [0]).map_err(|error| error.kind());
        assert!(
            matches!(end, Ok(0) | Err(std::io::ErrorKind::ConnectionReset)),
            "{end:?}"
        );
    }
    let mut program = connect();
    program.write_all(b"CONNECT 52\n").unwrap();
    assert_eq!(guest.accept().guest, 52);
}

#[test]
fn coracle_itself_calls_the_guest_and_answers_its_calls() {
    let backend = backend();
    let mut guest = Guest::start(&backend);
    let (ports, mut program) = guest.connected(&backend, 7);
    program.write_all(b"dialled").unwrap();
    assert_eq!(guest.expect_data(), b"dialled");
    guest.write(ports, b"accepted");
    assert_eq!(read_exact(&mut program, 8), b"accepted");

    let (mut first, device) = pair();
    backend.answer(99, device).unwrap();
    let (mut second, device) = pair();
    backend.answer(99, device).unwrap();
    for (program, guest_port) in [(&mut first, 1000), (&mut second, 1001)] {
        let ports = Ports {
            host: 99,
            guest: guest_port,
        };
        guest.tell(ports, Operation::Request);
        let (response, _) = guest.expect(Operation::Response);
        assert_eq!(
            (response.source_port, response.destination_port),
            (99, guest_port)
        );
        guest.write(ports, &guest_port.to_le_bytes());
        assert_eq!(read_exact(program, 4), guest_port.to_le_bytes());
        program.write_all(b"answered").unwrap();
        assert_eq!(guest.expect_data(), b"answered");
    }
    // A third call finds nobody.
    let ports = Ports {
        host: 99,
        guest: 1002,
    };
    guest.tell(ports, Operation::Request);
    guest.expect(Operation::Reset);
}

#[test]
fn a_service_of_the_guest_is_called_once_it_has_told_that_it_listens() {
    let backend = backend();
    backend
        .expect_service(ServicePorts {
            port: 7,
            ready_port: 8,
        })
        .unwrap();
    let (mut program, device) = pair();
    backend.dial_service(device).unwrap();
    let mut guest = Guest::start(&backend);
    assert!(!backend.has_service());
    let ready = Ports { host: 8, guest: 1000 };
    guest.tell(ready, Operation::Request);
    // Both come, in any order: the call has done its work, and the one that waited goes through.
    let (first, _) = guest.next();
    let (second, _) = guest.next();
    let is = |operation| {
        [&first, &second]
            .into_iter()
            .find(|header| header.operation() == Some(operation))
            .unwrap()
    };
    assert_eq!(is(Operation::Reset).source_port, 8);
    let request = is(Operation::Request);
    assert_eq!(request.destination_port, 7);
    assert!(backend.has_service());
    let ports = Ports {
        host: request.source_port,
        guest: 7,
    };
    guest.tell(ports, Operation::Response);
    guest.write(ports, b"hello");
    assert_eq!(read_exact(&mut program, 5), b"hello");
}

#[test]
fn a_guest_that_gives_no_credit_gets_no_data() {
    let backend = backend();
    let mut guest = Guest::start(&backend);
    let (program, device) = pair();
    backend.dial(7, device).unwrap();
    let (request, _) = guest.expect(Operation::Request);
    let ports = Ports {
        host: request.source_port,
        guest: 7,
    };
    let grant = |buf_alloc, fwd_cnt, operation| Header {
        buf_alloc,
        fwd_cnt,
        ..Guest::packet(ports, operation)
    };
    guest.send(grant(1000, 0, Operation::Response), &[]);
    let sent = bytes(20_000);
    let mut writer = program.try_clone().unwrap();
    writer.write_all(&sent).unwrap();
    let mut got = take(&mut guest, 1000);
    guest.expect_silence();
    // The guest's program has read 400 bytes.
    guest.send(grant(1000, 400, Operation::CreditUpdate), &[]);
    got.extend(take(&mut guest, 400));
    guest.expect_silence();
    guest.send(grant(19_600, 400, Operation::CreditUpdate), &[]);
    got.extend(take(&mut guest, 18_600));
    assert_eq!(got, sent);
    guest.expect_silence();
}

#[test]
fn what_the_host_does_not_take_waits_and_is_bounded() {
    let backend = backend();
    let mut guest = Guest::start(&backend);
    let (program, device) = pair();
    backend.dial(7, device).unwrap();
    let (request, _) = guest.expect(Operation::Request);
    let window = request.buf_alloc as usize;
    let ports = Ports {
        host: request.source_port,
        guest: 7,
    };
    guest.tell(ports, Operation::Response);
    // As a driver does it: it sends what it believes that the host can hold, until it hears of no more.
    let (mut sent, mut forwarded) = (0, 0);
    let pattern = bytes(1 << 20);
    loop {
        while let Some((update, _)) = guest.poll() {
            assert_eq!(update.operation(), Some(Operation::CreditUpdate));
            forwarded = update.fwd_cnt as usize;
        }
        let may = window - (sent - forwarded);
        if may == 0 {
            break;
        }
        let count = may.min(16 << 10);
        guest.write(ports, &pattern[sent..sent + count]);
        sent += count;
    }
    guest.expect_silence();
    // It takes more than it may.
    let mut reader = program.try_clone().unwrap();
    let before = read_exact(&mut reader, sent / 2);
    let (update, _) = guest.expect(Operation::CreditUpdate);
    assert!(update.fwd_cnt as usize > forwarded);
    let mut after = read_exact(&mut reader, sent - sent / 2);
    assert_eq!([before, std::mem::take(&mut after)].concat(), pattern[..sent]);
}

#[test]
fn a_guest_that_sends_more_than_the_host_holds_loses_its_connection() {
    let backend = backend();
    let mut guest = Guest::start(&backend);
    let (ports, mut program) = guest.connected(&backend, 7);
    let mut sent = 0;
    // The host's socket takes some of it, and the window the rest.
    let end = loop {
        guest.write(ports, &bytes(16 << 10));
        sent += 16 << 10;
        match guest.poll() {
            Some((header, _)) if header.operation() == Some(Operation::CreditUpdate) => (),
            Some((header, _)) => break header,
            None => assert!(sent < 8 << 20),
        }
    };
    assert_eq!(end.operation(), Some(Operation::Reset));
    // What came before is not lost.
    let mut got = Vec::new();
    program.read_to_end(&mut got).unwrap();
    assert!(got.len() < sent && got.len() >= 256 << 10);
    assert_eq!(got.len() % (16 << 10), 0);
}

#[test]
fn data_waits_until_the_guest_gives_buffers() {
    for features in [VERSION_1, VERSION_1 | EVENT_IDX] {
        let backend = backend();
        let mut guest = Guest::start(&backend);
        let (_, mut program) = guest.connected(&backend, 7);
        guest.driver.reset();
        guest.initialize(features);
        assert_eq!(program.read(&mut [0]).unwrap(), 0);
        let (mut program, device) = pair();
        backend.dial(8, device).unwrap();
        program.write_all(&bytes(3 * BUFFER_SIZE)).unwrap();
        guest.give_buffer(0);
        guest.accept();
        // The buffer that was given back takes the data.
        assert_eq!(take(&mut guest, 3 * BUFFER_SIZE), bytes(3 * BUFFER_SIZE));
    }
}

#[test]
fn a_thousand_connections_work_and_one_too_many_is_refused() {
    let (backend, folder) = backend_with_socket();
    let mut guest = Guest::start(&backend);
    let mut programs: Vec<_> = (0..CONNECTIONS_MAX as u32)
        .map(|port| guest.connected(&backend, port))
        .collect();
    let mut refused = patient(UnixStream::connect(folder.path().join("socket")).unwrap());
    assert_eq!(refused.read(&mut [0]).unwrap(), 0);
    let (mut program, device) = pair();
    backend.dial(7, device).unwrap();
    assert_eq!(program.read(&mut [0]).unwrap(), 0);
    let (_, device) = pair();
    backend.answer(7, device).unwrap();
    guest.tell(Ports { host: 7, guest: 7 }, Operation::Request);
    guest.expect(Operation::Reset);
    for (ports, program) in &mut programs {
        guest.write(*ports, &ports.guest.to_le_bytes());
        assert_eq!(read_exact(program, 4), ports.guest.to_le_bytes());
        program.write_all(&ports.host.to_le_bytes()).unwrap();
        assert_eq!(guest.expect_data(), ports.host.to_le_bytes());
    }
    // Where one ends there is room again.
    guest.tell_end(programs[500].0, SHUTDOWN_BOTH);
    guest.expect(Operation::Reset);
    let (_, mut program) = guest.connected(&backend, 7);
    program.write_all(b"again").unwrap();
    assert_eq!(guest.expect_data(), b"again");
}

#[test]
fn many_connections_hold_no_more_than_the_budget() {
    let backend = backend();
    let mut guest = Guest::start(&backend);
    let mut sum = 0;
    let mut programs = Vec::new();
    for port in 0..CONNECTIONS_MAX as u32 {
        let (program, device) = pair();
        backend.dial(port, device).unwrap();
        programs.push(program);
        sum += guest.expect(Operation::Request).0.buf_alloc;
    }
    assert!(sum <= 64 << 20, "{sum}");
}

#[test]
fn a_path_that_is_taken_is_told_and_one_that_was_left_behind_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let vsock = config::Vsock {
        path: Some(path.clone()),
        cid: CID,
    };
    let open = || {
        Backend::open(&vsock, None, Confine::Auto)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let listener = UnixListener::bind(&path).unwrap();
    assert!(open().unwrap_err().contains("another program listens"));
    // One whose program does not accept, and which has room for a single call, is not waited for.
    // SAFETY: a system call without pointers.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let calls = [(); 2].map(|()| open().unwrap_err());
    assert!(
        calls
            .iter()
            .all(|error| error.contains("another program listens"))
    );
    drop(listener);
    std::fs::remove_file(&path).unwrap();
    // A listener that is closed would not do: a process that another test has just made may have it, too.
    idle_socket(&path);
    open().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let vsock = config::Vsock {
        path: Some(path.clone()),
        cid: CID,
    };
    let open = || Backend::open(&vsock, None, Confine::Auto).map(drop);
    std::fs::write(&path, "precious").unwrap();
    open().unwrap_err();
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let missing = config::Vsock {
        path: Some(folder.path().join("no/socket")),
        cid: CID,
    };
    let error = Backend::open(&missing, None, Confine::Auto)
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no/socket"), "{error}");
}

#[test]
fn of_starts_at_once_over_a_socket_that_was_left_behind_one_wins_and_the_others_hear_that_it_is_in_use() {
    for _ in 0..50 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        idle_socket(&path);
        let vsock = config::Vsock {
            path: Some(path.clone()),
            cid: CID,
        };
        let together = Barrier::new(3);
        let starts = thread::scope(|scope| {
            let start = || {
                together.wait();
                Backend::open(&vsock, None, Confine::Auto)
            };
            let threads = [(); 3].map(|()| scope.spawn(start));
            threads.map(|thread| thread.join().unwrap())
        });
        let (won, lost): (Vec<_>, Vec<_>) = starts.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        for error in lost.into_iter().filter_map(Result::err) {
            assert!(error.to_string().contains("another program listens"), "{error}");
        }
        UnixStream::connect(&path).unwrap();
    }
}

#[test]
fn a_device_that_was_not_made_ready_has_to_be_reset() {
    let backend = backend();
    let mut guest = Guest::start(&backend);
    guest.driver.reset();
    guest.driver.negotiate(VERSION_1);
    guest.driver.driver_ok();
    while !guest.driver.needs_reset() {
        guest.driver.wait();
    }
    guest.driver.reset();
    guest.initialize(VERSION_1);
    guest.give_buffers();
    guest.connected(&backend, 7);
    assert!(!guest.driver.needs_reset());
    guest.notify(RECEIVE);
}

//! How connections end: by a program of the host, of the guest, by the driver, and by the machine.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};

use super::packet::{
    HEADER_SIZE, HOST_CID, Header, Operation, Ports, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND,
};
use super::test_guest::*;
use super::*;
use crate::virtio::test_driver::{HOLE, VERSION_1};

fn rest(program: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    program.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Waits until the guest has been told that the host has ended these directions. That a program has closed its socket may be seen
/// a moment after the end of what it has sent.
fn expect_end(guest: &mut Guest, flags: u32) {
    let mut ended = 0;
    while ended != flags {
        let (header, _) = guest.expect(Operation::Shutdown);
        ended |= header.flags;
        assert_eq!(ended & !flags, 0);
    }
}

#[test]
fn a_program_of_the_host_that_ends_its_direction_still_receives() {
    let backend = backend();
    let mut guest = Guest::start(&backend);
    let (ports, mut program) = guest.connected(&backend, 7);
    program.write_all(b"question").unwrap();
    program.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.expect_data(), b"question");
    expect_end(&mut guest, SHUTDOWN_SEND);
    guest.write(ports, b"answer");
    guest.tell_end(ports, SHUTDOWN_BOTH);
    guest.expect(Operation::Reset);
    assert_eq!(rest(&mut program), b"answer");
}

#[test]
fn a_program_of_the_guest_that_ends_its_direction_still_receives() {
    let backend = backend();
    let mut guest = Guest::start(&backend);
    let (ports, mut program) = guest.connected(&backend, 7);
    guest.write(ports, b"question");
    guest.tell_end(ports, SHUTDOWN_SEND);
    assert_eq!(rest(&mut program), b"question");
    program.write_all(b"answer").unwrap();
    assert_eq!(guest.expect_data(), b"answer");
    drop(program);
    expect_end(&mut guest, SHUTDOWN_BOTH);
    // It sends although it has said that it does not.
    guest.write(ports, b"more");
    guest.expect(Operation::Reset);
}

#[test]
fn a_program_of_the_guest_that_receives_no_more_is_sent_nothing() {
    let backend = backend();
    let mut guest = Guest::start(&backend);
    let (ports, mut program) = guest.connected(&backend, 7);
    guest.tell_end(ports, SHUTDOWN_RECEIVE);
    guest.expect_silence();
    let error = program.write_all(b"anybody?").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    guest.write(ports, b"last words");
    guest.tell_end(ports, SHUTDOWN_SEND);
    guest.expect(Operation::Reset);
    assert_eq!(rest(&mut program), b"last words");
}

#[test]
fn a_program_of_the_host_that_closes_is_told_after_its_last_byte() {
    let backend = backend();
    let mut guest = Guest::start(&backend);
    let (ports, mut program) = guest.connected(&backend, 7);
    program.write_all(b"last words").unwrap();
    drop(program);
    assert_eq!(guest.expect_data(), b"last words");
    expect_end(&mut guest, SHUTDOWN_BOTH);
    guest.tell(ports, Operation::Reset);
    guest.expect_silence();
    // The connection is not known any more.
    guest.tell(ports, Operation::CreditRequest);
    guest.expect(Operation::Reset);
}

#[test]
fn bytes_for_a_program_that_has_closed_are_thrown_away_and_its_own_arrive() {
    let backend = backend();
    let mut guest = Guest::start(&backend);
    let (ports, mut program) = guest.connected(&backend, 7);
    guest.send(
        Header {
            buf_alloc: 4,
            ..Guest::packet(ports, Operation::CreditUpdate)
        },
        &[],
    );
    program.write_all(b"0123456789").unwrap();
    assert_eq!(guest.expect_data(), b"0123");
    drop(program);
    let header = Header {
        length: 5,
        buf_alloc: 4,
        ..Guest::packet(ports, Operation::ReadWrite)
    };
    guest.send(header, b"hello");
    expect_end(&mut guest, SHUTDOWN_RECEIVE);
    guest.send(
        Header {
            buf_alloc: 100,
            ..Guest::packet(ports, Operation::CreditUpdate)
        },
        &[],
    );
    assert_eq!(guest.expect_data(), b"456789");
    expect_end(&mut guest, SHUTDOWN_BOTH);
}

#[test]
fn a_guest_that_refuses_or_resets_closes_the_programs_socket() {
    let (backend, folder) = backend_with_socket();
    let mut guest = Guest::start(&backend);
    let mut program = patient(UnixStream::connect(folder.path().join("socket")).unwrap());
    program.write_all(b"CONNECT 52\n").unwrap();
    let (request, _) = guest.expect(Operation::Request);
    let ports = Ports {
        host: request.source_port,
        guest: 52,
    };
    guest.tell(ports, Operation::Reset);
    assert_eq!(rest(&mut program), b"");
    let (ports, mut program) = guest.connected(&backend, 7);
    guest.write(ports, b"before");
    guest.tell(ports, Operation::Reset);
    assert_eq!(rest(&mut program), b"before");
    guest.expect_silence();
}

#[test]
fn a_program_that_gives_up_before_the_guest_answers_is_told_of() {
    let (backend, folder) = backend_with_socket();
    let mut guest = Guest::start(&backend);
    let mut program = patient(UnixStream::connect(folder.path().join("socket")).unwrap());
    program.write_all(b"CONNECT 52\n").unwrap();
    let (request, _) = guest.expect(Operation::Request);
    drop(program);
    let (reset, _) = guest.expect(Operation::Reset);
    assert_eq!(
        (reset.source_port, reset.destination_port),
        (request.source_port, 52)
    );
}

#[test]
fn packets_that_must_not_be_are_answered_by_a_reset_and_harm_no_other_connection() {
    let backend = backend();
    let mut guest = Guest::start(&backend);
    let (good, mut program) = guest.connected(&backend, 7);
    let right = Guest::packet(good, Operation::ReadWrite);
    // The device does not know whose these are.
    for ignored in [
        Header {
            source_cid: 4,
            ..right
        },
        Header {
            source_cid: 1 << 32 | 3,
            ..right
        },
    ] {
        guest.send(ignored, &[]);
    }
    guest.expect_silence();
    // There is no such connection.
    for (number, operation) in (100..).zip([
        Operation::Response,
        Operation::Shutdown,
        Operation::ReadWrite,
        Operation::CreditUpdate,
        Operation::CreditRequest,
    ]) {
        let ports = Ports {
            host: 1,
            guest: number,
        };
        guest.tell(ports, operation);
        let (reset, _) = guest.expect(Operation::Reset);
        assert_eq!((reset.source_port, reset.destination_port), (1, number));
    }
    let elsewhere = Header {
        destination_cid: 5,
        ..Guest::packet(good, Operation::Request)
    };
    guest.send(elsewhere, &[]);
    assert_eq!(guest.expect(Operation::Reset).0.source_cid, 5);
    guest.tell(Ports { host: 1, guest: 1 }, Operation::Reset);
    guest.expect_silence();
    // Each of these ends the connection to which it belongs.
    for wrong in [
        Header {
            socket_type: 2,
            ..right
        },
        Header {
            operation: 0,
            ..right
        },
        Header {
            operation: 8,
            ..right
        },
        Header {
            operation: Operation::Request as u16,
            ..right
        },
        Header {
            operation: Operation::Response as u16,
            ..right
        },
        // More than follows.
        Header { length: 9, ..right },
        Header {
            length: u32::MAX,
            ..right
        },
    ] {
        let (ports, mut program) = guest.connected(&backend, 8);
        let wrong = Header {
            source_port: ports.guest,
            destination_port: ports.host,
            ..wrong
        };
        guest.send(wrong, b"12345678");
        let (reset, _) = guest.expect(Operation::Reset);
        assert_eq!((reset.source_cid, reset.source_port), (HOST_CID, ports.host));
        assert_eq!(rest(&mut program), b"", "{wrong:?}");
    }
    // No header.
    for chain in [
        [(0x8_0000, HEADER_SIZE as u32 - 1, 0, 0)],
        [(0x8_0000, 0, 0, 0)],
        [(HOLE - 8, HEADER_SIZE as u32, 0, 0)],
        [(u64::MAX - 8, HEADER_SIZE as u32, 0, 0)],
        [(0x8_0000, 1 << 16, crate::virtio::test_driver::WRITE, 0)],
    ] {
        guest.send_chain(&chain);
    }
    guest.expect_silence();
    guest.write(good, b"still here");
    let mut got = [0; 10];
    program.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"still here");
    assert!(!guest.driver.needs_reset());
}

#[test]
fn a_drivers_end_closes_its_connections_and_keeps_what_the_next_one_shall_have() {
    let backend = backend();
    let mut guest = Guest::start(&backend);
    let (ports, mut established) = guest.connected(&backend, 7);
    guest.write(ports, b"last words");
    let (mut asked, device) = pair();
    backend.dial(8, device).unwrap();
    guest.expect(Operation::Request);
    let (mut answered, device) = pair();
    backend.answer(99, device).unwrap();
    guest.driver.reset();
    assert_eq!(rest(&mut established), b"last words");
    assert_eq!(rest(&mut asked), b"");
    let (mut waiting, device) = pair();
    backend.dial(9, device).unwrap();
    waiting.write_all(b"patience").unwrap();
    guest.initialize(VERSION_1);
    guest.give_buffers();
    assert_eq!(guest.accept().guest, 9);
    assert_eq!(guest.expect_data(), b"patience");
    let ports = Ports { host: 99, guest: 5 };
    guest.tell(ports, Operation::Request);
    guest.expect(Operation::Response);
    guest.write(ports, b"answered");
    guest.tell_end(ports, SHUTDOWN_BOTH);
    assert_eq!(rest(&mut answered), b"answered");
}

#[test]
fn what_a_guest_sent_reaches_a_slow_program_although_the_guest_has_ended() {
    let backend = backend();
    let mut guest = Guest::start(&backend);
    let (ports, mut program) = guest.connected(&backend, 7);
    // More than the host's socket takes.
    let piece = [7; 16 << 10];
    for _ in 0..20 {
        guest.write(ports, &piece);
    }
    guest.driver.transport.stop();
    assert_eq!(rest(&mut program).len(), 20 * piece.len());
}

#[test]
fn connections_go_on_after_a_pause() {
    let backend = backend();
    let mut guest = Guest::start(&backend);
    let (ports, mut program) = guest.connected(&backend, 7);
    for round in 0..3u8 {
        guest.driver.transport.pause();
        program.write_all(&[round; 100]).unwrap();
        assert!(guest.poll().is_none());
        guest.driver.transport.resume();
        assert_eq!(guest.expect_data(), [round; 100]);
        guest.write(ports, &[round; 10]);
        let mut got = [0; 10];
        program.read_exact(&mut got).unwrap();
        assert_eq!(got, [round; 10]);
    }
}

#[test]
fn a_device_that_is_made_anew_tells_its_driver_that_connections_are_lost() {
    let backend = backend();
    let mut guest = Guest::start(&backend);
    let (ports, mut program) = guest.connected(&backend, 7);
    guest.driver.transport.pause();
    guest.driver.resume_anew(|| Box::new(Vsock::new(backend.clone())));
    assert_eq!(rest(&mut program), b"");
    guest.give_event_buffer();
    assert_eq!(guest.wait_for_event(), [0; 4]);
    guest.tell(ports, Operation::CreditRequest);
    guest.expect(Operation::Reset);
    let _kept = guest.connected(&backend, 7);
    // It is told once.
    guest.give_event_buffer();
    guest.expect_silence();
    assert!(guest.event.take_used(&guest.driver.memory).is_none());
}

#[test]
fn a_guests_call_reaches_the_program_that_listens_for_its_port() {
    let (backend, folder) = backend_with_socket();
    let mut guest = Guest::start(&backend);
    let call = |port| Ports {
        host: port,
        guest: 1000,
    };
    guest.tell(call(53), Operation::Request);
    let (reset, _) = guest.expect(Operation::Reset);
    assert_eq!((reset.source_port, reset.destination_port), (53, 1000));
    for port in [0, 52, u32::MAX] {
        let listener = UnixListener::bind(folder.path().join(format!("socket_{port}"))).unwrap();
        guest.tell(call(port), Operation::Request);
        guest.expect(Operation::Response);
        let mut program = patient(listener.accept().unwrap().0);
        guest.write(call(port), b"question");
        guest.tell_end(call(port), SHUTDOWN_SEND);
        assert_eq!(rest(&mut program), b"question");
        program.write_all(b"answer").unwrap();
        assert_eq!(guest.expect_data(), b"answer");
        drop(program);
        expect_end(&mut guest, SHUTDOWN_BOTH);
        guest.tell(call(port), Operation::Reset);
    }
    // Nobody accepts these. When no more of them fit, the guest is refused, and is not kept waiting.
    let listener = UnixListener::bind(folder.path().join("socket_7")).unwrap();
    // SAFETY: plain numbers.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 1) }, 0);
    let answers: Vec<_> = (0..5)
        .map(|port| {
            guest.tell(Ports { host: 7, guest: port }, Operation::Request);
            guest.next().0.operation()
        })
        .collect();
    assert_eq!(answers.first(), Some(&Some(Operation::Response)));
    assert_eq!(answers.last(), Some(&Some(Operation::Reset)));
}

#[test]
fn the_socket_is_removed_when_the_process_has_ended() {
    let (backend, folder) = backend_with_socket();
    let path = folder.path().join("socket");
    assert!(path.exists());
    drop(backend);
    // The other process does that, at its end.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while path.exists() {
        assert!(std::time::Instant::now() < deadline, "the socket is still there");
        std::thread::yield_now();
    }
}

#[test]
fn a_program_of_the_host_that_closes_is_told_to_a_guest_that_receives_no_more() {
    let backend = backend();
    let mut guest = Guest::start(&backend);
    let (ports, program) = guest.connected(&backend, 7);
    guest.tell_end(ports, SHUTDOWN_RECEIVE);
    drop(program);
    expect_end(&mut guest, SHUTDOWN_BOTH);
}

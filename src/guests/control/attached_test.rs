use std::fs::File;
use std::io::{Read as _, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use super::*;
use crate::bus::BusDevice;
use crate::devices::serial::SerialPort;
use crate::guests::control::{Attachment, Control, PATIENCE, ask, attach, serve};
use crate::interrupt::Interrupt;

/// A guest's process without a guest.
struct Served {
    _directory: tempfile::TempDir,
    path: PathBuf,
    console: Console,
    control: Arc<Control>,
}

fn served() -> Served {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let lock = File::options().read(true).write(true).open("/dev/null").unwrap();
    let control = Arc::new(Control::new(Some(lock)));
    let console = Console::default();
    serve(listener, control.clone(), console.clone()).unwrap();
    Served {
        _directory: directory,
        path,
        console,
        control,
    }
}

impl Served {
    fn attach(&self) -> Attachment {
        let attachment = attach(&self.path, PATIENCE).unwrap();
        attachment.socket.set_nonblocking(false).unwrap();
        attachment
    }

    fn print(&self, bytes: &[u8]) {
        let sink = self.console.sink();
        bytes.iter().for_each(|&byte| sink.put(byte));
        sink.pause();
    }

    /// A serial port whose driver takes input, as far as its FIFO has room.
    fn connect_port(&self) -> Arc<SerialPort> {
        const RTS: [u8; 1] = [2];
        let port = Arc::new(SerialPort::new(Interrupt::new(|| Ok(())), self.console.sink()));
        self.console.connect(port.clone());
        BusDevice::write(&*port, 4, &RTS);
        port
    }
}

/// Reads so many bytes of what was typed, as they come.
fn typed(port: &SerialPort, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let (mut status, mut byte) = ([0], [0]);
        BusDevice::read(port, 5, &mut status);
        match status[0] & 1 {
            0 => std::thread::yield_now(),
            _ => {
                BusDevice::read(port, 0, &mut byte);
                all.push(byte[0]);
            }
        }
    }
    all
}

fn read(socket: &mut UnixStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    socket.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn who_attaches_gets_the_past_then_what_comes_and_types() {
    let served = served();
    served.print(b"before\n");
    let mut one = served.attach();
    assert_eq!(one.past, b"before\n");
    served.print(b"after\n");
    assert_eq!(read(&mut one.socket, 6), b"after\n");
    let mut other = served.attach();
    assert_eq!(other.past, b"before\nafter\n");
    let port = served.connect_port();
    let long: Vec<u8> = (0..3 * TYPED).map(|index| index as u8).collect();
    one.socket.write_all(&long).unwrap();
    assert_eq!(typed(&port, long.len()), long);
    other.socket.write_all(b"x").unwrap();
    assert_eq!(typed(&port, 1), b"x");
    served.print(b"z");
    assert_eq!(
        (read(&mut one.socket, 1), read(&mut other.socket, 1)),
        (b"z".to_vec(), b"z".to_vec())
    );
    served.console.end();
    for attachment in [&mut one, &mut other] {
        assert_eq!(attachment.socket.read(&mut [0]).unwrap(), 0, "the end");
    }
    assert_eq!(served.control.wait_for_attached(PATIENCE), 0);
}

#[test]
fn what_comes_with_the_request_is_typed_and_who_types_no_more_still_looks_on() {
    let served = served();
    let port = served.connect_port();
    let mut socket = UnixStream::connect(&served.path).unwrap();
    socket
        .write_all(b"POST /console HTTP/1.1\r\nHost: x\r\n\r\nearly")
        .unwrap();
    assert_eq!(typed(&port, 5), b"early");
    socket.shutdown(Shutdown::Write).unwrap();
    // Until the thread has seen that end.
    ask(&served.path, "GET", "/guest", PATIENCE).unwrap();
    served.print(b"late");
    served.console.end();
    let mut all = String::new();
    socket.read_to_string(&mut all).unwrap();
    assert!(all.starts_with("HTTP/1.1 101 "), "{all}");
    assert!(all.ends_with("\r\nCoracle-Past: 0\r\n\r\nlate"), "{all}");
}

#[test]
fn a_client_that_does_not_read_keeps_nobody_waiting_and_is_told_later_what_it_has_missed() {
    let served = served();
    let stalled = served.attach();
    let mut reading = served.attach();
    let line = [&[b'x'; 999][..], b"\n"].concat();
    let lines = 4000;
    for number in 0..lines {
        served.print(&line);
        if number % 100 == 99 {
            assert_eq!(read(&mut reading.socket, 100 * line.len()), line.repeat(100));
        }
    }
    assert_eq!(served.control.wait_for_attached(Duration::ZERO), 2);
    served.console.end();
    let mut all = Vec::new();
    (&stalled.socket).read_to_end(&mut all).unwrap();
    let text = String::from_utf8(all).unwrap();
    // On a busy host, some may be missing before its socket is full, too.
    let (mut got, mut missed, mut rest) = (0, 0, text.as_str());
    while let Some((before, note)) = rest.split_once("\n[") {
        let (count, after) = note
            .split_once(" bytes of the console's output are missing here]\n")
            .unwrap();
        missed += count.parse::<usize>().unwrap();
        got += before.len();
        rest = after;
    }
    assert_eq!(got + missed + rest.len(), lines * line.len());
    assert!(missed > lines * line.len() / 2);
    assert_eq!(served.control.wait_for_attached(PATIENCE), 0);
}

#[test]
fn the_end_is_not_kept_waiting_by_a_client_that_does_not_read() {
    let served = served();
    let _stalled = served.attach();
    served.print(&[b'x'; 1 << 20]);
    served.console.end();
    assert_eq!(served.control.wait_for_attached(Duration::from_millis(50)), 1);
}

#[test]
fn one_too_many_is_told_so_and_whoever_goes_makes_room() {
    let served = served();
    let mut all: Vec<_> = (0..CLIENTS).map(|_| served.attach()).collect();
    let refused = attach(&served.path, PATIENCE).err().unwrap();
    assert_eq!(refused.to_string(), "16 terminals are attached to it already");
    // Some go in silence, and some while the guest, which has no port, has not taken what they typed.
    for (index, attachment) in all.iter_mut().enumerate() {
        if index % 2 == 0 {
            attachment.socket.write_all(&[b'x'; 2 * TYPED]).unwrap();
        }
    }
    drop(all);
    // Their ends are there before these requests.
    let again: Vec<_> = (0..CLIENTS).map(|_| served.attach()).collect();
    assert_eq!(again.len(), CLIENTS);
}

#[test]
fn what_a_client_has_typed_before_it_went_still_arrives() {
    let served = served();
    let long: Vec<u8> = (0..3 * TYPED).map(|index| index as u8).collect();
    let mut attachment = served.attach();
    attachment.socket.write_all(&long).unwrap();
    drop(attachment);
    assert_eq!(
        served.control.wait_for_attached(PATIENCE),
        0,
        "nobody waits for it"
    );
    let port = served.connect_port();
    assert_eq!(typed(&port, long.len()), long);
}

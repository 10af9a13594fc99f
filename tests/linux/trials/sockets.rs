//! `--vsock PATH` with Linux' own driver: programs of guest and host that talk to each other. `/sockets` in the guest does what the
//! first line of each connection says (guest-images/records/src/bin/sockets.rs).

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::images::{initrd_with_sockets, noise, scratch};
use crate::place;
use crate::run::{Coracle, Run};

crate::group!["sockets":
    megabytes_go_both_ways_at_once_in_a_connection_that_the_host_has_made,
    megabytes_go_both_ways_at_once_in_a_connection_that_the_guest_has_made,
    each_side_ends_its_own_direction_and_still_receives,
    as_many_connections_as_there_may_be_that_the_host_has_made_work_at_once,
    as_many_connections_as_there_may_be_that_the_guest_has_made_work_at_once,
    a_guest_that_reads_nothing_stops_its_sender_and_loses_nothing,
    a_program_that_reads_nothing_stops_the_guest_and_costs_a_bounded_amount_of_memory,
    a_program_of_the_host_that_is_killed_is_the_end_for_that_of_the_guest,
    a_program_of_the_guest_that_dies_is_the_end_for_that_of_the_host,
    a_port_at_which_nobody_listens_is_refused_on_both_sides,
];

/// Ports of the guest and of the host.
const SERVED: u32 = 52;
const CALLED: u32 = 1234;
/// What all buffers between two programs hold together is less.
const BETWEEN: usize = 2 << 20;
const SIZE: usize = 4 << 20;

/// How many connections there are at once: as many as a guest may have (docs/vsock.md), or some where each takes a tenth of a second.
fn most() -> usize {
    if place::is_full() { 1024 } else { 200 }
}

/// A guest with `/sockets`, and the place of its socket.
struct Guest {
    run: Run,
    folder: TempDir,
    /// Where the guest calls.
    listener: UnixListener,
}

impl Guest {
    fn start(script: &str) -> Self {
        // In the guest each connection is three descriptors, and a thread: how many there may be depends on its memory.
        let script = format!("ulimit -n 4096; {script}");
        let folder = scratch();
        let socket = folder.path().join("guest.sock");
        let listener = UnixListener::bind(folder.path().join(format!("guest.sock_{CALLED}"))).unwrap();
        let initrd = initrd_with_sockets(&folder);
        let run = Coracle::run()
            .args(["--confine", "require", "--vsock", socket.to_str().unwrap()])
            .args(["--memory", "256M", "--initrd", initrd.to_str().unwrap()])
            .script(&script)
            // As many connections as there may be take minutes on a busy host.
            .patience(600)
            .start();
        Self {
            run,
            folder,
            listener,
        }
    }

    /// One that is called.
    fn serving() -> Self {
        let mut guest = Self::start(&format!("/sockets serve {SERVED}; echo ended $?"));
        guest.run.wait_for("sockets: listening");
        guest
    }

    /// One that calls so often.
    fn calling(count: usize) -> Self {
        Self::start(&format!("/sockets call {CALLED} {count}; echo ended $?"))
    }

    /// Connects to Coracle, which waits for the port then.
    fn reach(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("guest.sock")).unwrap()
    }

    /// Connects to a port of the guest, without waiting for its answer.
    fn call(&self, port: u32) -> UnixStream {
        let mut stream = self.reach();
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        stream
    }

    /// Connects to the guest, and says what it is to do.
    fn connect(&self, command: &str) -> UnixStream {
        let mut stream = self.call(SERVED);
        let answer = line(&mut stream);
        assert!(answer.starts_with("OK "), "{answer:?}");
        say(&mut stream, command);
        stream
    }

    /// Takes a call of the guest, and says what it is to do.
    fn accept(&self, command: &str) -> UnixStream {
        let (mut stream, _) = self.listener.accept().unwrap();
        say(&mut stream, command);
        stream
    }

    /// Waits until the guest has powered off, after its program has ended with this status.
    fn end(self, status: i32) {
        self.run
            .end()
            .assert_powered_off()
            .assert_prints(&format!("ended {status}\n"));
    }
}

/// The next line, and nothing behind it.
fn line(stream: &mut UnixStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.extend(byte);
    }
    String::from_utf8(line).unwrap()
}

fn say(stream: &mut UnixStream, command: &str) {
    stream.write_all(format!("{command}\n").as_bytes()).unwrap();
}

fn rest(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// What the guest says of bytes that it has taken.
fn sum(bytes: &[u8]) -> String {
    format!("{} {:08x}", bytes.len(), crc32fast::hash(bytes))
}

/// Sends megabytes to a guest that sends them back, while it reads them.
fn echo(mut stream: UnixStream) {
    let sent = noise(3, SIZE);
    let mut writer = stream.try_clone().unwrap();
    let got = thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        rest(&mut stream)
    });
    assert!(got == sent, "{} bytes came back of {SIZE}", got.len());
}

fn megabytes_go_both_ways_at_once_in_a_connection_that_the_host_has_made() {
    let guest = Guest::serving();
    echo(guest.connect("echo"));
    guest.connect("end");
    guest.end(0);
}

fn megabytes_go_both_ways_at_once_in_a_connection_that_the_guest_has_made() {
    let guest = Guest::calling(1);
    echo(guest.accept("echo"));
    guest.end(0);
}

fn each_side_ends_its_own_direction_and_still_receives() {
    let mut guest = Guest::serving();
    let bytes = noise(5, 100_000);
    let mut host_first = guest.connect("sum");
    host_first.write_all(&bytes).unwrap();
    host_first.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut host_first), format!("{}\n", sum(&bytes)).into_bytes());
    let mut guest_first = guest.connect("send 70000 11");
    assert!(rest(&mut guest_first) == noise(11, 70_000));
    guest_first.write_all(&bytes).unwrap();
    drop(guest_first);
    guest.run.wait_for(&format!("sockets: took {}", sum(&bytes)));
    guest.connect("end");
    guest.end(0);
}

/// Each of them says something else, and all are there at once.
fn many(mut streams: Vec<UnixStream>) {
    let text = |number: usize| noise(number as u64, 1000 + number);
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&text(number)).unwrap();
    }
    for (number, stream) in streams.iter_mut().enumerate().rev() {
        let mut back = vec![0; text(number).len()];
        stream.read_exact(&mut back).unwrap();
        assert!(back == text(number), "connection {number}");
        stream.shutdown(Shutdown::Write).unwrap();
    }
    for stream in &mut streams {
        assert_eq!(rest(stream), b"");
    }
}

/// Here each connection is a descriptor.
fn raise_the_limit_of_descriptors() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the calls write and read one rlimit.
    let is_raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit)
    };
    assert_eq!(is_raised, 0);
}

fn as_many_connections_as_there_may_be_that_the_host_has_made_work_at_once() {
    raise_the_limit_of_descriptors();
    let guest = Guest::serving();
    let streams: Vec<_> = (0..most()).map(|_| guest.connect("echo")).collect();
    let is_full = place::is_full();
    if is_full {
        assert_eq!(rest(&mut guest.reach()), b"", "one more is not refused");
    }
    many(streams);
    guest.connect("end");
    let ended = guest.run.end();
    ended.assert_code(0).assert_prints("ended 0\n");
    let told = "coracle: warn: socket device: a program is turned away: the guest has too many connections\n";
    assert_eq!(ended.stderr, if is_full { told } else { "" }, "{ended}");
}

fn as_many_connections_as_there_may_be_that_the_guest_has_made_work_at_once() {
    raise_the_limit_of_descriptors();
    let guest = Guest::calling(most());
    many((0..most()).map(|_| guest.accept("echo")).collect());
    guest.end(0);
}

fn a_guest_that_reads_nothing_stops_its_sender_and_loses_nothing() {
    let guest = Guest::serving();
    let mut stream = guest.connect("hold");
    stream.set_nonblocking(true).unwrap();
    let bytes = noise(7, BETWEEN);
    let mut sent = 0;
    // Nothing has been taken for a second: nothing is going to be.
    let mut idle = 0;
    while idle < 20 {
        match stream.write(&bytes[sent..]) {
            Ok(count) => (sent, idle) = (sent + count, 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                thread::sleep(Duration::from_millis(50));
                idle += 1;
            }
        }
        assert!(sent < BETWEEN, "a guest that reads nothing takes all");
    }
    // Another connection goes on.
    let mut other = guest.connect("sum");
    other.write_all(b"meanwhile").unwrap();
    other.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut other), format!("{}\n", sum(b"meanwhile")).into_bytes());
    guest.connect("release");
    stream.set_nonblocking(false).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(
        rest(&mut stream),
        format!("{}\n", sum(&bytes[..sent])).into_bytes()
    );
    guest.connect("end");
    guest.end(0);
}

/// How many bytes of memory the process has written beside those of the guest, which are in a much larger mapping.
fn own_memory(run: &Run) -> u64 {
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", run.id())).unwrap();
    let (mut sum, mut is_own) = (0, false);
    for text in smaps.lines() {
        let kib =
            |name: &str| -> Option<u64> { text.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok() };
        if let Some(size) = kib("Size:") {
            is_own = size < 16 << 10;
        }
        if let Some(dirty) = kib("Private_Dirty:").filter(|_| is_own) {
            sum += dirty << 10;
        }
    }
    sum
}

fn a_program_that_reads_nothing_stops_the_guest_and_costs_a_bounded_amount_of_memory() {
    let mut guest = Guest::serving();
    // What a first connection needs is there.
    echo(guest.connect("echo"));
    let before = own_memory(&guest.run);
    assert!(before > 0);
    let mut streams: Vec<_> = (0..4).map(|_| guest.connect("flood")).collect();
    for _ in &streams {
        guest.run.wait_for("sockets: sent ");
    }
    let after = own_memory(&guest.run);
    // 256 KiB wait in each, in memory that may be twice as large.
    let most = streams.len() as u64 * (512 << 10) + (256 << 10);
    assert!(after < before + most, "{before} bytes before, {after} after");
    let counts: Vec<_> = streams.iter_mut().map(|stream| rest(stream).len()).collect();
    assert!(
        counts.iter().all(|count| (256 << 10..BETWEEN).contains(count)),
        "{counts:?}"
    );
    guest.connect("end");
    let finished = guest.run.end();
    finished.assert_powered_off();
    let mut sent: Vec<usize> = finished
        .console()
        .lines()
        .filter_map(|line| line.strip_prefix("sockets: sent ")?.parse().ok())
        .collect();
    let mut counts = counts;
    sent.sort_unstable();
    counts.sort_unstable();
    assert_eq!(sent, counts, "what arrived is not what was sent");
}

fn a_program_of_the_host_that_is_killed_is_the_end_for_that_of_the_guest() {
    let mut guest = Guest::serving();
    let stream = guest.connect("watch");
    let mut program = Command::new("sleep")
        .arg("1000")
        .stdin(stream.try_clone().map(std::os::fd::OwnedFd::from).unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    drop(stream);
    program.kill().unwrap();
    program.wait().unwrap();
    guest.run.wait_for("sockets: read Ok(0)");
    guest.run.wait_for("sockets: write Some(BrokenPipe)");
    guest.connect("end");
    guest.end(0);
}

fn a_program_of_the_guest_that_dies_is_the_end_for_that_of_the_host() {
    let guest = Guest::serving();
    let mut waiting = guest.connect("hold");
    let mut sending = guest.connect("hold");
    sending.write_all(&noise(9, 1000)).unwrap();
    let mut dying = guest.connect("die");
    for stream in [&mut waiting, &mut sending, &mut dying] {
        assert_eq!(rest(stream), b"");
    }
    guest.end(9);
}

fn a_port_at_which_nobody_listens_is_refused_on_both_sides() {
    let mut guest = Guest::start(&format!(
        "/sockets call 4321 1; /sockets serve {SERVED}; echo ended $?"
    ));
    guest.run.wait_for("sockets: Connection reset by peer");
    guest.run.wait_for("sockets: listening");
    assert_eq!(rest(&mut guest.call(SERVED + 1)), b"");
    guest.connect("end");
    guest.end(0);
}

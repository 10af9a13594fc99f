use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::http::{Parsed, REQUEST_MAX};
use super::*;
use crate::console::Console;
use crate::machine::Mappings;

/// A machine that only remembers.
#[derive(Default)]
struct Fake {
    is_paused: AtomicBool,
    /// How often it was let go on.
    resumed: AtomicU32,
    is_ending: AtomicBool,
    has_button: AtomicBool,
    is_pressed: AtomicBool,
    has_agent: AtomicBool,
    /// Held by a test while a disk hangs.
    disk: Mutex<()>,
    /// The connections to its agent.
    called: Mutex<Vec<UnixStream>>,
}

impl Machine for Fake {
    fn pause(&self) -> bool {
        drop(self.disk.lock().unwrap());
        let pauses = !self.is_ending.load(Ordering::Relaxed);
        self.is_paused.fetch_or(pauses, Ordering::Relaxed);
        pauses
    }

    fn resume(&self) {
        self.is_paused.store(false, Ordering::Relaxed);
        self.resumed.fetch_add(1, Ordering::Relaxed);
    }

    fn has_power_button(&self) -> bool {
        self.has_button.load(Ordering::Relaxed)
    }

    fn press_power_button(&self) -> io::Result<bool> {
        let has_button = self.has_button.load(Ordering::Relaxed);
        self.is_pressed.fetch_or(has_button, Ordering::Relaxed);
        Ok(has_button)
    }

    fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    fn has_agent(&self) -> bool {
        self.has_agent.load(Ordering::Relaxed)
    }

    fn activity(&self) -> Activity {
        Activity {
            disks_read: 512,
            sockets_sent: 3,
            ..Activity::default()
        }
    }

    fn meter(&self) -> Option<Meter> {
        let mappings = Mappings::open().unwrap();
        Some(mappings.meter(Vec::new()))
    }

    fn call_agent(&self, host: UnixStream) -> io::Result<()> {
        self.called.lock().unwrap().push(host);
        Ok(())
    }
}

fn control() -> (Arc<Control>, Arc<Fake>, File) {
    let lock = tempfile::NamedTempFile::new().unwrap();
    let others = lock.reopen().unwrap();
    let control = Arc::new(Control::new(Some(lock.into_file())));
    let machine = Arc::new(Fake::default());
    control.connect(machine.clone());
    (control, machine, others)
}

#[test]
fn what_a_guest_does_is_counted() {
    let (control, _, _) = control();
    let answer = control.answer(&Request {
        method: "GET",
        path: "/activity",
        rest: b"",
    });
    assert_eq!(answer.body["disks"]["read"], 512);
    assert_eq!(answer.body["sockets"]["sent"], 3);
}

#[test]
fn the_memory_of_its_process_is_measured_while_others_have_the_machine() {
    let (control, _, _) = control();
    let request = Request {
        method: "GET",
        path: "/memory",
        rest: b"",
    };
    assert!(request.may_wait());
    let answer = control.answer(&request);
    assert_eq!(answer.body["guest"], 0);
    assert!(answer.body["beside"].as_u64().unwrap() > 1 << 16);
    control.disconnect();
    assert_eq!(control.answer(&request).status, 409);
}

fn reach(path: &std::path::Path, patience: Duration) -> io::Result<UnixStream> {
    call_agent(connect(path)?, patience)
}

fn status(control: &Control, method: &str, path: &str) -> u16 {
    control
        .answer(&Request {
            method,
            path,
            rest: b"",
        })
        .status
}

#[test]
fn a_pause_is_seen_by_others_until_it_ends() {
    let (control, machine, others) = control();
    let state = || {
        control
            .answer(&Request {
                method: "GET",
                path: "/guest",
                rest: b"",
            })
            .body["state"]
            .clone()
    };
    assert_eq!((state(), lock::is_paused(&others)), ("running".into(), false));
    for _ in 0..2 {
        assert_eq!(status(&control, "PUT", "/pause"), 200);
        assert!(machine.is_paused.load(Ordering::Relaxed));
        assert_eq!((state(), lock::is_paused(&others)), ("paused".into(), true));
    }
    assert_eq!(status(&control, "PUT", "/resume"), 200);
    assert!(!machine.is_paused.load(Ordering::Relaxed));
    assert_eq!((state(), lock::is_paused(&others)), ("running".into(), false));
    assert_eq!(status(&control, "PUT", "/pause"), 200);
    control.disconnect();
    assert!(!lock::is_paused(&others));
    assert_eq!(status(&control, "PUT", "/pause"), 409);
}

#[test]
fn a_run_that_ends_is_not_noted_as_paused() {
    let (control, machine, others) = control();
    machine.is_ending.store(true, Ordering::Relaxed);
    assert_eq!(status(&control, "PUT", "/pause"), 409);
    assert!(!lock::is_paused(&others));
}

#[test]
fn other_requests_are_answered_with_what_is_wrong() {
    let (control, ..) = control();
    for (method, path, expected) in [("GET", "/", 404), ("PUT", "/guest", 405), ("GET", "/pause", 405)] {
        assert_eq!(status(&control, method, path), expected, "{method} {path}");
    }
}

#[test]
fn a_power_button_is_pressed_where_there_is_one() {
    let (control, machine, _) = control();
    assert_eq!(status(&control, "PUT", "/power-button"), 409);
    machine.has_button.store(true, Ordering::Relaxed);
    assert_eq!(status(&control, "PUT", "/power-button"), 200);
    assert!(machine.is_pressed.load(Ordering::Relaxed));
    control.disconnect();
    assert_eq!(status(&control, "PUT", "/power-button"), 409);
}

#[test]
fn a_guest_is_ended_on_request() {
    let (control, machine, _) = control();
    assert_eq!(status(&control, "PUT", "/end"), 200);
    assert!(machine.is_ending.load(Ordering::Relaxed));
    control.disconnect();
    assert_eq!(status(&control, "PUT", "/end"), 409);
}

#[test]
fn a_pause_that_waits_for_a_disk_keeps_nobody_else_waiting() {
    let (_directory, path, machine) = server();
    machine.has_agent.store(true, Ordering::Relaxed);
    let patience = Duration::from_secs(60);
    let disk = machine.disk.lock().unwrap();
    let asked: Vec<_> = ["/pause", "/resume"]
        .map(|request| {
            let its_path = path.clone();
            let asked = std::thread::spawn(move || ask(&its_path, "PUT", request, patience).unwrap());
            // Until the guest's process knows.
            while request == "/pause" && reach(&path, patience).is_ok() {}
            asked
        })
        .into();
    let refused = reach(&path, patience).unwrap_err().to_string();
    assert!(refused.contains("paused"), "{refused}");
    assert_eq!(ask(&path, "GET", "/guest", patience).unwrap()["state"], "running");
    let attached = attach(&path, patience).unwrap();
    ask(&path, "PUT", "/end", patience).unwrap();
    assert!(!asked.iter().any(|asked| asked.is_finished()));
    machine.is_ending.store(false, Ordering::Relaxed);
    drop(disk);
    for asked in asked {
        asked.join().unwrap();
    }
    assert!(
        !machine.is_paused.load(Ordering::Relaxed),
        "they are carried out in order"
    );
    drop(attached);
}

#[test]
fn a_guest_is_not_left_paused_for_somebody_who_has_gone() {
    let (_directory, path, machine) = server();
    let impatience = Duration::from_millis(100);
    let state = || ask(&path, "GET", "/guest", PATIENCE).unwrap()["state"].clone();
    let disk = machine.disk.lock().unwrap();
    ask(&path, "PUT", "/pause", impatience).unwrap_err();
    drop(disk);
    let deadline = Instant::now() + PATIENCE;
    while machine.resumed.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < deadline, "it stands still for nobody");
    }
    assert_eq!(state(), "running");
    // Who sends nothing more may wait for the answer still.
    let mut asker = UnixStream::connect(&path).unwrap();
    asker.write_all(b"PUT /pause HTTP/1.1\r\n\r\n").unwrap();
    asker.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    asker.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(state(), "paused");
    // Now it stands still for that one.
    let disk = machine.disk.lock().unwrap();
    ask(&path, "PUT", "/pause", impatience).unwrap_err();
    drop(disk);
    // Answered after the one before.
    ask(&path, "PUT", "/pause", PATIENCE).unwrap();
    assert_eq!(machine.resumed.load(Ordering::Relaxed), 1);
}

/// A server, and the directory of its socket.
fn server() -> (tempfile::TempDir, std::path::PathBuf, Arc<Fake>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (control, machine, _) = control();
    serve(listener, control, Console::default()).unwrap();
    (directory, path, machine)
}

#[test]
fn an_answer_reaches_who_asked() {
    let (_directory, path, machine) = server();
    assert_eq!(ask(&path, "PUT", "/pause", PATIENCE).unwrap(), json!({}));
    assert!(machine.is_paused.load(Ordering::Relaxed));
    assert_eq!(ask(&path, "GET", "/guest", PATIENCE).unwrap()["state"], "paused");
    let error = ask(&path, "GET", "/nothing", PATIENCE).unwrap_err();
    assert_eq!(error.to_string(), "there is no such path");
}

#[test]
fn clients_that_say_nothing_or_garbage_keep_nobody_from_an_answer() {
    let (_directory, path, _) = server();
    let silent: Vec<_> = (0..100).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let mut halves: Vec<_> = (0..20).map(|_| UnixStream::connect(&path).unwrap()).collect();
    for half in &mut halves {
        // The server may have closed it already.
        let _ = half.write_all(b"GET /guest HT");
    }
    let mut garbage = UnixStream::connect(&path).unwrap();
    garbage.write_all(&[0xff; 3 * REQUEST_MAX]).unwrap();
    assert_eq!(ask(&path, "GET", "/guest", PATIENCE).unwrap()["state"], "running");
    let mut answer = Vec::new();
    // The rest of the garbage was not read, so the connection may be reset behind the answer.
    let _ = garbage.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "));
    drop((silent, halves));
    assert_eq!(ask(&path, "GET", "/guest", PATIENCE).unwrap()["state"], "running");
}

#[test]
fn a_request_in_pieces_is_one_request() {
    let (_directory, path, _) = server();
    let mut stream = UnixStream::connect(&path).unwrap();
    for byte in b"GET /guest HTTP/1.1\r\nHost: x\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.ends_with("{\"can_be_asked\":false,\"state\":\"running\"}\n"),
        "{answer}"
    );
}

#[test]
fn a_listener_that_does_not_answer_or_answers_garbage_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let liar = std::thread::spawn(move || {
        for answer in [
            "",
            "HTTP/1.1 200 OK\r\n\r\nno JSON",
            "\x1b[2J",
            "HTTP/1.1 500 x\r\n\r\n{\"error\":\"\\u001b[2Jno\"}",
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 256];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    for _ in 0..3 {
        let error = ask(&path, "GET", "/guest", PATIENCE).unwrap_err();
        assert!(error.to_string().contains("cannot be understood"), "{error}");
    }
    assert_eq!(
        ask(&path, "GET", "/guest", PATIENCE).unwrap_err().to_string(),
        "no"
    );
    liar.join().unwrap();
}

#[test]
fn who_asks_waits_only_as_long_as_it_wants_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let _silent = UnixListener::bind(&path).unwrap();
    let error = ask(&path, "GET", "/guest", Duration::from_millis(10)).unwrap_err();
    assert_eq!(error.to_string(), "it does not answer");
}

#[test]
fn a_connection_becomes_the_agents_unless_there_is_none_or_it_hears_nothing() {
    let (_directory, path, machine) = server();
    let refused = |words: &str| {
        let error = reach(&path, PATIENCE).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused("none listens: the guest has not come so far, or has none");
    machine.has_agent.store(true, Ordering::Relaxed);
    ask(&path, "PUT", "/pause", PATIENCE).unwrap();
    refused("coracle unpause");
    ask(&path, "PUT", "/resume", PATIENCE).unwrap();
    let mut host = reach(&path, PATIENCE).unwrap();
    host.set_nonblocking(false).unwrap();
    // Nobody reads what is said to the agent, or what it says, in between.
    host.write_all(b"for the agent").unwrap();
    let mut agents = loop {
        match machine.called.lock().unwrap().pop() {
            Some(agents) => break agents,
            None => std::thread::yield_now(),
        }
    };
    let mut said = [0; 13];
    agents.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"for the agent");
    agents.write_all(b"for the host").unwrap();
    drop(agents);
    let mut heard = Vec::new();
    host.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"for the host");
}

#[test]
fn what_is_sent_for_the_agent_before_the_answer_is_refused() {
    let (_directory, path, machine) = server();
    machine.has_agent.store(true, Ordering::Relaxed);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"POST /exec HTTP/1.1\r\n\r\nmore").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(machine.called.lock().unwrap().is_empty());
}

#[test]
fn as_many_as_come_at_once_are_answered() {
    let (_directory, path, _) = server();
    // All have connected before any of them sends its request.
    let mut all: Vec<_> = (0..60).map(|_| UnixStream::connect(&path).unwrap()).collect();
    for stream in &mut all {
        stream.write_all(b"GET /guest HTTP/1.1\r\n\r\n").unwrap();
    }
    for stream in &mut all {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_request_a_part_of_one_or_wrong(bytes in prop::collection::vec(any::<u8>(), 0..REQUEST_MAX + 1)) {
        let is_part = Parsed::of(&bytes) == Parsed::Part;
        prop_assert!(!is_part || bytes.len() < REQUEST_MAX);
    }

    #[test]
    fn an_answer_is_read_as_it_was_written(status in 200u16..600, text in ".*") {
        let answer = Answer::error(status, &text);
        prop_assert_eq!(Answer::of(&answer.bytes()), Some(answer));
    }
}

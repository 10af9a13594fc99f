//! The agent with a host at the other end of a socket, which runs programs of this machine.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};

use coracle_agent_protocol::{
    CopyIn, CopyOut, CopySource, DATA_MAX, FRAME_MAX, Failure, Incoming, Reason, WINDOW, WindowSize,
    copy_status, hello, put,
};

use super::*;

/// What a host asks for beside programs, and hosts that make no sense.
#[path = "requests_test.rs"]
mod requests;

/// The host's end.
struct Host {
    stream: UnixStream,
    incoming: Incoming,
    agent: JoinHandle<io::Result<Ended>>,
}

/// What the host was told by the end.
#[derive(Debug, Default)]
struct Told {
    out: Vec<u8>,
    err: Vec<u8>,
    ended: Vec<Stream>,
    last: Option<ToHost>,
}

fn program(words: &[&str]) -> Program {
    Program {
        arguments: words.iter().map(|word| word.as_bytes().to_vec()).collect(),
        ..Program::default()
    }
}

fn shell(script: &str) -> Program {
    program(&["/bin/sh", "-c", script])
}

fn on_terminal(program: Program) -> Program {
    let terminal = Some(WindowSize {
        rows: 10,
        columns: 70,
    });
    Program { terminal, ..program }
}

impl Host {
    fn run(program: Program) -> Self {
        let mut host = Self::with(&hello());
        host.send(&ToAgent::Run(program), &[]);
        host
    }

    /// A host that says `first`.
    fn with(first: &[u8]) -> Self {
        let (mut stream, other) = UnixStream::pair().unwrap();
        stream.write_all(first).unwrap();
        let agent = thread::spawn(move || {
            let mut session = Session::new(other.into())?;
            let ended = session.run(None, |_| true)?;
            if let Ended::Program(end) = &ended {
                session.tell(end)?;
            }
            Ok(ended)
        });
        Self {
            stream,
            incoming: Incoming::new(FRAME_MAX),
            agent,
        }
    }

    fn send(&mut self, message: &ToAgent, data: &[u8]) {
        let mut bytes = Vec::new();
        assert!(put(&mut bytes, message, data));
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next message; nothing at the end of the connection.
    fn next(&mut self) -> Option<(ToHost, Vec<u8>)> {
        loop {
            if let Some((message, data)) = self.incoming.next().unwrap() {
                return Some((message, data.to_vec()));
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer).unwrap() {
                0 => return None,
                count => self.incoming.push(&buffer[..count]),
            }
        }
    }

    /// Waits until the program has written `text`, whatever else comes before.
    fn wait_for(&mut self, text: &str) {
        let mut seen = String::new();
        while !seen.contains(text) {
            if let (ToHost::Output(_), data) = self.next().unwrap() {
                seen.push_str(&String::from_utf8_lossy(&data));
            }
        }
    }

    /// The numbers in the first line that the program writes.
    fn numbers(&mut self) -> Vec<i32> {
        loop {
            if let (ToHost::Output(_), data) = self.next().unwrap() {
                let text = String::from_utf8(data).unwrap();
                let words = text.lines().next().unwrap().split_whitespace();
                return words.map(|word| word.parse().unwrap()).collect();
            }
        }
    }

    /// Takes all output, gives `input` when it is asked for, and says what came of it.
    fn finish(mut self, mut input: &[u8]) -> Told {
        let mut told = Told::default();
        while told.last.is_none() {
            match self.next().unwrap() {
                (ToHost::Output(stream), data) => {
                    let bytes = data.len() as u32;
                    match stream {
                        Stream::Out => told.out.extend(data),
                        Stream::Err => told.err.extend(data),
                    }
                    self.send(&ToAgent::Room { stream, bytes }, &[]);
                }
                (ToHost::OutputEnd(stream), _) => told.ended.push(stream),
                (ToHost::Started, _) => {}
                (ToHost::Wants(_), _) if input.is_empty() => self.send(&ToAgent::InputEnd, &[]),
                (ToHost::Wants(bytes), _) => {
                    let (now, later) = input.split_at(input.len().min(bytes as usize));
                    self.send(&ToAgent::Input, now);
                    input = later;
                }
                (last, _) => told.last = Some(last),
            }
        }
        let Self { stream, agent, .. } = self;
        drop(stream);
        // The host is gone: that is how the agent's wait ends.
        agent.join().unwrap().unwrap();
        told
    }
}

/// Whether there is such a process, and it has not ended.
fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
}

fn kill(pid: i32) {
    // SAFETY: a system call without pointers.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
}

/// What became of a program that gets no input.
fn told(program: Program) -> Told {
    Host::run(program).finish(&[])
}

fn last(program: Program) -> ToHost {
    told(program).last.unwrap()
}

#[test]
fn output_and_errors_arrive_apart_and_then_the_status() {
    let told = told(shell("echo out; echo err >&2; exit 7"));
    assert_eq!((&told.out[..], &told.err[..]), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(told.last, Some(ToHost::Exited(7)));
}

#[test]
fn every_end_is_told_as_it_was() {
    for status in [0, 1, 126, 127, 128, 255] {
        assert_eq!(last(shell(&format!("exit {status}"))), ToHost::Exited(status));
    }
    for signal in [1, 9, 15] {
        assert_eq!(last(shell(&format!("kill -{signal} $$"))), ToHost::Killed(signal));
    }
}

#[test]
fn a_program_that_cannot_start_is_told_from_one_that_fails() {
    let reason = |program| match last(program) {
        ToHost::Failed(Failure { reason, text }) => (reason, text),
        other => panic!("{other:?}"),
    };
    let (why, text) = reason(program(&["no-such-program"]));
    assert_eq!((why, text.contains("no-such-program")), (Reason::NotFound, true));
    assert_eq!(reason(program(&["/etc/passwd"])).0, Reason::NotExecutable);
    assert_eq!(reason(program(&["/etc/passwd/x"])).0, Reason::NotFound);
    let directory = Some(b"/no/such".to_vec());
    let (why, text) = reason(Program {
        directory,
        ..shell("true")
    });
    assert_eq!((why, text.contains("/no/such")), (Reason::Other, true));
    let user = Some(b"no-such-user".to_vec());
    assert_eq!(
        reason(Program {
            user,
            ..shell("true")
        })
        .0,
        Reason::Other
    );
    // A file that cannot be executed is told of, though there is none further on in the PATH.
    let folder = std::env::temp_dir().join(format!("agent-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("plain"), "").unwrap();
    let path = format!("PATH={}:/bin", folder.display()).into_bytes();
    let plain = Program {
        environment: vec![path],
        ..program(&["plain"])
    };
    assert_eq!(reason(plain).0, Reason::NotExecutable);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn every_byte_arrives_in_both_directions_and_so_does_the_end() {
    let all: Vec<u8> = (0..=u8::MAX).cycle().take(300_000).collect();
    let told = Host::run(program(&["cat"])).finish(&all);
    assert!(told.out == all);
    assert_eq!(told.last, Some(ToHost::Exited(0)));
}

#[test]
fn arguments_environment_and_directory_are_the_programs() {
    let words = [
        "/bin/sh",
        "-c",
        "printf '%s|' \"$@\" \"$A\" \"$HOME\" \"$PWD\"",
        "sh",
        "a b",
        "",
        "\u{e9}'\"",
    ];
    let program = Program {
        environment: vec![b"A=1=2".to_vec()],
        directory: Some(b"/usr".to_vec()),
        ..program(&words)
    };
    assert_eq!(
        String::from_utf8(told(program).out).unwrap(),
        "a b||\u{e9}'\"|1=2|/root|/usr|"
    );
}

#[test]
fn no_signal_is_blocked_in_a_program_and_sigpipe_is_not_ignored_as_in_this_process() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    // Whoever started the tests may ignore others.
    let ignored = mask(&status, "SigIgn:") & !(1 << (libc::SIGPIPE - 1));
    let out = told(shell("grep -E '^Sig(Blk|Ign):' /proc/self/status")).out;
    let out = String::from_utf8(out).unwrap();
    assert_eq!((mask(&out, "SigBlk:"), mask(&out, "SigIgn:")), (0, ignored));
}

fn mask(status: &str, name: &str) -> u64 {
    let digits = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    u64::from_str_radix(digits.trim(), 16).unwrap()
}

#[test]
fn an_exit_is_told_though_others_hold_the_programs_streams() {
    // When the program on a terminal ends, its group is hung up.
    let script = "trap '' HUP; sleep 1000 & echo $!; exit 3";
    for program in [shell(script), on_terminal(shell(script))] {
        let mut host = Host::run(program);
        let holder = host.numbers()[0];
        let told = host.finish(&[]);
        assert_eq!((told.last, told.ended), (Some(ToHost::Exited(3)), vec![]));
        assert!(runs(holder));
        kill(holder);
    }
}

#[test]
fn a_signal_after_the_programs_end_reaches_nobody() {
    // The last of the output is beyond the window, and the session waits for room.
    let count = WINDOW as usize;
    let mut host = Host::run(shell(&format!(
        "sleep 1000 & echo $! $$; head -c {count} /dev/zero"
    )));
    let pids = host.numbers();
    let (other, program) = (pids[0], pids[1]);
    while Path::new(&format!("/proc/{program}")).exists() {
        thread::yield_now();
    }
    host.send(&ToAgent::Signal(libc::SIGKILL as u8), &[]);
    assert_eq!(host.finish(&[]).last, Some(ToHost::Exited(0)));
    assert!(runs(other));
    kill(other);
}

#[test]
fn what_was_written_before_the_end_arrives_whole_at_a_slow_reader() {
    // More than the window and a pipe hold together.
    let count = 4 * WINDOW as usize;
    let mut host = Host::run(shell(&format!("head -c {count} /dev/zero; echo end >&2")));
    let mut received = 0;
    while received < WINDOW as usize {
        let (message, data) = host.next().unwrap();
        assert!(
            matches!(
                message,
                ToHost::Output(Stream::Out) | ToHost::Wants(_) | ToHost::Started
            ),
            "{message:?}"
        );
        received += data.len();
    }
    // Beyond the window nothing comes until there is room: the errors of the same program would be next otherwise.
    host.stream.set_nonblocking(true).unwrap();
    assert!(matches!(host.incoming.next::<ToHost>(), Ok(None)));
    let mut byte = [0];
    assert_eq!(
        host.stream.read(&mut byte).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    host.stream.set_nonblocking(false).unwrap();
    host.send(
        &ToAgent::Room {
            stream: Stream::Out,
            bytes: WINDOW,
        },
        &[],
    );
    let told = host.finish(&[]);
    assert_eq!(told.out.len() + received, count);
    assert_eq!(
        (&told.err[..], told.last),
        (&b"end\n"[..], Some(ToHost::Exited(0)))
    );
}

#[test]
fn a_program_whose_reader_is_gone_gets_a_broken_pipe() {
    let mut host = Host::run(program(&["yes"]));
    host.wait_for("y\n");
    host.send(&ToAgent::Closed { stream: Stream::Out }, &[]);
    assert_eq!(host.finish(&[]).last, Some(ToHost::Killed(libc::SIGPIPE as u8)));
}

#[test]
fn a_program_can_close_its_own_streams() {
    let mut host = Host::run(shell(
        "exec >&-; read line; echo still here >&2; exec 2>&-; exit 4",
    ));
    // It reads once this has arrived, so its end cannot come before.
    loop {
        match host.next().unwrap().0 {
            ToHost::OutputEnd(stream) => break assert_eq!(stream, Stream::Out),
            ToHost::Wants(_) | ToHost::Started => {}
            other => panic!("{other:?}"),
        }
    }
    host.send(&ToAgent::InputEnd, &[]);
    let told = host.finish(&[]);
    assert_eq!(
        (&told.err[..], told.last),
        (&b"still here\n"[..], Some(ToHost::Exited(4)))
    );
}

#[test]
fn a_signal_reaches_the_program_and_all_in_its_group() {
    let mut host = Host::run(shell(
        "trap 'echo got it; exit 5' TERM; echo ready; sleep 1000 & wait",
    ));
    host.wait_for("ready");
    host.send(&ToAgent::Signal(libc::SIGTERM as u8), &[]);
    let told = host.finish(&[]);
    assert_eq!(
        (&told.out[..], told.last),
        (&b"got it\n"[..], Some(ToHost::Exited(5)))
    );
}

#[test]
fn a_program_on_a_terminal_has_one_of_its_own_with_the_right_size() {
    let told = told(on_terminal(shell(
        "tty; stty size; test -t 0 -a -t 1 -a -t 2; echo $?; echo err >&2",
    )));
    let out = String::from_utf8(told.out).unwrap();
    assert!(out.starts_with("/dev/pts/"), "{out}");
    assert!(out.ends_with("\r\n10 70\r\n0\r\nerr\r\n"), "{out}");
    assert!(told.err.is_empty());
}

#[test]
fn a_terminal_that_is_resized_tells_its_program() {
    let mut host = Host::run(on_terminal(shell(
        "trap 'stty size' WINCH; sleep 1000 & echo ready; while :; do wait; done",
    )));
    host.wait_for("ready");
    for rows in 20..40 {
        host.send(&ToAgent::Resize(WindowSize { rows, columns: 99 }), &[]);
        host.wait_for(&format!("{rows} 99\r\n"));
    }
    host.send(&ToAgent::Signal(libc::SIGKILL as u8), &[]);
    assert_eq!(host.finish(&[]).last, Some(ToHost::Killed(libc::SIGKILL as u8)));
}

#[test]
fn what_a_program_wrote_to_its_terminal_arrives_whole() {
    let told = told(on_terminal(shell(
        "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i + 1)); done",
    )));
    let expected: String = (0..2000).map(|line| format!("line {line}\r\n")).collect();
    assert_eq!(String::from_utf8(told.out).unwrap(), expected);
}

#[test]
fn the_end_of_the_input_ends_a_terminals_line() {
    for (input, output) in [("typed\n", "typed\r\n"), ("typed", "typed")] {
        let told = Host::run(on_terminal(shell("stty -echo; cat"))).finish(input.as_bytes());
        assert!(String::from_utf8(told.out).unwrap().ends_with(output));
        assert_eq!(told.last, Some(ToHost::Exited(0)));
    }
}

#[test]
fn a_program_ends_with_its_host() {
    let mut host = Host::run(shell("echo $$; sleep 1000 & sleep 1000"));
    let pid = loop {
        if let (ToHost::Output(_), data) = host.next().unwrap() {
            break String::from_utf8(data).unwrap().trim().to_owned();
        }
    };
    drop(host.stream);
    let error = host.agent.join().unwrap().unwrap_err();
    assert!(matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
    ));
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn the_start_of_a_program_is_told_before_anything_else_of_it() {
    let mut host = Host::run(shell("exit 3"));
    assert_eq!(host.next(), Some((ToHost::Started, vec![])));
    assert_eq!(host.finish(&[]).last, Some(ToHost::Exited(3)));
    let mut host = Host::run(program(&["no-such-program"]));
    assert!(matches!(host.next(), Some((ToHost::Failed(_), _))));
}

#[test]
fn what_is_said_to_the_host_is_on_its_way_when_that_returns() {
    let (mut host, agents) = UnixStream::pair().unwrap();
    let mut session = Session::new(agents.into()).unwrap();
    session.say(&ToHost::PowersOff).unwrap();
    drop(session);
    let mut bytes = Vec::new();
    host.read_to_end(&mut bytes).unwrap();
    let mut incoming = Incoming::new(FRAME_MAX);
    incoming.push(&bytes);
    assert_eq!(incoming.next(), Ok(Some((ToHost::PowersOff, &b""[..]))));
}

//! One run of `coracle`, watched from outside.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{PipeWriter, Write, pipe};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::capture::{Capture, find};
use crate::place;
use crate::terminal::{Modes, Terminal};

/// How long a guest may take in software emulation on a busy machine. It takes far less.
const PATIENCE: Duration = Duration::from_secs(150);
/// The same on the nested machine's clock, where one second takes about twenty seconds of real time.
const PATIENCE_INSIDE: Duration = Duration::from_secs(20);

fn patience() -> Duration {
    match place::is_inside() && !place::is_full() {
        true => PATIENCE_INSIDE,
        false => PATIENCE,
    }
}

/// A command line of `coracle run`. Its stdin is empty unless the trial says otherwise.
pub struct Coracle {
    program: OsString,
    arguments: Vec<OsString>,
    patience: Duration,
    user: Option<u32>,
    variables: Vec<(OsString, OsString)>,
    input: Input,
    stdout: Option<OwnedFd>,
}

enum Input {
    None,
    Pipe,
    File(File),
    Terminal(Terminal),
}

impl Coracle {
    pub fn run() -> Self {
        Self::program(place::coracle()).args(["run"])
    }

    /// A command line of any program.
    pub fn program(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            patience: patience(),
            user: None,
            variables: Vec::new(),
            input: Input::None,
            stdout: None,
        }
    }

    pub fn args<T: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments
            .extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// The guest's init runs this script, in which `'` quotes, and powers off.
    pub fn script(self, script: &str) -> Self {
        assert!(
            !script.contains('"'),
            "the kernel has no way to pass a double quote"
        );
        self.args(["--cmdline", &format!("-- sh -c \"{script}\"")])
    }

    /// Stdin is a pipe that the trial writes to.
    pub fn with_input(mut self) -> Self {
        self.input = Input::Pipe;
        self
    }

    /// Stdin is this file.
    pub fn stdin(mut self, file: File) -> Self {
        self.input = Input::File(file);
        self
    }

    /// Stdin and stdout are a terminal. Stderr is a pipe, so that the trial can tell it from stdout.
    pub fn on_terminal(mut self) -> Self {
        self.input = Input::Terminal(Terminal::open(30, 100));
        self
    }

    /// Stdout is this file, and the trial does not capture it.
    pub fn stdout(mut self, stdout: impl Into<OwnedFd>) -> Self {
        self.stdout = Some(stdout.into());
        self
    }

    /// Started by this user, who is in the group of the same number and in no other.
    pub fn started_by(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// With this environment variable.
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    pub fn patience(mut self, seconds: u64) -> Self {
        self.patience = Duration::from_secs(seconds);
        self
    }

    pub fn start(mut self) -> Run {
        self.confine();
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(self.variables)
            .stderr(Stdio::piped());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        let mut typing = None;
        let mut terminal = None;
        let mut stdout = None;
        match self.input {
            Input::None => {
                command.stdin(Stdio::null());
            }
            Input::File(file) => {
                command.stdin(file);
            }
            Input::Pipe => {
                let (reader, writer) = pipe().unwrap();
                command.stdin(reader);
                typing = Some(Typing::Pipe(writer));
            }
            Input::Terminal(pair) => {
                command.stdin(pair.program.try_clone().unwrap());
                command.stdout(pair.program.try_clone().unwrap());
                stdout = Some(Capture::of(pair.person.try_clone().unwrap()));
                typing = Some(Typing::Terminal(pair.person.try_clone().unwrap()));
                terminal = Some((pair.modes(), pair));
            }
        }
        match self.stdout {
            Some(to) => {
                command.stdout(to);
            }
            None if stdout.is_none() => {
                let (reader, writer) = pipe().unwrap();
                command.stdout(writer);
                stdout = Some(Capture::of(reader));
            }
            None => (),
        }
        let mut child = command
            .spawn()
            .unwrap_or_else(|why| panic!("cannot run {:?}: {why}", self.program));
        // `command` holds copies of the pipes' ends, which would keep them open.
        drop(command);
        let stderr = Capture::of(child.stderr.take().unwrap());
        Run {
            child,
            ended: false,
            deadline: Instant::now() + self.patience,
            seen: 0,
            stdout,
            stderr,
            typing,
            terminal,
        }
    }

    /// Inside a nested machine, whose kernel has every layer of the confinement, a `coracle run` must have all of them unless the
    /// trial says otherwise.
    fn confine(&mut self) {
        let runs =
            self.program == place::coracle() && self.arguments.first().is_some_and(|word| word == "run");
        if place::is_inside() && runs && !self.arguments.iter().any(|word| word == "--confine") {
            self.arguments
                .splice(1..1, ["--confine".into(), "require".into()]);
        }
    }

    /// Starts the run and waits until it ends.
    pub fn end(self) -> Finished {
        self.start().end()
    }
}

enum Typing {
    Pipe(PipeWriter),
    Terminal(File),
}

impl Typing {
    fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::Pipe(pipe) => pipe.write_all(bytes),
            Self::Terminal(person) => person.write_all(bytes),
        }
        .unwrap();
    }
}

/// A running `coracle`. Dropping it kills it.
pub struct Run {
    child: Child,
    ended: bool,
    deadline: Instant,
    /// The position after the text that [`Run::wait_for`] found last.
    seen: usize,
    stdout: Option<Capture>,
    stderr: Capture,
    typing: Option<Typing>,
    terminal: Option<(Modes, Terminal)>,
}

impl Run {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the guest prints `text` after the text that the last call waited for.
    pub fn wait_for(&mut self, text: &str) {
        let stdout = self.stdout.as_ref().expect("stdout is captured");
        match stdout.wait_for(text.as_bytes(), self.seen, self.deadline) {
            Some(end) => self.seen = end,
            None => self.give_up(&format!("{text:?} does not come")),
        }
    }

    /// Whether the guest has printed `text` after the text that [`Run::wait_for`] found last.
    pub fn has_printed(&self, text: &str) -> bool {
        let printed = self.stdout.as_ref().expect("stdout is captured").bytes();
        find(&printed[self.seen..], text.as_bytes()).is_some()
    }

    /// Waits until `coracle` says `text` on stderr.
    pub fn wait_for_message(&mut self, text: &str) {
        if self.stderr.wait_for(text.as_bytes(), 0, self.deadline).is_none() {
            self.give_up(&format!("{text:?} does not come on stderr"));
        }
    }

    /// Types a short text, which the terminal or the pipe has room for.
    pub fn type_in(&mut self, text: &str) {
        self.typing
            .as_mut()
            .expect("there is an input")
            .write(text.as_bytes());
    }

    /// Types a long text on a thread of its own. The input stays open until the thread's result is dropped.
    pub fn paste(&mut self, bytes: Vec<u8>) -> JoinHandle<impl Send + use<>> {
        let mut typing = self.typing.take().expect("there is an input");
        thread::spawn(move || {
            typing.write(&bytes);
            typing
        })
    }

    /// Ends the input.
    pub fn close_input(&mut self) {
        self.typing = None;
    }

    pub fn signal(&self, number: i32) {
        let id = i32::try_from(self.id()).unwrap();
        // SAFETY: kill touches no memory, and the process is our child, not waited for yet.
        let result = unsafe { libc::kill(id, number) };
        assert_eq!(result, 0, "kill: {}", std::io::Error::last_os_error());
    }

    /// Gives its terminal another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let (_, terminal) = self.terminal.as_ref().expect("there is a terminal");
        // SAFETY: the request reads one winsize, which lives across the call.
        let result = unsafe { libc::ioctl(terminal.program.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        assert_eq!(result, 0, "TIOCSWINSZ: {}", std::io::Error::last_os_error());
    }

    /// The modes of its terminal now.
    pub fn terminal_modes(&self) -> Modes {
        self.terminal.as_ref().expect("there is a terminal").1.modes()
    }

    /// The modes of its terminal before it ran.
    pub fn modes_before(&self) -> Modes {
        self.terminal.as_ref().expect("there is a terminal").0.clone()
    }

    /// Kills it with SIGKILL, and returns what it had written.
    pub fn kill(mut self) -> Finished {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.ended = true;
        if !self.stderr.wait_for_end(self.deadline) {
            self.give_up("it is dead, but something holds its stderr");
        }
        self.finished()
    }

    /// Waits until it ends by itself.
    pub fn end(mut self) -> Finished {
        // Its stderr is open until it ends.
        if !self.stderr.wait_for_end(self.deadline) {
            self.give_up("it does not end");
        }
        let status = self.child.wait().unwrap();
        self.ended = true;
        let modes = self
            .terminal
            .take()
            .map(|(before, terminal)| (before, terminal.modes()));
        let mut finished = self.finished();
        finished.modes = modes;
        match status.code() {
            Some(code) => finished.code = code,
            None => panic!("{status}\n{finished}"),
        }
        finished
    }

    /// All output of a process that has ended.
    fn finished(&mut self) -> Finished {
        if let Some(stdout) = &self.stdout
            && !stdout.wait_for_end(self.deadline)
        {
            self.give_up("it ended, but something holds its stdout");
        }
        self.so_far()
    }

    fn so_far(&self) -> Finished {
        Finished {
            code: -1,
            stdout: self.stdout.as_ref().map(Capture::bytes).unwrap_or_default(),
            stderr: String::from_utf8_lossy(&self.stderr.bytes()).into_owned(),
            modes: None,
        }
    }

    fn give_up(&mut self, why: &str) -> ! {
        let _ = self.child.kill();
        let finished = self.so_far();
        panic!("{why}; it is killed\n{finished}");
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A run that has ended.
pub struct Finished {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
    /// The terminal's modes before and after it.
    modes: Option<(Modes, Modes)>,
}

impl Finished {
    /// The guest's console as text, its lines ended by newlines alone.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&self.stdout).replace('\r', "")
    }

    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "the exit code\n{self}");
        self
    }

    #[track_caller]
    pub fn assert_prints(&self, text: &str) -> &Self {
        assert!(
            self.console().contains(text),
            "{text:?} is not on the console\n{self}"
        );
        self
    }

    #[track_caller]
    pub fn assert_explains(&self, text: &str) -> &Self {
        assert!(self.stderr.contains(text), "{text:?} is not on stderr\n{self}");
        self
    }

    /// Asserts that the guest powered off and that stderr is empty.
    #[track_caller]
    pub fn assert_powered_off(&self) -> &Self {
        self.assert_code(0);
        assert_eq!(self.stderr, "", "stderr\n{self}");
        self
    }

    #[track_caller]
    pub fn assert_terminal_restored(&self) -> &Self {
        let (before, after) = self.modes.as_ref().expect("there was a terminal");
        assert_eq!(before, after, "the terminal's modes\n{self}");
        self
    }

    /// What the guest printed right after `mark`, `count` bytes of it.
    #[track_caller]
    pub fn bytes_after(&self, mark: &str, count: usize) -> &[u8] {
        let begin = find(&self.stdout, mark.as_bytes()).map(|at| at + mark.len());
        match begin.and_then(|begin| self.stdout.get(begin..begin + count)) {
            Some(bytes) => bytes,
            None => panic!("{mark:?} and {count} bytes are not on the console\n{self}"),
        }
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let console = self.console();
        let (skipped, shown) = match console.char_indices().rev().nth(3000) {
            Some((at, _)) => (at, &console[at..]),
            None => (0, console.as_str()),
        };
        let bytes = self.stdout.len();
        writeln!(
            formatter,
            "--- exit code {}; console ({bytes} bytes, without the first {skipped}):",
            self.code
        )?;
        writeln!(
            formatter,
            "{}",
            shown.escape_debug().to_string().replace("\\n", "\n")
        )?;
        write!(formatter, "--- stderr:\n{}---", self.stderr)
    }
}

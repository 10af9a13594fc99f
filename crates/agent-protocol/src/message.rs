//! The messages themselves, and the bounds of their fields.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Error, FRAME_MAX, WINDOW};

/// No message carries more bytes of a stream.
pub const DATA_MAX: usize = WINDOW as usize;
/// Linux has the signals 1 to 64.
const SIGNAL_MAX: u8 = 64;
/// No text for a person is longer.
const TEXT_MAX: usize = 1024;
/// Linux: `HOST_NAME_MAX`.
const HOST_NAME_MAX: usize = 64;
/// Linux: `PATH_MAX`, without the zero at the end.
const PATH_MAX: usize = 4095;
/// Linux: `NAME_MAX`.
const NAME_MAX: usize = 255;
/// A kernel's pool of entropy holds less.
const ENTROPY_MAX: usize = 1024;

/// What can be sent.
pub trait Message: Serialize + DeserializeOwned {
    /// Whether every field is within its bounds, and whether `data` is what this message may carry.
    fn check(&self, data: &[u8]) -> Result<(), Error>;
}

/// From the host to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// Runs the program. It is the first message, and there is no second one of its kind.
    Run(Program),
    /// Input for the program, which is what the message carries. It answers [`ToHost::Wants`] with no more bytes than that.
    Input,
    /// The program's input has come to its end.
    InputEnd,
    /// The host has passed on so many bytes of a stream.
    Room { stream: Stream, bytes: u32 },
    /// Nobody reads this stream any more.
    Closed { stream: Stream },
    /// Sends a signal to the program.
    Signal(u8),
    /// The terminal has another size now.
    Resize(WindowSize),
    /// Powers the guest off in order. It comes in place of [`ToAgent::Run`].
    PowerOff,
    /// Unpacks an archive, which is the input of the program that does so. It comes in place of [`ToAgent::Run`].
    CopyIn(CopyIn),
    /// Packs an archive, which is the output of the program that does so. It comes in place of [`ToAgent::Run`].
    CopyOut(CopyOut),
    /// Sets the guest's clock (`CLOCK_REALTIME`). It comes in place of [`ToAgent::Run`], and is answered by [`ToHost::Done`].
    SetClock { seconds: u64, nanoseconds: u32 },
    /// Adds random bytes, which the message carries, to the entropy of the guest's kernel. It comes in place of [`ToAgent::Run`],
    /// and is answered by [`ToHost::Done`].
    AddEntropy,
}

/// From the agent to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHost {
    /// The program did not start.
    Failed(Failure),
    /// The program reads, and takes up to so many bytes of input. The next one comes after the answer to this one.
    Wants(u32),
    /// Output of the program, which is what the message carries.
    Output(Stream),
    /// The program, and all that it gave the stream to, have closed it.
    OutputEnd(Stream),
    /// The program has ended with this status. All that it had written has been sent.
    Exited(u8),
    /// This signal has ended the program. All that it had written has been sent.
    Killed(u8),
    /// The program runs. It comes before anything else of the program.
    Started,
    /// The guest has begun to power off. It is the last message.
    PowersOff,
    /// What was asked for is done. It is the last message.
    Done,
}

/// An output stream. With a terminal there is only `Out`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    Out,
    Err,
}

/// Characters of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
}

/// A program to run, and how. Texts are any bytes but zero, as Linux takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The program's name, which is looked up in its PATH unless it has a slash, and its arguments.
    pub arguments: Vec<Vec<u8>>,
    /// `NAME=VALUE` each, on top of what every program in the guest gets. The last of a name counts.
    pub environment: Vec<Vec<u8>>,
    /// Where it starts; otherwise at the root.
    pub directory: Option<Vec<u8>>,
    /// `USER[:GROUP]`, each a name that the guest knows or a number; otherwise root.
    pub user: Option<Vec<u8>>,
    /// The guest's name for itself.
    pub host_name: Option<Vec<u8>>,
    /// A terminal of this size for the program; otherwise it has pipes.
    pub terminal: Option<WindowSize>,
    /// The directory in which the program starts is made if it is not there.
    pub makes_directory: bool,
    /// File systems in memory, which are mounted before the program starts.
    pub tmpfs: Vec<Tmpfs>,
    /// After that the root is made read-only.
    pub read_only: bool,
    /// The signal by which the program is asked to end; otherwise SIGTERM.
    pub stop_signal: Option<u8>,
}

/// A file system in the guest's memory. Its mount point is made if it is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Its mount point. A path that is relative begins at the root.
    pub target: Vec<u8>,
    /// What the file system and the mount are told, as mount(8) takes it; otherwise what Docker says.
    pub options: Option<Vec<u8>>,
}

/// Where what is in an archive (tar) goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyIn {
    /// As the person gave it. One that is relative begins at the root.
    pub path: Vec<u8>,
    pub source: CopySource,
    /// Files get the owners that the archive names, by number. Otherwise they are root's.
    pub owners: bool,
}

/// What is in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopySource {
    /// A file with this name.
    File(Vec<u8>),
    /// A directory with this name, or what is in it alone.
    Directory { name: Vec<u8>, contents: bool },
    /// Anything.
    Archive,
}

/// What is to be packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyOut {
    /// As the person gave it. One that is relative begins at the root.
    pub path: Vec<u8>,
    /// If the path is that of a symbolic link, what it leads to is packed.
    pub follows: bool,
}

/// Exit statuses of the programs that copy. Any other is a failure for another reason; what they write to their standard error says
/// why.
pub mod copy_status {
    /// What is to be packed is not there, or the directory for what is to be unpacked.
    pub const NOT_FOUND: u8 = 2;
}

/// Why a program did not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub reason: Reason,
    /// A sentence for the person, which names the program, the directory or the user.
    pub text: String,
}

/// What kept a program from starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// There is no such program.
    NotFound,
    /// There is one, and it cannot be executed.
    NotExecutable,
    /// What the program was to have cannot be had: the user, the directory, a terminal.
    Other,
}

impl Message for ToAgent {
    fn check(&self, data: &[u8]) -> Result<(), Error> {
        check_data(matches!(self, Self::Input | Self::AddEntropy), data)?;
        match self {
            Self::Run(program) => program.check(),
            Self::Room { bytes, .. } => check_window(*bytes),
            Self::Signal(number) => check_signal(*number),
            Self::Resize(size) => size.check(),
            Self::CopyIn(copy) => copy.check(),
            Self::CopyOut(copy) => check_path(&copy.path),
            Self::SetClock { nanoseconds, .. } => {
                within(*nanoseconds < 1_000_000_000, "a time that does not exist")
            }
            Self::AddEntropy => within(data.len() <= ENTROPY_MAX, "too many random bytes"),
            Self::Input | Self::InputEnd | Self::Closed { .. } | Self::PowerOff => Ok(()),
        }
    }
}

impl Message for ToHost {
    fn check(&self, data: &[u8]) -> Result<(), Error> {
        check_data(matches!(self, Self::Output(_)), data)?;
        match self {
            Self::Failed(Failure { text, .. }) => within(text.len() <= TEXT_MAX, "a text that is too long"),
            Self::Wants(bytes) => check_window(*bytes),
            Self::Killed(number) => check_signal(*number),
            Self::Output(_)
            | Self::OutputEnd(_)
            | Self::Exited(_)
            | Self::Started
            | Self::PowersOff
            | Self::Done => Ok(()),
        }
    }
}

impl Failure {
    /// Cuts the text where it is too long.
    pub fn new(reason: Reason, mut text: String) -> Self {
        text.truncate(text.floor_char_boundary(TEXT_MAX));
        Self { reason, text }
    }
}

impl Program {
    /// Whether it is one that can be run.
    pub fn check(&self) -> Result<(), Error> {
        within(!self.arguments.is_empty(), "no program to run")?;
        let texts = self.arguments.iter().chain(&self.environment);
        let texts = texts
            .chain(&self.directory)
            .chain(&self.user)
            .chain(&self.host_name)
            .chain(
                self.tmpfs
                    .iter()
                    .flat_map(|tmpfs| [Some(&tmpfs.target), tmpfs.options.as_ref()])
                    .flatten(),
            );
        within(texts.clone().all(|text| !text.contains(&0)), "a zero in a text")?;
        within(
            texts.map(Vec::len).sum::<usize>() <= FRAME_MAX,
            "texts that are too long",
        )?;
        let mut names = self
            .environment
            .iter()
            .map(|entry| entry.iter().position(|byte| *byte == b'='));
        within(
            names.all(|end| end.is_some_and(|end| end > 0)),
            "a variable without a name",
        )?;
        let host_name = self.host_name.as_ref();
        within(
            host_name.is_none_or(|name| (1..=HOST_NAME_MAX).contains(&name.len())),
            "a host name that is empty or too long",
        )?;
        self.tmpfs
            .iter()
            .try_for_each(|tmpfs| check_path(&tmpfs.target))?;
        self.stop_signal.map_or(Ok(()), check_signal)?;
        self.terminal.as_ref().map_or(Ok(()), WindowSize::check)
    }
}

impl CopyIn {
    fn check(&self) -> Result<(), Error> {
        check_path(&self.path)?;
        match &self.source {
            CopySource::File(name) | CopySource::Directory { name, .. } => {
                let is_name = (1..=NAME_MAX).contains(&name.len())
                    && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
                    && !matches!(&name[..], b"." | b"..");
                within(is_name, "a name that no file can have")
            }
            CopySource::Archive => Ok(()),
        }
    }
}

impl WindowSize {
    fn check(&self) -> Result<(), Error> {
        within(
            self.rows > 0 && self.columns > 0,
            "a terminal without rows or columns",
        )
    }
}

fn check_data(may_carry: bool, data: &[u8]) -> Result<(), Error> {
    match may_carry {
        true => within(
            (1..=DATA_MAX).contains(&data.len()),
            "too few or too many bytes of a stream",
        ),
        false => within(data.is_empty(), "bytes behind it"),
    }
}

fn check_path(path: &[u8]) -> Result<(), Error> {
    within(
        (1..=PATH_MAX).contains(&path.len()) && !path.contains(&0),
        "a path that no file can have",
    )
}

fn check_window(bytes: u32) -> Result<(), Error> {
    within((1..=WINDOW).contains(&bytes), "a count that is out of range")
}

fn check_signal(number: u8) -> Result<(), Error> {
    within((1..=SIGNAL_MAX).contains(&number), "a signal that does not exist")
}

fn within(is_so: bool, otherwise: &'static str) -> Result<(), Error> {
    if is_so {
        Ok(())
    } else {
        Err(Error::OutOfBounds(otherwise))
    }
}

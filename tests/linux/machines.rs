//! The nested machines, and which trials each of them runs.

use std::env;
use std::fmt;
use std::str::FromStr;

use crate::intel;

/// The machine that the trials run in, as [`Machine::name`] gives it. Set inside a nested machine.
pub const INSIDE: &str = "CORACLE_LINUX_TESTS_INSIDE";

/// `amd` or `intel` in this variable: all trials on machines of that vendor, and none on the other's.
const VENDOR: &str = "CORACLE_NESTED";

/// AMD machines at once, each with a share of the trials. Each keeps one processor busy, and even a small host has two.
const AMD_MACHINES: usize = 2;

/// A nested machine and the trials that it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// An AMD machine with the share of this number, of [`AMD_MACHINES`] shares.
    Amd(usize),
    /// The Intel machine with those trials in which the vendors differ.
    Intel,
    /// The Intel machine with all trials.
    IntelAlone,
}

impl Machine {
    /// The option of tests/nested/run.
    pub fn option(self) -> &'static str {
        match self {
            Self::Amd(_) => "--amd",
            Self::Intel | Self::IntelAlone => "--intel",
        }
    }

    /// Whether it runs the trial with this number and name. Neighbours run on different AMD machines, because they take
    /// about equally long.
    pub fn runs(self, number: usize, name: &str) -> bool {
        match self {
            Self::Amd(share) => number % AMD_MACHINES == share,
            Self::Intel => intel::runs(name),
            Self::IntelAlone => true,
        }
    }

    pub fn name(self) -> String {
        match self {
            Self::Amd(share) => format!("amd-{share}"),
            Self::Intel => "intel".into(),
            Self::IntelAlone => "intel-alone".into(),
        }
    }
}

impl FromStr for Machine {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        (0..AMD_MACHINES)
            .map(Self::Amd)
            .chain([Self::Intel, Self::IntelAlone])
            .find(|machine| machine.name() == name)
            .ok_or_else(|| format!("{INSIDE} is {name:?}, which is no machine's name"))
    }
}

/// For a person who reads which machine it was.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Amd(share) => write!(f, "AMD machine {} of {AMD_MACHINES}", share + 1),
            Self::Intel | Self::IntelAlone => f.write_str("the Intel machine"),
        }
    }
}

/// The machine that this process runs in, if it is a nested one.
pub fn current() -> Option<Machine> {
    let name = env::var(INSIDE).ok()?;
    Some(name.parse().unwrap_or_else(|why| panic!("{why}")))
}

/// The machines that run the trials. All run at once: a host of two processors is busy with three of them, but with none
/// left over to run alone at the end, so that is sooner done than two after the other.
pub fn all() -> Result<Vec<Machine>, String> {
    let amd = (0..AMD_MACHINES).map(Machine::Amd);
    match env::var(VENDOR).as_deref() {
        Err(_) => Ok(amd.chain([Machine::Intel]).collect()),
        Ok("amd") => Ok(amd.collect()),
        Ok("intel") => Ok(vec![Machine::IntelAlone]),
        Ok(other) => Err(format!(
            "{VENDOR} is {other:?}, but there are the machines `amd` and `intel`"
        )),
    }
}

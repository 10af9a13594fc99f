//! Why a run ended: makes of an [`Outcome`] and the guest's last console lines an exit code, one explanation and one
//! suggestion.
//!
//! A guest may print anything. What it prints chooses between explanations and is quoted in them; nothing else depends
//! on it.

/// The built-in guest's init, when it gives up.
mod built_in_init;
/// The guest's last console lines, safe to show.
mod console;
/// The exit codes of `coracle`.
pub mod exit_code;
/// An initrd that the kernel could not unpack.
mod initrd;
/// Failures of the kernel's own code.
mod oops;
/// A Linux guest's panic.
mod panic;
/// Where a vCPU was.
mod place;
/// A root file system that could not be mounted.
mod root;

use std::fmt;
use std::io;

use crate::boot::parameters;
use crate::machine::Outcome;
pub use initrd::InitrdWatch;
use panic::Panic;
use place::at;

/// How many console lines an explanation shows.
const CONSOLE_LINES: usize = 6;

/// What an explanation may use of the machine that ran.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub memory_mib: u64,
    pub has_initrd: bool,
    pub has_disk: bool,
    /// Whether the guest was Coracle's own.
    pub built_in: bool,
    /// The kernel's whole command line.
    pub command_line: String,
    /// How far the kernel's virtual addresses are above those in its file.
    pub kernel_moved: u64,
    /// Why the kernel could not unpack the initrd, if it said so, as [`InitrdWatch`] found it.
    pub initrd_failure: Option<String>,
}

impl Facts {
    /// The root device that the command line names; the last one counts.
    fn root(&self) -> Option<String> {
        parameters::last_value(&self.command_line, "root").map(console::clean)
    }

    /// Whether the command line has this parameter with this value, or without one.
    fn has_parameter(&self, name: &str, value: Option<&str>) -> bool {
        parameters::parameters(&self.command_line)
            .any(|parameter| parameter.is(name) && parameter.value == value)
    }

    fn has_serial_console(&self) -> bool {
        parameters::parameters(&self.command_line).any(|parameter| {
            parameter.is("console") && parameter.value.is_some_and(|value| value.starts_with("ttyS0"))
        })
    }
}

/// What a run's end means to the person or the program that started it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    pub exit_code: u8,
    /// None after a power-off about which there is nothing to say.
    pub explanation: Option<Explanation>,
}

/// One short block for stderr.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Explanation {
    pub what: String,
    /// The console lines that matter, at most 6, without anything that a terminal acts on.
    pub console: Vec<String>,
    pub cause: Option<String>,
    pub next: Option<String>,
    /// What else went wrong, and may be the reason.
    pub note: Option<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "coracle: {}", console::shorten(&self.what))?;
        for line in &self.console {
            write!(formatter, "\n  | {}", console::shorten(line))?;
        }
        if let Some(cause) = &self.cause {
            write!(formatter, "\n  likely: {}", console::shorten(cause))?;
        }
        if let Some(next) = &self.next {
            write!(formatter, "\n  try: {}", console::shorten(next))?;
        }
        if let Some(note) = &self.note {
            write!(formatter, "\n  note: {}", console::shorten(note))?;
        }
        Ok(())
    }
}

/// Explains an outcome. `console_tail` is the raw end of the guest's console output, of which only the last 8 KiB are read.
pub fn explain(outcome: &Outcome, console_tail: &[u8], facts: &Facts) -> Diagnosis {
    let lines = console::lines(console_tail);
    let panic = panic::find(&lines, facts.built_in);
    let (exit_code, mut explanation) = match (outcome, &panic) {
        (Outcome::PoweredOff, _) => {
            return Diagnosis {
                exit_code: exit_code::POWERED_OFF,
                explanation: facts
                    .initrd_failure
                    .as_ref()
                    .map(|reason| powered_off(reason, facts)),
            };
        }
        (Outcome::Halted, None) => halted(&lines, facts),
        // A panicked Linux resets the machine, through a triple fault if nothing else works.
        (Outcome::Reset | Outcome::Halted | Outcome::TripleFault { .. }, Some(panic)) => {
            (panic.exit_code(), panic.explain(facts))
        }
        (Outcome::Reset, None) => (exit_code::REBOOTED, reset(&lines, facts)),
        (Outcome::TripleFault { .. }, None) if panic::is_restarting(&lines) => {
            (exit_code::REBOOTED, reset(&lines, facts))
        }
        (Outcome::TripleFault { instruction_pointer }, None) => (
            exit_code::TRIPLE_FAULT,
            triple_fault(*instruction_pointer, &lines, facts),
        ),
        (
            Outcome::InternalError {
                suberror,
                instruction_pointer,
                instruction,
            },
            _,
        ) => (
            exit_code::KVM_FAILED,
            internal_error(*suberror, *instruction_pointer, instruction, &lines, facts),
        ),
        (Outcome::EntryFailed { reason }, _) => (exit_code::KVM_FAILED, entry_failed(*reason)),
        (Outcome::UnexpectedExit { reason }, _) => {
            let what =
                format!("KVM stopped the guest with exit reason {reason}, which Coracle does not know");
            let next = Some("coracle doctor; the host's `dmesg` may say more".into());
            (
                exit_code::KVM_FAILED,
                Explanation {
                    what,
                    console: last(&lines),
                    next,
                    ..Explanation::default()
                },
            )
        }
        (Outcome::RunFailed(error), _) => (exit_code::KVM_FAILED, run_failed(error, &lines)),
        (Outcome::Quit, panic) => (
            exit_code::QUIT,
            stopped("Ctrl-A x", panic.as_ref(), &lines, facts),
        ),
        (Outcome::Signal(number), panic) => {
            let by = signal_name(*number).map_or_else(|| format!("signal {number}"), str::to_owned);
            (
                exit_code::from_signal(*number),
                stopped(&by, panic.as_ref(), &lines, facts),
            )
        }
        (Outcome::ConsoleLost(error), _) => console_lost(error),
    };
    // The explanation of a panic about the root file system already names this as the cause.
    let is_told = |told: &Option<String>| {
        told.as_ref()
            .is_some_and(|text| text.contains("unpack the initrd"))
    };
    if let Some(reason) = &facts.initrd_failure
        && !is_told(&explanation.cause)
    {
        explanation.note = Some(format!("the kernel could not unpack all of the initrd: {reason}"));
    }
    Diagnosis {
        exit_code,
        explanation: Some(explanation.limited()),
    }
}

impl Explanation {
    fn limited(mut self) -> Self {
        let surplus = self.console.len().saturating_sub(CONSOLE_LINES);
        self.console.drain(..surplus);
        self
    }
}

/// A guest that powered off although a part of its initrd was missing.
fn powered_off(reason: &str, facts: &Facts) -> Explanation {
    Explanation {
        what: format!("the guest powered off, but its kernel could not unpack all of the initrd: {reason}"),
        next: Some(root::initrd_advice(reason, facts)),
        ..Explanation::default()
    }
}

fn reset(lines: &[String], facts: &Facts) -> Explanation {
    if lines.is_empty() {
        let (cause, next) = silence(facts);
        return Explanation {
            what: "the guest reset itself and had printed nothing".into(),
            cause,
            next,
            ..Explanation::default()
        };
    }
    Explanation {
        what: "the guest rebooted".into(),
        next: Some("--on-reboot restart to let it start again".into()),
        ..Explanation::default()
    }
}

/// What to try with a kernel that printed nothing.
const SEE_HOW_FAR: &str = "--cmdline 'console=ttyS0 earlyprintk=serial' to see how far it comes";

/// A guest whose processors all stand still for good. Linux halts, too, when it is to power off a machine that it cannot
/// switch off; only newer kernels say which of the two they were asked for.
fn halted(lines: &[String], facts: &Facts) -> (u8, Explanation) {
    let said = |text: &str| lines.iter().any(|line| line.contains(text));
    let is_shut_down =
        said("reboot: System halted") || said("reboot: Power down") || said("Power off not available");
    let has_no_switch = parameters::last_value(&facts.command_line, "acpi") == Some("off");
    let was_to_power_off = said("reboot: Power down") || said("Power off not available") || has_no_switch;
    if is_shut_down && was_to_power_off {
        let what = "the guest has shut down and halted: it could not switch its power off".into();
        let cause = has_no_switch.then(|| "with acpi=off Linux does not learn how".into());
        let explanation = Explanation {
            what,
            cause,
            ..Explanation::default()
        };
        return (exit_code::POWERED_OFF, explanation);
    }
    let explanation = match is_shut_down {
        true => Explanation {
            what: "the guest has shut down and halted, and did not power off".into(),
            next: Some("`poweroff` in the guest in place of `halt`, which ends with 0".into()),
            ..Explanation::default()
        },
        false => Explanation {
            what:
                "the guest halted: each of its processors waits with interrupts off, so none will ever go on"
                    .into(),
            console: last(lines),
            cause: lines.is_empty().then(|| {
                "the kernel printed nothing: Linux halts like this after an exception that comes before its console works, \
                 as on a processor that it does not expect"
                    .into()
            }),
            next: lines.is_empty().then(|| SEE_HOW_FAR.into()),
            ..Explanation::default()
        },
    };
    (exit_code::HALTED, explanation)
}

fn triple_fault(instruction_pointer: Option<u64>, lines: &[String], facts: &Facts) -> Explanation {
    let place = at(instruction_pointer, facts);
    let what =
        format!("triple fault{place}: the guest could not handle an exception, nor the exception of failing");
    if lines.is_empty() {
        let cause = format!(
            "the kernel printed nothing: {} MiB are too little for it, it is damaged, or it needs another processor",
            facts.memory_mib
        );
        return Explanation {
            what,
            cause: Some(cause),
            next: Some(format!("{SEE_HOW_FAR}; more --memory")),
            ..Explanation::default()
        };
    }
    let cause = match oops::first(lines) {
        Some(oops) => Some(format!("the kernel failed first: {oops}")),
        None if facts.has_parameter("reboot", Some("t")) || facts.has_parameter("reboot", Some("triple")) => {
            Some("the command line's reboot=t makes every reboot a triple fault".into())
        }
        None => None,
    };
    Explanation {
        what,
        console: last(lines),
        cause,
        ..Explanation::default()
    }
}

/// Linux's KVM API, section 5, `KVM_EXIT_INTERNAL_ERROR`.
fn internal_error(
    suberror: u32,
    instruction_pointer: Option<u64>,
    instruction: &[u8],
    lines: &[String],
    facts: &Facts,
) -> Explanation {
    const ADVICE: &str = "coracle doctor, which says whether this host's KVM can run a guest kernel";
    let place = at(instruction_pointer, facts);
    let bytes: Vec<String> = instruction
        .iter()
        .take(15)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let bytes = if bytes.is_empty() {
        String::new()
    } else {
        format!(" (bytes {})", bytes.join(" "))
    };
    let (failure, cause) = match suberror {
        1 if !instruction.is_empty() && instruction.iter().all(|&byte| byte == 0) => (
            "could not emulate an instruction",
            "the guest jumped to memory that holds no code",
        ),
        1 => (
            "could not emulate an instruction",
            "this KVM interprets guest kernels and does not know the instruction",
        ),
        2 => (
            "met a second exception while it emulated one",
            "a bug in the guest kernel's earliest code",
        ),
        3 => (
            "met a fault while it delivered an interrupt",
            "the guest's interrupt tables are broken, or not in its memory",
        ),
        4 => (
            "met an exit of the processor that it does not know",
            "a bug or an old version of the host's KVM",
        ),
        _ => (
            "met an error of its own",
            "a bug or an old version of the host's KVM",
        ),
    };
    let what = format!("KVM {failure}{place}{bytes}: internal error {suberror}");
    Explanation {
        what,
        console: last(lines),
        cause: Some(cause.into()),
        next: Some(ADVICE.into()),
        note: None,
    }
}

fn entry_failed(reason: u64) -> Explanation {
    // Intel SDM volume 3, section 27.8: bit 31 and basic reason 33. AMD APM volume 2, appendix C: VMEXIT_INVALID.
    let refused_state = reason == 0x8000_0021 || reason == u64::from(u32::MAX) || reason == u64::MAX;
    Explanation {
        what: format!("the processor refused to enter the guest: hardware reason {reason:#x}"),
        cause: refused_state
            .then(|| "a state of the guest's registers that this processor or its KVM does not allow".into()),
        next: Some("coracle doctor; the host's `dmesg` says more".into()),
        ..Explanation::default()
    }
}

fn run_failed(error: &io::Error, lines: &[String]) -> Explanation {
    let cause = match error.raw_os_error() {
        Some(libc::EFAULT) => Some("the guest used memory that the host could not give, or left its own"),
        Some(libc::ENOMEM) => Some("the host is out of memory"),
        _ => None,
    };
    Explanation {
        what: console::clean(&format!("KVM could not run the guest: {error}")),
        console: last(lines),
        cause: cause.map(str::to_owned),
        next: Some("coracle doctor; the host's `dmesg` may say more".into()),
        note: None,
    }
}

/// A run that a person or a program ended. When its kernel had panicked before and stood still, the panic is explained.
fn stopped(by: &str, panic: Option<&Panic<'_>>, lines: &[String], facts: &Facts) -> Explanation {
    if let Some(panic) = panic {
        let what = format!(
            "ended by {by}; the guest kernel had panicked: {}",
            panic.summary()
        );
        return Explanation {
            what,
            ..panic.explain(facts)
        };
    }
    let what = format!("ended by {by}, as if the guest's power had been cut");
    if lines.is_empty() {
        let (cause, next) = silence(facts);
        return Explanation {
            what: format!("{what}; it had printed nothing"),
            cause,
            next,
            ..Explanation::default()
        };
    }
    Explanation {
        what,
        ..Explanation::default()
    }
}

fn console_lost(error: &io::Error) -> (u8, Explanation) {
    let (exit_code, what) = match error.kind() {
        io::ErrorKind::BrokenPipe => (
            exit_code::STDOUT_CLOSED,
            "nobody reads the guest's console output any more: its power was cut".into(),
        ),
        _ => (
            exit_code::FAILED,
            console::clean(&format!("cannot write the guest's console output: {error}")),
        ),
    };
    (
        exit_code,
        Explanation {
            what,
            ..Explanation::default()
        },
    )
}

/// Why a kernel may have printed nothing, and what to do.
fn silence(facts: &Facts) -> (Option<String>, Option<String>) {
    let (cause, next) = if facts.built_in {
        (
            "this host's KVM is too slow or too old for a guest kernel",
            "coracle doctor",
        )
    } else if !facts.has_serial_console() {
        (
            "the command line does not name the serial console",
            "--cmdline console=ttyS0",
        )
    } else if facts.has_parameter("quiet", None) {
        (
            "`quiet` on the command line hides what the kernel says",
            "a command line without `quiet`",
        )
    } else {
        (
            "the kernel has no serial console (CONFIG_SERIAL_8250_CONSOLE), or stopped before it was up",
            "--cmdline earlyprintk=serial to see earlier output; coracle doctor if there is still none",
        )
    };
    (Some(cause.into()), Some(next.into()))
}

/// The last lines of the console.
fn last(lines: &[String]) -> Vec<String> {
    lines[lines.len().saturating_sub(4)..].to_vec()
}

fn more_memory(facts: &Facts) -> String {
    format!("more memory: --memory {}M", facts.memory_mib.saturating_mul(2))
}

/// The names of the signals that end programs (signal(7)).
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}

#[cfg(test)]
#[path = "explain_test.rs"]
mod tests;

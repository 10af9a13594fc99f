//! The panic of a Linux guest, read from its console. The texts are those of Linux 6.1; versions near it print the same.

use super::built_in_init::Complaint;
use super::root::Root;
use super::{Explanation, Facts, built_in_init, exit_code, more_memory, oops};

/// How Linux begins the line that says that it panicked (kernel/panic.c).
const MARK: &str = "Kernel panic - not syncing: ";
/// How Linux begins the line that repeats the panic at the end, if it does not reset.
const END_MARK: &str = "---[ end Kernel panic";
/// What Linux says last when it reboots because it was asked to (kernel/reboot.c).
const RESTARTING: &str = "reboot: Restarting system";
/// The first line of every Linux boot.
const BANNER: &str = "Linux version ";

/// How Linux names its first process until it becomes init: the kernel's own code is what fails until then.
const NOT_YET_INIT: &str = "PID: 1 Comm: swapper/";

/// The guest kernel's last panic.
pub struct Panic<'a> {
    /// What the kernel printed before it, since its boot.
    before: &'a [String],
    message: &'a str,
    kind: Kind,
    /// What the built-in guest's init said went wrong, if it is its end that the kernel panicked about.
    complaint: Option<Complaint<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    NoRoot,
    NoInit,
    /// Init died. The value is the status that `wait` would give to init's parent.
    InitDied(u32),
    /// The first process died while it was still the kernel's own, on its way to init.
    DiedBeforeInit,
    OutOfMemory,
    Other,
}

/// The last panic that the console tells of, unless the guest was rebooted in good order after it was printed. `built_in`
/// says whether the guest is Coracle's own.
pub fn find(lines: &[String], built_in: bool) -> Option<Panic<'_>> {
    let begins = lines
        .iter()
        .rposition(|line| line.contains(MARK) && !line.contains(END_MARK));
    let at = begins.or_else(|| lines.iter().rposition(|line| line.contains(MARK)))?;
    let (before, rest) = lines.split_at(at);
    if is_restarting(rest) {
        return None;
    }
    let (_, message) = rest.first()?.split_once(MARK)?;
    let message = message.strip_suffix(" ]---").unwrap_or(message);
    let boot = before.iter().rposition(|line| line.contains(BANNER)).unwrap_or(0);
    let before = before.get(boot..)?;
    let mut since_boot = before.iter().chain(rest);
    let kind = match Kind::of(message) {
        Kind::InitDied(_) if since_boot.any(|line| line.contains(NOT_YET_INIT)) => Kind::DiedBeforeInit,
        kind => kind,
    };
    let complaint = match kind {
        Kind::InitDied(_) if built_in => Complaint::last(before),
        _ => None,
    };
    Some(Panic {
        before,
        message,
        kind,
        complaint,
    })
}

/// Whether the guest said that it reboots because it was asked to.
pub fn is_restarting(lines: &[String]) -> bool {
    lines.iter().any(|line| line.contains(RESTARTING))
}

impl Kind {
    fn of(message: &str) -> Self {
        // mm/oom_kill.c, and what fails to allocate while the kernel boots.
        let starved = [
            "deadlocked on memory",
            "ailed to allocate",
            "can't allocate",
            "can not alloc",
            "out of range for init_memory",
        ];
        if message.starts_with("VFS: Unable to mount root fs") {
            Self::NoRoot
        } else if message.starts_with("No working init found") || message.starts_with("Requested init ") {
            Self::NoInit
        } else if let Some(status) = message.strip_prefix("Attempted to kill init! exitcode=0x") {
            let digits = status
                .split(|digit: char| !digit.is_ascii_hexdigit())
                .next()
                .unwrap_or_default();
            u32::from_str_radix(digits, 16).map_or(Self::Other, Self::InitDied)
        } else if message.starts_with("Out of memory") || starved.iter().any(|text| message.contains(text)) {
            Self::OutOfMemory
        } else {
            Self::Other
        }
    }
}

impl Panic<'_> {
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::NoRoot => exit_code::NO_ROOT,
            Kind::NoInit => exit_code::NO_INIT,
            Kind::InitDied(_) => self
                .built_in_kind()
                .map_or(exit_code::INIT_DIED, |kind| kind.exit_code),
            Kind::OutOfMemory => exit_code::OUT_OF_MEMORY,
            Kind::DiedBeforeInit | Kind::Other => exit_code::PANICKED,
        }
    }

    /// The panic in half a sentence.
    pub fn summary(&self) -> String {
        match self.kind {
            Kind::NoRoot => self.root().summary().into(),
            Kind::NoInit => "no init that it can run".into(),
            Kind::InitDied(status) => match self.built_in_kind() {
                Some(kind) => kind.summary.into(),
                None => format!("init died: {}", wait_status(status)),
            },
            Kind::DiedBeforeInit => "its own code failed before it started init".into(),
            Kind::OutOfMemory => "out of memory".into(),
            Kind::Other => self.message.into(),
        }
    }

    pub fn explain(&self, facts: &Facts) -> Explanation {
        let (cause, next) = match self.kind {
            Kind::NoRoot => {
                let (cause, next) = self.root().explain(facts);
                (Some(cause), Some(next))
            }
            Kind::NoInit => self.no_init(),
            Kind::InitDied(status) => self.init_died(status, facts),
            Kind::OutOfMemory => (
                Some(format!("the guest has {} MiB of memory", facts.memory_mib)),
                Some(more_memory(facts)),
            ),
            Kind::DiedBeforeInit | Kind::Other => self.other(),
        };
        let what = format!("the guest kernel panicked: {}", self.summary());
        Explanation {
            what,
            console: self.evidence(),
            cause,
            next,
            note: None,
        }
    }

    fn built_in_kind(&self) -> Option<&'static built_in_init::Kind> {
        self.complaint.as_ref()?.kind
    }

    fn root(&self) -> Root<'_> {
        Root::read(self.before, self.message)
    }

    fn no_init(&self) -> (Option<String>, Option<String>) {
        let failed = |line: &&str| line.contains("(error -");
        let attempt = Some(self.message)
            .filter(failed)
            .or_else(|| self.find_last(|line| failed(&line)));
        let number = attempt.and_then(|line| {
            line.split_once("(error -")?
                .1
                .split_once(')')?
                .0
                .parse::<u32>()
                .ok()
        });
        let cause = match number {
            Some(2) => "init, or the dynamic loader that it names, is not there",
            Some(8) => {
                "init is not a program that this kernel can run: made for another processor, or damaged"
            }
            Some(13) => "init is there but is not executable",
            Some(12) => "not enough memory to start init",
            Some(number) => {
                return (
                    Some(format!("init could not be started: error {number}")),
                    Some(INIT_ADVICE.into()),
                );
            }
            None => "the root file system has none of /sbin/init, /etc/init, /bin/init and /bin/sh",
        };
        (Some(cause.into()), Some(INIT_ADVICE.into()))
    }

    fn init_died(&self, status: u32, facts: &Facts) -> (Option<String>, Option<String>) {
        if let Some(oops) = oops::first(self.before) {
            return (Some(format!("the kernel itself failed first: {oops}")), None);
        }
        if self.find("Out of memory: Killed process").is_some() {
            return (
                Some(format!(
                    "the guest ran out of its {} MiB of memory",
                    facts.memory_mib
                )),
                Some(more_memory(facts)),
            );
        }
        if let Some(complaint) = &self.complaint {
            let next = complaint.kind.map(|kind| kind.next.to_owned());
            return (Some(complaint.text.to_owned()), next);
        }
        let (cause, next) = match (status & 0x7f, status >> 8 & 0xff) {
            (0, 127) => (
                "status 127 is how a shell says that it did not find a command",
                "check the paths in init",
            ),
            (0, 126) => (
                "status 126 is how a shell says that it may not run a command",
                "chmod +x what init runs",
            ),
            (0, _) => (
                "init must not end: the machine ends with it",
                "let init end with `poweroff -f` instead",
            ),
            (4, _) => (
                "init uses an instruction that the guest processor lacks",
                "build init for plain x86-64",
            ),
            _ => (
                "init crashed",
                "run the same program on the host, or under a shell as init, to see why",
            ),
        };
        (Some(cause.into()), Some(next.into()))
    }

    fn other(&self) -> (Option<String>, Option<String>) {
        let causes = [
            (
                "sysrq triggered crash",
                "someone asked for it through /proc/sysrq-trigger",
            ),
            (
                "softlockup",
                "a guest processor got no time for long: the host is overloaded, or its KVM is slow",
            ),
            (
                "hung_task",
                "a guest task waited too long: the host's disk or its processors are overloaded",
            ),
            (
                "IO-APIC + timer doesn't work",
                "the guest's timer interrupts come too late: the host's KVM is slow",
            ),
        ];
        let known = causes
            .iter()
            .find(|(start, _)| self.message.starts_with(start))
            .map(|(_, cause)| *cause)
            // The fault is in the idle task, an interrupt handler or another part of the kernel, and not in a program.
            .or_else(|| oops::first(self.before).map(|_| BUG))
            .or_else(|| {
                FATAL
                    .iter()
                    .any(|start| self.message.starts_with(start))
                    .then_some(BUG)
            });
        let next = known
            .filter(|cause| cause.contains("host"))
            .map(|_| "coracle doctor".into());
        (known.map(str::to_owned), next)
    }

    /// The console lines that show the cause, and as the last one the panic itself.
    fn evidence(&self) -> Vec<String> {
        let tellers: &[&str] = match self.kind {
            Kind::NoRoot => &[
                "Initramfs unpacking failed",
                "VFS: Cannot open root device",
                "No filesystem could mount root",
            ],
            Kind::NoInit => &["Failed to execute ", "couldn't execute it (error"],
            Kind::InitDied(_) => &["Out of memory: Killed process"],
            Kind::DiedBeforeInit => &["RIP: "],
            Kind::OutOfMemory => &[
                "invoked oom-killer",
                "Out of memory: Killed process",
                "Out of memory and no killable",
            ],
            Kind::Other => &["RIP: "],
        };
        let mut indices: Vec<usize> = tellers
            .iter()
            .filter_map(|text| self.before.iter().rposition(|line| line.contains(text)))
            .collect();
        let first = oops::first(self.before);
        indices.extend(first.and_then(|oops| self.before.iter().position(|line| line == oops)));
        if indices.is_empty() {
            // The last lines before the panic: most often they are init's.
            indices.extend(self.before.len().saturating_sub(3)..self.before.len());
        }
        indices.sort_unstable();
        indices.dedup();
        let mut evidence: Vec<String> = indices
            .iter()
            .filter_map(|&index| self.before.get(index).cloned())
            .collect();
        evidence.push(format!("{MARK}{}", self.message));
        evidence
    }

    fn find(&self, text: &str) -> Option<&str> {
        self.find_last(|line| line.contains(text))
    }

    fn find_last(&self, wanted: impl Fn(&str) -> bool) -> Option<&str> {
        self.before.iter().map(String::as_str).rfind(|line| wanted(line))
    }
}

const INIT_ADVICE: &str =
    "a static program at /sbin/init (at /init in an initrd), or --cmdline init=/PATH to name another";

const BUG: &str = "a bug in the guest kernel or one of its modules";
/// Panics that follow an oops. The oops itself may be too far back to be in the lines that are kept (kernel/exit.c,
/// arch/x86/kernel/{traps,dumpstack}.c).
const FATAL: &[&str] = &[
    "Fatal exception",
    "Attempted to kill",
    "Aiee, killing interrupt handler",
    "Oops",
    "Machine halted.",
];

/// A process's end as `wait` tells it: exit status in bits 8 to 15, signal in bits 0 to 6.
fn wait_status(status: u32) -> String {
    let signal = status & 0x7f;
    match super::signal_name(signal as i32) {
        _ if signal == 0 => format!("exit status {}", status >> 8 & 0xff),
        Some(name) => format!("killed by {name}"),
        None => format!("killed by signal {signal}"),
    }
}

#[cfg(test)]
#[path = "panic_test.rs"]
mod tests;

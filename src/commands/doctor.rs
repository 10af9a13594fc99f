//! `coracle doctor`: reports whether this host can run guests, and what to do if it cannot.

mod host;

use std::fmt;
use std::io::{self, IsTerminal};

use clap::builder::styling::AnsiColor;

use super::{Error, print};
use crate::confine::{self, Layer};
use crate::diagnosis::exit_code;
use crate::kvm::probe::{Capability, Speed};
use crate::kvm::{self, Kvm};
use crate::machine;
pub(super) use host::Host;

/// Report whether this host can run guests, and what to do if it cannot
///
/// Checks /dev/kvm, the capabilities of KVM that Coracle uses, how fast the kernel of a guest is on this host (by
/// running and timing a tiny guest), huge pages, memory, processors, and how far Coracle's own process is confined while a
/// guest runs. Changes nothing, and takes some milliseconds.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exit codes:
  0    Linux will boot on this host
  126  it will not: the lines marked FAIL say why, and what to do

Examples:
  coracle doctor                        what is wrong with this host?
  coracle doctor >/dev/null && make     go on only where guests can run")]
pub struct Args {}

/// Checks this host, prints the report on stdout, and gives the exit code.
pub fn execute(_: &Args) -> Result<u8, Error> {
    let mut report = examine(&Kvm::open().map(Offer::ask), &Host::read());
    report.checks.push(confinement(&confine::outlook()));
    let exit_code = if report.linux_will_boot() {
        0
    } else {
        exit_code::HOST_CANNOT
    };
    let text = match io::stdout().is_terminal() {
        true => report.coloured(),
        false => report.to_string(),
    };
    print("print the report", text)?;
    Ok(exit_code)
}

/// What KVM offers on this host.
pub(super) struct Offer {
    capabilities: Vec<Capability>,
    pub(super) speed: Result<Speed, kvm::Error>,
}

impl Offer {
    pub(super) fn ask(kvm: Kvm) -> Self {
        Self {
            capabilities: kvm.capabilities(),
            speed: kvm.measure_speed(),
        }
    }
}

/// The checks and what they found, a line each.
#[derive(Debug)]
pub struct Report {
    pub checks: Vec<Check>,
}

#[derive(Debug)]
pub struct Check {
    pub name: &'static str,
    pub status: Status,
    pub found: String,
    pub next: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Ok,
    /// Guests run, but slower or with less than they could have.
    Warning,
    /// Linux will not boot.
    Failed,
}

impl Report {
    pub fn linux_will_boot(&self) -> bool {
        self.failed().next().is_none()
    }

    /// The checks that say why Linux will not boot.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.status == Status::Failed)
    }

    fn coloured(&self) -> String {
        self.render(|status| {
            let colour = match status {
                Status::Ok => AnsiColor::Green,
                Status::Warning => AnsiColor::Yellow,
                Status::Failed => AnsiColor::Red,
            };
            let style = colour.on_default();
            format!("{style}{}{style:#}", status.symbol())
        })
    }

    fn render(&self, symbol: impl Fn(Status) -> String) -> String {
        let mut text = String::new();
        for check in &self.checks {
            text += &format!("{}  {:<14}{}\n", symbol(check.status), check.name, check.found);
            if let Some(next) = &check.next {
                text += &format!("{:>20}try: {next}\n", "");
            }
        }
        text += match self.linux_will_boot() {
            true => "Linux will boot on this host.\n",
            false => "Linux will not boot on this host.\n",
        };
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.render(|status| status.symbol().to_owned()))
    }
}

impl Status {
    fn symbol(self) -> &'static str {
        match self {
            Self::Ok => "ok  ",
            Self::Warning => "warn",
            Self::Failed => "FAIL",
        }
    }
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: found.into(),
            next: None,
        }
    }

    fn warning(name: &'static str, found: impl Into<String>, next: Option<String>) -> Self {
        Self {
            name,
            status: Status::Warning,
            found: found.into(),
            next,
        }
    }

    fn failed(name: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Failed,
            found: found.into(),
            next: Some(next.into()),
        }
    }
}

/// Makes every check, of what KVM offers and of what Linux says about the host.
pub(super) fn examine(kvm: &Result<Offer, kvm::Error>, host: &Host) -> Report {
    let mut checks = vec![device(kvm.as_ref().err(), host)];
    match kvm {
        Ok(offer) => {
            checks.push(Check::ok("KVM API", "version 12"));
            checks.push(capabilities(&offer.capabilities));
            checks.push(speed(&offer.speed));
        }
        Err(error @ kvm::Error::Version(_)) => {
            checks.push(Check::failed(
                "KVM API",
                error.to_string(),
                "a Linux kernel on the host that has KVM's stable API",
            ));
        }
        Err(_) => (),
    }
    checks.extend([
        processor(host),
        nested(host),
        huge_pages(host),
        memory(host),
        cpus(host),
    ]);
    Report { checks }
}

fn device(error: Option<&kvm::Error>, host: &Host) -> Check {
    const NAME: &str = "/dev/kvm";
    let Some(kvm::Error::Open { source }) = error else {
        let by = if host.modules.is_empty() {
            String::new()
        } else {
            format!(" ({})", host.modules.join(", "))
        };
        return Check::ok(NAME, format!("opens{by}"));
    };
    let (found, next) = cannot_open(source, host);
    Check::failed(NAME, found, next)
}

/// Why /dev/kvm cannot be opened, and what to do.
fn cannot_open(error: &io::Error, host: &Host) -> (String, &'static str) {
    match error.kind() {
        io::ErrorKind::PermissionDenied if host.is_container => (
            "permission denied, in a container".into(),
            "start the container with --device /dev/kvm and with the kvm group of the host",
        ),
        io::ErrorKind::PermissionDenied => (
            "permission denied".into(),
            "add yourself to the kvm group: sudo usermod -aG kvm $USER (then log in again)",
        ),
        io::ErrorKind::NotFound if host.is_container => (
            "missing, in a container".into(),
            "start the container with --device /dev/kvm",
        ),
        io::ErrorKind::NotFound => ("missing".into(), enable_kvm(host)),
        _ if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => {
            ("there, but no module of KVM behind it".into(), enable_kvm(host))
        }
        _ => (error.to_string(), "the host's `dmesg` may say more"),
    }
}

/// Why a machine could not be built. If KVM is the reason, also what to do, in the words of the report.
pub(super) fn with_advice(error: &machine::Error, host: impl FnOnce() -> Host) -> String {
    match error {
        machine::Error::Kvm(kvm::Error::Open { source }) => {
            let (found, next) = cannot_open(source, &host());
            format!("cannot open /dev/kvm: {found} (try: {next}; coracle doctor says more)")
        }
        error => error.to_string(),
    }
}

/// What the person can do so that a host without KVM has it.
fn enable_kvm(host: &Host) -> &'static str {
    match (host.vmx, host.svm, host.is_virtual) {
        (true, ..) => "sudo modprobe kvm_intel",
        (_, true, _) => "sudo modprobe kvm_amd",
        (.., true) => {
            "turn on nested virtualization for this machine, which is itself virtual; or use another host"
        }
        _ => {
            "turn on virtualization (Intel VT-x, AMD-V or SVM) in the firmware's set-up, then load kvm_intel or kvm_amd"
        }
    }
}

fn capabilities(capabilities: &[Capability]) -> Check {
    const NAME: &str = "capabilities";
    let missing = |required| -> Vec<&str> {
        let wanted = capabilities
            .iter()
            .filter(|capability| capability.required == required && !capability.present);
        wanted.map(|capability| capability.name).collect()
    };
    let (needed, useful) = (missing(true), missing(false));
    if !needed.is_empty() {
        let found = format!("required and not there: {}", needed.join(", "));
        return Check::failed(NAME, found, "a newer Linux kernel on the host");
    }
    if !useful.is_empty() {
        let found = format!("useful and not there: {}", useful.join(", "));
        return Check::warning(NAME, found, Some("a newer Linux kernel on the host".into()));
    }
    Check::ok(NAME, format!("all {} that Coracle uses", capabilities.len()))
}

fn speed(speed: &Result<Speed, kvm::Error>) -> Check {
    const NAME: &str = "guest kernels";
    const ELSEWHERE: &str = "a host whose processor has vmx or svm; or `make run` in Coracle's source tree, which \
                             emulates such a host";
    match speed {
        Ok(speed) if speed.is_interpreted() => {
            let mut found = format!(
                "interpreted by this KVM: {:.0} ns an instruction, {:.0} times as long as in this process",
                speed.guest,
                speed.ratio()
            );
            if !speed.missing.is_empty() {
                found += &format!("; without {}", speed.missing.join(", "));
            }
            Check::failed(NAME, found, ELSEWHERE)
        }
        Ok(speed) if !speed.missing.is_empty() => {
            let found = format!("run by the processor, but without {}", speed.missing.join(", "));
            Check::warning(NAME, found, Some("a kernel built for plain x86-64".into()))
        }
        Ok(speed) => Check::ok(
            NAME,
            format!(
                "run by the processor: {:.1} ns an instruction, {:.1} ns in this process",
                speed.guest, speed.host
            ),
        ),
        Err(kvm::Error::Call { what, source }) => Check::failed(
            NAME,
            format!("KVM could not {what}: {source}"),
            "the host's `dmesg` may say more",
        ),
        Err(error) => Check::failed(NAME, error.to_string(), "the host's `dmesg` may say more"),
    }
}

fn processor(host: &Host) -> Check {
    const NAME: &str = "processor";
    let extension = match (host.vmx, host.svm) {
        (true, _) => "with vmx",
        (_, true) => "with svm",
        _ => return Check::warning(NAME, format!("{}, without vmx or svm", host.processor), None),
    };
    Check::ok(NAME, format!("{}, {extension}", host.processor))
}

fn nested(host: &Host) -> Check {
    let found = match host.is_virtual {
        true => "yes: this host is itself a virtual machine, so leaving a guest takes longer",
        false => "no: this host is a machine of its own",
    };
    Check::ok("nested", found)
}

fn huge_pages(host: &Host) -> Check {
    const NAME: &str = "huge pages";
    match host.huge_pages.as_deref() {
        Some(setting @ ("always" | "madvise")) => Check::ok(NAME, format!("transparent, {setting}")),
        Some(setting) => Check::warning(
            NAME,
            format!("transparent huge pages are off ({setting}): guest memory is slower"),
            Some("echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled".into()),
        ),
        None => Check::warning(
            NAME,
            "this kernel has no transparent ones: guest memory is slower",
            None,
        ),
    }
}

fn memory(host: &Host) -> Check {
    /// MiB that a guest has by default, and a few for the host.
    const LITTLE: u64 = 160;
    let found = format!(
        "{} MiB, {} MiB of it free for guests",
        host.memory_mib, host.available_mib
    );
    match host.available_mib {
        0..LITTLE => Check::warning(
            "memory",
            found,
            Some("end other programs, or coracle run --memory 64M".into()),
        ),
        _ => Check::ok("memory", found),
    }
}

fn cpus(host: &Host) -> Check {
    Check::ok("CPUs", format!("{} that this process may use", host.cpus))
}

/// How far the process of a run is confined.
fn confinement(layers: &[Layer]) -> Check {
    const NAME: &str = "confinement";
    let is_enforced = |layer: &&Layer| layer.missing().is_none();
    let enforced: Vec<_> = layers
        .iter()
        .filter(is_enforced)
        .map(|layer| layer.name)
        .collect();
    let missing = layers
        .iter()
        .filter_map(|layer| Some((layer.name, layer.missing()?)));
    let missing: Vec<_> = missing.map(|(name, why)| format!("{name}: {why}")).collect();
    let found = format!("of Coracle itself while a guest runs: {}", enforced.join(", "));
    match missing.is_empty() {
        true => Check::ok(NAME, found),
        false => Check::warning(NAME, format!("{found}; not {}", missing.join("; not ")), None),
    }
}

#[cfg(test)]
#[path = "doctor_test.rs"]
mod tests;

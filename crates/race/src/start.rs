//! One start: starts a process, takes the time until its first line, and ends it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::MIB;
use super::interrupts::Interrupts;
use super::marks::{Mark, Marks};
use super::memory::{Memory, Processes};
use super::runner::Contestant;
use super::wait::{PATIENCE_AT_END, poll, run_within, wait4};
use super::watcher::Watcher;
use super::workload::Workload;

/// How long a workload may take to print its line: far more than any does, in software emulation too.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many lines of a runner's complaints explain a failure.
const COMPLAINTS: usize = 5;

/// Why a start gave no time.
pub enum Failure {
    /// The runner failed, for this reason.
    Runner(String),
    /// Somebody ended the race.
    Interrupted(i32),
}

/// What a start cost its runner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Start {
    /// Seconds from just before the process was started until the line was read.
    pub time: f64,
    /// Seconds of processor time, of the process and those of its descendants that it waited for, until its end right
    /// after the line.
    pub user: f64,
    pub system: f64,
    /// None where the process had ended before it was looked at.
    pub memory: Option<Memory>,
}

/// A process that was started. Dropping it ends it and its container.
pub struct Process<'a> {
    contestant: &'a Contestant,
    watcher: &'a Watcher,
    /// Bytes, of a VMM's guest.
    guest_memory: Option<u64>,
    id: String,
    pid: libc::pid_t,
    pub begin: Instant,
    stdout: Option<ChildStdout>,
    marks: Marks,
    complaints: PathBuf,
    /// How it ended, and what processor time it took.
    ended: Option<(ExitStatus, f64, f64)>,
}

impl<'a> Process<'a> {
    pub fn start(
        contestant: &'a Contestant,
        workload: &Workload,
        watcher: &'a Watcher,
        id: String,
    ) -> Result<Self, Failure> {
        let words = contestant.command(workload, &id);
        let complaints = workload.complaints(&id);
        let cannot = |error: io::Error| Failure::Runner(format!("cannot start {}: {error}", words[0]));
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&complaints).map_err(cannot)?)
            // A group of its own, so that Ctrl-C reaches only the race, which then ends the group.
            .process_group(0);
        if let Some(end) = contestant.end_words(&id) {
            watcher.undo_later(&id, &end);
        }
        let begin = Instant::now();
        let mut child = command.spawn().map_err(cannot)?;
        watcher.kill_later(child.id().cast_signed());
        Ok(Self {
            contestant,
            watcher,
            guest_memory: contestant.runner.is_vmm().then_some(workload.memory_mib * MIB),
            id,
            pid: child.id().cast_signed(),
            begin,
            stdout: child.stdout.take(),
            marks: Marks::default(),
            complaints,
            ended: None,
        })
    }

    /// When its output reached the mark.
    pub fn reached(&self, mark: Mark) -> Option<Instant> {
        self.marks.reached(mark)
    }

    pub fn memory(&self, processes: &Processes) -> Option<Memory> {
        processes.memory(self.pid.cast_unsigned(), self.guest_memory)
    }

    /// Stops a VMM, so that its memory stays as it was when it printed its line.
    pub fn freeze(&self) {
        if self.contestant.runner.is_vmm() {
            self.signal(libc::SIGSTOP);
        }
    }

    /// Ends it and its container, and gives user and system time in seconds.
    pub fn end(mut self) -> (f64, f64) {
        let (_, user, system) = self.end_once();
        (user, system)
    }

    fn end_once(&mut self) -> (ExitStatus, f64, f64) {
        if let Some(ended) = self.ended {
            return ended;
        }
        if self.delete_container() {
            // Its runner then ends too. Because the runner waited for the container, the container's processor time counts.
            self.read_to_end(PATIENCE_AT_END);
        }
        self.signal(libc::SIGKILL);
        self.reap()
    }

    /// Whether there is a container to delete. One that has ended already is no failure.
    fn delete_container(&self) -> bool {
        let end = self.contestant.end_command(&self.id);
        end.map(|end| run_within(end, PATIENCE_AT_END)).is_some()
    }

    fn reap(&mut self) -> (ExitStatus, f64, f64) {
        // From here on the number may become another process's.
        self.watcher.forget(self.pid);
        *self.ended.insert(wait4(self.pid))
    }

    fn signal(&self, signal: i32) {
        // SAFETY: kill touches no memory. The group is the one that our child leads, which nobody has waited for yet, so
        // that its number is still its own.
        unsafe { libc::kill(-self.pid, signal) };
    }

    /// Reads the output that is there. False at the end of the output.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let Some(stdout) = &mut self.stdout else {
            return false;
        };
        let result = stdout.read(&mut bytes);
        let now = Instant::now();
        match result {
            Ok(count) if count > 0 => {
                self.marks.feed(&bytes[..count], now);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            _ => false,
        }
    }

    /// Reads and discards its output until the last writer has closed it.
    fn read_to_end(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while let Some(descriptor) = self.descriptor() {
            match poll(&[descriptor], deadline) {
                Ok(ready) if ready == [true] && Instant::now() < deadline && self.read() => (),
                _ => return,
            }
        }
    }

    fn descriptor(&self) -> Option<RawFd> {
        self.stdout.as_ref().map(|stdout| stdout.as_raw_fd())
    }

    /// The failure of a process that did not come to the mark, with what it said.
    fn failure(&mut self, what: &str) -> Failure {
        if let Some(complaint) = self.marks.complaint() {
            return Failure::Runner(complaint.to_owned());
        }
        let complaints = last_lines(&self.complaints);
        let lines = match complaints.is_empty() {
            true => self.marks.last_lines(),
            false => complaints,
        };
        let said = match lines.is_empty() {
            true => "and said nothing".to_owned(),
            false => format!("and said: {}", lines.join(" / ")),
        };
        Failure::Runner(format!("{what}, {said}"))
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        self.end_once();
        self.watcher.forget(&self.id);
        let _ = fs::remove_file(&self.complaints);
    }
}

/// Reads the output of all processes until each has come to the mark.
pub fn watch(processes: &mut [Process], mark: Mark, interrupts: &Interrupts) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while processes.iter().any(|process| process.reached(mark).is_none()) {
        let has_more = look(processes, mark, interrupts, deadline)?;
        // A process that prints without end always has more output, so the deadline is checked each time.
        if !has_more || Instant::now() >= deadline {
            let what = format!("printed no line within {} s", PATIENCE.as_secs());
            let late = processes
                .iter_mut()
                .find(|process| process.reached(mark).is_none());
            return late.map_or(Ok(()), |process| Err(process.failure(&what)));
        }
    }
    Ok(())
}

/// Waits until the deadline for output of processes that have not come to the mark, and reads what there is. False when
/// there was none.
pub fn look(
    processes: &mut [Process],
    mark: Mark,
    interrupts: &Interrupts,
    deadline: Instant,
) -> Result<bool, Failure> {
    let mut descriptors = vec![interrupts.as_fd().as_raw_fd()];
    // poll(2) passes over negative descriptors.
    descriptors.extend(processes.iter().map(|process| match process.reached(mark) {
        None => process.descriptor().unwrap_or(-1),
        Some(_) => -1,
    }));
    let ready = poll(&descriptors, deadline)
        .map_err(|error| Failure::Runner(format!("cannot wait for it: {error}")))?;
    if let Some(signal) = interrupts.signal() {
        return Err(Failure::Interrupted(signal));
    }
    for (process, is_ready) in processes.iter_mut().zip(&ready[1..]) {
        if *is_ready && !process.read() && process.reached(mark).is_none() {
            // A process that closes its output has ended, or is ended now.
            process.signal(libc::SIGKILL);
            let (status, ..) = process.reap();
            process.delete_container();
            return Err(process.failure(&format!("ended before the line ({})", describe(status))));
        }
    }
    Ok(ready.contains(&true))
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => status.to_string(),
    }
}

fn last_lines(path: &Path) -> Vec<String> {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(COMPLAINTS)..]
        .iter()
        .map(|line| line.to_string())
        .collect()
}

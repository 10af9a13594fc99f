//! A machine that runs, as whoever holds it sees it.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::{io, mem};

use vmm_sys_util::eventfd::EventFd;

use super::activity::{Activity, Counters};
use super::footprint::Meter;
use super::memory::Memory;
use super::{Error, Outcome, vcpu};
use crate::devices::power_button::PowerButton;
use crate::devices::serial::SerialPort;
use crate::kvm::{Vcpu, Vm};
use crate::timeline::Timeline;
use crate::virtio::mmio::MmioTransport;
use crate::virtio::vsock;
use crate::x86::layout;

/// Whom in the guest others can reach from outside of it.
pub(super) struct Reached {
    pub power_button: Option<PowerButton>,
    /// The device that leads to the agent, if the guest has one.
    pub agent: Option<Arc<vsock::Backend>>,
    pub counters: Counters,
    pub meter: Option<Meter>,
    /// The guest is the built-in one, whose init starts the agent.
    pub brings_agent: bool,
}

/// A machine whose vCPUs run. Any thread can pause, resume and end it and wait for its end. Dropping it ends it.
pub struct Running {
    threads: Mutex<Vec<vcpu::Thread>>,
    /// Why the run ended, once nothing works for the guest any more.
    outcome: OnceLock<Arc<Outcome>>,
    board: Arc<vcpu::Board>,
    serial: Arc<SerialPort>,
    transports: Vec<Arc<MmioTransport>>,
    reached: Reached,
    /// Whether the devices rest. Whoever pauses or resumes the machine holds this until that is done, so that no thread
    /// resumes devices that another one is still pausing.
    is_paused: Mutex<bool>,
    /// The memory is the last to be dropped, after everything that uses it.
    owned: (Vm, Memory),
}

impl Running {
    /// Starts a thread for each of `vcpus`. If one cannot be started, the others are stopped.
    pub(super) fn start(
        vcpus: Vec<Vcpu>,
        board: Arc<vcpu::Board>,
        serial: Arc<SerialPort>,
        transports: Vec<Arc<MmioTransport>>,
        reached: Reached,
        owned: (Vm, Memory),
        timeline: &Timeline,
    ) -> Result<Self, Error> {
        let running = Self {
            threads: Mutex::default(),
            outcome: OnceLock::new(),
            board,
            serial,
            transports,
            reached,
            is_paused: Mutex::new(false),
            owned,
        };
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let thread = vcpu::Thread::start(index, vcpu, running.board.clone(), timeline.clone())?;
            running.lock_threads().push(thread);
        }
        Ok(running)
    }

    /// Becomes readable when the run ends.
    pub fn ended(&self) -> &EventFd {
        self.board.orders.ended()
    }

    /// The guest's console.
    pub fn serial(&self) -> &Arc<SerialPort> {
        &self.serial
    }

    /// Has the host's kernel take the VM apart after this process has ended, instead of before. To be called while the calling
    /// thread may still make a ring of io_uring.
    pub fn outlast_process(&self) -> io::Result<()> {
        self.owned.0.outlast_process()
    }

    /// Ends the run, unless it ended before.
    pub fn end(&self, outcome: Outcome) {
        self.board.orders.stop(outcome);
    }

    /// Stops the guest for a while, and waits until no vCPU and no device works for it. Returns whether that is so: a run
    /// that ends does not pause any more. A machine that is paused already stays as it is, and one call of
    /// [`Running::resume`] lets it go on. Any thread may call this, but no thread of the machine's own.
    pub fn pause(&self) -> bool {
        let mut is_paused = self.lock_pause();
        // A vCPU that waits for a slow reader of the output would make this wait as well.
        self.serial.release();
        if !self.board.orders.pause() {
            return false;
        }
        self.serial.hold();
        if !mem::replace(&mut *is_paused, true) {
            self.transports.iter().for_each(|transport| transport.pause());
        }
        true
    }

    /// Lets a guest that was paused go on.
    pub fn resume(&self) {
        let mut is_paused = self.lock_pause();
        if mem::take(&mut *is_paused) {
            self.transports.iter().for_each(|transport| transport.resume());
            self.board.orders.resume();
        }
    }

    /// Whether the machine has a power button.
    pub fn has_power_button(&self) -> bool {
        self.reached.power_button.is_some()
    }

    /// Presses the power button, which asks the guest to power itself off. False if the machine has none.
    pub fn press_power_button(&self) -> io::Result<bool> {
        match &self.reached.power_button {
            Some(button) => button.press().map(|()| true),
            None => Ok(false),
        }
    }

    /// Whether the guest's kernel has connected its power button, so that pressing it may do something.
    pub fn has_connected_power_button(&self) -> bool {
        self.has_power_button() && self.owned.0.is_line_connected(layout::POWER_BUTTON_IRQ)
    }

    /// Whether the agent in the guest listens.
    pub fn has_listening_agent(&self) -> bool {
        let agent = self.reached.agent.as_ref();
        agent.is_some_and(|agent| agent.has_service())
    }

    /// What the guest has made the machine do so far.
    pub fn activity(&self) -> Activity {
        self.reached.counters.read()
    }

    /// What measures this process's memory, if somebody may ask.
    pub fn meter(&self) -> Option<Meter> {
        self.reached.meter.clone()
    }

    /// Whether the guest has an agent: it listens, or will, as the built-in guest's does.
    pub fn has_agent(&self) -> bool {
        self.reached.agent.is_some() && (self.reached.brings_agent || self.has_listening_agent())
    }

    /// Makes `host` the host's end of a connection to the agent in the guest, as soon as that listens. If it cannot be reached, or the
    /// guest ends, `host` is closed.
    pub fn call_agent(&self, host: UnixStream) -> io::Result<()> {
        match &self.reached.agent {
            Some(agent) => agent.dial_service(host),
            None => Ok(()),
        }
    }

    fn lock_pause(&self) -> MutexGuard<'_, bool> {
        self.is_paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_threads(&self) -> MutexGuard<'_, Vec<vcpu::Thread>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the run has ended, and returns why: no vCPU and no device works for the guest any more. That can take as
    /// long as a disk of the host hangs. Any number of threads may call this, but no thread of the machine's own.
    pub fn wait(&self) -> Arc<Outcome> {
        let outcome = self.outcome.get_or_init(|| {
            let outcome = self.board.orders.wait_for_outcome();
            // A vCPU may wait for a slow reader of the output.
            self.serial.release();
            let threads = mem::take(&mut *self.lock_threads());
            threads.into_iter().for_each(vcpu::Thread::join);
            self.transports.iter().for_each(|transport| transport.stop());
            Arc::new(outcome.unwrap_or(Outcome::Quit))
        });
        outcome.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(Outcome::Quit);
        self.wait();
    }
}

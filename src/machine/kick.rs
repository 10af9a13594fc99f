//! Brings a vCPU's thread out of the guest, by a signal whose handler makes `KVM_RUN` return. The signal is sent by the
//! functions of [`Kicks`], and by the timer of [`Ticks`].
//!
//! The handler sets the vCPU's `immediate_exit`, so that a signal which comes just before `KVM_RUN` is not lost.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, mem, ptr};

use libc::SIGURG;
use vmm_sys_util::signal::{register_signal_handler, unblock_signal};

use crate::kvm::ImmediateExit;

/// The signal. It is not one of the real-time signals: the kernel refuses to send those when the user's processes have as
/// many signals pending as RLIMIT_SIGPENDING allows, and the vCPUs could then not be stopped. SIGURG does nothing to a
/// process that does not catch it, and Coracle uses it for nothing else.
const KICK: libc::c_int = SIGURG;

thread_local! {
    /// The flag of the vCPU that this thread runs, if it runs one.
    static IMMEDIATE_EXIT: Cell<Option<ImmediateExit>> = const { Cell::new(None) };
    /// Whether the signal came from this thread's [`Ticks`].
    static HAS_TICKED: Cell<bool> = const { Cell::new(false) };
}

/// Installs the handler of the signal. To be called before the first [`Kicks::kick_all`].
pub fn catch_signal() -> io::Result<()> {
    extern "C" fn handle(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the kernel gives a handler that is installed with SA_SIGINFO, as this one is, a valid siginfo_t.
        if unsafe { (*info).si_code } == libc::SI_TIMER {
            HAS_TICKED.set(true);
        }
        if let Some(immediate_exit) = IMMEDIATE_EXIT.get() {
            // SAFETY: the vCPU exists, because the Kickable that set this clears it within the vCPU's life.
            unsafe { immediate_exit.request() };
        }
    }
    register_signal_handler(KICK, handle).map_err(Into::into)
}

/// The threads that run a vCPU now.
#[derive(Default)]
pub struct Kicks(Mutex<Vec<libc::pthread_t>>);

impl Kicks {
    /// From here until the result is dropped, [`Kicks::kick_all`] reaches the calling thread, which runs the vCPU of
    /// `immediate_exit`.
    ///
    /// # Safety
    /// The vCPU must outlive the result.
    pub unsafe fn enter(&self, immediate_exit: ImmediateExit) -> Kickable<'_> {
        IMMEDIATE_EXIT.set(Some(immediate_exit));
        // A parent that blocks signals leaves this one blocked, too. This can only fail for a signal that does not exist.
        if let Err(error) = unblock_signal(KICK) {
            log::error!("cannot unblock the signal that stops a vCPU: {error}");
        }
        // SAFETY: the call has no preconditions.
        let thread = unsafe { libc::pthread_self() };
        self.lock().push(thread);
        Kickable { kicks: self, thread }
    }

    /// Makes the current `KVM_RUN` of each thread return; if a thread is not in `KVM_RUN`, the next one returns at once.
    pub fn kick_all(&self) {
        self.kick(|_| true);
    }

    /// Does the same as [`Kicks::kick_all`], except for the calling thread.
    pub fn kick_others(&self) {
        // SAFETY: the call has no preconditions.
        let own = unsafe { libc::pthread_self() };
        self.kick(|thread| thread != own);
    }

    fn kick(&self, is_meant: impl Fn(libc::pthread_t) -> bool) {
        for &thread in self.lock().iter().filter(|&&thread| is_meant(thread)) {
            // SAFETY: the thread exists, because it leaves the list, whose lock is held, before it ends.
            let error = unsafe { libc::pthread_kill(thread, KICK) };
            if error != 0 {
                let error = io::Error::from_raw_os_error(error);
                log::error!("cannot send a vCPU's thread a signal: {error}");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<libc::pthread_t>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by a thread while it runs a vCPU.
pub struct Kickable<'a> {
    kicks: &'a Kicks,
    thread: libc::pthread_t,
}

/// A timer that brings the calling thread out of the guest again and again.
pub struct Ticks(libc::timer_t);

impl Ticks {
    pub fn start(interval: Duration) -> io::Result<Self> {
        // SAFETY: all zeroes are a valid sigevent.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = KICK;
        // SAFETY: the call has no preconditions.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut timer = ptr::null_mut();
        // SAFETY: both pointers are to variables that outlive the call.
        if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let ticks = Self(timer);
        ticks.set(interval).map(|()| ticks)
    }

    /// The next tick comes after this time, and so does each one after it.
    pub fn set(&self, interval: Duration) -> io::Result<()> {
        let interval = libc::timespec {
            tv_sec: interval.as_secs() as libc::time_t,
            tv_nsec: interval.subsec_nanos().into(),
        };
        let times = libc::itimerspec {
            it_interval: interval,
            it_value: interval,
        };
        // SAFETY: the timer exists, and the pointer is to a variable that outlives the call.
        match unsafe { libc::timer_settime(self.0, 0, &times, ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Whether there was a tick since this was last asked.
    pub fn take(&self) -> bool {
        HAS_TICKED.take()
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        // SAFETY: the timer exists, and nobody uses it after this.
        unsafe { libc::timer_delete(self.0) };
    }
}

impl Drop for Kickable<'_> {
    fn drop(&mut self) {
        self.kicks.lock().retain(|&thread| thread != self.thread);
        IMMEDIATE_EXIT.set(None);
    }
}

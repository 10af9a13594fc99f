//! How a vCPU's thread is brought out of the guest: by a signal, whose handler makes `KVM_RUN` return.
//!
//! The handler sets the vCPU's `immediate_exit`, so that a signal which comes just before `KVM_RUN` is not lost.

use std::cell::Cell;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler, unblock_signal};

use crate::kvm::ImmediateExit;

thread_local! {
    /// Of the vCPU that this thread runs, if it runs one.
    static IMMEDIATE_EXIT: Cell<Option<ImmediateExit>> = const { Cell::new(None) };
}

/// Installs the handler of the signal. To be called before the first [`Kicks::kick_all`].
pub fn catch_signal() -> io::Result<()> {
    extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        if let Some(immediate_exit) = IMMEDIATE_EXIT.get() {
            // SAFETY: the vCPU exists, because the Kickable that set this clears it within the vCPU's life.
            unsafe { immediate_exit.request() };
        }
    }
    register_signal_handler(SIGRTMIN(), handle).map_err(Into::into)
}

/// The threads that run a vCPU at the moment.
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
        if let Err(error) = unblock_signal(SIGRTMIN()) {
            log::error!("cannot unblock the signal that stops a vCPU: {error}");
        }
        // SAFETY: the call has no preconditions.
        let thread = unsafe { libc::pthread_self() };
        self.lock().push(thread);
        Kickable { kicks: self, thread }
    }

    /// Makes the `KVM_RUN` that each thread is in return, or the next one of those that are in none.
    pub fn kick_all(&self) {
        for &thread in self.lock().iter() {
            // SAFETY: the thread exists, because it leaves the list, whose lock is held, before it ends.
            let error = unsafe { libc::pthread_kill(thread, SIGRTMIN()) };
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

impl Drop for Kickable<'_> {
    fn drop(&mut self) {
        self.kicks.lock().retain(|&thread| thread != self.thread);
        IMMEDIATE_EXIT.set(None);
    }
}

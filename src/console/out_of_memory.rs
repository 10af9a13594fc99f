//! Ends the process in an orderly way when the host gives it no more memory. The standard library calls abort(3) then, which
//! would leave the terminal raw, and give an exit code that looks like a bug's.
//!
//! [`NotingAllocator`] notes in which threads an allocation failed. From that the handler of SIGABRT tells this abort from
//! others.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};

use libc::SIGABRT;
use vmm_sys_util::signal::register_signal_handler;

use super::stderr::tell_at_once;
use super::terminal;

thread_local! {
    /// Whether an allocation of this thread has failed.
    static HAS_FAILED: Cell<bool> = const { Cell::new(false) };
}

static EXIT_CODE: AtomicU8 = AtomicU8::new(0);

/// The system's allocator, which also notes when it fails.
pub struct NotingAllocator;

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for NotingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises what the system's allocator asks for.
        noted(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        noted(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        noted(unsafe { System.realloc(memory, layout, size) })
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) };
    }
}

fn noted(memory: *mut u8) -> *mut u8 {
    if memory.is_null() {
        HAS_FAILED.set(true);
    }
    memory
}

/// Makes every later abort that a failed allocation causes, on any thread, end the process with this exit code. Any other
/// SIGABRT ends it as it always does, but for the terminal, which is restored. The program must use [`NotingAllocator`].
pub fn end_on_lack_of_memory(exit_code: u8) {
    extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        terminal::restore();
        if !HAS_FAILED.get() {
            // SAFETY: both may be called in a handler. The second signal comes when this one returns, and ends the process.
            unsafe {
                libc::signal(SIGABRT, libc::SIG_DFL);
                libc::raise(SIGABRT);
            }
            return;
        }
        tell_at_once(
            "coracle: the host gives Coracle no more memory (see the limits of the process with 'ulimit -v' and 'ulimit -d', \
             or free memory of the host)\n",
        );
        // SAFETY: the call does not return. Handlers of exit(3) are left out, since they may need memory.
        unsafe { libc::_exit(EXIT_CODE.load(Ordering::Relaxed).into()) };
    }
    EXIT_CODE.store(exit_code, Ordering::Relaxed);
    if let Err(error) = register_signal_handler(SIGABRT, handle) {
        log::debug!("cannot catch aborts: {}", io::Error::from(error));
    }
}

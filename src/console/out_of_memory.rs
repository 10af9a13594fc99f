//! Ends the process in an orderly way when the host gives it no more memory. The standard library calls abort(3) then, which
//! would leave the terminal raw, and give an exit code that looks like a bug's.
//!
//! [`NotingAllocator`] notes whether the last thing that a thread asked of it failed. Nothing is allocated or freed between
//! the failure and the abort, so from that the handler of SIGABRT tells this abort from others, also from one that comes
//! after a failed allocation without which the program could go on.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};

use libc::SIGABRT;
use vmm_sys_util::signal::register_signal_handler;

use super::stderr::tell_at_once;
use super::terminal;

thread_local! {
    /// Whether this thread's last call of the allocator failed.
    static HAS_FAILED: Cell<bool> = const { Cell::new(false) };
}

static EXIT_CODE: AtomicU8 = AtomicU8::new(0);

/// The system's allocator, which also notes whether it failed.
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
        HAS_FAILED.set(false);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) };
    }
}

fn noted(memory: *mut u8) -> *mut u8 {
    HAS_FAILED.set(memory.is_null());
    memory
}

/// Ends the process from the handler of a signal: restores the terminal, prints `words` on stderr, and exits.
pub fn end_at_once(words: &str, exit_code: u8) -> ! {
    terminal::restore();
    tell_at_once(words);
    // SAFETY: the call does not return. Handlers of exit(3) are left out, since they may need memory.
    unsafe { libc::_exit(exit_code.into()) }
}

/// Makes every later abort that a failed allocation causes, on any thread, end the process with this exit code. Any other
/// SIGABRT ends it as it always does, but for the terminal, which is restored. The program must use [`NotingAllocator`].
pub fn end_on_lack_of_memory(exit_code: u8) {
    extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        if !HAS_FAILED.get() {
            terminal::restore();
            // SAFETY: both may be called in a handler. The second signal comes when this one returns, and ends the process.
            unsafe {
                libc::signal(SIGABRT, libc::SIG_DFL);
                libc::raise(SIGABRT);
            }
            return;
        }
        end_at_once(
            "coracle: the host gives Coracle no more memory (see the limits of the process with 'ulimit -v' and 'ulimit -d', \
             or free memory of the host)\n",
            EXIT_CODE.load(Ordering::Relaxed),
        );
    }
    EXIT_CODE.store(exit_code, Ordering::Relaxed);
    if let Err(error) = register_signal_handler(SIGABRT, handle) {
        log::debug!("cannot catch aborts: {}", io::Error::from(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_allocation_counts_until_the_thread_allocates_or_frees_again() {
        let possible = Layout::from_size_align(16, 8).unwrap();
        let impossible = Layout::from_size_align(isize::MAX as usize & !0xfff, 8).unwrap();
        let has_failed_after = |layout| {
            // SAFETY: the layout is not empty.
            let memory = unsafe { NotingAllocator.alloc(layout) };
            (memory, HAS_FAILED.get())
        };
        assert_eq!(has_failed_after(impossible), (std::ptr::null_mut(), true));
        let (memory, has_failed) = has_failed_after(possible);
        assert!(!memory.is_null() && !has_failed);
        // SAFETY: the memory is of this allocator and has this layout.
        let grown = unsafe { NotingAllocator.realloc(memory, possible, impossible.size()) };
        assert!(grown.is_null() && HAS_FAILED.get());
        // SAFETY: as above; a failed realloc leaves it as it was.
        unsafe { NotingAllocator.dealloc(memory, possible) };
        assert!(!HAS_FAILED.get());
    }
}

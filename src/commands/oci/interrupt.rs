//! Signals that end a command while it talks to a registry.

use std::thread;
use std::time::Duration;

use coracle_images::Error as ImageError;
use coracle_images::registry::Cancel;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::commands::{Error, system};
use crate::console::{For, Request, Signals, borrow, suspend, wait};
use crate::diagnosis::exit_code;

/// How long the work may take to end once it is cancelled. It may wait for another process, which nothing tells of the signal.
const GRACE: Duration = Duration::from_secs(2);

/// Works until it is done, or a signal that ends programs cancels it. Nothing in the store is wrong if the process has to be ended in
/// the middle.
pub fn cancellable<T>(work: impl FnOnce(&Cancel) -> Result<T, ImageError>) -> Result<T, Error> {
    const WHAT: &str = "watch for signals";
    let mut signals = Signals::catch().map_err(system(WHAT))?;
    let done = EventFd::new(EFD_NONBLOCK).map_err(system(WHAT))?;
    let cancel = Cancel::default();
    let (worked, signal) = thread::scope(|scope| {
        let watcher = thread::Builder::new()
            .name("signals".into())
            .spawn_scoped(scope, || watch(&mut signals, &done, &cancel))
            .map_err(system(WHAT))?;
        let worked = work(&cancel);
        // It is written once, so it is never full.
        let _ = done.write(1);
        Ok::<_, Error>((worked, watcher.join().unwrap_or_default()))
    })?;
    signals.release();
    match (worked, signal) {
        (Err(ImageError::Cancelled), Some(number)) => Err(Error::Interrupted(number)),
        (worked, _) => Ok(worked?),
    }
}

/// Cancels at the first signal that ends programs, and gives its number once the work is done.
fn watch(signals: &mut Signals, done: &EventFd, cancel: &Cancel) -> Option<i32> {
    let mut ended = None;
    loop {
        let watched = [
            Some(For::Reading(borrow(done))),
            Some(For::Reading(std::os::fd::AsFd::as_fd(signals))),
        ];
        let ready = wait(watched, ended.map(|_| GRACE));
        match (ready, ended) {
            (Ok([true, _]) | Err(_), _) => return ended,
            (Ok([false, true]), _) => match signals.take() {
                Some(Request::End(number)) => {
                    ended.get_or_insert(number);
                    cancel.cancel();
                }
                Some(Request::Suspend) => suspend(),
                Some(Request::Resume | Request::Resize) | None => {}
            },
            (Ok([false, false]), Some(number)) => end(number),
            (Ok([false, false]), None) => {}
        }
    }
}

/// Ends the process although the work goes on.
fn end(number: i32) -> ! {
    let error = Error::Interrupted(number);
    crate::console::tell(format_args!("coracle: {error}"));
    // SAFETY: the process ends, and nothing is left to be done for it.
    unsafe { libc::_exit(exit_code::from_signal(number).into()) }
}

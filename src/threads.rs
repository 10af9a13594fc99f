//! Marks the error of a thread that could not be started. Its number is EAGAIN, which other calls give for other reasons.

use std::io;

/// The cause inside an [`io::Error`] that [`not_started`] made.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct NotStarted(io::Error);

/// Marks `error`, which comes from starting a thread.
pub fn not_started(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), NotStarted(error))
}

/// Whether [`not_started`] made `error`.
pub fn is_not_started(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<NotStarted>())
}

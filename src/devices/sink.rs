//! What a serial port is connected to on the host's side.

use std::sync::Arc;

/// Where the guest's output goes, and who is told that the port takes input again.
pub trait Sink: Send + Sync {
    /// Blocks until [`Sink::put`] has room for a byte of every vCPU, or until [`Sink::release`].
    fn wait_for_room(&self);
    /// Ends all waits for room, also later ones until [`Sink::hold`]: the vCPUs are to stop or pause.
    fn release(&self);
    /// Lets vCPUs wait for room again.
    fn hold(&self);
    /// Takes a byte; never blocks.
    fn put(&self, byte: u8);
    /// No byte follows at once: a line is whole, or the guest reads why the port interrupted it.
    fn pause(&self);
    /// The port refused input before, and takes some now. Called while the port is locked.
    fn takes_input(&self);
}

/// A sink that hands everything to another sink, and shows each byte to `look` after that.
struct Watched<F> {
    sink: Arc<dyn Sink>,
    look: F,
}

/// Wraps `sink` so that `look` sees each byte that passes. It must not block.
pub fn watched(sink: Arc<dyn Sink>, look: impl Fn(u8) + Send + Sync + 'static) -> Arc<dyn Sink> {
    Arc::new(Watched { sink, look })
}

impl<F: Fn(u8) + Send + Sync> Sink for Watched<F> {
    fn wait_for_room(&self) {
        self.sink.wait_for_room();
    }

    fn release(&self) {
        self.sink.release();
    }

    fn hold(&self) {
        self.sink.hold();
    }

    fn put(&self, byte: u8) {
        self.sink.put(byte);
        (self.look)(byte);
    }

    fn pause(&self) {
        self.sink.pause();
    }

    fn takes_input(&self) {
        self.sink.takes_input();
    }
}

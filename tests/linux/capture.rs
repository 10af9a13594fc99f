//! Collects what a process writes, on a thread of its own.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The bytes of one stream so far.
#[derive(Clone)]
pub struct Capture(Arc<(Mutex<Stream>, Condvar)>);

#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    ended: bool,
}

impl Capture {
    /// Reads `source` to its end on a thread of its own.
    pub fn of(mut source: impl Read + Send + 'static) -> Self {
        let capture = Self(Arc::default());
        let shared = capture.0.clone();
        thread::spawn(move || {
            let mut buffer = [0; 16 << 10];
            loop {
                // Reading fails with EIO when the program's side of a terminal is closed: the end of the stream, too.
                let count = source.read(&mut buffer).unwrap_or(0);
                let mut stream = shared.0.lock().unwrap();
                stream.bytes.extend_from_slice(&buffer[..count]);
                stream.ended = count == 0;
                shared.1.notify_all();
                if stream.ended {
                    break;
                }
            }
        });
        capture
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.0.lock().unwrap().bytes.clone()
    }

    /// Waits until `text` comes after the first `from` bytes, and returns the position after it. `None` if the stream
    /// ended or the deadline passed before it came.
    pub fn wait_for(&self, text: &[u8], from: usize, deadline: Instant) -> Option<usize> {
        let mut found = None;
        self.wait_until(deadline, |stream| {
            let rest = stream.bytes.get(from..).unwrap_or_default();
            found = find(rest, text).map(|at| from + at + text.len());
            found.is_some() || stream.ended
        });
        found
    }

    /// Waits until the stream has ended. False if the deadline passed first.
    pub fn wait_for_end(&self, deadline: Instant) -> bool {
        self.wait_until(deadline, |stream| stream.ended)
    }

    fn wait_until(&self, deadline: Instant, mut done: impl FnMut(&Stream) -> bool) -> bool {
        let (stream, changed) = &*self.0;
        let left = deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1));
        let waited = changed.wait_timeout_while(stream.lock().unwrap(), left, |stream| !done(stream));
        !waited.unwrap().1.timed_out()
    }
}

/// Where `text` begins in `bytes`.
pub fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

//! Clients that are attached to the guest's console: each has a connection that was a request, and is now the console's bytes
//! one way and what is typed the other way. They are served on the control socket's thread, and none waits for
//! another. A pause that waits for a disk has a thread of its own (waiting.rs), so they go on meanwhile.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{cmp, io};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::http::{Answer, Switch};
use crate::console::{Console, For, Keyboard, Pace, Read, Reader, borrow, wait};
use crate::guests::console_log::missing;

/// How many clients are attached at once. Each makes this process keep no more than [`PIECE`] and [`TYPED`] bytes.
pub const CLIENTS: usize = 16;
/// Bytes of the console that a client gets at once.
const PIECE: usize = 32 << 10;
/// Bytes of what a client has typed that wait for the guest.
const TYPED: usize = 4096;
/// How long bytes of the console may wait for those that follow, because a guest prints byte by byte.
const MOMENT: Duration = Duration::from_millis(1);

/// What is watched: the news, and each client.
pub const WATCHED: usize = CLIENTS + 1;

/// How many clients there are, for whoever waits until they are gone.
#[derive(Default)]
pub struct Count {
    count: Mutex<usize>,
    changed: Condvar,
}

/// All clients.
pub struct Attached {
    console: Console,
    count: Arc<Count>,
    /// Readable when the guest has printed something, or takes input.
    news: Arc<EventFd>,
    /// There as long as there are clients.
    keyboard: Option<Keyboard>,
    clients: Vec<Client>,
    /// When what the guest has printed since the last look is sent.
    gathers_until: Option<Instant>,
}

struct Client {
    socket: OwnedFd,
    reader: Reader,
    /// Bytes for it, of which so many are sent.
    out: Vec<u8>,
    sent: usize,
    /// There is more for it than it was sent.
    is_behind: bool,
    /// What it has typed and the guest has not taken.
    typed: Vec<u8>,
    /// It may type more.
    types: bool,
    /// It has gone. What it has typed is still for the guest.
    has_gone: bool,
    /// None once it has gone: nobody waits for it then.
    counted: Option<Counted>,
}

impl Count {
    /// Waits until no client is attached, for `patience` at most. Returns how many there are then.
    pub fn wait_for_none(&self, patience: Duration) -> usize {
        let waits = |count: &mut usize| *count > 0;
        let waited = self.changed.wait_timeout_while(self.lock(), patience, waits);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One in the count.
struct Counted(Arc<Count>);

impl Counted {
    fn new(count: &Arc<Count>) -> Self {
        *count.lock() += 1;
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.changed.notify_all();
    }
}

impl Attached {
    pub fn new(console: Console, count: Arc<Count>) -> io::Result<Self> {
        Ok(Self {
            console,
            count,
            news: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            keyboard: None,
            clients: Vec::new(),
            gathers_until: None,
        })
    }

    /// Attaches the client that has made a request on this connection, and sent `typed` behind it.
    pub fn add(&mut self, socket: OwnedFd, typed: &[u8]) {
        if self.clients.len() == CLIENTS {
            // The guest may never take what those have typed that have gone.
            self.clients.retain(|client| !client.has_gone);
        }
        if self.clients.len() == CLIENTS {
            let reason = format!("{CLIENTS} terminals are attached to it already");
            let answer = Answer::error(503, &reason).bytes();
            // It is short, so the socket takes all of it, unless the other end is gone.
            let _ = send(&socket, &answer);
            return;
        }
        let reader = self.console.attach(Pace::Misses);
        self.keyboard
            .get_or_insert_with(|| self.console.keyboard_telling(self.news.clone()));
        self.clients.push(Client {
            out: Switch {
                past: reader.unread(),
            }
            .bytes(),
            sent: 0,
            socket,
            reader,
            is_behind: true,
            typed: typed[..typed.len().min(TYPED)].to_vec(),
            types: true,
            has_gone: false,
            counted: Some(Counted::new(&self.count)),
        });
        self.go_on(|_| true);
    }

    /// What is to be watched, in the order of [`Attached::turn`].
    pub fn watch<'a>(&'a self, watched: &mut [Option<For<'a>>]) {
        let news = For::Reading(borrow(&self.news));
        let clients = self.clients.iter().map(Client::watched);
        for (place, watched) in watched.iter_mut().zip([Some(news)].into_iter().chain(clients)) {
            *place = watched;
        }
    }

    /// When there is something to do although nothing happens.
    pub fn patience(&self) -> Option<Duration> {
        self.gathers_until
            .map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// Does what there is to do. `ready` says what of that which was watched is ready.
    pub fn turn(&mut self, ready: &[bool]) {
        let now = Instant::now();
        let has_news = ready.first() == Some(&true);
        if has_news {
            // The counter is not 0, because poll said so; reading resets it.
            let _ = self.news.read();
            self.gathers_until.get_or_insert(now + MOMENT);
        }
        let is_due = self.gathers_until.is_some_and(|until| until <= now);
        if is_due {
            self.gathers_until = None;
            self.clients.iter_mut().for_each(|client| client.is_behind = true);
        }
        let ready = ready.get(1..).unwrap_or_default();
        self.go_on(|index| has_news || is_due || ready.get(index) == Some(&true));
        // So that each is the first one from time to time to whom the guest's room for input is given.
        if has_news && !self.clients.is_empty() {
            self.clients.rotate_left(1);
        }
    }

    /// Serves those clients, by their indices, for which there may be something to do.
    fn go_on(&mut self, is_ready: impl Fn(usize) -> bool) {
        let Some(keyboard) = &self.keyboard else { return };
        let mut index = 0;
        self.clients.retain_mut(|client| {
            index += 1;
            !is_ready(index - 1) || client.go_on(keyboard, &self.news).is_ok()
        });
        if self.clients.is_empty() {
            self.keyboard = None;
            self.gathers_until = None;
        }
    }
}

/// There is nothing more to do for a client.
struct Done;

impl Client {
    fn watched(&self) -> Option<For<'_>> {
        let socket = self.socket.as_fd();
        match (self.is_behind, self.reads()) {
            // Its socket is ready for ever.
            _ if self.has_gone => None,
            (true, true) => Some(For::Both(socket)),
            (true, false) => Some(For::Writing(socket)),
            (false, true) => Some(For::Reading(socket)),
            (false, false) => Some(For::HangUp(socket)),
        }
    }

    /// Whether it is to be read from.
    fn reads(&self) -> bool {
        self.types && self.typed.is_empty()
    }

    fn go_on(&mut self, keyboard: &Keyboard, news: &Arc<EventFd>) -> Result<(), Done> {
        self.write(news)?;
        self.pass_on(keyboard);
        while self.reads() && self.read()? {
            self.pass_on(keyboard);
        }
        self.has_gone |= !self.is_behind && !self.reads() && hung_up(&self.socket);
        if self.has_gone {
            self.counted = None;
        }
        match self.has_gone && self.typed.is_empty() {
            true => Err(Done),
            false => Ok(()),
        }
    }

    /// Sends a piece of what there is for it.
    fn write(&mut self, news: &Arc<EventFd>) -> Result<(), Done> {
        if !self.is_behind || self.has_gone {
            return Ok(());
        }
        if self.out.is_empty() {
            match self.reader.read_at_once(&mut self.out, PIECE, news) {
                None => self.is_behind = false,
                Some(Read::Ended) => return Err(Done),
                Some(Read::Woken | Read::Bytes { missed: 0 }) => (),
                Some(Read::Bytes { missed }) => {
                    self.out.splice(..0, missing(missed).into_bytes());
                }
            }
        }
        while self.sent < self.out.len() {
            match send(&self.socket, &self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => {
                    self.has_gone = true;
                    return Ok(());
                }
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Takes what it types. Returns whether it has typed something.
    fn read(&mut self) -> Result<bool, Done> {
        let mut typed = [0; TYPED];
        // SAFETY: the buffer is writable for its whole length.
        let count = unsafe {
            libc::recv(
                self.socket.as_raw_fd(),
                typed.as_mut_ptr().cast(),
                typed.len(),
                libc::MSG_DONTWAIT,
            )
        };
        match usize::try_from(count) {
            // It looks on still, unless the connection hangs up.
            Ok(0) => self.types = false,
            Ok(count) => self.typed.extend(&typed[..count]),
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => (),
            Err(_) => return Err(Done),
        }
        Ok(count > 0)
    }

    /// Gives the guest what it takes.
    fn pass_on(&mut self, keyboard: &Keyboard) {
        while !self.typed.is_empty() {
            match keyboard.type_in(&self.typed) {
                0 => return,
                taken => drop(self.typed.drain(..cmp::min(taken, self.typed.len()))),
            }
        }
    }
}

fn hung_up(socket: &OwnedFd) -> bool {
    matches!(
        wait([Some(For::HangUp(socket.as_fd()))], Some(Duration::ZERO)),
        Ok([true])
    )
}

/// Sends what the socket takes at once.
fn send(socket: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the buffer is readable for its whole length.
    let count = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
#[path = "attached_test.rs"]
mod tests;

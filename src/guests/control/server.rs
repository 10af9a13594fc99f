use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Control;
use super::attached::{self, Attached};
use super::http::{Answer, Parsed, REQUEST_MAX};
use super::waiting::Waiting;
use crate::confine::filter;
use crate::console::{Console, For, wait, with_all_signals_blocked};
use crate::threads;

/// How many connections are open at once. When one more comes, the oldest is closed, from which no whole request was read yet.
pub const CONNECTIONS: usize = 64;
/// So long a connection is not closed for that: whoever has just connected may not have come to send yet.
const GRACE: Duration = Duration::from_millis(100);

/// Starts the thread that answers the requests that come to `listener`, and attaches clients to `console`. It ends with the
/// process.
pub fn serve(listener: UnixListener, control: Arc<Control>, console: Console) -> io::Result<()> {
    let attached = Attached::new(console, control.attached.clone())?;
    let serve = move || {
        filter::narrow(filter::Kind::Control);
        let mut server = Server {
            listener,
            connections: VecDeque::with_capacity(CONNECTIONS),
            waiting: Arc::default(),
            attached,
        };
        loop {
            if let Err(error) = server.turn(&control) {
                log::warn!("nothing answers at the guest's control socket any more: {error}");
                // By a socket that somebody listens at other commands find the process still.
                mem::forget(server.listener);
                return;
            }
        }
    };
    with_all_signals_blocked(|| thread::Builder::new().name("control".into()).spawn(serve))
        .map(drop)
        .map_err(threads::not_started)
}

/// Where in what is watched the clients are that are attached to the console.
const FIRST_ATTACHED: usize = CONNECTIONS + 1;

struct Server {
    listener: UnixListener,
    connections: VecDeque<Connection>,
    waiting: Arc<Waiting>,
    attached: Attached,
}

/// A connection, with what it has sent of a request.
pub struct Connection {
    socket: UnixStream,
    since: Instant,
    bytes: Vec<u8>,
}

/// What becomes of a connection.
enum Next {
    /// More of its request is to come.
    Wait(Connection),
    /// It has done its work.
    Close,
    /// Its answer may have to wait.
    Defer(Connection),
    /// It becomes the console's. What has come behind the request is typed.
    Attach(UnixStream, Vec<u8>),
}

impl Server {
    /// Waits for something to do, and does it.
    fn turn(&mut self, control: &Arc<Control>) -> io::Result<()> {
        let grace = match self.connections.front() {
            Some(oldest) if self.connections.len() == CONNECTIONS => {
                GRACE.saturating_sub(oldest.since.elapsed())
            }
            _ => Duration::ZERO,
        };
        let mut watched = [None; FIRST_ATTACHED + attached::WATCHED];
        watched[0] = grace.is_zero().then_some(For::Reading(self.listener.as_fd()));
        for (entry, connection) in watched[1..].iter_mut().zip(&self.connections) {
            *entry = Some(For::Reading(connection.socket.as_fd()));
        }
        self.attached.watch(&mut watched[FIRST_ATTACHED..]);
        let grace = (!grace.is_zero()).then_some(grace);
        let ready = wait(watched, grace.into_iter().chain(self.attached.patience()).min())?;
        self.attached.turn(&ready[FIRST_ATTACHED..]);
        let connections = mem::take(&mut self.connections);
        for (connection, is_ready) in connections.into_iter().zip(&ready[1..]) {
            let next = match is_ready {
                true => connection.go_on(control),
                false => Next::Wait(connection),
            };
            match next {
                Next::Wait(connection) => self.connections.push_back(connection),
                Next::Close => (),
                Next::Defer(connection) => self.waiting.add(connection, control),
                Next::Attach(socket, typed) => self.attached.add(socket.into(), &typed),
            }
        }
        if ready[0] {
            self.accept()?;
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        match self.listener.accept() {
            Ok((socket, _)) => {
                if self.connections.len() == CONNECTIONS {
                    self.connections.pop_front();
                }
                self.connections.push_back(Connection {
                    socket,
                    since: Instant::now(),
                    bytes: Vec::new(),
                });
                Ok(())
            }
            Err(error) => match error.raw_os_error() {
                // The other end is gone already.
                Some(libc::EAGAIN | libc::ECONNABORTED | libc::EINTR) => Ok(()),
                // The connection stays ready, and would be tried again and again.
                Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => {
                    if self.connections.pop_front().is_none() {
                        wait([], Some(GRACE))?;
                    }
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }
}

impl Connection {
    /// Reads what is there, and answers a request that is whole.
    fn go_on(mut self, control: &Control) -> Next {
        let mut part = [0; REQUEST_MAX];
        let room = REQUEST_MAX - self.bytes.len();
        // SAFETY: the buffer is writable for so many bytes.
        let count = unsafe {
            libc::recv(
                self.socket.as_raw_fd(),
                part.as_mut_ptr().cast(),
                room,
                libc::MSG_DONTWAIT,
            )
        };
        let count = match usize::try_from(count) {
            Ok(count @ 1..) => count,
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => {
                return Next::Wait(self);
            }
            Ok(0) | Err(_) => return Next::Close,
        };
        self.bytes.extend(&part[..count]);
        let answer = match Parsed::of(&self.bytes) {
            Parsed::Part => return Next::Wait(self),
            Parsed::Whole(request) if request.attaches() => {
                let typed = request.rest.to_vec();
                return Next::Attach(self.socket, typed);
            }
            Parsed::Whole(request) if request.may_wait() => return Next::Defer(self),
            Parsed::Whole(request) => control.answer(&request),
            Parsed::Wrong => Answer::error(400, "this is no request of HTTP/1.1"),
        };
        self.send(&answer.bytes());
        if answer.is_upgrade() {
            control.call_agent(self.socket);
        }
        Next::Close
    }

    /// Answers a request that is whole.
    pub fn answer(self, control: &Control) {
        if let Parsed::Whole(request) = Parsed::of(&self.bytes) {
            let answer = control.answer_while(&request, &|| !self.is_closed());
            self.send(&answer.bytes());
        }
    }

    /// Whether the other end is gone. One that sends nothing more may still read.
    fn is_closed(&self) -> bool {
        let hung_up = wait([Some(For::HangUp(self.socket.as_fd()))], Some(Duration::ZERO));
        matches!(hung_up, Ok([true]))
    }

    /// An answer is short, so the socket takes all of it, unless the other end is gone.
    fn send(&self, bytes: &[u8]) {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the buffer is readable for its whole length.
        unsafe { libc::send(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    }
}

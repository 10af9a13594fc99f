//! The control socket of a guest, at which other commands ask its process for something: HTTP/1.1 with JSON.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /guest` | says whether the guest runs or is paused, and whether it can be asked to power off: it has an agent or a button |
//! | `GET /activity` | counts what the guest has made its machine do: exits by their kind, bytes read from and written to disks, and bytes received and sent through its socket device |
//! | `PUT /pause` | answers when no vCPU and no device works for the guest any more; other requests are answered meanwhile. If nobody waits for the answer then, the guest goes on |
//! | `PUT /resume` | lets the guest go on |
//! | `PUT /power-button` | presses the guest's power button, and does not wait for what the guest makes of it |
//! | `PUT /end` | ends the guest at once, as if its power was cut, and does not wait for that |
//! | `POST /exec` | makes the connection one to the agent in the guest, as soon as that listens |
//! | `POST /console` | makes the connection the console's: what the guest prints, and what is typed |
//!
//! A connection serves one request. Each answer is a JSON object; one that is no success has the member `error`. `POST` is answered
//! with 101 (RFC 9110 section 15.2.2) and no object. After that of `/exec` the bytes are those of the agent's protocol
//! (crates/agent-protocol), of which this process reads none.

/// Clients that are attached to the console.
mod attached;
/// The other commands' end.
mod client;
/// Requests and answers as bytes.
mod http;
/// The guest's process' end.
mod server;
/// Requests that may have to wait.
mod waiting;

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use serde_json::json;

use super::lock;
use crate::console::Steered;
use crate::machine::{Activity, Footprint, Meter, Outcome, Running};
use attached::Count;
pub use client::{Attachment, PATIENCE, ask, attach, call_agent, connect, is_served};
pub use http::{Answer, Parsed, Request, Switch};
pub use server::serve;

/// What requests do something with.
pub trait Machine: Send + Sync {
    /// See [`Running::pause`].
    fn pause(&self) -> bool;
    /// See [`Running::resume`].
    fn resume(&self);
    /// See [`Running::has_power_button`].
    fn has_power_button(&self) -> bool;
    /// See [`Running::press_power_button`].
    fn press_power_button(&self) -> io::Result<bool>;
    /// Ends the run.
    fn end(&self);
    /// See [`Running::has_agent`].
    fn has_agent(&self) -> bool;
    /// See [`Running::activity`].
    fn activity(&self) -> Activity;
    /// See [`Running::meter`].
    fn meter(&self) -> Option<Meter>;
    /// See [`Running::call_agent`].
    fn call_agent(&self, host: UnixStream) -> io::Result<()>;
}

/// The guest's machine, as far as there is one at the moment, and what others may know of it.
pub struct Control {
    /// Held by whoever pauses the machine or lets it go on, which may have to wait for a disk of the host's.
    pausing: Mutex<()>,
    /// Held for moments.
    state: Mutex<State>,
    /// The guest's lock, if it has a name.
    lock: Option<File>,
    /// How many clients are attached to the console.
    attached: Arc<Count>,
}

#[derive(Default)]
struct State {
    /// None between two boots.
    machine: Option<Arc<dyn Machine>>,
    /// It stands still, or will when a pause has been waited for.
    is_paused: bool,
    is_pausing: bool,
}

impl Control {
    pub fn new(lock: Option<File>) -> Self {
        Self {
            pausing: Mutex::default(),
            state: Mutex::default(),
            lock,
            attached: Arc::default(),
        }
    }

    /// Requests are for this machine from now on.
    pub fn connect(&self, machine: Arc<dyn Machine>) {
        self.lock().machine = Some(machine);
    }

    /// The machine is about to end. Waits while a request works with it.
    pub fn disconnect(&self) {
        let _pausing = hold(&self.pausing);
        let mut state = self.lock();
        state.machine = None;
        self.set_paused(&mut state, false);
    }

    /// Waits until the clients that are attached have got all that the console has printed, which has ended, for `patience` at most.
    /// Returns how many have not.
    pub fn wait_for_attached(&self, patience: Duration) -> usize {
        self.attached.wait_for_none(patience)
    }

    /// Carries a request out. One that [`Request::may_wait`] waits for the disks, and no other one waits for it.
    pub fn answer(&self, request: &Request) -> Answer {
        self.answer_while(request, &|| true)
    }

    /// Carries a request out. A guest is not left paused for somebody who `waits` no longer for that.
    fn answer_while(&self, request: &Request, waits: &dyn Fn() -> bool) -> Answer {
        match (request.method, request.path) {
            ("PUT", "/pause") => return self.pause(waits),
            ("PUT", "/resume") => return self.go_on(hold(&self.pausing)),
            ("GET", "/memory") => return self.memory(),
            _ => (),
        }
        let state = self.lock();
        match (request.method, request.path) {
            ("GET", "/guest") => Answer::ok(json!({
                "state": state.words(),
                "can_be_asked": state.machine.as_ref().map(|machine| machine.has_agent() || machine.has_power_button()),
            })),
            ("GET", "/activity") => match &state.machine {
                Some(machine) => {
                    let Activity {
                        exits,
                        disks_read,
                        disks_written,
                        sockets_received,
                        sockets_sent,
                    } = machine.activity();
                    Answer::ok(json!({
                        "exits": exits,
                        "disks": {"read": disks_read, "written": disks_written},
                        "sockets": {"received": sockets_received, "sent": sockets_sent},
                    }))
                }
                None => Answer::error(409, "the guest is between boots, or about to end"),
            },
            ("PUT", "/power-button") => {
                match state.machine.as_ref().map(|machine| machine.press_power_button()) {
                    Some(Ok(true)) => Answer::ok(json!({})),
                    Some(Ok(false)) => Answer::error(409, "the guest has no power button"),
                    Some(Err(error)) => {
                        Answer::error(409, &format!("the power button cannot be pressed: {error}"))
                    }
                    None => Answer::error(409, "the guest is about to end"),
                }
            }
            ("PUT", "/end") => match &state.machine {
                Some(machine) => {
                    machine.end();
                    Answer::ok(json!({}))
                }
                None => Answer::error(409, "the guest is about to end"),
            },
            ("POST", "/exec") if !request.rest.is_empty() => {
                Answer::error(400, "nothing may be sent before the answer 101")
            }
            ("POST", "/exec") => match &state.machine {
                Some(_) if state.is_paused || state.is_pausing => {
                    Answer::error(409, "the guest is paused: coracle unpause lets it go on")
                }
                Some(machine) if machine.has_agent() => Answer::upgrade(),
                Some(_) => Answer::error(
                    409,
                    "none listens: the guest has not come so far, or has none (coracle agent --install-into puts one into a root file system)",
                ),
                None => Answer::error(409, "the guest is about to end"),
            },
            (
                _,
                "/guest" | "/activity" | "/memory" | "/pause" | "/resume" | "/power-button" | "/end"
                | "/exec" | "/console",
            ) => Answer::error(405, "this method is not one of that path"),
            _ => Answer::error(404, "there is no such path"),
        }
    }

    fn memory(&self) -> Answer {
        let meter = self.lock().machine.as_ref().and_then(|machine| machine.meter());
        // While it reads, the others have the machine.
        match meter.map(|meter| meter.read()) {
            Some(Ok(Footprint { guest, beside })) => Answer::ok(json!({"guest": guest, "beside": beside})),
            Some(Err(error)) => Answer::error(409, &format!("the memory cannot be measured: {error}")),
            None => Answer::error(
                409,
                "the memory is not measured, or the guest is between boots or about to end",
            ),
        }
    }

    fn pause(&self, waits: &dyn Fn() -> bool) -> Answer {
        let pausing = hold(&self.pausing);
        let (machine, was_paused) = {
            let mut state = self.lock();
            state.is_pausing = true;
            (state.machine.clone(), state.is_paused)
        };
        let is_done = machine.is_some_and(|machine| machine.pause());
        let mut state = self.lock();
        state.is_pausing = false;
        if !is_done {
            return Answer::error(409, "the guest is about to end");
        }
        if !was_paused && !waits() {
            drop(state);
            self.go_on(pausing);
            return Answer::error(409, "nobody waited for the pause");
        }
        self.set_paused(&mut state, true);
        Answer::ok(json!({}))
    }

    fn go_on(&self, _pausing: MutexGuard<()>) -> Answer {
        let mut state = self.lock();
        match &state.machine {
            Some(machine) => {
                machine.resume();
                self.set_paused(&mut state, false);
                Answer::ok(json!({}))
            }
            None => Answer::error(409, "the guest is about to end"),
        }
    }

    /// Lets the guest go on if it is paused. False if that cannot be done now: a pause waits for a disk.
    pub fn resume(&self) -> bool {
        let pausing = match self.pausing.try_lock() {
            Ok(pausing) => pausing,
            Err(TryLockError::Poisoned(pausing)) => pausing.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        if self.lock().is_paused {
            self.go_on(pausing);
        }
        true
    }

    /// Makes a connection one to the agent, once that is its answer.
    fn call_agent(&self, host: UnixStream) {
        // A machine that is about to end is dropped by the thread that ends it, and by no other.
        let state = self.lock();
        if let Some(Err(error)) = state.machine.as_ref().map(|machine| machine.call_agent(host)) {
            log::warn!("cannot reach the agent in the guest: {error}");
        }
    }

    fn set_paused(&self, state: &mut State, is_paused: bool) {
        if state.is_paused == is_paused {
            return;
        }
        state.is_paused = is_paused;
        let noted = self.lock.as_ref().map(|lock| lock::set_paused(lock, is_paused));
        if let Some(Err(error)) = noted {
            log::warn!("cannot tell others whether the guest is paused: {error}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        hold(&self.state)
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn words(&self) -> &'static str {
        match (&self.machine, self.is_paused) {
            (None, _) => "between boots",
            (Some(_), true) => "paused",
            (Some(_), false) => "running",
        }
    }
}

impl Steered for Control {
    fn pause_or_resume(&self) -> Result<bool, String> {
        let pauses = !self.lock().is_paused;
        let asked = self.answer(&Request {
            method: "PUT",
            path: if pauses { "/pause" } else { "/resume" },
            rest: b"",
        });
        match asked.status {
            200 => Ok(pauses),
            _ => Err(client::reason(Some(asked)).to_string()),
        }
    }
}

impl Machine for Running {
    fn pause(&self) -> bool {
        Running::pause(self)
    }

    fn resume(&self) {
        Running::resume(self);
    }

    fn has_power_button(&self) -> bool {
        Running::has_power_button(self)
    }

    fn press_power_button(&self) -> io::Result<bool> {
        Running::press_power_button(self)
    }

    fn end(&self) {
        Running::end(self, Outcome::Signal(libc::SIGTERM));
    }

    fn has_agent(&self) -> bool {
        Running::has_agent(self)
    }

    fn meter(&self) -> Option<Meter> {
        Running::meter(self)
    }

    fn activity(&self) -> Activity {
        Running::activity(self)
    }

    fn call_agent(&self, host: UnixStream) -> io::Result<()> {
        Running::call_agent(self, host)
    }
}

#[cfg(test)]
#[path = "control_test.rs"]
mod tests;

//! The control socket of a guest, at which other commands ask its process for something: HTTP/1.1 with JSON.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /guest` | says whether the guest runs or is paused |
//! | `PUT /pause` | answers when no vCPU and no device works for the guest any more |
//! | `PUT /resume` | lets the guest go on |
//! | `PUT /power-button` | presses the guest's power button, and does not wait for what the guest makes of it |
//!
//! A connection serves one request. Each answer is a JSON object; one that is no success has the member `error`.

/// The other commands' end.
mod client;
/// Requests and answers as bytes.
mod http;
/// The guest's process' end.
mod server;

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::lock;
use crate::machine::Running;
pub use client::{PATIENCE, ask, connect, is_served};
pub use http::{Answer, Parsed, Request};
pub use server::serve;

/// What requests do something with.
pub trait Machine: Send + Sync {
    /// See [`Running::pause`].
    fn pause(&self) -> bool;
    /// See [`Running::resume`].
    fn resume(&self);
    /// See [`Running::press_power_button`].
    fn press_power_button(&self) -> io::Result<bool>;
}

/// The guest's machine, as far as there is one at the moment, and what others may know of it.
pub struct Control {
    state: Mutex<State>,
    /// The guest's lock.
    lock: File,
}

#[derive(Default)]
struct State {
    /// None between two boots.
    machine: Option<Arc<dyn Machine>>,
    is_paused: bool,
}

impl Control {
    pub fn new(lock: File) -> Self {
        Self {
            state: Mutex::default(),
            lock,
        }
    }

    /// Requests are for this machine from now on.
    pub fn connect(&self, machine: Arc<dyn Machine>) {
        self.lock().machine = Some(machine);
    }

    /// The machine is about to end. Waits while a request works with it.
    pub fn disconnect(&self) {
        let mut state = self.lock();
        state.machine = None;
        self.set_paused(&mut state, false);
    }

    /// Carries a request out.
    pub fn answer(&self, request: &Request) -> Answer {
        let mut state = self.lock();
        match (request.method, request.path) {
            ("GET", "/guest") => Answer::ok(json!({ "state": state.words() })),
            ("PUT", "/pause") => match state.machine.clone() {
                Some(machine) if machine.pause() => {
                    self.set_paused(&mut state, true);
                    Answer::ok(json!({}))
                }
                _ => Answer::error(409, "the guest is about to end"),
            },
            ("PUT", "/resume") => match state.machine.clone() {
                Some(machine) => {
                    machine.resume();
                    self.set_paused(&mut state, false);
                    Answer::ok(json!({}))
                }
                None => Answer::error(409, "the guest is about to end"),
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
            (_, "/guest" | "/pause" | "/resume" | "/power-button") => {
                Answer::error(405, "this method is not one of that path")
            }
            _ => Answer::error(404, "there is no such path"),
        }
    }

    fn set_paused(&self, state: &mut State, is_paused: bool) {
        if state.is_paused == is_paused {
            return;
        }
        state.is_paused = is_paused;
        if let Err(error) = lock::set_paused(&self.lock, is_paused) {
            log::warn!("cannot tell others whether the guest is paused: {error}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

impl Machine for Running {
    fn pause(&self) -> bool {
        Running::pause(self)
    }

    fn resume(&self) {
        Running::resume(self);
    }

    fn press_power_button(&self) -> io::Result<bool> {
        Running::press_power_button(self)
    }
}

/// What an answer that is no success says.
fn reason(body: &Value) -> io::Error {
    let reason = body
        .get("error")
        .and_then(Value::as_str)
        .unwrap_or("its answer has no reason");
    io::Error::other(crate::plain_text::clean(reason))
}

#[cfg(test)]
#[path = "control_test.rs"]
mod tests;

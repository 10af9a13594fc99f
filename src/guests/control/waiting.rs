//! Requests whose answers may have to wait, for a disk of the host's for one. A thread of their own answers them, one after the other, so that
//! attached terminals and all other requests wait for none of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use super::server::{CONNECTIONS, Connection};
use super::{Control, hold};
use crate::confine::filter;

/// The connections, and whether the thread runs: it does as long as there are any.
#[derive(Default)]
pub struct Waiting(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    connections: VecDeque<Connection>,
    has_thread: bool,
}

impl Waiting {
    /// Has a connection's request answered. When too many wait, the oldest is closed.
    pub fn add(self: &Arc<Self>, connection: Connection, control: &Arc<Control>) {
        let mut queue = self.lock();
        if queue.connections.len() == CONNECTIONS {
            queue.connections.pop_front();
        }
        queue.connections.push_back(connection);
        if queue.has_thread {
            return;
        }
        queue.has_thread = true;
        drop(queue);
        let (waiting, its_control) = (self.clone(), control.clone());
        // It inherits the filter of the thread that starts it, and that all signals are blocked.
        let started = thread::Builder::new().name("pause".into()).spawn(move || {
            filter::inherited(filter::Kind::Control);
            waiting.answer_all(&its_control)
        });
        if let Err(error) = started {
            log::warn!("the control socket's thread has to wait for a pause itself: {error}");
            self.answer_all(control);
        }
    }

    fn answer_all(&self, control: &Control) {
        while let Some(connection) = self.next() {
            connection.answer(control);
        }
    }

    fn next(&self) -> Option<Connection> {
        let mut queue = self.lock();
        let next = queue.connections.pop_front();
        queue.has_thread = next.is_some();
        next
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        hold(&self.0)
    }
}

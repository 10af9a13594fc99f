//! The agent: runs a program for the host, which is at the other end of a connection, and carries its streams
//! (crates/agent-protocol). It needs nothing of PID 1, and can run in any Linux guest.
//!
//! It calls the host and runs the one program that the guest is for ([`call_host`]), or it waits for calls ([`Service`]).

mod copy;
mod input;
mod kernel;
mod output;
mod prepare;
mod search;
mod service;
mod session;
mod start;
mod streams;
mod users;
mod vsock;

pub use service::{PowerOff, Service};
pub use session::{Ended, Session, State};
pub use vsock::call_host;

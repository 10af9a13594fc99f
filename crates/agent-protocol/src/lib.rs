//! Messages between Coracle and its agent in a guest, over a stream that carries bytes whole and in order.
//!
//! One connection runs one program. Each side first says which version it speaks ([`hello`]), without waiting for the
//! other. Then the host sends [`ToAgent::Run`], and the two exchange messages until the agent has sent
//! [`ToHost::Exited`], [`ToHost::Killed`] or [`ToHost::Failed`], which is its last. Whoever finds the connection closed
//! before that ends what it has: the agent kills the program. A host that may give up before the agent has come sends
//! [`ToAgent::Run`] only once it has the agent's hello ([`Channel::wait_for_peer`]): so nothing runs that nobody waits for.
//!
//! Instead of [`ToAgent::Run`] the host may send [`ToAgent::PowerOff`], which the agent answers by [`ToHost::PowersOff`] or
//! [`ToHost::Failed`]; or [`ToAgent::SetClock`] or [`ToAgent::AddEntropy`], which it answers by [`ToHost::Done`] or
//! [`ToHost::Failed`]; or [`ToAgent::CopyIn`] or [`ToAgent::CopyOut`], which start a program of the agent's own, with streams and an
//! end as any other.
//!
//! A message is a frame (`frame.rs`): its length, the message in postcard's encoding, and the bytes of a stream for those
//! messages that carry some. Messages are only added at the end of [`ToAgent`] and [`ToHost`], and never change; what a
//! peer of an older version would not understand needs a new [`VERSION`].
//!
//! Neither side sends more than the other has room for:
//! - Of the program's input, the agent asks for as much as the program reads ([`ToHost::Wants`]), and the host answers with
//!   one message of up to so many bytes, or with the end.
//! - Of each output stream, the agent sends [`WINDOW`] bytes, and as many more as the host says that it has passed on
//!   ([`ToAgent::Room`]).

mod channel;
mod frame;
mod message;

pub use channel::{AgentChannel, Channel, HostChannel};
pub use frame::{FRAME_MAX, Incoming, VERSION, hello, put};
pub use message::{
    CopyIn, CopyOut, CopySource, DATA_MAX, Failure, Message, Program, Reason, Stream, Tmpfs, ToAgent, ToHost,
    WindowSize, copy_status,
};

/// The port of the agent. When Coracle starts a guest for one program, the agent calls this port of the host. Any program in
/// the guest may call it; the agent is PID 1 and calls before it starts another, so the host's first caller is the agent.
///
/// In a guest that has a name the agent listens at this port of the guest, to run what `coracle exec` asks for. Linux lets only
/// root listen at a port below 1024.
pub const PORT: u32 = 1023;

/// The agent calls this port of the host when it listens. The call is refused: that it is made is all there is to tell. Any
/// program in the guest may call it, too, which only makes the host call an agent that may not be there.
pub const READY_PORT: u32 = 1022;

/// How many bytes of each output stream the agent sends before the host has passed any on.
pub const WINDOW: u32 = 64 << 10;

/// Why a peer is not understood. The connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The first bytes are not those of [`hello`].
    NotAnAgent,
    /// The peer speaks this version.
    Version(u16),
    /// A frame says that it is longer than its receiver takes.
    TooLong,
    /// A frame does not hold a message.
    Malformed,
    /// A message with a field that is out of its bounds; what is wrong.
    OutOfBounds(&'static str),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::NotAnAgent => f.write_str("it does not speak the agent's protocol"),
            Self::Version(theirs) => {
                write!(
                    f,
                    "it speaks version {theirs} of the agent's protocol, this one speaks {VERSION}"
                )
            }
            Self::TooLong => f.write_str("it sent a message that is too long"),
            Self::Malformed => f.write_str("it sent a message that cannot be read"),
            Self::OutOfBounds(what) => write!(f, "it sent a message with {what}"),
        }
    }
}

impl std::error::Error for Error {}

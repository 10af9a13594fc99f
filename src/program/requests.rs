//! Asking the agent in a guest for something that takes one message: to power it off, to set its clock.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use coracle_agent_protocol::{Failure, HostChannel, ToAgent, ToHost, hello, put};

use crate::console::{For, wait};
use crate::plain_text;

/// The whole of what is to be sent to the agent, for whoever does not read its answer.
pub fn power_off_request() -> Vec<u8> {
    let mut bytes = hello().to_vec();
    let fits = put(&mut bytes, &ToAgent::PowerOff, &[]);
    debug_assert!(fits);
    bytes
}

/// Asks the agent at the other end to power the guest off, and waits until it says that this has begun. An error says why it has
/// not.
pub fn power_off(connection: UnixStream, deadline: Instant) -> io::Result<()> {
    ask(connection, &ToAgent::PowerOff, &ToHost::PowersOff, deadline)
}

/// Has the agent at the other end set the guest's clock to the host's, and waits until that is done.
pub fn set_clock(connection: UnixStream, deadline: Instant) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, nanoseconds) = (now.as_secs(), now.subsec_nanos());
    let request = ToAgent::SetClock { seconds, nanoseconds };
    ask(connection, &request, &ToHost::Done, deadline)
}

/// Waits until the agent answers a request with `done`. An error says why it has not.
fn ask(connection: UnixStream, request: &ToAgent, done: &ToHost, deadline: Instant) -> io::Result<()> {
    connection.set_nonblocking(true)?;
    let mut channel = HostChannel::new(connection);
    let is_sent = channel.send(request, &[]);
    debug_assert!(is_sent);
    loop {
        channel.write()?;
        match channel.next()? {
            Some((answer, _)) if answer == *done => return Ok(()),
            Some((ToHost::Failed(Failure { text, .. }), _)) => {
                return Err(io::Error::other(plain_text::clean(&text)));
            }
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
            None => {}
        }
        let stream = channel.stream().as_fd();
        let watched = [
            Some(For::Reading(stream)),
            (channel.unsent() > 0).then_some(For::Writing(stream)),
        ];
        let left = deadline.saturating_duration_since(Instant::now());
        match wait(watched, Some(left))? {
            [false, false] => return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer")),
            [true, _] if !channel.read()? => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::thread;
    use std::time::Duration;

    use coracle_agent_protocol::Reason;

    use super::*;

    /// What comes of asking an agent that reads the request and says this.
    fn asked(answer: &[u8]) -> io::Result<()> {
        let (ours, mut agents) = UnixStream::pair().unwrap();
        let answer = answer.to_vec();
        let agent = thread::spawn(move || {
            let mut request = vec![0; power_off_request().len()];
            agents.read_exact(&mut request).unwrap();
            assert_eq!(request, power_off_request());
            agents.write_all(&answer).unwrap();
        });
        let asked = power_off(ours, Instant::now() + Duration::from_secs(60));
        agent.join().unwrap();
        asked
    }

    fn saying(message: &ToHost) -> Vec<u8> {
        let mut bytes = hello().to_vec();
        assert!(put(&mut bytes, message, &[]));
        bytes
    }

    #[test]
    fn an_agent_obeys_or_says_why_not_or_is_not_understood() {
        asked(&saying(&ToHost::PowersOff)).unwrap();
        let failure = Failure::new(Reason::Other, "no\u{1b}[2J way".into());
        let error = asked(&saying(&ToHost::Failed(failure))).unwrap_err().to_string();
        assert!(error.contains("no") && !error.contains('\u{1b}'), "{error}");
        for (answer, kind) in [
            (saying(&ToHost::Exited(0)), io::ErrorKind::InvalidData),
            (b"HTTP/1.1 400 no".to_vec(), io::ErrorKind::InvalidData),
            (hello().to_vec(), io::ErrorKind::UnexpectedEof),
        ] {
            assert_eq!(asked(&answer).unwrap_err().kind(), kind);
        }
        let mut older = hello();
        older[6] = 1;
        let error = asked(&older).unwrap_err().to_string();
        assert!(error.contains("speaks version 1"), "{error}");
    }

    #[test]
    fn the_clock_that_is_set_is_the_hosts() {
        let (ours, agents) = UnixStream::pair().unwrap();
        let agent = thread::spawn(move || {
            let mut channel = coracle_agent_protocol::AgentChannel::new(agents);
            let (seconds, nanoseconds) = loop {
                assert!(channel.read().unwrap());
                match channel.next().unwrap() {
                    Some((ToAgent::SetClock { seconds, nanoseconds }, _)) => break (seconds, nanoseconds),
                    Some(other) => panic!("{other:?}"),
                    None => {}
                }
            };
            assert!(channel.send(&ToHost::Done, &[]));
            channel.write().unwrap();
            UNIX_EPOCH + Duration::new(seconds, nanoseconds)
        });
        let before = SystemTime::now();
        set_clock(ours, Instant::now() + Duration::from_secs(60)).unwrap();
        let set = agent.join().unwrap();
        assert!(before <= set && set <= SystemTime::now());
    }

    #[test]
    fn an_agent_that_says_nothing_is_not_waited_for_longer_than_asked() {
        let (ours, _agents) = UnixStream::pair().unwrap();
        let error = power_off(ours, Instant::now() + Duration::from_millis(10)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}

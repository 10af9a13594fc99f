//! Copies with an agent at the other end of a socket, which does as it likes.

use std::os::fd::OwnedFd;
use std::thread::{self, JoinHandle};

use coracle_agent_protocol::{AgentChannel, CopyIn, CopyOut, CopySource, Reason};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn copy_in() -> ToAgent {
    ToAgent::CopyIn(CopyIn {
        path: b"/".to_vec(),
        source: CopySource::Archive,
        owners: false,
    })
}

fn copy_out() -> ToAgent {
    ToAgent::CopyOut(CopyOut {
        path: b"/".to_vec(),
        follows: false,
    })
}

/// An agent with a socket that blocks.
struct Agent(AgentChannel<UnixStream>);

impl Agent {
    fn say(&mut self, message: &ToHost, data: &[u8]) {
        assert!(self.0.send(message, data));
        self.0.write().unwrap();
    }

    fn hear(&mut self) -> (ToAgent, Vec<u8>) {
        loop {
            if let Some((message, data)) = self.0.next().unwrap() {
                return (message, data.to_vec());
            }
            assert!(self.0.read().unwrap(), "the host is gone");
        }
    }

    /// Waits until the host is gone.
    fn see_off(mut self) {
        while self.0.read().unwrap_or(false) {
            while self.0.next().unwrap().is_some() {}
        }
    }
}

fn with_agent<T: Send + 'static>(
    agent: impl FnOnce(Agent) -> T + Send + 'static,
) -> (UnixStream, JoinHandle<T>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let agent = thread::spawn(move || {
        let mut channel = AgentChannel::new(theirs);
        // The host may be gone already.
        let _ = channel.write();
        agent(Agent(channel))
    });
    (ours, agent)
}

/// A machine that runs on.
fn machine() -> (OwnedFd, OwnedFd) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours.into(), theirs.into())
}

/// Copies with this agent. Gives what `ours` gives, how the copy ended and what the agent said.
fn copy<T: Send + 'static>(
    what: &ToAgent,
    agent: impl FnOnce(Agent) -> T + Send + 'static,
    ours: impl FnOnce(&mut Copy) -> io::Result<()>,
) -> (io::Result<()>, Option<CopyEnded>, String, T) {
    let (connection, agent) = with_agent(agent);
    let (machine, _kept) = machine();
    let mut signals = Signals::catch().unwrap();
    let mut copy = Copy::new(connection, what, PATIENCE, machine.as_fd(), &mut signals, |_| ()).unwrap();
    let done = ours(&mut copy);
    let (ended, said, _) = copy.finish(done.is_ok());
    (done, ended, said, agent.join().unwrap())
}

#[test]
fn every_byte_goes_in_as_far_as_it_is_asked_for_and_then_the_end() {
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(200_000).collect();
    let sent = bytes.clone();
    let agent = |mut agent: Agent| {
        assert_eq!(agent.hear().0, copy_in());
        agent.say(&ToHost::Started, &[]);
        let mut taken = Vec::new();
        for asked in (1..=WINDOW).rev().step_by(1000).cycle() {
            agent.say(&ToHost::Wants(asked), &[]);
            match agent.hear() {
                (ToAgent::Input, data) => {
                    assert!(data.len() <= asked as usize);
                    taken.extend(data);
                }
                (ToAgent::InputEnd, _) => break,
                other => panic!("{other:?}"),
            }
        }
        agent.say(&ToHost::Output(Stream::Err), b"a word\n");
        agent.say(&ToHost::Exited(0), &[]);
        agent.see_off();
        taken
    };
    let (done, ended, said, taken) = copy(&copy_in(), agent, |copy| copy.write_all(&sent));
    done.unwrap();
    assert!(matches!(ended, Some(CopyEnded::Exited(0))), "{ended:?}");
    assert_eq!(said, "a word\n");
    assert!(taken == bytes);
}

#[test]
fn what_the_agent_packs_is_whole_only_if_it_says_so() {
    for status in [0, 2] {
        let agent = move |mut agent: Agent| {
            agent.hear();
            agent.say(&ToHost::Output(Stream::Out), &[7; 50_000]);
            let mut room = 0;
            while room < 50_000 {
                match agent.hear() {
                    (
                        ToAgent::Room {
                            stream: Stream::Out,
                            bytes,
                        },
                        _,
                    ) => room += bytes,
                    other => panic!("{other:?}"),
                }
            }
            agent.say(&ToHost::Output(Stream::Out), &[8; 10]);
            agent.say(&ToHost::OutputEnd(Stream::Out), &[]);
            agent.say(&ToHost::Exited(status), &[]);
            agent.see_off();
        };
        let mut read = Vec::new();
        let (done, ended, ..) = copy(&copy_out(), agent, |copy| copy.read_to_end(&mut read).map(drop));
        assert_eq!(read.len(), 50_010);
        assert_eq!(done.is_ok(), status == 0, "{done:?}");
        assert!(
            matches!(ended, Some(CopyEnded::Exited(is)) if is == status),
            "{ended:?}"
        );
    }
}

#[test]
fn an_agent_that_fails_or_lies_ends_the_copy() {
    let failure = || Failure::new(Reason::Other, "no".into());
    let ended = |what: ToAgent, agent: fn(&mut Agent)| {
        let agent = move |mut all: Agent| {
            all.hear();
            agent(&mut all);
            all.see_off();
        };
        let (done, ended, ..) = copy(&what, agent, |copy| match copy.write(b"x") {
            Ok(_) => copy.read_to_end(&mut Vec::new()).map(drop),
            Err(error) => Err(error),
        });
        assert!(done.is_err());
        ended.unwrap()
    };
    let fails = ended(copy_in(), |agent| {
        agent.say(&ToHost::Failed(Failure::new(Reason::Other, "no".into())), &[]);
    });
    assert!(
        matches!(&fails, CopyEnded::NotStarted(why) if *why == failure()),
        "{fails:?}"
    );
    let killed = ended(copy_in(), |agent| agent.say(&ToHost::Killed(9), &[]));
    assert!(matches!(killed, CopyEnded::Killed(9)), "{killed:?}");
    // More than there is room for.
    let lies = ended(copy_out(), |agent| {
        for _ in 0..3 {
            let _ = agent.0.send(&ToHost::Output(Stream::Out), &[0; DATA_MAX]);
        }
        let _ = agent.0.write();
    });
    assert!(
        matches!(&lies, CopyEnded::Agent(why) if why.kind() == ErrorKind::InvalidData),
        "{lies:?}"
    );
}

#[test]
fn an_agent_or_a_machine_that_is_gone_ends_the_copy() {
    let (done, ended, ..) = copy(&copy_in(), drop, |copy| copy.write_all(b"x"));
    assert!(done.is_err());
    assert!(matches!(ended, Some(CopyEnded::Agent(_))), "{ended:?}");
    let (connection, agent) = with_agent(Agent::see_off);
    let (machine, gone) = machine();
    drop(gone);
    let mut signals = Signals::catch().unwrap();
    let mut copy = Copy::new(
        connection,
        &copy_in(),
        PATIENCE,
        machine.as_fd(),
        &mut signals,
        |_| (),
    )
    .unwrap();
    assert!(copy.write_all(b"x").is_err());
    let (ended, ..) = copy.finish(false);
    assert!(matches!(ended, Some(CopyEnded::Machine)), "{ended:?}");
    agent.join().unwrap();
}

#[test]
fn an_agent_that_says_nothing_is_not_waited_for_longer_than_asked() {
    let (connection, _theirs) = UnixStream::pair().unwrap();
    let (machine, _kept) = machine();
    let mut signals = Signals::catch().unwrap();
    let patience = Duration::from_millis(10);
    let mut copy = Copy::new(
        connection,
        &copy_in(),
        patience,
        machine.as_fd(),
        &mut signals,
        |_| (),
    )
    .unwrap();
    assert!(copy.write_all(b"x").is_err());
    let (ended, ..) = copy.finish(false);
    assert!(matches!(ended, Some(CopyEnded::Agent(why)) if why.kind() == ErrorKind::TimedOut));
}

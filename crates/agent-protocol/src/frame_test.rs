use proptest::prelude::*;

use super::*;
use crate::{DATA_MAX, Failure, Program, Reason, Stream, Tmpfs, ToAgent, ToHost, WINDOW, WindowSize};

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1..=u8::MAX, 0..20)
}

fn variable() -> impl Strategy<Value = Vec<u8>> {
    ("[A-Z_]{1,8}", text()).prop_map(|(name, value)| [name.as_bytes(), b"=", &value].concat())
}

fn stream() -> impl Strategy<Value = Stream> {
    prop_oneof![Just(Stream::Out), Just(Stream::Err)]
}

fn size() -> impl Strategy<Value = WindowSize> {
    (1..=u16::MAX, 1..=u16::MAX).prop_map(|(rows, columns)| WindowSize { rows, columns })
}

fn program() -> impl Strategy<Value = Program> {
    (
        prop::collection::vec(text(), 1..5),
        prop::collection::vec(variable(), 0..5),
        prop::option::of(text()),
        prop::option::of(text()),
        prop::option::of("[a-z]{1,64}"),
        prop::option::of(size()),
        any::<bool>(),
        prop::collection::vec(tmpfs(), 0..3),
        any::<bool>(),
        prop::option::of(1..=64u8),
    )
        .prop_map(
            |(
                arguments,
                environment,
                directory,
                user,
                host_name,
                terminal,
                makes_directory,
                tmpfs,
                read_only,
                stop_signal,
            )| Program {
                arguments,
                environment,
                directory,
                user,
                host_name: host_name.map(String::into_bytes),
                terminal,
                makes_directory,
                tmpfs,
                read_only,
                stop_signal,
            },
        )
}

fn tmpfs() -> impl Strategy<Value = Tmpfs> {
    ("/[a-z]{1,10}", prop::option::of(text())).prop_map(|(target, options)| Tmpfs {
        target: target.into_bytes(),
        options,
    })
}

fn to_agent() -> impl Strategy<Value = (ToAgent, Vec<u8>)> {
    let data = prop::collection::vec(any::<u8>(), 1..100);
    prop_oneof![
        program().prop_map(|program| (ToAgent::Run(program), Vec::new())),
        data.prop_map(|data| (ToAgent::Input, data)),
        Just((ToAgent::InputEnd, Vec::new())),
        (stream(), 1..=WINDOW).prop_map(|(stream, bytes)| (ToAgent::Room { stream, bytes }, Vec::new())),
        stream().prop_map(|stream| (ToAgent::Closed { stream }, Vec::new())),
        (1..=64u8).prop_map(|number| (ToAgent::Signal(number), Vec::new())),
        size().prop_map(|size| (ToAgent::Resize(size), Vec::new())),
        Just((ToAgent::PowerOff, Vec::new())),
    ]
}

fn to_host() -> impl Strategy<Value = (ToHost, Vec<u8>)> {
    let data = prop::collection::vec(any::<u8>(), 1..100);
    let reason = prop_oneof![
        Just(Reason::NotFound),
        Just(Reason::NotExecutable),
        Just(Reason::Other)
    ];
    prop_oneof![
        (reason, any::<String>())
            .prop_map(|(reason, text)| (ToHost::Failed(Failure::new(reason, text)), Vec::new())),
        (1..=WINDOW).prop_map(|bytes| (ToHost::Wants(bytes), Vec::new())),
        (stream(), data).prop_map(|(stream, data)| (ToHost::Output(stream), data)),
        stream().prop_map(|stream| (ToHost::OutputEnd(stream), Vec::new())),
        any::<u8>().prop_map(|status| (ToHost::Exited(status), Vec::new())),
        (1..=64u8).prop_map(|number| (ToHost::Killed(number), Vec::new())),
        Just((ToHost::Started, Vec::new())),
        Just((ToHost::PowersOff, Vec::new())),
    ]
}

/// Takes all messages out of `bytes`, which arrive in pieces that end at `cuts`.
fn take_all<M: Message>(bytes: &[u8], cuts: &[usize]) -> Result<Vec<(M, Vec<u8>)>, Error> {
    let mut incoming = Incoming::new(FRAME_MAX);
    let mut taken = Vec::new();
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    for piece in cuts.windows(2) {
        incoming.push(&bytes[piece[0]..piece[1]]);
        while let Some((message, data)) = incoming.next()? {
            taken.push((message, data.to_vec()));
        }
    }
    Ok(taken)
}

fn stream_of<M: Message>(messages: &[(M, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = hello().to_vec();
    for (message, data) in messages {
        assert!(put(&mut bytes, message, data));
    }
    bytes
}

/// A frame of a message that [`put`] would not take.
fn forged<M: Message>(message: &M, data: &[u8]) -> Result<Vec<(M, Vec<u8>)>, Error> {
    let encoded = [postcard::to_allocvec(message).unwrap(), data.to_vec()].concat();
    let length = u32::try_from(encoded.len()).unwrap().to_le_bytes();
    take_all(&[&hello()[..], &length, &encoded].concat(), &[])
}

proptest! {
    #[test]
    fn messages_arrive_as_they_were_sent_however_their_bytes_are_cut(
        to_agent in prop::collection::vec(to_agent(), 0..6),
        to_host in prop::collection::vec(to_host(), 0..6),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        prop_assert_eq!(take_all(&stream_of(&to_agent), &cuts), Ok(to_agent));
        prop_assert_eq!(take_all(&stream_of(&to_host), &cuts), Ok(to_host));
    }

    #[test]
    fn any_bytes_are_messages_within_their_bounds_or_an_error(bytes: Vec<u8>, greeted: bool) {
        let bytes = if greeted { [&hello()[..], &bytes].concat() } else { bytes };
        for (message, data) in take_all::<ToHost>(&bytes, &[]).unwrap_or_default() {
            prop_assert_eq!(message.check(&data), Ok(()));
        }
        for (message, data) in take_all::<ToAgent>(&bytes, &[]).unwrap_or_default() {
            prop_assert_eq!(message.check(&data), Ok(()));
        }
    }

    #[test]
    fn a_text_for_a_person_is_cut_between_characters(text in "[a-zäöü€]{0,2000}") {
        let message = ToHost::Failed(Failure::new(Reason::Other, text));
        prop_assert_eq!(message.check(&[]), Ok(()));
    }
}

#[test]
fn a_peer_of_another_version_is_told_from_one_that_is_no_agent() {
    let mut other = hello();
    other[6] = VERSION as u8 + 1;
    assert_eq!(take_all::<ToHost>(&other, &[]), Err(Error::Version(VERSION + 1)));
    assert_eq!(take_all::<ToHost>(b"SSH-2.0-x", &[]), Err(Error::NotAnAgent));
    assert_eq!(take_all::<ToHost>(&hello(), &[]), Ok(vec![]));
}

#[test]
fn a_frame_that_is_too_long_is_refused_before_it_has_arrived() {
    let mut incoming = Incoming::new(100);
    incoming.push(&hello());
    incoming.push(&101u32.to_le_bytes());
    assert_eq!(incoming.next::<ToHost>(), Err(Error::TooLong));
}

#[test]
fn what_does_not_fit_into_a_frame_is_not_sent() {
    let program = Program {
        arguments: vec![vec![b'a'; FRAME_MAX]],
        ..Program::default()
    };
    let mut outgoing = Vec::new();
    assert!(!put(&mut outgoing, &ToAgent::Run(program), &[]));
    assert!(outgoing.is_empty());
}

#[test]
fn every_field_has_bounds() {
    let is_refused = |message: ToAgent, data: &[u8]| {
        let result = forged(&message, data);
        assert!(
            matches!(result, Err(Error::OutOfBounds(_))),
            "{message:?}: {result:?}"
        );
    };
    let run = |change: fn(&mut Program)| {
        let mut program = Program {
            arguments: vec![b"true".to_vec()],
            ..Program::default()
        };
        change(&mut program);
        ToAgent::Run(program)
    };
    assert!(forged(&run(|_| ()), &[]).is_ok());
    is_refused(run(|program| program.arguments.clear()), &[]);
    is_refused(run(|program| program.arguments.push(vec![0])), &[]);
    is_refused(run(|program| program.environment.push(b"A".to_vec())), &[]);
    is_refused(run(|program| program.environment.push(b"=A".to_vec())), &[]);
    is_refused(run(|program| program.directory = Some(vec![b'/', 0])), &[]);
    is_refused(run(|program| program.user = Some(vec![0])), &[]);
    is_refused(run(|program| program.host_name = Some(vec![])), &[]);
    is_refused(run(|program| program.host_name = Some(vec![b'a'; 65])), &[]);
    is_refused(
        run(|program| program.terminal = Some(WindowSize { rows: 0, columns: 1 })),
        &[],
    );
    let tmpfs = |target: &[u8], options: &[u8]| Tmpfs {
        target: target.to_vec(),
        options: Some(options.to_vec()),
    };
    for tmpfs in [tmpfs(b"", b""), tmpfs(b"/a\0", b""), tmpfs(b"/a", b"\0")] {
        let program = Program {
            arguments: vec![b"true".to_vec()],
            tmpfs: vec![tmpfs],
            ..Program::default()
        };
        is_refused(ToAgent::Run(program), &[]);
    }
    is_refused(run(|program| program.stop_signal = Some(65)), &[]);
    is_refused(run(|_| ()), b"more");
    is_refused(ToAgent::Input, &[]);
    is_refused(ToAgent::Input, &vec![0; DATA_MAX + 1]);
    is_refused(ToAgent::InputEnd, &[0]);
    is_refused(ToAgent::PowerOff, &[0]);
    is_refused(ToAgent::Signal(0), &[]);
    is_refused(ToAgent::Signal(65), &[]);
    is_refused(ToAgent::Resize(WindowSize { rows: 1, columns: 0 }), &[]);
    for bytes in [0, WINDOW + 1, u32::MAX] {
        is_refused(
            ToAgent::Room {
                stream: Stream::Out,
                bytes,
            },
            &[],
        );
    }

    let is_refused = |message: ToHost, data: &[u8]| {
        let result = forged(&message, data);
        assert!(
            matches!(result, Err(Error::OutOfBounds(_))),
            "{message:?}: {result:?}"
        );
    };
    is_refused(ToHost::Output(Stream::Out), &[]);
    is_refused(ToHost::Output(Stream::Err), &vec![0; DATA_MAX + 1]);
    is_refused(ToHost::Killed(0), &[]);
    is_refused(ToHost::Wants(0), &[]);
    is_refused(ToHost::Wants(WINDOW + 1), &[]);
    is_refused(ToHost::Exited(0), &[0]);
    is_refused(ToHost::Started, &[0]);
    let failure = Failure {
        reason: Reason::Other,
        text: "a".repeat(1025),
    };
    is_refused(ToHost::Failed(failure), &[]);
}

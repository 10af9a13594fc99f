//! What a host asks for beside programs, and hosts that make no sense.

use super::*;

#[test]
fn a_host_that_wants_the_guest_to_power_off_gets_no_program() {
    let mut host = Host::with(&hello());
    host.send(&ToAgent::PowerOff, &[]);
    assert_eq!(host.agent.join().unwrap().unwrap(), Ended::PowerOff);
}

#[test]
fn a_host_that_makes_no_sense_is_left_and_its_program_ended() {
    let invalid = |host: Host| {
        assert_eq!(
            host.agent.join().unwrap().unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    };
    invalid(Host::with(b"GET / HTTP/1.1\r\n"));
    invalid(Host::with(&[&hello()[..], &u32::MAX.to_le_bytes()].concat()));
    let mut first = hello();
    first[6] += 1;
    invalid(Host::with(&first));
    // Without a program, and a second one.
    let mut host = Host::with(&hello());
    host.send(&ToAgent::InputEnd, &[]);
    invalid(host);
    let mut host = Host::run(shell("sleep 1000"));
    host.send(&ToAgent::Run(shell("true")), &[]);
    invalid(host);
    let mut host = Host::run(shell("sleep 1000"));
    host.send(&ToAgent::PowerOff, &[]);
    invalid(host);
    // More room than there can be, and input that was not asked for.
    let mut host = Host::run(shell("sleep 1000"));
    host.send(
        &ToAgent::Room {
            stream: Stream::Err,
            bytes: 1,
        },
        &[],
    );
    invalid(host);
    let mut host = Host::run(shell("sleep 1000"));
    host.send(&ToAgent::Input, &[0; DATA_MAX]);
    host.send(&ToAgent::Input, &[0]);
    invalid(host);
}

/// What came of a copy whose input is `archive`.
fn copied(what: &ToAgent, archive: &[u8]) -> Told {
    let mut host = Host::with(&hello());
    host.send(what, &[]);
    host.finish(archive)
}

fn copy_in(path: &str) -> ToAgent {
    ToAgent::CopyIn(CopyIn {
        path: path.into(),
        source: CopySource::Archive,
        owners: false,
    })
}

#[test]
fn what_is_copied_out_goes_in_again() {
    let folder = std::env::temp_dir().join(format!("agent-copy-{}", std::process::id()));
    fs::create_dir_all(folder.join("from/inner")).unwrap();
    fs::write(folder.join("from/inner/file"), vec![9; 300_000]).unwrap();
    let out = copied(
        &ToAgent::CopyOut(CopyOut {
            path: folder.join("from").to_str().unwrap().into(),
            follows: false,
        }),
        &[],
    );
    assert_eq!((out.last, out.err.len()), (Some(ToHost::Exited(0)), 0));
    fs::create_dir(folder.join("to")).unwrap();
    let to = folder.join("to");
    let told = copied(&copy_in(to.to_str().unwrap()), &out.out);
    assert_eq!((told.last, told.err.len()), (Some(ToHost::Exited(0)), 0));
    assert_eq!(fs::read(to.join("from/inner/file")).unwrap(), vec![9; 300_000]);
    // One that is cut off fails, and leaves nothing.
    fs::remove_dir_all(to.join("from/inner")).unwrap();
    let told = copied(&copy_in(to.to_str().unwrap()), &out.out[..100_000]);
    assert_eq!(told.last, Some(ToHost::Exited(1)));
    assert_eq!(String::from_utf8(told.err).unwrap(), "the archive is cut off\n");
    assert_eq!(fs::read_dir(to.join("from/inner")).unwrap().count(), 0);
    let told = copied(&copy_in(to.join("none").to_str().unwrap()), &out.out);
    assert_eq!(told.last, Some(ToHost::Exited(copy_status::NOT_FOUND)));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_copy_whose_host_goes_away_removes_what_is_not_whole() {
    let folder = std::env::temp_dir().join(format!("agent-gone-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("file"), "before").unwrap();
    let path = folder.to_str().unwrap();
    let from = folder.join("file").to_str().unwrap().into();
    let archive = copied(
        &ToAgent::CopyOut(CopyOut {
            path: from,
            follows: false,
        }),
        &[],
    )
    .out;
    let mut host = Host::with(&hello());
    host.send(&copy_in(path), &[]);
    while !matches!(host.next(), Some((ToHost::Wants(_), _))) {}
    // Behind the extended header, the header and a part of the data.
    host.send(&ToAgent::Input, &archive[..3 * 512 + 2]);
    let names = || -> Vec<_> {
        let names = fs::read_dir(&folder).unwrap();
        names
            .map(|name| name.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    // What is not whole has no name: a process has it open.
    let is_begun = || {
        let open = fs::read_dir("/proc").unwrap().flatten();
        let open = open.filter_map(|process| fs::read_dir(process.path().join("fd")).ok());
        let mut files = open.flatten().flatten();
        files.any(|file| fs::read_link(file.path()).is_ok_and(|to| to.starts_with(&folder) && to != folder))
    };
    while !is_begun() {
        thread::yield_now();
    }
    // The process that copies has this end, too, as all that this test process has open.
    host.stream.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(host.agent.join().unwrap().is_err());
    assert_eq!(names(), ["file"]);
    assert_eq!(fs::read(folder.join("file")).unwrap(), b"before");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn random_bytes_are_added_and_a_clock_that_does_not_exist_is_refused() {
    let mut host = Host::with(&hello());
    let mut bytes = Vec::new();
    assert!(put(&mut bytes, &ToAgent::AddEntropy, &[7; 64]));
    host.stream.write_all(&bytes).unwrap();
    match host.finish(&[]).last {
        Some(ToHost::Done) => {}
        // Nobody but root may.
        Some(ToHost::Failed(Failure { text, .. })) => assert!(text.contains("permitted"), "{text}"),
        other => panic!("{other:?}"),
    }
    let mut host = Host::with(&hello());
    let seconds = u64::MAX;
    host.send(
        &ToAgent::SetClock {
            seconds,
            nanoseconds: 0,
        },
        &[],
    );
    assert!(matches!(host.finish(&[]).last, Some(ToHost::Failed(_))));
}

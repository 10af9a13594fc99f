use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};

use super::*;

#[test]
fn the_outlook_leaves_the_process_as_it_was() {
    let status = || fs::read_to_string("/proc/thread-self/status").unwrap();
    let of_privileges = |status: &str| -> Vec<String> {
        let lines = status
            .lines()
            .filter(|line| line.starts_with("Cap") || line.starts_with("NoNewPrivs"));
        lines.map(str::to_owned).collect()
    };
    let before = of_privileges(&status());
    assert!(!before.is_empty());
    outlook();
    assert_eq!(of_privileges(&status()), before);
    File::open("/proc/self/exe").expect("files can still be opened");
}

#[test]
fn a_layer_that_is_enforced_prevents_what_it_says() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    File::open("/proc/self/exe").expect("without confinement a file can be opened");
    TcpStream::connect(address).expect("without confinement a connection can be made");
    let tried = thread::spawn(move || {
        let layers = restrict_thread();
        let status = fs::read_to_string("/proc/thread-self/status");
        (
            layers,
            status,
            File::open("/proc/self/exe"),
            TcpStream::connect(address),
            TcpListener::bind("127.0.0.1:0"),
        )
    });
    let (layers, status, file, connection, port) = tried.join().unwrap();
    let is_enforced = |name| {
        layers
            .iter()
            .any(|layer| layer.name == name && layer.missing().is_none())
    };
    assert!(is_enforced("privileges"), "{layers:?}");
    if is_enforced("files") {
        assert_eq!(file.unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(status.unwrap_err().kind(), ErrorKind::PermissionDenied);
    } else {
        file.unwrap();
    }
    assert_eq!(port.is_err(), is_enforced("TCP"), "{port:?}");
    if is_enforced("TCP") {
        assert_eq!(connection.unwrap_err().kind(), ErrorKind::PermissionDenied);
    } else {
        connection.unwrap();
    }
}

#[test]
fn a_process_that_forbids_dumps_cannot_be_dumped() {
    // In a child, since this cannot be taken back.
    // SAFETY: the child makes system calls only, and leaves without handlers.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let layer = privileges::forbid_dumps();
        // SAFETY: plain numbers.
        unsafe {
            let dumpable = libc::prctl(libc::PR_GET_DUMPABLE);
            libc::_exit(if layer.missing().is_some() { 2 } else { dumpable });
        }
    }
    let mut status = 0;
    // SAFETY: the pointer is to a variable that outlives the call.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        "{status:#x}"
    );
}

#[test]
fn a_layer_says_what_it_prevents_or_why_it_does_not() {
    let layer = |state| Layer { name: "files", state }.to_string();
    assert_eq!(layer(State::Enforced("no file")), "files       no file");
    assert_eq!(
        layer(State::Missing("too old".into())),
        "files       NOT ENFORCED: too old"
    );
}

#[test]
fn the_filters_hold_what_an_old_landlock_does_not_know_but_not_files() {
    let layer = |name, is_enforced| Layer {
        name,
        state: match is_enforced {
            true => State::Enforced("it"),
            false => State::Missing("too old".into()),
        },
    };
    let missing_with = |calls| -> Vec<&str> {
        let layers = ["files", "truncation", "TCP", "processes", "namespaces"].map(|name| layer(name, false));
        let layers = with_calls(layers.into(), calls);
        let missing = layers.iter().filter(|layer| layer.missing().is_some());
        missing.map(|layer| layer.name).collect()
    };
    assert_eq!(missing_with(layer("calls", true)), ["files", "namespaces"]);
    assert_eq!(missing_with(layer("calls", false)).len(), 6);
}

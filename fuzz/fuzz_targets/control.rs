//! Any bytes at a guest's control socket, in pieces, and any bytes as what the guest's process answers: a request is whole, a part
//! or wrong, pieces change nothing about that, and what is answered can be read again.
#![no_main]

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock};

use coracle::guests::control::{Answer, Control, Machine, Parsed, Switch};
use coracle::machine::{Activity, Meter};
use libfuzzer_sys::fuzz_target;

/// Bytes of a request at most.
const REQUEST_MAX: usize = 4096;

struct Fake;

impl Machine for Fake {
    fn pause(&self) -> bool {
        true
    }

    fn resume(&self) {}

    fn has_power_button(&self) -> bool {
        true
    }

    fn press_power_button(&self) -> io::Result<bool> {
        Ok(true)
    }

    fn end(&self) {}

    fn has_agent(&self) -> bool {
        true
    }

    fn call_agent(&self, _host: UnixStream) -> io::Result<()> {
        Ok(())
    }

    fn meter(&self) -> Option<Meter> {
        None
    }

    fn activity(&self) -> Activity {
        Activity {
            exits: [("exits".into(), u64::MAX), ("io exits".into(), 1)].into(),
            disks_read: u64::MAX,
            ..Activity::default()
        }
    }
}

static CONTROL: LazyLock<Control> = LazyLock::new(|| {
    let lock = File::options().read(true).write(true).open("/dev/null");
    let control = Control::new(Some(lock.expect("there is /dev/null")));
    control.connect(Arc::new(Fake));
    control
});

fuzz_target!(|bytes: &[u8]| {
    let bytes = &bytes[..bytes.len().min(REQUEST_MAX)];
    let whole = (0..=bytes.len()).find(|&length| Parsed::of(&bytes[..length]) != Parsed::Part);
    match whole.map(|length| Parsed::of(&bytes[..length])) {
        Some(Parsed::Whole(request)) => {
            let answer = CONTROL.answer(&request);
            assert_eq!(Answer::of(&answer.bytes()), Some(answer));
        }
        Some(Parsed::Wrong) => (),
        Some(Parsed::Part) | None => assert!(bytes.len() < REQUEST_MAX),
    }
    let _ = Answer::of(bytes);
    if let Some((switch, rest)) = Switch::of(bytes) {
        assert_eq!(Switch::of(&switch.bytes()), Some((switch, &b""[..])));
        assert!(rest.len() < bytes.len());
    }
});

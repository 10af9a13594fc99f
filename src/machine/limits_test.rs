use std::path::PathBuf;

use super::*;
use crate::boot::Problem;
use crate::virtio::block::{ImageError, OpenError};
use crate::{boot, commands, kvm, machine};

fn failed_with(number: i32) -> [commands::Error; 4] {
    failed(|| io::Error::from_raw_os_error(number))
}

/// An error of each part with this cause.
fn failed(source: impl Fn() -> io::Error) -> [commands::Error; 4] {
    let disk = OpenError::Open {
        path: PathBuf::from("disk.img"),
        source: source(),
        advice: "",
    };
    let kernel = boot::Error {
        image: "kernel".into(),
        problem: Problem::Read(source()),
    };
    let vcpu = kvm::Error::Call {
        what: "create a vCPU",
        source: source(),
    };
    let console = commands::Error::System {
        what: "make the console",
        source: source(),
    };
    [
        machine::Error::from(ImageError::from(disk)).into(),
        machine::Error::from(kernel).into(),
        machine::Error::from(vcpu).into(),
        console,
    ]
}

#[test]
fn a_limit_is_found_behind_an_error_of_every_part() {
    for error in failed_with(libc::EMFILE) {
        let reached = LimitReached::behind(&error).expect("the limit of open files");
        assert!(reached.to_string().contains("ulimit -n"), "{reached}");
    }
}

#[test]
fn only_of_a_thread_that_does_not_start_is_the_limit_of_threads_said() {
    for error in failed(|| threads::not_started(io::Error::from_raw_os_error(libc::EAGAIN))) {
        assert_eq!(LimitReached::behind(&error), Some(LimitReached::Threads));
    }
}

#[test]
fn a_thread_that_does_not_start_may_lack_address_space_for_its_stack() {
    let both = LimitReached::of_a_thread(Some(1 << 28)).to_string();
    for word in ["threads", "262144 KiB", "ulimit -u", "ulimit -v"] {
        assert!(both.contains(word), "{both}");
    }
    let threads = LimitReached::of_a_thread(None).to_string();
    assert!(!threads.contains("ulimit -v"), "{threads}");
}

#[test]
fn no_limit_is_behind_other_errors() {
    for number in [libc::EACCES, libc::EAGAIN] {
        for error in failed_with(number) {
            assert_eq!(LimitReached::behind(&error), None);
        }
    }
}

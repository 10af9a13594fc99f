use std::process::Command;
use std::time::Instant;

use tempfile::NamedTempFile;

use super::*;

/// An image that a process has locked which has ended when this returns. Its child has the image still open, and so the lock
/// stays, for this many seconds.
fn locked_by_a_dead_process(seconds: &str) -> NamedTempFile {
    let image = NamedTempFile::new().unwrap();
    let script = "exec 9<\"$1\"; flock 9; sleep \"$2\" >/dev/null 2>&1 &";
    let status = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(image.path())
        .arg(seconds)
        .status();
    assert!(status.unwrap().success());
    image
}

#[test]
fn the_lock_of_a_dead_process_is_waited_for() {
    let image = locked_by_a_dead_process("0.3");
    let begin = Instant::now();
    lock(image.reopen().unwrap(), image.path(), Access::Write).unwrap();
    assert!(begin.elapsed() > Duration::from_millis(100), "nothing was locked");
}

#[test]
fn the_lock_of_a_living_process_is_not_waited_for() {
    let image = NamedTempFile::new().unwrap();
    let other = File::open(image.path()).unwrap();
    let _other = lock(other, image.path(), Access::Read).unwrap();
    let begin = Instant::now();
    let refused = lock(image.reopen().unwrap(), image.path(), Access::Write);
    assert!(refused.is_err_and(|busy| busy.is_own()));
    assert!(begin.elapsed() < TRIES * PAUSE);
    lock(image.reopen().unwrap(), image.path(), Access::Read).unwrap();
}

#[test]
fn what_has_ended_and_what_was_never_there_are_dead() {
    let mut child = Command::new("true").spawn().unwrap();
    let stat = format!("/proc/{}/stat", child.id());
    while !fs::read_to_string(&stat).unwrap().contains(") Z") {
        thread::yield_now();
    }
    assert!(is_dead(child.id()));
    child.wait().unwrap();
    assert!(is_dead(u32::MAX));
    assert!(!is_dead(std::process::id()));
}

#[test]
fn the_holder_is_that_of_the_file_and_not_of_one_with_the_same_inode_on_another_device() {
    let locks = "1: FLOCK  ADVISORY  WRITE 11 08:01:567 0 EOF\n\
                 2: POSIX  ADVISORY  WRITE 22 00:1a:567 0 EOF\n\
                 3: FLOCK  ADVISORY  WRITE 33 00:1a:567 0 EOF\n";
    assert_eq!(holder_in(locks, "00:1a:567"), Some(33));
    assert_eq!(holder_in(locks, "00:1a:56"), None);
    assert_eq!(holder_in(locks, "0:1a:567"), None);
}

#[test]
fn the_place_of_a_file_is_the_one_that_the_kernel_shows() {
    let [here, in_memory] = [tempfile::tempfile(), tempfile::tempfile_in("/dev/shm")].map(Result::unwrap);
    // SAFETY: the name is a C string, and no memory is passed on.
    let fd = unsafe { libc::memfd_create(c"image".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: the descriptor is new, and nobody else has it.
    let without_mount = unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(fd) };
    let device_node = File::open("/dev/zero").unwrap();
    for file in [here, in_memory, without_mount, device_node] {
        file.try_lock_shared().unwrap();
        let shown = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).unwrap();
        let place = place(&file).unwrap();
        assert!(shown.contains(&format!(" {place} ")), "{place} is not in {shown}");
    }
}

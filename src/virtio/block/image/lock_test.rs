use std::process::Command;
use std::time::Instant;

use tempfile::NamedTempFile;

use super::*;

/// `flock` is dead when this comes back; what it locked stays open in the process after it, for so long.
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

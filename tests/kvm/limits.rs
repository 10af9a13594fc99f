use std::io::Write;

use tempfile::NamedTempFile;

use crate::named::Harbour;
use crate::support::queue::Queue;
use crate::support::{Coracle, Ended, Kernel, need_kvm};

guest!(
    drive_sixteen_disks,
    "
    mov ebx, 0xd0000000
2:
    mov dword ptr [rbx + 0x70], 1
    mov dword ptr [rbx + 0x70], 3
    mov dword ptr [rbx + 0x24], 1
    mov dword ptr [rbx + 0x20], 1
    mov dword ptr [rbx + 0x70], 11
    set_up_queue 0, 0
    driver_ok
    # DEVICE_NEEDS_RESET
    mov eax, [rbx + 0x70]
    test eax, 0x40
    jnz 3f
    add ebx, 0x1000
    cmp ebx, 0xd0010000
    jne 2b
    say \"all driven\"
    power_off
3:
    say \"a disk failed\"
4:
    hlt
    jmp 4b
"
);

fn kernel() -> Kernel {
    drive_sixteen_disks().data(Queue::empty()).linux64()
}

/// The guest with sixteen disks and so many vCPUs, under the limit that these options of `ulimit` set.
fn limited(options: &str, cpus: &str) -> Ended {
    let disk = NamedTempFile::new().unwrap();
    disk.as_file().set_len(4096).unwrap();
    let disk = format!("{},ro", disk.path().display());
    let limited = format!("ulimit {options}; exec \"$@\"");
    Coracle::run(&kernel())
        .args(&["--memory", "32M", "--cpus", cpus, "--confine", "auto"])
        .args(&["--disk", &disk].repeat(16))
        .with_user_of_its_own()
        .through(&["sh", "-c", &limited, "sh"])
        .end()
}

/// Runs with each of `limits`, and returns those with which the guest had all that it needs. All lower ones are refused
/// with `words` before the guest runs.
fn those_that_are_enough(
    limits: impl IntoIterator<Item = u64>,
    words: &[&str],
    run: impl Fn(u64) -> Ended,
) -> Vec<u64> {
    let mut enough = Vec::new();
    for limit in limits {
        let ended = run(limit);
        match ended.code {
            Some(0) => {
                assert_eq!(ended.stdout, b"all driven");
                ended.in_silence();
                enough.push(limit);
            }
            _ => {
                let ended = ended.with_code(125).saying(words);
                assert_eq!(ended.stdout, b"", "limit {limit}: {}", ended.describe());
                assert!(enough.is_empty(), "{limit} is too low, and {enough:?} was enough");
            }
        }
    }
    enough
}

#[test]
fn a_limit_of_open_files_is_high_enough_or_named_before_the_guest_runs() {
    need_kvm();
    let words = ["open files", "ulimit -n"];
    let enough = those_that_are_enough(0..160, &words, |limit| limited(&format!("-n {limit}"), "1"));
    assert!(enough.contains(&159) && !enough.contains(&40), "{enough:?}");
}

guest!(
    need_no_disk,
    "
    say \"all driven\"
    power_off
"
);

/// Every descriptor that a start takes is the last one under some limit: those of confinement, of sockets and of a name, too.
#[test]
fn a_limit_of_open_files_is_named_whatever_needed_the_one_that_was_missing() {
    let harbour = Harbour::new();
    let kernel = need_no_disk().linux64();
    let socket = harbour.guests().with_file_name("vsock").display().to_string();
    for options in [
        &[][..],
        &["--vsock", &socket],
        &["--vsock", &socket, "--name", "web", "--rm"],
    ] {
        let enough = those_that_are_enough(4..64, &["open files", "ulimit -n"], |limit| {
            harbour
                .run(&kernel, &[&["--confine", "require"], options].concat())
                .through(&["sh", "-c", &format!("ulimit -n {limit}; exec \"$@\""), "sh"])
                .end()
        });
        assert!(enough.contains(&63) && !enough.contains(&12), "{enough:?}");
    }
}

#[test]
fn the_soft_limit_of_open_files_is_raised_to_the_hard_one() {
    need_kvm();
    let disk = NamedTempFile::new().unwrap();
    disk.as_file().set_len(4096).unwrap();
    let disk = format!("{},ro", disk.path().display());
    let ended = Coracle::run(&kernel())
        .args(&["--disk", &disk].repeat(16))
        .with_user_of_its_own()
        .through(&["sh", "-c", "ulimit -S -n 16; exec \"$@\"", "sh"])
        .end()
        .with_code(0)
        .in_silence();
    assert_eq!(ended.stdout, b"all driven");
}

#[test]
fn a_limit_of_threads_is_high_enough_or_named_before_the_guest_runs() {
    need_kvm();
    let disk = NamedTempFile::new().unwrap();
    disk.as_file().set_len(4096).unwrap();
    let disk = format!("{},ro", disk.path().display());
    let enough = those_that_are_enough(1..40, &["threads", "ulimit -u"], |limit| {
        Coracle::run(&kernel())
            .args(&["--disk", &disk].repeat(16))
            .with_processes_at_most(limit)
            .end()
    });
    assert!(enough.contains(&39) && !enough.contains(&16), "{enough:?}");
}

#[test]
fn a_limit_of_address_space_is_high_enough_or_named_before_the_guest_runs() {
    need_kvm();
    // In KiB. With less than 40 MiB the host's kernel may be unable to load the program.
    let limits = (40_000..400_000).step_by(2000);
    let words = ["address space", "ulimit -v"];
    let enough = those_that_are_enough(limits, &words, |limit| limited(&format!("-v {limit}"), "4"));
    assert!(
        enough.contains(&398_000) && !enough.contains(&60_000),
        "{enough:?}"
    );
}

#[test]
fn an_allocation_that_fails_is_125_with_a_reason() {
    let mut file = NamedTempFile::new().unwrap();
    // A file of this kind may have 1 MiB. What it says takes a hundred times as much.
    let disks = vec![r#""a""#; 250_000].join(",");
    write!(file, r#"{{"disk": [{disks}]}}"#).unwrap();
    for backtrace in [
        "unset RUST_BACKTRACE",
        "export RUST_BACKTRACE=0",
        "export RUST_BACKTRACE=1",
    ] {
        Coracle::new(&["run", "--dry-run", "--config", &file.path().display().to_string()])
            .through(&[
                "sh",
                "-c",
                &format!("ulimit -v 60000; {backtrace}; exec \"$@\""),
                "sh",
            ])
            .end()
            .with_code(125)
            .saying(&["no more memory", "ulimit -v"]);
    }
}

#[test]
fn a_limit_of_address_space_is_named() {
    need_kvm();
    Coracle::run(&kernel())
        .args(&["--memory", "1G"])
        .through(&["sh", "-c", "ulimit -v 800000; exec \"$@\"", "sh"])
        .end()
        .with_code(125)
        .saying(&["address space", "ulimit -v"]);
}

guest!(power_off_alone, "power_off");

#[test]
fn vcpus_are_stopped_where_no_signal_can_be_queued() {
    need_kvm();
    // The other vCPUs wait inside KVM_RUN when the first one powers off.
    let ended = Coracle::run(&power_off_alone().linux64())
        .args(&["--cpus", "4"])
        .through(&["prlimit", "--sigpending=0"])
        .end()
        .with_code(0);
    assert!(!ended.stderr.contains("cannot send"), "{}", ended.describe());
}
